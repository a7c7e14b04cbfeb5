"""What exists: methods, their helper nets and metrics, read from the heads of their files.

A method is one file (CONTRIBUTING.md). Its head is a literal, `METHOD = {...}`, and what the file
exports says what it is; both are read from the syntax tree, so that the command line, the
configuration's check and the workflow's graph need no torch. There is no table to edit.
"""

import ast
import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from frcore.registry.metrics import METRICS, MetricRow
from frcore.registry.userfiles import load_file

__all__ = ["METHODS", "METRICS", "MethodRow", "MetricRow", "load_method", "nearest"]

_PACKAGE = Path(__file__).resolve().parents[1]
ROLES = ("method", "baseline", "helper")
DATA = ("paired", "unpaired", "two_sets", "faces", "none")
# frozen nets that a head may ask for by what they are -> the asset that they are made of; others go
# by the asset's own name. "perceptual" is the net that `settings.perceptual` names.
NETS = {"identity": "dlib_resnet", "landmarks": "dlib_68", "emotion": "emotion"}


@dataclass(frozen=True)
class MethodRow:
    """One method, baseline or self-trained helper net: its file's head and what the file exports.

    data, what a training batch holds: paired (truth and degraded), unpaired (low-quality faces
    alone, degraded or not), two_sets (truth of some people, degraded faces of others), faces (clean
    ones alone), none (not trained).
    helpers: settings that name another entry under `models:`, whose frozen net is needed to restore
    and to train; training_helpers: to train alone. assets, training_assets: pretrained parts, by
    asset or as in NETS.
    """

    module: str  # "frcore.methods.rdfr", or the path of a user's file
    title: str = ""
    paper: str = ""
    data: str = "none"
    helpers: tuple[str, ...] = ()
    training_helpers: tuple[str, ...] = ()
    assets: tuple[str, ...] = ()
    training_assets: tuple[str, ...] = ()
    labels: bool = False  # parsing maps of the training faces
    reference: bool = False  # a good photograph of the same person, for every face
    stochastic: bool = False  # restores one face in many ways; `settings.stochastic` may say no
    # what listings call it: method | baseline | helper (a net that others need), and, because it
    # exports `pairs`, degrader
    role: str = "method"
    exports: frozenset[str] = frozenset()

    @property
    def trained(self) -> bool:
        """Whether there are weights to be learnt: by descent, or by a fit that is none."""
        return bool(self.exports & {"make_trainer", "fit"})

    @property
    def descends(self) -> bool:
        """Whether it is trained in steps; a `fit` alone takes none."""
        return "make_trainer" in self.exports

    @property
    def generative(self) -> bool:
        """Whether it makes faces from nothing and restores none."""
        return "sample" in self.exports and "restore" not in self.exports

    @property
    def needs_labels(self) -> bool:
        """Whether training reads parsing maps of the truth."""
        return self.labels

    @property
    def needs_reference(self) -> bool:
        """Whether restoring needs a good photograph of the same person."""
        return self.reference

    @property
    def roles(self) -> tuple[str, ...]:
        """All settings that name another entry."""
        return (*self.helpers, *self.training_helpers)

    def parts(self, settings: Mapping, training: bool) -> dict[str, str]:
        """{name in the guide: asset} of the pretrained parts, for these settings.

        One whose weight ("{name}_weight") is 0, or whose setting is empty, is left out.
        """
        names = (*self.assets, *(self.training_assets if training else ()))
        found = {}
        for name in dict.fromkeys(names):
            asset, weight = NETS.get(name, name), f"{name}_weight"
            if settings.get(weight, default_of(self.module, weight)) == 0:
                continue
            if name == "perceptual":
                asset = settings.get("perceptual", default_of(self.module, "perceptual"))
            if asset:
                found[name] = asset
        return found


METHODS: dict[str, MethodRow] = {}


def add_methods_folder(folder: str | Path) -> None:
    """Read every method in a user's folder: each *.py that has a head, named as its file.

    Reading one folder twice changes nothing. Raises ValueError, one line that names the file, for
    a head that is no literal, has an unknown key or a name that is taken.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"no folder {folder}")
    for path in sorted(Path(folder).glob("*.py")):
        _add(path, str(path))


def load_method(name: str) -> ModuleType:
    """Import the module of method `name`; ValueError with the nearest known name otherwise."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r} {nearest(name, METHODS)}")
    module = METHODS[name].module
    return load_file(module) if module.endswith(".py") else importlib.import_module(module)


def settings_fields(module: str) -> list[str]:
    """Field names of a method's Settings with those it inherits, without importing the module.

    Raises ValueError for a file without a class Settings.
    """
    return list(_fields(_file_of(module), "Settings"))


def default_of(module: str, field: str):
    """The literal default of a field of a method's Settings; None where there is none."""
    node = _fields(_file_of(module), "Settings").get(field)
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None


def nearest(name: str, known) -> str:
    """Text `(did you mean 'x'?)`, or the list of known names when none is near."""
    import difflib

    known = sorted(str(item) for item in known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    return f"(did you mean {close[0]!r}?)" if close else f"(known: {', '.join(known)})"


# ---- reading files


def _add(path: Path, module: str) -> None:
    tree = _parse(path)
    head = next(
        (n for n in tree.body if isinstance(n, ast.Assign) and _names(n) == ["METHOD"]), None
    )
    if head is None:
        return  # a part that several methods share
    try:
        values = ast.literal_eval(head.value)
    except ValueError:
        raise ValueError(f"{path}:{head.lineno}: METHOD must be a literal") from None
    known = {*MethodRow.__dataclass_fields__} - {"module", "exports"} | {"name"}
    for key in values:
        if key not in known:
            raise ValueError(
                f"{path}:{head.lineno}: METHOD: unknown key {key!r} {nearest(key, known)}"
            )
    name = values.pop("name", path.stem)
    exports = frozenset(_exports(tree))
    if values.get("data", "none") not in DATA:
        raise ValueError(f"{path}:{head.lineno}: METHOD: data must be one of {', '.join(DATA)}")
    if values.get("role", "method") not in ROLES:
        raise ValueError(f"{path}:{head.lineno}: METHOD: role must be one of {', '.join(ROLES)}")
    for key in ("helpers", "training_helpers", "assets", "training_assets"):
        values[key] = tuple(values.get(key, ()))
    row = MethodRow(
        module,
        exports=exports,
        **{**values, "role": "degrader" if "pairs" in exports else values.get("role", "method")},
    )
    _check(row, path)
    if name in METHODS and METHODS[name].module != module:
        raise ValueError(f"{path}: there is a method {name!r} already: {METHODS[name].module}")
    METHODS[name] = row


def _check(row: MethodRow, path: Path) -> None:
    """Stop at a file that lacks what its kind exports."""
    missing = {"Settings", "build"} - row.exports
    if not row.exports & {"restore", "sample", "pairs"}:
        missing |= {"restore"}
    if missing:
        raise ValueError(f"{path}: a method exports {', '.join(sorted(missing))} too")
    if row.trained != (row.data != "none"):
        expected = "expected, for it is trained" if row.trained else "not expected: nothing trains"
        raise ValueError(f"{path}: METHOD: data other than none {expected}")


def _exports(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            found |= set(_names(node))
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def _names(node) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


@functools.cache
def _parse_text(path: Path, text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"{path}:{error.lineno}: {error.msg}") from None


def _parse(path: Path) -> ast.Module:
    return _parse_text(path, path.read_text(encoding="utf-8"))


def _file_of(module: str, beside: Path | None = None) -> Path | None:
    """File of a module: a path, one of frcore, or one in the folder `beside`."""
    if module.endswith(".py"):
        return Path(module)
    if module.split(".")[0] == _PACKAGE.name:
        return _PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
    path = beside / f"{module}.py" if beside else None
    return path if path and path.is_file() else None


def _fields(path: Path | None, name: str) -> dict[str, ast.expr | None]:
    """{field: default} of a pydantic class, those of its bases first."""
    if path is None:
        raise ValueError(f"no file with a class {name}")
    tree = _parse(path)
    node = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)
    if node is None:
        for imported in (n for n in tree.body if isinstance(n, ast.ImportFrom)):
            for alias in imported.names:
                if (alias.asname or alias.name) == name:
                    other = _file_of(imported.module or "", path.parent)
                    return _fields(other, alias.name) if other else {}
        raise ValueError(f"{path} has no class {name}")
    found: dict[str, ast.expr | None] = {}
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id not in ("Strict", "BaseModel"):
            found |= _fields(path, base.id)
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            found[item.target.id] = item.value
    return found


for _path in sorted((_PACKAGE / "methods").glob("*.py")):
    _add(_path, f"{_PACKAGE.name}.methods.{_path.stem}")
