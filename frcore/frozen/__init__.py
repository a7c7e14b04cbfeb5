"""Frozen nets of others, and how a method is given them."""
