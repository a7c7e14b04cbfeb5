"""Face restoration research: train, restore and measure every method the same way."""

__version__ = "0.1.0"
