"""A method's class Settings without importing the method, which imports torch.

The class is made of its own statements: those of the file that it uses, and no others. So the
workflow checks types and ranges of all settings before any job, and still plans at once.
"""

import ast
import functools
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from frcore.config.schema import ConfigError, Strict
from frcore.registry import METHODS, load_method

# imported as they are: they load nothing large
LIGHT = ("frcore.config", "pydantic", "typing", "annotated_types", "math", "enum", "re")


class _Heavy(Exception):
    """A class that needs its file to be imported."""


def settings_class(method: str) -> type[BaseModel]:
    """The class Settings of a method. Raises ConfigError for a file that cannot be imported."""
    try:
        return _class_in(_file_of(METHODS[method].module, None), "Settings")
    except Exception:  # whatever its statements need: then all of them run
        try:
            return load_method(method).Settings
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
            raise ConfigError([f"method {method} cannot be imported: {text}"]) from None


def whole_settings(method: str, settings: dict) -> BaseModel | None:
    """Settings with the defaults of the method; None where they are wrong, which others tell."""
    try:
        return settings_class(method).model_validate(settings)
    except (ConfigError, ValidationError):
        return None


def _file_of(module: str, folder: Path | None) -> Path:
    """File of a module of frcore, of a path, or of one in `folder`; _Heavy for others."""
    if module.endswith(".py"):
        return Path(module)
    beside = folder / f"{module}.py" if folder else None
    if beside and beside.is_file():
        return beside
    spec = importlib.util.find_spec(module) if module.startswith("frcore.methods.") else None
    if spec is None or spec.origin is None:
        raise _Heavy(module)
    return Path(spec.origin)


def _class_in(path: Path, name: str) -> type[BaseModel]:
    return _made(path, name, path.read_text(encoding="utf-8"))


@functools.cache
def _made(path: Path, name: str, text: str) -> type[BaseModel]:
    """Class `name` of a file with this text."""
    tree = ast.parse(text)
    places: dict[str, ast.stmt] = {}
    for node in tree.body:
        places |= dict.fromkeys(_binds(node), node)
    if isinstance(places.get(name), ast.ImportFrom):
        return _imported(places[name], name, path)
    # the statements that the class uses, in the order of the file
    wanted, waiting = {name}, [name]
    while waiting:
        used_by = places.get(waiting.pop())
        if used_by is None or isinstance(used_by, ast.Import | ast.ImportFrom):
            continue
        names = (n for n in ast.walk(used_by) if isinstance(n, ast.Name))
        used = {n.id for n in names if isinstance(n.ctx, ast.Load)}
        waiting += used - wanted
        wanted |= used
    space: dict[str, Any] = {"__name__": f"frcore_settings_of.{path.stem}"}
    sys.modules.setdefault(space["__name__"], ModuleType(space["__name__"]))  # pydantic looks there
    chosen = dict.fromkeys(id(places[n]) for n in wanted if n in places)
    for node in (n for n in tree.body if id(n) in chosen):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for bound in wanted & set(_binds(node)):
                space[bound] = _imported(node, bound, path)
        else:
            exec(compile(ast.Module([node], []), str(path), "exec"), space)
    found = space[name]
    if not issubclass(found, Strict):
        raise _Heavy(name)
    return found


def _binds(node: ast.stmt) -> list[str]:
    """Names that a statement of a module makes."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    return [n.id for t in targets if t for n in ast.walk(t) if isinstance(n, ast.Name)]


def _imported(node, name: str, path: Path):
    """What an import statement binds to `name`; _Heavy for what would load a lot."""
    alias = next(a for a in node.names if (a.asname or a.name.split(".")[0]) == name)
    source = node.module or "" if isinstance(node, ast.ImportFrom) else alias.name
    if source.split(".")[0] in LIGHT or source in LIGHT or source.startswith("frcore.config."):
        module = importlib.import_module(source)
        return getattr(module, alias.name) if isinstance(node, ast.ImportFrom) else module
    if isinstance(node, ast.Import):
        raise _Heavy(source)
    return _class_in(_file_of(source, path.parent), alias.name)
