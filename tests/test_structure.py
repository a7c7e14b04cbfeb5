"""Rules of the tree that no linter checks: imports go one way, no torch for the graph, sizes."""

import ast
import inspect
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from frcore.workflow import jobs, plan

ROOT = Path(__file__).resolve().parents[1]

# A module may import from the lines above its own, and from its own line's package.
LAYERS = (
    ("seeds", "device", "degrade.steps"),
    ("degrade.recipes",),
    ("registry",),
    ("faces.kinds",),  # what finds the kinds of datasets; the kinds are faces
    ("config",),
    ("io",),
    ("degrade", "faces", "frozen", "report.writers"),
    ("nets",),
    ("methods", "metrics"),
    ("train",),
    ("restore",),
    ("report",),
    ("assess",),
    ("workflow",),
    ("stages", "cli"),
    ("__main__",),
)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports_of(path: Path) -> set[str]:
    """Modules of frcore that a file imports, anywhere in it: "frcore.faces.align"."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            for alias in node.names:
                place = ROOT.joinpath(*node.module.split("."), alias.name)
                is_module = place.with_suffix(".py").is_file() or place.is_dir()
                found.add(f"{node.module}.{alias.name}" if is_module else node.module)
    return {name for name in found if name.split(".")[0] == "frcore" and name != "frcore"}


def layer_of(module: str) -> int:
    part = module.split(".")[1]
    if any(module == f"frcore.{name}" for names in LAYERS for name in names):
        part = module.removeprefix("frcore.")
    [layer] = [i for i, names in enumerate(LAYERS) if part in names]
    return layer


MODULES = sorted(p for p in ROOT.glob("frcore/**/*.py") if p.name != "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_imports_go_one_way(path):
    module = module_of(path)
    for other in imports_of(path):
        same_package = module.split(".")[1] == other.split(".")[1]
        assert same_package or layer_of(other) < layer_of(module), f"{module} imports {other}"


def test_no_import_cycles():
    graph = {module_of(path): imports_of(path) for path in MODULES}
    done: set[str] = set()

    def visit(module, on_the_way):
        assert module not in on_the_way, " -> ".join([*on_the_way, module])
        if module not in done:
            for other in graph.get(module, ()):
                visit(other, (*on_the_way, module))
            done.add(module)

    for module in graph:
        visit(module, ())
    assert len(done) >= len(MODULES)


def test_methods_do_not_import_each_other():
    for path in ROOT.glob("frcore/methods/*.py"):
        others = {m for m in imports_of(path) if m.split(".")[1] == "methods"}
        assert not others, f"{path.name} imports {others}"


def test_the_graph_needs_no_torch():
    parts = ("config", "registry", "io.assets", "io.cards", "workflow.jobs", "workflow.checks")
    names = ", ".join(f"frcore.{part}" for part in parts)
    code = f"import sys, {names}; print([m for m in ('torch', 'pandas') if m in sys.modules])"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert process.stdout.strip() == "[]", process.stdout + process.stderr


def functions_of(path: Path) -> dict[str, ast.FunctionDef]:
    tree = ast.parse(path.read_text())
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_rule_job_script_and_function_have_one_name():
    rules = "".join(path.read_text() for path in sorted(ROOT.glob("rules/*.smk")))
    there = {path.stem for path in ROOT.glob("workflow_scripts/*.py")} - {"after_kill"}
    assert set(re.findall(r"^rule (\w+):", rules, re.M)) == there
    stages = {}
    for path in ROOT.glob("frcore/stages/*.py"):
        stages |= {name: (path.stem, node) for name, node in functions_of(path).items()}
    planned = inspect.getmembers(plan.Plan, inspect.isfunction)
    for name in there:
        job = getattr(jobs, "".join(word.capitalize() for word in name.split("_")))
        stage, function = stages[name]
        assert (job.rule(), job.STAGE) == (name, stage)
        assert len(function.args.args) == 1, name
        assert name in dict(planned), name
        text = (ROOT / "workflow_scripts" / f"{name}.py").read_text()
        assert text.count("\n") < 12 and f"{name}({job.__name__}.from_argument())" in text
        [rule] = re.findall(rf"^rule {name}:.*?(?=^rule |\Z)", rules, re.M | re.S)
        for words in (f'**job("{name}")', f"/{name}.py {{params.job:q}}"):
            assert words in rule, f"{name}: {words}"


def test_rules_are_short():
    lengths = {}
    for path in (ROOT / "Snakefile", *ROOT.glob("rules/*.smk")):
        for rule in re.findall(r"^rule \w+:\n(?:(?: .*)?\n)+", path.read_text(), flags=re.M):
            lines = [line for line in rule.splitlines() if line.strip()]
            lengths[lines[0]] = len(lines)
            assert "--" not in rule, f"{path.name}: {lines[0]} has flags"
    assert len(lengths) == len(jobs.RULES) + 2  # all, tables
    assert max(lengths.values()) <= 30, lengths
    assert statistics.median(lengths.values()) <= 15, sorted(lengths.items(), key=lambda x: x[1])


CODE = [*ROOT.glob("frcore/**/*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("rules/*.smk")]


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_of_a_size_to_be_read(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 500
    if path.suffix != ".py":
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            length = node.end_lineno - start + 1
            assert length <= 80, f"{node.name}: {length} lines"


def files() -> list[Path]:
    """What a clone holds: tracked files and new ones that git does not ignore."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git working tree")
    answer = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in answer.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_is_large():
    large = [str(path) for path in files() if path.stat().st_size > 16 * 2**20]
    assert not large


def test_no_path_of_any_machine():
    # a slash is needed on both sides, so "/home" in a sentence is no find
    pattern = re.compile(rb"(?<![\w.:/])/(home|root|Users|work|workspace|scratch|mnt)/\w")
    binary = {".png", ".safetensors", ".jpg", ".npz", ".dat", ".gz", ".ttf"}
    found = {
        str(path.relative_to(ROOT)): match.group().decode()
        for path in files()
        if path.suffix not in binary
        for match in [pattern.search(path.read_bytes())]
        if match and path != Path(__file__).resolve()
    }
    assert not found
