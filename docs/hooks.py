"""Pages of the site that are made from the code: configuration, methods, metrics and the like."""

import argparse
import ast
import importlib
import inspect
import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from frcore.cli.main import make_parser  # noqa: E402
from frcore.config import load_config, schema  # noqa: E402
from frcore.config.experiment import Config  # noqa: E402
from frcore.degrade import recipes, steps  # noqa: E402
from frcore.io.assets import catalogue  # noqa: E402
from frcore.registry import METHODS, METRICS, load_method  # noqa: E402

EXAMPLE = re.compile(r"^--8<-- (\S+)$", re.M)


def on_files(files, config):
    """Add the generated pages."""
    pages = {
        "contributing.md": contributing,
        "reference/configuration.md": configuration,
        "reference/catalogue.md": catalogue_page,
        "reference/methods.md": methods,
        "reference/metrics.md": metrics,
        "reference/cli.md": command_line,
    }
    for name, page in pages.items():
        files.append(File.generated(config, name, content=page()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Put files of tests/examples in the place of lines like `--8<-- methods/median.py`."""

    def shown(match):
        text = (ROOT / "tests" / "examples" / match[1]).read_text(encoding="utf-8")
        return f'```python title="{match[1]}"\n{text}```'

    return EXAMPLE.sub(shown, markdown)


def contributing() -> str:
    """CONTRIBUTING.md as it stands."""
    return (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


# ---- tables


def cell(text: object) -> str:
    """One cell of a Markdown table."""
    return " ".join(str(text).replace("|", "\\|").split())


def table(head: list[str], rows: list) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(cell(text) for text in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def fields(model) -> list[tuple[str, str, str, str]]:
    """(key, type, default, comment) of a pydantic class: comments beside or above a field."""
    lines = inspect.getsource(model).splitlines()
    [node] = ast.parse("\n".join(lines)).body
    rows = []
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        name = item.target.id
        if name not in model.model_fields:
            continue
        beside = [line.partition("  # ")[2] for line in lines[item.lineno - 1 : item.end_lineno]]
        above, place = [], item.lineno - 2
        while lines[place].strip().startswith("#"):
            above.insert(0, lines[place].strip().lstrip("# "))
            place -= 1
        field = model.model_fields[name]
        default = "required" if field.is_required() else f"`{shown_default(field)}`"
        kind = f"`{ast.unparse(item.annotation)}`"
        rows.append((f"`{name}`", kind, default, " ".join([*above, *filter(None, beside)])))
    return rows


def shown_default(field):
    """A default as YAML would have it."""
    value = field.get_default(call_default_factory=True)
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    words = {None: "none", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    return list(value) if isinstance(value, tuple) else value


def section(title: str, model, level: int = 2) -> str:
    """A class of the configuration: its docstring and its keys, those of bases included."""
    text = f"{'#' * level} {title}\n\n{inspect.getdoc(model) or ''}\n\n"
    rows = []
    for base in reversed(model.__mro__):
        if getattr(base, "model_fields", None) and base.__module__.startswith("frcore"):
            rows += [row for row in fields(base) if row not in rows]
    return text + table(["key", "type", "default", ""], rows) + "\n" if rows else text


# ---- pages


def configuration() -> str:
    """Every key of a configuration."""
    text = """# Configuration

A configuration is a YAML file: `config.yaml`, another one given to Snakemake with `--configfile`,
or to `frcore` with `--config`. Entries of the [catalogue](catalogue.md) need not be repeated; an
entry of a name that is there already replaces the keys it writes. An unknown key is a mistake and
names its nearest known neighbour; `frcore check FILE` tells all of them.

"""
    parts = [
        ("The file", Config),
        ("run", schema.Run),
        ("datasets", schema.Dataset),
        ("datasets: split", schema.Split),
        ("datasets: labels", schema.Labels),
        ("models", schema.Model),
        ("models: train", schema.Train),
        ("models: train: stages", schema.TrainStage),
        ("models: restore", schema.Restoring),
        ("figures", schema.Figure),
        ("assets", schema.Asset),
        ("protocols/NAME.yaml", schema.Protocol),
        ("degradations", recipes.Recipe),
    ]
    text += "\n".join(section(title, model) for title, model in parts)
    text += "\n## Steps of a degradation\n\n"
    kinds = steps.BaseStep.__subclasses__()
    text += "\n".join(section(kind.model_fields["kind"].annotation.__args__[0], kind, 3)
                      for kind in kinds)  # fmt: skip
    text += "\n## Shapes of a blur\n\n"
    shapes = [c for c in vars(steps).values() if isinstance(c, type) and "shape" in
              getattr(c, "model_fields", {})]  # fmt: skip
    return text + "\n".join(
        section(shape.model_fields["shape"].annotation.__args__[0], shape, 3) for shape in shapes
    )


def catalogue_page() -> str:
    """What there is to select from."""
    config = load_config(ROOT / "config.yaml")
    text = "# Catalogue\n\nThe entries of `frcore/catalogue/`, to be selected under `run:`.\n\n"
    text += "## Models\n\n"
    rows = [(f"`{n}`", f"`{e.method}`", e.title or "", ", ".join(e.train.degradations)
             if e.train else "") for n, e in config.models.items()]  # fmt: skip
    text += table(["entry", "method", "title", "trains on"], rows) + "\n## Datasets\n\n"
    rows = [(f"`{n}`", e.source, f"{e.size} px", e.licence) for n, e in config.datasets.items()]
    text += table(["entry", "source", "size", "licence"], rows) + "\n## Degradations\n\n"
    rows = [(f"`{n}`", f"{e.size} px", e.description, e.source)
            for n, e in config.degradations.items()]  # fmt: skip
    text += table(["entry", "size", "what", "source"], rows) + "\n## Pretrained parts\n\n"
    rows = [(f"`{n}`", e.what, f"{e.size / 1e6:.1f} MB" if e.size else "", e.licence)
            for n, e in catalogue().items()]  # fmt: skip
    return text + table(["asset", "what", "size", "licence"], rows)


def methods() -> str:
    """Every method: what its paper is, where it differs from it, its settings."""
    rows = [(f"[`{name}`](#{name})", row.title, row.role, row.data) for name, row in
            METHODS.items()]  # fmt: skip
    text = "# Methods\n\n" + table(["method", "", "role", "trains on"], rows) + "\n"
    for name, row in METHODS.items():
        module = load_method(name)
        text += f"## {name}\n\n*{row.paper}*\n\n```text\n{inspect.getdoc(module)}\n```\n\n"
        kinds = importlib.import_module(module.Settings.__module__).Settings
        text += section("Settings", kinds, 3)
    return text


def metrics() -> str:
    """Every metric."""
    better = {True: "higher", False: "lower", None: ""}
    rows = []
    for name, row in METRICS.items():
        needs = ["truth"] * row.needs_truth + list(row.assets)
        title = row.title + f", {row.unit}" * bool(row.unit)
        side = f"{row.min_side} px" if row.min_side > 1 else ""
        rows.append((f"`{name}`", title, row.kind, better[row.higher_is_better],
                     ", ".join(needs), side, row.what))  # fmt: skip
    head = ["metric", "title", "of", "better", "needs", "from", "what"]
    return (
        "# Metrics\n\nOf an image: one value an image, averaged. Of a set: one value for all "
        "images. A metric whose parts cannot be had is empty, with the reason.\n\n"
        + table(head, rows)
    )


def command_line() -> str:
    """`--help` of every verb."""
    text = "# Command line\n\n```text\n" + make_parser().format_help() + "```\n"
    waiting = [make_parser()]
    while waiting:
        parser = waiting.pop(0)
        for action in parser._actions:
            if not isinstance(action, argparse._SubParsersAction):
                continue
            for verb in action.choices.values():
                inner = any(isinstance(a, argparse._SubParsersAction) for a in verb._actions)
                waiting += [verb] if inner else []
                if not inner:
                    text += f"\n## {verb.prog}\n\n```text\n{verb.format_help()}```\n"
    return text
