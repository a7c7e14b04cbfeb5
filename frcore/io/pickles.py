"""Arrays out of a pickle of somebody else's, without running anything that it asks for.

A pickle is a program: it may call whatever it can name. Here it can name three things of NumPy, and
gets stand-ins that only note what they are given. NumPy itself is not called by it either.
"""

import pickle
from pathlib import Path

import numpy as np


class _Type:
    """A dtype that is written down: "f4" and its byte order."""

    def __init__(self, *words):
        self.code, self.order = words[0], None

    def __setstate__(self, state):
        self.order = state[1]


class _Array:
    """An array that is written down: shape, dtype and bytes."""

    def __init__(self, *words):
        self.state = None

    def __setstate__(self, state):
        self.state = state

    def read(self) -> np.ndarray:
        """The array, read-only. Raises ValueError for other than float32 in C or Fortran order."""
        try:
            _, shape, kind, fortran, data = self.state  # type: ignore[misc]  # None: never set
            if (kind.code, kind.order) != ("f4", "<"):
                raise ValueError(f"an array of {kind.order}{kind.code}, expected <f4")
            array = np.frombuffer(data, dtype="<f4")
            return array.reshape(shape, order="F" if fortran else "C")
        except (TypeError, AttributeError) as error:
            raise ValueError(f"an array that is none: {error}") from None


class _Ndarray:
    """Stands for the class itself, which `_reconstruct` is given as a word."""


_KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _Type,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        """One of the three stand-ins; everything else that a pickle can name is refused."""
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not run")
        return _KNOWN[module, name]


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Nested dicts of float32 arrays in a pickle -> {"outer/inner": array}.

    Raises FileNotFoundError, or ValueError (one line) for a pickle that holds or asks for anything
    else; nothing of it has run then.
    """
    with open(path, "rb") as opened:
        try:
            tree = _Reader(opened).load()
        except Exception as error:  # whatever damaged bytes lead to
            text = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(f"{path}: no pickle of arrays: {text}") from None
    found: dict[str, np.ndarray] = {}
    waiting = [("", tree)]
    while waiting:
        name, item = waiting.pop()
        if isinstance(item, dict) and all(isinstance(key, str) for key in item):
            waiting += [(f"{name}/{key}".lstrip("/"), inner) for key, inner in item.items()]
        elif isinstance(item, _Array):
            try:
                found[name] = item.read()
            except ValueError as error:
                raise ValueError(f"{path}: no pickle of arrays: {name}: {error}") from None
        else:
            raise ValueError(
                f"{path}: no pickle of arrays: {name or 'it'} is {type(item).__name__}"
            )
    return found
