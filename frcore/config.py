"""config.yaml -> frozen models, checked once and strictly. Imports no torch.

Configuration = catalogue (mappings: assets, datasets, degradations, models) + selection (lists
under `run:`). Every error is found in one go; each is one line that names the key.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from frcore.recipes import Recipe
from frcore.registry import METHODS, METRICS, nearest

ROOT = Path(__file__).resolve().parents[1]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


def project_file(path: str, root: str | Path = ROOT) -> str:
    """A file that the configuration names: from the working folder, or else from the project's.

    Unchanged when it is in neither, for the caller's message.
    """
    beside = Path(root) / path
    return str(beside) if beside.is_file() and not Path(path).is_file() else path


class ConfigError(ValueError):
    """One line per mistake; `str()` joins them."""

    def __init__(self, mistakes: list[str]):
        self.mistakes = mistakes
        super().__init__("\n".join(mistakes))


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(Strict):
    """Shares of the people (not of the images) in each part; they sum to 1."""

    train: float = Field(0.8, ge=0, le=1)
    val: float = Field(0.0, ge=0, le=1)
    test: float = Field(0.2, ge=0, le=1)

    @model_validator(mode="after")
    def _sum(self):
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError(f"split must sum to 1, got {self.train + self.val + self.test:g}")
        return self


class Labels(Strict):
    """Where parsing maps of the truth come from.

    landmarks: 10 classes drawn from 68 landmarks. folder: CelebAMask-HQ parts (19 classes) in
    `path`. model: predictions of the trained parser `model` on the truth (19 or 10 classes).
    """

    kind: Literal["landmarks", "folder", "model"] = "landmarks"
    path: str | None = None
    model: str | None = None


class Dataset(Strict):
    """One set of faces. Lengths are pixels of the aligned face unless said otherwise."""

    source: Literal["digiface", "orl", "folder"]
    path: str | None = None  # folder of photographs (source: folder)
    people: Literal["subfolder", "file", "none"] | str = "none"  # or a CSV: photo,person
    samples: int = Field(6000, ge=1)  # digiface: candidates drawn, about a quarter is kept
    limit: int | None = Field(None, ge=1)  # use only the first photographs in sorted order
    shards: int = Field(4, ge=1)
    aligned: bool = False  # photographs are already aligned: only resize to `size`
    size: int = Field(64, ge=16, le=1024)
    crop_scale: float = Field(1.0, gt=0.3, le=2)  # 1 = FFHQ's crop
    crop_shift: float = Field(0.1, ge=-0.5, le=0.5)  # centre below the eyes, in eye-mouth distances
    detector: Literal["hog", "mmod"] = "hog"
    enlarge: int = Field(1, ge=1, le=8)  # photographs are enlarged this much before detection
    min_face: int = Field(0, ge=0)  # smaller faces (photograph pixels) are quarantined
    max_yaw: float | None = Field(None, gt=0, le=1)  # None keeps profiles
    max_outside: float = Field(0.2, ge=0, le=1)  # share of the crop outside the photograph
    faces: Literal["largest", "all"] = "largest"
    split: Split = Split()
    labels: Labels = Labels()
    test_limit: int | None = Field(None, ge=1)  # measured images: the first of the test split
    licence: str = "see the source"

    @model_validator(mode="after")
    def _path(self):
        if self.source == "folder" and not self.path:
            raise ValueError("source: folder needs path:")
        if self.labels.kind == "folder" and not self.labels.path:
            raise ValueError("labels of kind folder need path:")
        if self.labels.kind == "model" and not self.labels.model:
            raise ValueError("labels of kind model need model:")
        return self


class Train(Strict):
    """How a model is trained. Counts are images seen, so that batch size changes no schedule."""

    datasets: tuple[Name, ...] = ("digiface",)
    degradations: tuple[Name, ...] = ()  # none for methods that see clean faces alone
    images: int = Field(512, ge=1)  # images seen in this run
    batch: int = Field(16, ge=1)
    ema_images: float = Field(10_000, ge=0)  # half-life of the average; 0 = no average
    # early in a run the half-life is at most this part of the images seen
    ema_ramp: float | None = Field(None, gt=0)
    save_images: int = Field(2048, ge=1)  # state is written this often
    sample_images: int = Field(2048, ge=1)  # a picture of fixed faces is written this often
    precision: Literal["float32", "bfloat16"] = "float32"
    gpus: int = Field(1, ge=0)  # asked of the cluster; a laptop without one trains on the CPU
    threads: int = Field(2, ge=1)
    memory_mb: int = Field(4000, ge=100)
    minutes: int = Field(60, ge=1)


class Model(Strict):
    """A method, its settings and seed: an ablation or a second seed is one more entry."""

    method: str
    title: str | None = None
    settings: dict[str, Any] = {}
    seed: int = Field(0, ge=0)
    # shipped | scratch | another entry | path of a weights file, from the working folder or, where
    # there is none, from the project's
    init: str = "shipped"
    weights: str | None = None  # path of finished weights (as for init): nothing is trained
    train: Train | None = None

    @field_validator("method")
    @classmethod
    def _method(cls, value):
        if value not in METHODS:
            raise ValueError(f"unknown method {value!r} {nearest(value, METHODS)}")
        return value


class Figure(Strict):
    """Faces of `dataset` under each of `degradations`, restored by each of `models`, side by side.

    For every face a row a degradation: what happens as the degradation grows.
    """

    title: str = ""
    dataset: Name
    degradations: tuple[Name, ...] = Field(min_length=1)
    models: tuple[Name, ...] = Field(min_length=1)
    faces: int = Field(2, ge=1, le=8)


class Run(Strict):
    """Which entries of the catalogue are used."""

    datasets: tuple[Name, ...]
    degradations: tuple[Name, ...]
    models: tuple[Name, ...]
    protocol: Name
    panel: int = Field(6, ge=1, le=24)  # faces in the comparison pictures
    contact_sheets: bool = True
    figures: tuple[Name, ...] = ()  # entries of `figures:` that the report shows
    published: tuple[str, ...] = ()  # tables of published.csv to show beside the measured ones


class Asset(Strict):
    """A pretrained part or an archive of photographs; see frcore/assets.yaml."""

    package: str | None = None
    version: str | None = None
    artifact_sha256: str | None = None
    url: str | None = None
    path: str | None = None
    member: str | None = None  # file or folder prefix inside the artifact
    file: str  # name in resources/<asset>/
    sha256: str
    size: int | None = None
    licence: str
    what: str
    note: str = ""


class Protocol(Strict):
    """How a table is measured; protocols/NAME.yaml."""

    title: str = ""
    metrics: tuple[str, ...]
    size: int = Field(64, ge=16)
    crop: int = Field(0, ge=0)  # border left out on each side, pixels
    reference: Literal["truth", "train"] = "truth"  # set that distances compare with
    bootstrap: int = Field(1000, ge=0)
    note: str = ""

    @field_validator("metrics")
    @classmethod
    def _metrics(cls, names):
        for name in names:
            if name not in METRICS:
                raise ValueError(f"unknown metric {name!r} {nearest(name, METRICS)}")
        return names

    @model_validator(mode="after")
    def _whole_frame(self):
        cut = [name for name in self.metrics if "dlib_resnet" in METRICS[name].assets]
        if self.crop and cut:
            raise ValueError(f"{cut} look at a fixed window of the whole frame: crop must be 0")
        return self

    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of everything that changes a number."""
        text = json.dumps(self.model_dump(exclude={"title", "note"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class Config(Strict):
    """The whole file."""

    seed: int = Field(0, ge=0)
    results: str = "results"  # experiments keep theirs in a folder of their own
    resources: str = "resources"
    datasets: dict[Name, Dataset]
    degradations: dict[Name, Recipe]
    models: dict[Name, Model]
    figures: dict[Name, Figure] = {}
    assets: dict[Name, Asset] = {}
    run: Run

    @model_validator(mode="after")
    def _names(self):
        mistakes = []

        def check(where: str, names, known):
            for name in names:
                if name not in known:
                    mistakes.append(f"{where}: no entry {name!r} {nearest(name, known)}")

        check("run.datasets", self.run.datasets, self.datasets)
        check("run.degradations", self.run.degradations, self.degradations)
        check("run.models", self.run.models, self.models)
        check("run.figures", self.run.figures, self.figures)
        restoring = {"run.models": self.run.models}
        for name, figure in self.figures.items():
            check(f"figures.{name}.dataset", [figure.dataset], self.datasets)
            check(f"figures.{name}.degradations", figure.degradations, self.degradations)
            check(f"figures.{name}.models", figure.models, self.models)
            restoring[f"figures.{name}.models"] = figure.models
        for where, names in restoring.items():
            for name in names:
                if name in self.models and METHODS[self.models[name].method].generative:
                    mistakes.append(f"{where}: {name} makes faces and restores none")
        for name, model in self.models.items():
            row = METHODS[model.method]
            if model.train:
                check(f"models.{name}.train.datasets", model.train.datasets, self.datasets)
                check(
                    f"models.{name}.train.degradations", model.train.degradations, self.degradations
                )
                sizes = {self.datasets[d].size for d in model.train.datasets if d in self.datasets}
                if len(sizes) > 1:
                    mistakes.append(f"models.{name}.train.datasets differ in size: {sorted(sizes)}")
            if model.train and (row.data == "paired") != bool(model.train.degradations):
                wanted = "name one or more" if row.data == "paired" else "it sees clean faces alone"
                mistakes.append(f"models.{name}.train.degradations: {wanted}")
            start = self.models.get(model.init)
            if start and start.method != model.method:
                mistakes.append(f"models.{name}.init: {model.init} is of method {start.method}")
            if model.init == name:
                mistakes.append(f"models.{name}.init: an entry cannot start from itself")
            if row.trained and not (model.train or model.weights):
                mistakes.append(f"models.{name}: method {model.method} needs train: or weights:")
            if not row.trained and model.train:
                mistakes.append(f"models.{name}.train: method {model.method} is not trained")
            for helper in row.helpers:
                if helper in model.settings and model.settings[helper] is not None:
                    check(f"models.{name}.settings.{helper}", [model.settings[helper]], self.models)
        for name, dataset in self.datasets.items():
            if dataset.labels.kind == "model":
                check(f"datasets.{name}.labels.model", [dataset.labels.model], self.models)
        if mistakes:
            raise ConfigError(mistakes)
        return self

    def helpers_of(self, model: str) -> dict[str, str]:
        """{role: entry} of the helper entries that `model`'s settings name."""
        entry = self.models[model]
        named = {role: entry.settings.get(role) for role in METHODS[entry.method].helpers}
        return {role: helper for role, helper in named.items() if helper is not None}

    def used_models(self) -> list[str]:
        """Entries that the run needs: selected ones first, then those of its figures, the helpers
        of all and the entries that their training starts from."""
        waiting = [*self.run.models, *(m for f in self.run.figures for m in self.figures[f].models)]
        used: dict[str, None] = {}
        while waiting:
            name = waiting.pop(0)
            if name in used:
                continue
            used[name] = None
            entry = self.models[name]
            waiting += self.helpers_of(name).values()
            if entry.train and entry.init in self.models:
                waiting.append(entry.init)
        return list(used)

    def used_datasets(self) -> set[str]:
        """Data sets that the run restores, shows or trains on."""
        used = {*self.run.datasets, *(self.figures[name].dataset for name in self.run.figures)}
        trained = [self.models[name].train for name in self.used_models()]
        return used | {dataset for train in trained if train for dataset in train.datasets}


def load_config(source: str | Path | Mapping) -> Config:
    """Read and check a configuration.

    `source` is a file or an already merged mapping. Raises ConfigError with one line per mistake;
    an unknown key names its nearest known neighbour.
    """
    data = dict(source) if isinstance(source, Mapping) else read_yaml(source)
    return _parse(Config, data)


def load_experiment(path: str | Path, base: str | Path = ROOT / "config.yaml") -> Config:
    """Read `path` merged over `base`, as `snakemake --configfile path` does."""
    path, base = Path(path), Path(base)
    if path.resolve() == base.resolve() or not base.is_file():
        return load_config(path)
    return load_config(merge(read_yaml(base), read_yaml(path)))


def merge(below: Mapping, above: Mapping) -> dict:
    """Mappings merge key by key; everything else of `above`, lists too, replaces what is below."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def load_protocol(name: str, folder: str | Path = ROOT / "protocols") -> Protocol:
    """Read protocols/NAME.yaml. Raises ConfigError naming the known ones for an unknown name."""
    folder = Path(folder)
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = [item.stem for item in folder.glob("*.yaml")]
        raise ConfigError([f"unknown protocol {name!r} {nearest(name, known)}"])
    return _parse(Protocol, read_yaml(path), prefix=f"{path.name}: ")


def load_settings(model_class: type[BaseModel], data: Mapping, prefix: str = ""):
    """Check `data` against a strict model, with this module's one-line errors."""
    return _parse(model_class, dict(data), prefix)


def read_yaml(path: str | Path) -> dict:
    """A YAML mapping; ConfigError naming the file for anything else."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError([f"{path}: {' '.join(str(error).split())}"]) from None
    if not isinstance(data, dict):
        raise ConfigError([f"{path}: expected a mapping, got {type(data).__name__}"])
    return data


def _parse(model_class, data, prefix=""):
    try:
        return model_class.model_validate(data)
    except ConfigError as error:
        raise ConfigError([prefix + line for line in error.mistakes]) from None
    except ValidationError as error:
        lines = []
        for item in error.errors():
            inner = item.get("ctx", {}).get("error")
            if isinstance(inner, ConfigError):
                lines += inner.mistakes
                continue
            where = ".".join(str(part) for part in item["loc"])
            text = item["msg"].removeprefix("Value error, ")
            if item["type"] == "extra_forbidden":
                known = _keys_at(model_class, item["loc"][:-1])
                text = f"unknown key {nearest(item['loc'][-1], known)}"
            elif item["type"] == "missing":
                text = "is missing"
            else:
                text += f", got {item['input']!r}"[:120]
            lines.append(f"{where}: {text}")
        raise ConfigError([prefix + line for line in dict.fromkeys(lines)]) from None


def _keys_at(model_class, location) -> list[str]:
    """Known keys of the model that `location` leads to, through mappings and unions."""
    candidates = [model_class]
    for part in location:
        following = []
        for candidate in candidates:
            field = candidate.model_fields.get(part) if isinstance(part, str) else None
            following += list(_models_in(field.annotation)) if field else [candidate]
        candidates = following or candidates
    return sorted({key for candidate in candidates for key in candidate.model_fields})


def _models_in(annotation) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)
