"""The job of every rule: its values, which of them change its result, and the code that it runs."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from frcore.config import (
    Asset,
    Config,
    Dataset,
    Figure,
    Model,
    Protocol,
)
from frcore.degrade.recipes import Recipe
from frcore.registry import METHODS, METRICS
from frcore.workflow.job import PROSE, Job, short


class FetchAsset(Job):
    """One asset of the catalogue -> resources/{asset}/{file}, checked by its SHA-256."""

    STAGE: ClassVar[str] = "assets"

    name: str
    entry: Asset
    root: str

    def values(self) -> dict:
        """The artifact; not what is said about it."""
        return {"entry": self.entry.facts(exclude=PROSE)}

    def code(self) -> tuple[str, ...]:
        """None: what is fetched is checked by its hash."""
        return ()

    def digest(self) -> str:
        """Without the code: a file of the right hash is right, whoever fetched it."""
        return json.dumps({key: short(value) for key, value in self.values().items()})


class FetchPhotos(FetchAsset):
    """A packaged archive of photographs."""


class Licences(Job):
    """Licences of everything that a run reads, as Markdown."""

    STAGE: ClassVar[str] = "assets"

    entries: dict[str, Asset]
    root: str

    def values(self) -> dict:
        """The entries, wherever the resources are."""
        return {"entries": {name: entry.facts() for name, entry in self.entries.items()}}


# fields of a dataset that aligning its photographs does not read
_LATER = {"labels", "split", "test_limit", "licence", "low_quality", "reference", "people"}


class AlignFaces(Job):
    """Photographs of one shard -> aligned faces, their rows, and the quarantine."""

    STAGE: ClassVar[str] = "faces"

    name: str
    dataset: Dataset
    shard: int
    seed: int
    resources: str
    listing: str  # digest of a folder's photographs

    def values(self) -> dict:
        """Without what later stages read; landmarks are found where labels are made of them."""
        dataset = self.dataset
        facts = dataset.facts(exclude=_LATER | ({"limit"} if dataset.limit is None else set()))
        facts["landmarks"] = dataset.labels.kind == "landmarks"
        return {"name": self.name, "dataset": facts, "seed": self.seed, "listing": self.listing}

    def code(self) -> tuple[str, ...]:
        """That of the kind of dataset."""
        return (f"frcore.faces.kinds.{self.dataset.source}",)


class JoinFaces(Job):
    """Tables of a dataset's shards -> one table of faces with people and splits, one quarantine."""

    STAGE: ClassVar[str] = "faces"

    name: str
    dataset: Dataset
    seed: int
    people: str  # digest of a table of people

    def values(self) -> dict:
        """Splits and people."""
        split = {"split": self.dataset.split.facts(), "people": self.people}
        return {"name": self.name, "seed": self.seed, **split}


class ParseFaces(Job):
    """Aligned faces -> parsing maps of the truth."""

    STAGE: ClassVar[str] = "faces"

    dataset: Dataset
    labels: str  # digest of a folder of label files
    parser: str = ""  # SHA-256 of a parser's given weights
    weights: str | None = None  # of that parser

    def values(self) -> dict:
        """Where the maps come from."""
        labels = {"kind": self.dataset.labels.kind, "files": self.labels, "parser": self.parser}
        return {"labels": labels}

    def code(self) -> tuple[str, ...]:
        """The parser's, where there is one."""
        if self.dataset.labels.kind != "model":
            return ("frcore.faces.build:parse_faces",)
        return ("frcore.restore.aligned:predict_parsing", METHODS["fpn"].module)


class DegradeFaces(Job):
    """Test faces of a dataset -> copies under some degradations, with the drawn parameters."""

    STAGE: ClassVar[str] = "degrade"

    dataset: str
    recipes: dict[str, Recipe]
    seed: int
    limit: int
    kept: str = ""  # folder of what was made before

    def values(self) -> dict:
        """Without the recipes' prose."""
        return {
            **self.facts(include={"dataset", "seed", "limit"}),
            "recipes": {name: recipe.facts() for name, recipe in self.recipes.items()},
        }

    def code(self) -> tuple[str, ...]:
        """That of the recipes' steps."""
        return _steps_code(self.recipes.values())

    def alone(self, degradation: str) -> "DegradeFaces":
        """The same for one degradation."""
        return self.model_copy(update={"recipes": {degradation: self.recipes[degradation]}})


class ContactSheet(Job):
    """Some faces under a degradation, several draws each -> a picture; for some degradations."""

    STAGE: ClassVar[str] = "degrade"

    recipes: tuple[tuple[str, Recipe], ...]  # a picture each
    seed: int

    def values(self) -> dict:
        """Without the recipes' prose."""
        return {"seed": self.seed, "of": [(name, recipe.facts()) for name, recipe in self.recipes]}

    def code(self) -> tuple[str, ...]:
        """That of the recipes' steps."""
        return _steps_code(recipe for _, recipe in self.recipes)


def _steps_code(recipes: Iterable[Recipe]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry for recipe in recipes for entry in recipe.code()))


# fields of Train that change nothing in the result
_RESOURCES = {"gpus", "threads", "memory_mb", "minutes", "save_images", "sample_images"}


class TrainModel(Job):
    """Faces, helper nets and one entry of `models:` -> weights, card, history, samples."""

    STAGE: ClassVar[str] = "train"

    name: str
    entry: Model
    start: str | None  # weights that the training starts from
    frames: dict[str, dict]  # dataset -> size, crop_scale, crop_shift
    people: dict[str, str]  # dataset -> the one whose people it shares
    recipes: dict[str, Recipe]
    helpers: dict[str, str]  # role -> weights file of a trained net
    degraders: dict[str, str]  # entry -> weights file of the degradation models of `recipes`
    assets: dict[str, str]  # asset -> file
    results: str
    state: str
    given: dict[str, str]  # SHA-256 of weights files that no job makes
    helper_methods: tuple[str, ...] = ()

    def values(self) -> dict:
        """The entry and what it trains on; not the hardware, not where files are."""
        entry = self.entry.facts(exclude={"title": True, "restore": True, "train": _RESOURCES})
        recipes = {name: recipe.facts() for name, recipe in self.recipes.items()}
        return {
            "entry": entry,
            "frames": self.frames,
            "recipes": recipes,
            "given": self.given,
        }

    def code(self) -> tuple[str, ...]:
        """The method's file, those of its helpers and of its recipes' steps."""
        # what is measured on the way is drawn as a curve; the weights do not hang on it
        found = ["-frcore.metrics", METHODS[self.entry.method].module]
        found += [METHODS[method].module for method in self.helper_methods]
        found += [entry for recipe in self.recipes.values() for entry in recipe.code()]
        return tuple(dict.fromkeys(found))


class _Restoring(Job):
    STAGE: ClassVar[str] = "restore"

    name: str
    entry: Model
    weights: dict[str, str]  # entry -> weights file, helpers' too
    assets: dict[str, str]  # name in the guide -> file
    frame: dict  # size, crop_scale, crop_shift of the faces
    given: dict[str, str]  # SHA-256 of weights files that no job makes
    helper_methods: tuple[str, ...] = ()

    def values(self) -> dict:
        """Method, settings and seed; weights that jobs make are input files."""
        entry = self.entry.facts(include={"method", "settings", "seed"})
        return {"name": self.name, "entry": entry, "frame": self.frame, "given": self.given}

    def code(self) -> tuple[str, ...]:
        """The method's file and those of its helpers."""
        methods = (self.entry.method, *self.helper_methods)
        return tuple(dict.fromkeys(METHODS[method].module for method in methods))


class RestoreFaces(_Restoring):
    """One model and some degraded test sets -> restored faces and the status of each."""

    recipes: dict[str, Recipe]  # what made the faces worse, for methods that are told
    kept: str = ""  # folder of what was made before
    shard: int = 0
    shards: int = 1

    def values(self) -> dict:
        """Which part of the test set besides."""
        return {**super().values(), "part": [self.shard, self.shards]}


class RestorePart(RestoreFaces):
    """A share of a test set."""


class JoinParts(Job):
    """The parts of a restored test set -> one folder and one table."""

    STAGE: ClassVar[str] = "restore"


class AssessSamples(_Restoring):
    """A stochastic model and one degraded test set -> how its restorations of one face differ."""

    STAGE: ClassVar[str] = "assess"

    dataset: str
    degradation: str
    results: str
    resources: str

    def values(self) -> dict:
        """The cell besides."""
        return {**super().values(), "cell": [self.dataset, self.degradation]}

    def code(self) -> tuple[str, ...]:
        """The metrics' besides."""
        return (*super().code(), *_metrics_code("psnr_rgb", "stlpips_vgg", "id_dlib"))


class _Measuring(Job):
    STAGE: ClassVar[str] = "metrics"

    protocol: Protocol
    frame: dict
    resources: str
    digests: dict[str, str]  # of each metric, or each extractor of features: code, parts, settings

    def measured(self) -> dict:
        """The protocol by what changes a number."""
        return self.protocol.facts(exclude={"title", "note", "metrics"})


class TruthFeatures(_Measuring):
    """Truth of a dataset -> features and statistics that the set metrics compare with."""

    limit: int
    kept: str  # folder of what was made before

    def values(self) -> dict:
        """Features by what makes them."""
        return {**self.measured(), "frame": self.frame, "limit": self.limit, "of": self.digests}


class ScoreFaces(_Measuring):
    """Some restored sets of one dataset and their truth -> scores per image and per set."""

    dataset: str
    cells: tuple[tuple[str, str], ...]  # model and degradation of each set
    kept: tuple[str, ...]  # folder of what was measured before of each set
    seed: int
    reference: str = ""  # data set of the features, where they are not of the truth

    def values(self) -> dict:
        """Metrics by what makes them."""
        return {
            **self.measured(),
            **self.facts(include={"frame", "dataset", "cells", "seed", "reference"}),
            "of": {name: self.digests[name] for name in self.protocol.metrics},
            "order": list(self.protocol.metrics),
        }


class JoinScores(Job):
    """Score files of a run, published numbers and the models' cards -> the long table."""

    STAGE: ClassVar[str] = "report"

    models: dict[str, dict]  # entry -> method, seed, and what its rows must say
    protocol: Protocol
    protocol_name: str
    published: tuple[str, ...]
    published_digest: str = ""
    published_csv: str
    seed: int

    def values(self) -> dict:
        """The protocol without prose."""
        fields = {"models", "protocol_name", "published", "published_digest", "seed"}
        return {**self.facts(include=fields), "protocol": self.protocol.digest()}


class Comparison(Job):
    """Long table -> the comparison for print, as CSV, Markdown and LaTeX."""

    STAGE: ClassVar[str] = "report"

    titles: dict[str, str]
    rows: dict[str, dict]  # what is printed of each metric's row

    def values(self) -> dict:
        """Titles in their order: it is that of the rows."""
        return {"titles": list(self.titles.items()), "rows": self.rows}


class PlotScores(Comparison):
    """Long table -> a figure a metric, as PNG and SVG."""

    names: tuple[str, ...]  # metrics

    def values(self) -> dict:
        """Titles and metrics."""
        return {**super().values(), "names": list(self.names)}


class PlotTraining(Job):
    """Histories of trained models -> their losses over images seen."""

    STAGE: ClassVar[str] = "report"

    titles: dict[str, str]


class Panel(Job):
    """Degraded, restored and true faces of fixed ids -> a picture a test set."""

    STAGE: ClassVar[str] = "panels"

    titles: dict[str, str]
    n: int
    results: str
    cells: tuple[tuple[str, str], ...]  # dataset and degradation of each picture
    unknown: tuple[str, ...] = ()  # datasets of which nobody knows the true faces

    def values(self) -> dict:
        """Not where files are."""
        return self.facts(include={"titles", "n", "cells", "unknown"})


class PanelOfStrengths(Job):
    """Fixed faces under several degradations, restored by several models -> one picture."""

    STAGE: ClassVar[str] = "panels"

    figure: Figure
    titles: dict[str, str]
    results: str

    def values(self) -> dict:
        """The figure without its caption."""
        return {"figure": self.figure.facts(exclude={"title"}), "titles": self.titles}


class ReportPage(Job):
    """Tables, figures, cards and quarantine of a run -> one self-contained page."""

    STAGE: ClassVar[str] = "report"

    config: Config  # what the run selects of it
    protocol: Protocol
    rows: dict[str, dict]

    def values(self) -> dict:
        """What the page prints; prose too, but no hardware."""
        hardware = {"restore": True, "train": _RESOURCES}
        left_out = {"models": {"__all__": hardware}, "methods": True, "metrics": True}
        config = self.config.facts(exclude=left_out)
        shown = self.config.first_shown()  # other recipes are named and not described
        config["degradations"] = {k: v for k, v in config["degradations"].items() if k in shown}
        return {"config": config, "protocol": self.protocol.facts(), "rows": self.rows}


class AssessPrior(Job):
    """Weights of a prior and its encoder, faces -> scores.csv, samples.png, inversion_*.png."""

    STAGE: ClassVar[str] = "assess"

    name: str
    datasets: tuple[str, ...]
    frame: dict
    seed: int
    results: str
    resources: str
    weights: tuple[str, ...]  # of the prior and, if there is one, of its encoder
    given: dict[str, str]
    used: tuple[str, ...] = ()  # methods

    def values(self) -> dict:
        """Not where files are."""
        return self.facts(include={"name", "datasets", "frame", "seed", "given"})

    def code(self) -> tuple[str, ...]:
        """Files of the methods, and the metrics."""
        names = ("psnr_rgb", "stlpips_vgg", "id_dlib", "fid_mobilenetv2", "fid_inception")
        return (*(METHODS[method].module for method in self.used), *_metrics_code(*names))


class AssessDegradation(Job):
    """Weights of a degradation model, faces -> scores.csv, pairs.png, degradation.png."""

    STAGE: ClassVar[str] = "assess"

    name: str
    entry: Model
    frames: dict[str, dict]
    trained_on: dict[str, Recipe]  # recipes of the training
    recipes: dict[str, Recipe]  # written ones to compare with
    seed: int
    results: str
    resources: str
    weights: str
    given: dict[str, str]

    def values(self) -> dict:
        """Not where files are."""
        recipes = {
            key: {name: recipe.facts() for name, recipe in part.items()}
            for key, part in (("trained_on", self.trained_on), ("recipes", self.recipes))
        }
        entry = self.entry.facts(exclude={"title": True, "restore": True, "train": _RESOURCES})
        return {
            **self.facts(include={"name", "frames", "seed", "given"}),
            **recipes,
            "entry": entry,
        }

    def code(self) -> tuple[str, ...]:
        """The method's file and the steps'."""
        parts = [*self.trained_on.values(), *self.recipes.values()]
        steps = [entry for recipe in parts for entry in recipe.code()]
        metrics = _metrics_code("fid_mobilenetv2", "id_dlib")
        return tuple(dict.fromkeys((METHODS[self.entry.method].module, *steps, *metrics)))


def _metrics_code(*names: str) -> tuple[str, ...]:
    return tuple(entry for name in names for entry in METRICS[name].code)


def metric_rows(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What tables, plots and pages print of metrics' rows."""
    keys = ("title", "kind", "higher_is_better", "unit", "what")
    return {name: {key: getattr(METRICS[name], key) for key in keys} for name in names}


# every rule has a class here, a script and a function of frcore/stages
RULES = tuple(
    job.rule()
    for job in list(vars().values())
    if isinstance(job, type) and issubclass(job, Job) and job.STAGE and job.__name__[0] != "_"
)
