"""Every metric, read from the decorators above the functions. Imports no torch.

Reports read title, direction and unit here; the graph reads which pretrained parts are needed and
which code makes a number. frcore/metrics/__init__.py says what a metric is.
"""

import ast
import importlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from frcore.registry.userfiles import load_file

_FOLDER = Path(__file__).resolve().parents[1] / "metrics"


@dataclass(frozen=True)
class MetricRow:
    """What a report and the workflow need to know of one metric."""

    title: str
    kind: str  # "image": one value an image; "set": one value for a set of images
    higher_is_better: bool | None  # None: neither direction is better
    needs_truth: bool  # the ground truth of each image ("image") or a set of real images ("set")
    assets: tuple[str, ...]  # pretrained parts without which there is no value
    min_side: int  # pixels; smaller images have no value
    unit: str  # "" for a plain number
    what: str  # one line
    square: bool = False
    pairs: bool = False  # of a set: each face with its own truth
    features: str = ""  # of a set: what is compared
    place: str = ""  # "frcore.metrics.fidelity:psnr_rgb", or "my_metrics/sharp.py:sharpness"
    arguments: Mapping = field(default_factory=dict)  # passed to the function by name

    @property
    def own_code(self) -> tuple[str, ...]:
        """Entries of codehash.code_hash for the function and the net that it gets."""
        nets = () if self.kind == "set" else self.assets
        return (_entry(self.place), *_loaders(nets))

    @property
    def code(self) -> tuple[str, ...]:
        """Entries of codehash.code_hash for everything that makes the number."""
        return (*self.own_code, *(FEATURES[self.features].code if self.features else ()))


@dataclass(frozen=True)
class FeatureRow:
    """What set metrics compare, and what is kept of the truth."""

    assets: tuple[str, ...]
    min_side: int
    square: bool
    statistics: bool  # mean and covariance of the truth
    train: str | None  # function of the same file: features of training faces -> arrays
    place: str

    @property
    def code(self) -> tuple[str, ...]:
        """Entries of codehash.code_hash."""
        file, _, _ = self.place.rpartition(":")
        model = (_entry(f"{file}:{self.train}"),) if self.train else ()
        return (_entry(self.place), *model, *_loaders(self.assets))


METRICS: dict[str, MetricRow] = {}
FEATURES: dict[str, FeatureRow] = {}


def add_metrics_folder(folder: str | Path) -> None:
    """Read every metric in a user's folder. Reading one folder twice changes nothing.

    Raises ValueError, one line that names file and line, for a row that is no literal, lacks or has
    keys that a row has not, or has a name that is taken.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"no folder {folder}")
    for path in sorted(Path(folder).glob("*.py")):
        _read(path, str(path))
    _check()


def load_metric(name: str) -> Callable:
    """The function of a metric, with the arguments of its row. KeyError for an unknown one."""
    row = METRICS[name]
    return _load(row.place)


def load_features(name: str) -> Callable:
    """The function that makes features. KeyError for unknown ones."""
    return _load(FEATURES[name].place)


def load_train(name: str) -> Callable | None:
    """The function that makes a model of features of training faces, if they have one."""
    row = FEATURES[name]
    file, _, _ = row.place.rpartition(":")
    return _load(f"{file}:{row.train}") if row.train else None


# ---- reading files


def _entry(place: str) -> str:
    file, _, _ = place.rpartition(":")
    return file if file.endswith(".py") else place


def _loaders(assets: tuple[str, ...]) -> tuple[str, ...]:
    known = _functions(_FOLDER / "nets.py")
    return tuple(f"frcore.metrics.nets:{asset}" for asset in assets if asset in known)


def _functions(path: Path) -> set[str]:
    return {node.name for node in _tree(path).body if isinstance(node, ast.FunctionDef)}


def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ValueError(f"{path}:{error.lineno}: {error.msg}") from None


def _load(place: str) -> Callable:
    file, _, function = place.rpartition(":")
    if not file.endswith(".py"):
        return getattr(importlib.import_module(file), function)
    return getattr(load_file(file), function)


def _read(path: Path, file: str) -> None:
    for node in _tree(path).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            kind = _kind(decorator)
            if kind and isinstance(decorator, ast.Call):
                where = f"{path}:{decorator.lineno}"
                name, values = _literal(decorator, where)
                _enter(kind, name, values, f"{file}:{node.name}", where)


def _kind(decorator: ast.expr) -> str:
    function = decorator.func if isinstance(decorator, ast.Call) else None
    name = getattr(function, "id", getattr(function, "attr", ""))
    return name if name in ("metric", "set_metric", "features") else ""


def _literal(call: ast.Call, where: str) -> tuple[str, dict]:
    try:
        [name] = [ast.literal_eval(word) for word in call.args]
        return name, {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    except (ValueError, TypeError):
        raise ValueError(f"{where}: a metric's row is its name and literal arguments") from None


_KEYS = {
    "metric": {"title", "higher_is_better", "what"},
    "set_metric": {"features", "title", "higher_is_better", "what"},
    "features": set(),
}
_OPTIONS = {
    "metric": {"needs_truth", "assets", "min_side", "square", "unit", "each", "arguments"},
    "set_metric": {"needs_truth", "pairs", "unit", "each", "arguments"},
    "features": {"assets", "min_side", "square", "statistics", "train"},
}


def _enter(kind: str, name: str, values: dict, place: str, where: str) -> None:
    wrong = sorted((_KEYS[kind] - values.keys()) | (values.keys() - _KEYS[kind] - _OPTIONS[kind]))
    if wrong:
        needed = ", ".join(sorted(_KEYS[kind] | _OPTIONS[kind]))
        raise ValueError(f"{where}: {name}: missing or unknown {wrong[0]!r} (known: {needed})")
    if kind == "features":
        row = FeatureRow(
            assets=tuple(values.get("assets", ())),
            min_side=values.get("min_side", 1),
            square=values.get("square", False),
            statistics=values.get("statistics", False),
            train=values.get("train"),
            place=place,
        )
        _put(FEATURES, name, row, where)
        return
    each = values.get("each") or {}
    for chosen in itertools.product(*each.values()):  # keys, where a value has a word
        words = dict(zip(each, chosen))
        said = {f"{k}_word": each[k][v] for k, v in words.items() if isinstance(each[k], dict)}
        texts = {key: values[key].format(**words, **said) for key in ("title", "what")}
        metric = MetricRow(
            title=texts["title"],
            kind="set" if kind == "set_metric" else "image",
            higher_is_better=values["higher_is_better"],
            needs_truth=values.get("needs_truth", True),
            assets=tuple(values.get("assets", ())),
            min_side=values.get("min_side", 1),
            unit=values.get("unit", ""),
            what=texts["what"],
            square=values.get("square", False),
            pairs=values.get("pairs", False),
            features=values.get("features", ""),
            place=place,
            arguments={**(values.get("arguments") or {}), **words},
        )
        _put(METRICS, name.format(**words), metric, where)


def _put(table: dict, name: str, row, where: str) -> None:
    if name in table and table[name].place != row.place:
        raise ValueError(f"{where}: there is a metric {name!r} already: {table[name].place}")
    table[name] = row


def _check() -> None:
    """Set metrics name features that exist; what these need, the metric needs."""
    for name, row in METRICS.items():
        if row.kind != "set":
            continue
        if row.features not in FEATURES:
            known = ", ".join(sorted(FEATURES))
            raise ValueError(f"{row.place}: {name}: no features {row.features!r} (known: {known})")
        of = FEATURES[row.features]
        values = {"assets": of.assets, "min_side": of.min_side, "square": of.square}
        METRICS[name] = MetricRow(**{**row.__dict__, **values})


for _path in sorted(_FOLDER.glob("*.py")):
    _read(_path, f"frcore.metrics.{_path.stem}")
_check()
