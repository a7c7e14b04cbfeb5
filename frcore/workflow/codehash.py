"""Digest of the code that a job runs, so that Snakemake reruns what a change touches and no more.

Snakemake does not see what a script imports. A job's digest holds `code_hash(...)` of the functions
it calls: everything of frcore that they use, function by function, without comments, docstrings and
layout. A new function, a new method or a changed neighbour in the same file changes nothing.

What is not followed: names that are looked up while the program runs (`load_method("rdfr")`): a job
that does so names that module too; and SCHEMA, whose checked values a job's digest holds itself.
"""

import ast
import functools
import hashlib
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
# they check settings, plan jobs or read tables of everything: no job's result hangs on their code
SCHEMA = {
    "frcore.config",
    "frcore.registry",
    "frcore.workflow",
    "frcore.degrade.recipes:Recipe",
    "frcore.degrade.recipes:Step",
}


@functools.cache
def code_hash(*entries: str) -> str:
    """12 hex digits for all code that `entries` use.

    An entry is a module ("frcore.frozen.stlpips": all of it), a name in one
    ("frcore.metrics.fidelity:psnr_rgb") or a file of a user ("my_methods/median.py": all of it).
    "-frcore.metrics" stands for a module or package that is not followed; a name that ends in "?"
    counts if it is there.
    Raises ValueError for an entry that does not exist.
    """
    digest = hashlib.sha256()
    for name, text in sorted(closure(*entries).items()):
        digest.update(f"{name}\0{text}\0".encode())
    return digest.hexdigest()[:12]


def closure(*entries: str) -> dict[str, str]:
    """{"module:name": syntax tree} of everything that `entries` use; entries as of `code_hash`."""
    found: dict[str, str] = {}
    waiting: list[tuple[str, str]] = []  # (module, name); name "*" is all of it
    left = {*SCHEMA, *(entry[1:] for entry in entries if entry.startswith("-"))}
    for entry in (entry for entry in entries if not entry.startswith("-")):
        module, _, name = entry.removesuffix("?").partition(":")
        source = _read(module)
        if entry.endswith("?") and source is not None and name not in source.bodies:
            continue
        if source is None or (name and name not in source.bodies):
            raise ValueError(f"no code {entry}")
        waiting.append((module, name or "*"))
    while waiting:
        module, name = waiting.pop()
        source = _read(module)
        if source is None or not left.isdisjoint((f"{module}:{name}", *_prefixes(module))):
            continue
        for key in (*source.bodies,) if name == "*" else (name, ""):
            place = f"{source.label}:{key}"
            if key not in source.bodies or place in found:
                continue
            found[place] = source.bodies[key]
            waiting += [(module, other) for other in source.uses[key]]
            waiting += source.imports[key]
        if name != "*" and name not in source.bodies and name in source.names:
            waiting += source.names[name]  # imported there from elsewhere
    return found


class _Source:
    """One file: its top-level names, what each consists of and what each uses.

    bodies: name -> syntax tree as text; "" is what runs on import. uses: name -> other names of the
    file. imports: name -> [(module, name)] of frcore. names: imported name -> the same.
    """

    def __init__(self, label: str, tree: ast.Module, folder: Path | None = None):
        self.label, self.folder = label, folder
        nodes: dict[str, list[ast.AST]] = {}
        self.names: dict[str, list[tuple[str, str]]] = {}
        modules: dict[str, str] = {}
        for node in _statements(tree.body):
            if isinstance(node, ast.Import | ast.ImportFrom):
                _bind(node, self.names, modules, folder)
                continue
            for name in _targets(node):
                nodes.setdefault(name, []).append(node)
        self.bodies: dict[str, str] = {}
        self.uses: dict[str, set[str]] = {}
        self.imports: dict[str, list[tuple[str, str]]] = {}
        for name, parts in nodes.items():
            self.bodies[name] = " ".join(ast.dump(_without_docstrings(part)) for part in parts)
            self.uses[name], self.imports[name] = set(), []
            for part in parts:
                self._look(part, nodes, modules, self.uses[name], self.imports[name])

    def _look(self, node, nodes, modules, uses, imports) -> None:
        """Collect what `node` refers to; imports inside of functions count for that function."""
        names, modules = dict(self.names), dict(modules)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                _bind(inner, names, modules, self.folder)
        dotted: dict[int, str] = {}
        for inner in ast.walk(node):
            if isinstance(inner, ast.Attribute):
                path = _dotted(inner)
                if path:
                    dotted[id(_root(inner))] = max(dotted.get(id(_root(inner)), ""), path, key=len)
        for inner in ast.walk(node):
            if not isinstance(inner, ast.Name):
                continue
            path = dotted.get(id(inner), inner.id)
            found = next((p for p in _prefixes(path) if p in modules), None)
            if found:
                rest = path[len(found) :].lstrip(".").split(".")[0]
                imports.append((modules[found], rest or "*"))
            elif inner.id in nodes:
                uses.add(inner.id)
            elif inner.id in names:
                imports += names[inner.id]


_ROWS = {"metric", "set_metric", "features"}
_PROSE = {"role", "title", "what", "unit", "paper", "higher_is_better"}


def _drop_prose(head: ast.expr) -> None:
    if isinstance(head, ast.Dict):
        kept = [
            (key, value)
            for key, value in zip(head.keys, head.values)
            if getattr(key, "value", None) not in _PROSE
        ]
        head.keys, head.values = [k for k, _ in kept], [v for _, v in kept]


def _statements(body):
    """Statements of a module, those inside of `if`, `try` and `with` too; not for type checkers."""
    for node in body:
        if isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.dump(node.test):
                yield from _statements(node.body)
            yield from _statements(node.orelse)
        elif isinstance(node, ast.Try):
            for part in (node.body, *(h.body for h in node.handlers), node.orelse, node.finalbody):
                yield from _statements(part)
        elif isinstance(node, ast.With):
            yield from _statements(node.body)
        else:
            yield node


def _targets(node: ast.stmt) -> list[str]:
    """Top-level names that a statement makes or changes; [""] for one that only runs."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
        names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
        return names or [""]
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return [] if docstring else [""]


def _bind(node, names, modules, folder) -> None:
    """Enter what an import of frcore binds: modules by their name here, other names with origin.

    folder: of a user's file, which may import the files beside it.
    """

    def beside(module: str) -> str | None:
        path = folder / f"{module}.py" if folder else None
        return str(path) if path and path.is_file() else None

    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.split(".")[0] == "frcore":
                modules[alias.asname or alias.name] = alias.name
            elif beside(alias.name):
                modules[alias.asname or alias.name] = beside(alias.name)
        return
    if node.module and beside(node.module):
        for alias in node.names:
            names[alias.asname or alias.name] = [(beside(node.module), alias.name)]
        return
    if not node.module or node.module.split(".")[0] != "frcore":
        return
    for alias in node.names:
        inner = f"{node.module}.{alias.name}"
        name = alias.asname or alias.name
        if _path_of(inner) is not None:
            modules[name] = inner
            names.pop(name, None)
        else:
            names[name] = [(node.module, alias.name)]
            modules.pop(name, None)


def _dotted(node: ast.Attribute) -> str:
    """`a.b.c` of nested attributes of a name; "" for attributes of anything else."""
    parts, root = [], _root(node)
    inner: ast.AST = node
    while isinstance(inner, ast.Attribute):
        parts.append(inner.attr)
        inner = inner.value
    return ".".join([root.id, *reversed(parts)]) if isinstance(root, ast.Name) else ""


def _root(node: ast.AST) -> ast.AST:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node


def _prefixes(path: str) -> list[str]:
    """a.b.c -> [a.b.c, a.b, a]."""
    parts = path.split(".")
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]


@functools.cache
def _read(module: str) -> _Source | None:
    path = _path_of(module)
    if path is None:
        return None
    # a user's file counts by its name: its folder may be moved with the project
    own = module.endswith(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return _Source(path.name if own else module, tree, path.parent if own else None)


def _path_of(module: str) -> Path | None:
    """File of a module of frcore, or of a path to a Python file; None where there is none."""
    if module.endswith(".py"):
        return Path(module) if Path(module).is_file() else None
    head, *rest = module.split(".")
    if head != "frcore":
        return None
    place = _ROOT.joinpath(head, *rest)
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path
    return None


def _without_docstrings(tree: ast.AST) -> ast.AST:
    """Without prose: docstrings, and what heads of methods and rows of metrics only print."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == [
            "METHOD"
        ]:
            _drop_prose(node.value)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in _ROWS:
            node.keywords = [word for word in node.keywords if word.arg not in _PROSE]
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                vars(node)["body"] = body[1:] or [ast.Pass()]
    return tree
