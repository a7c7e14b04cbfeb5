"""Digest of the code that a stage runs, so that Snakemake reruns what a change touches and no more.

Snakemake does not see modules that a script imports. A rule that names `code_hash("frcore.x")` in
its params is run again when frcore.x or anything of frcore that it imports changes what it does:
the digest is made of syntax trees, without comments, docstrings and layout.
"""

import ast
import functools
import hashlib
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


@functools.cache
def code_hash(*modules: str) -> str:
    """12 hex digits for the import closure of `modules` ("frcore.metrics.score", ...).

    Modules that are loaded by name (registry.load_method) must be named too.
    Raises ValueError for a module that frcore does not have.
    """
    trees: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in trees:
            continue
        path = _path_of(module)
        if path is None:
            if module in modules:
                raise ValueError(f"no module {module}")
            continue  # `from frcore.x import function`
        tree = ast.parse(path.read_text(encoding="utf-8"))
        waiting += _imports(tree)
        trees[module] = ast.dump(_without_docstrings(tree))
    digest = hashlib.sha256()
    for module, text in sorted(trees.items()):
        digest.update(f"{module}\0{text}\0".encode())
    return digest.hexdigest()[:12]


def _path_of(module: str) -> Path | None:
    head, *rest = module.split(".")
    if head != _PACKAGE.name:
        return None
    place = _PACKAGE.joinpath(*rest)
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imports(tree: ast.Module) -> list[str]:
    """Absolute imports only: frcore has no relative ones (ruff's TID rules would be the guard)."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                node.body = body[1:] or [ast.Pass()]
    return tree
