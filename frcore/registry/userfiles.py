"""Python files of a user's folder: imported by path, without being installed."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_file(path: str | Path) -> ModuleType:
    """Import a user's Python file once; the files beside it can be imported by it."""
    path = Path(path).resolve()
    name = f"frcore_user.{path.parent.name}.{path.stem}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # it is a file
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
