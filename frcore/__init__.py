"""Face restoration research: train, restore and measure every method the same way.

From Python: `frcore.load_model`, `frcore.restore_faces`, `frcore.restore_photos`.
"""

import importlib

__version__ = "0.1.0"

# imported when they are asked for: the graph and `frcore --help` need no torch
_LAZY = {
    "PhotoOptions": "frcore.restore.photos",
    "Restorer": "frcore.restore.models",
    "load_model": "frcore.restore.models",
    "restore_faces": "frcore.restore.aligned",
    "restore_photos": "frcore.restore.photos",
}
__all__ = ["__version__", *sorted(_LAZY)]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
