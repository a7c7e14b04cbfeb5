"""Kinds of datasets, a file each: what an entry of `datasets:` calls its `source`. No torch here.

A file is found by its name, there is no list. It has a literal at its head, read without importing
the file, and two functions:

    ASSETS = ("orl",)  # entries of frcore/assets.yaml that its photographs are made from

    def list_photos(dataset, assets, seed) -> list[Photo]   # all of them, in any order
    def read(photo) -> Image                                # upright 8-bit RGB

`assets` is the cache root that holds {asset}/{file}, `seed` the run's; `Photo` and what more than
one kind needs are in frcore/faces/sources.py. `read` raises BadImage for an unusable photograph,
`list_photos` FileNotFoundError or NotADirectoryError where the source is not there.
"""

import ast
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Annotated

from pydantic import AfterValidator

from frcore.registry import nearest


def kinds() -> list[str]:
    """Names of all kinds, sorted; no kind is imported."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def known(kind: str) -> str:
    """`kind` itself; ValueError with one line that names the nearest where there is none such."""
    if kind not in kinds():
        raise ValueError(f"unknown kind of dataset {kind!r} {nearest(kind, kinds())}")
    return kind


Kind = Annotated[str, AfterValidator(known)]


def assets_of(kind: str) -> tuple[str, ...]:
    """Assets that a kind reads; not imported for it. ValueError for an unknown kind or no ASSETS.

    >>> assets_of("orl")
    ('orl',)
    """
    places = [Path(folder) / f"{known(kind)}.py" for folder in __path__]
    path = next(place for place in places if place.is_file())
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ASSETS":
            return tuple(ast.literal_eval(node.value))
    raise ValueError(f"{path.name}: no ASSETS = (...) at its head")


def load(kind: str) -> ModuleType:
    """The file of a kind, imported. ValueError for an unknown one."""
    return importlib.import_module(f"{__name__}.{known(kind)}")
