"""What a run consists of: its paths, models, datasets and assets, from a checked configuration."""

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from frcore.config import Asset, Config, Protocol, project_file
from frcore.faces import kinds
from frcore.io.assets import can_be_fetched, entry_of
from frcore.registry import METHODS, METRICS

TABLES = ("scores.csv", "comparison.csv", "comparison.md", "comparison.tex")


@dataclass(frozen=True)
class Graph:
    """The questions that the rules ask of a checked configuration."""

    config: Config
    protocol: Protocol
    assets: Mapping[str, Asset]
    root: Path

    # ----- paths
    def asset_path(self, name: str) -> str:
        """Path of asset `name` under the resources folder."""
        entry = entry_of(name, self.config.resources, self.assets)
        return f"{self.config.resources}/{name}/{entry.file}"

    def shards(self, dataset: str) -> list[str]:
        """Names of a dataset's shards: 0000, 0001, ..."""
        return [f"{k:04d}" for k in range(self.config.datasets[dataset].shards)]

    def weights_path(self, model: str) -> str | None:
        """Weights of an entry: trained here, given by path, or None (untrained method)."""
        entry = self.config.models[model]
        if entry.weights:
            return project_file(entry.weights, self.root)
        return f"{self.config.results}/models/{model}/weights.safetensors" if entry.train else None

    def _init(self, model: str) -> str | None:
        """The weights file that a training starts from; None from scratch."""
        init = self.config.models[model].init
        if init == "scratch":
            return None
        if init == "shipped":
            return str(self.root / "weights" / f"{model}.safetensors")
        if init in self.config.models:
            return self.weights_path(init)
        return project_file(init, self.root)

    def weights_of(self, model: str) -> list[str]:
        """Weights that restoring with `model` reads: its own and its helpers'."""
        names = [model, *self.config.helpers_of(model, training=False).values()]
        return [path for path in map(self.weights_path, names) if path]

    # ----- selections
    def trained_datasets(self, model: str) -> tuple[str, ...]:
        """Datasets that `model` trains on, those of low quality last."""
        train = self.config.models[model].training
        return tuple(dict.fromkeys((*train.datasets, *train.low_quality)))

    def runs(self) -> list[tuple[str, str, str]]:
        """(model, dataset, degradation) of every cell of the table."""
        return [(m, d, g) for m in self.config.run.models for d, g in self.config.test_sets()]

    def tests_of(self) -> dict[str, list[str]]:
        """{dataset of the run: its degradations}."""
        found: dict[str, list[str]] = {}
        for dataset, degradation in self.config.test_sets():
            found.setdefault(dataset, []).append(degradation)
        return found

    def restored_together(self) -> list[tuple[str, str, list[str]]]:
        """(model, dataset, degradations) of the run that one job restores."""
        restoring = {name: self.config.models[name].restore for name in self.config.run.models}
        whole = [name for name, r in restoring.items() if r.together and r.shards == 1]
        return [(m, d, found) for m in whole for d, found in self.tests_of().items()]

    def scored_together(self) -> list[tuple[str, str, list[str], list[str]]]:
        """(name, dataset, models, degradations) of the run that one job measures."""
        models, n = self.config.run.models, self.config.run.models_per_score
        starts = range(0, len(models), n) if n else ()
        found = []
        for dataset, degradations in self.tests_of().items():
            for start in starts:
                name = dataset if len(models) <= n else f"{dataset}_{start // n}"
                found.append((name, dataset, list(models[start : start + n]), degradations))
        return found

    def trained_models(self) -> list[str]:
        """Entries of the run that the workflow trains, helpers included."""
        return [name for name in self.config.used_models() if self.config.models[name].train]

    def label_parser(self, dataset: str) -> str | None:
        """Entry that predicts a dataset's parsing maps, or None."""
        labels = self.config.datasets[dataset].labels
        return labels.model if labels.kind == "model" else None

    def priors(self) -> list[str]:
        """Entries that make faces from nothing; not those that make them bad on purpose."""
        rows = {name: METHODS[entry.method] for name, entry in self.config.models.items()}
        return [n for n, row in rows.items() if row.generative and row.role != "degrader"]

    def degraders(self) -> list[str]:
        """Degradation models that the workflow trains."""
        models = self.config.models
        return [n for n, e in models.items() if e.train and METHODS[e.method].role == "degrader"]

    def stochastic_models(self) -> list[str]:
        """Entries that restore one face in many ways."""
        return [
            name
            for name, entry in self.config.models.items()
            if METHODS[entry.method].stochastic and entry.settings.get("stochastic", True)
        ]

    def encoder_of(self, prior: str) -> str | None:
        """The first entry that encodes faces into the latents of `prior`."""
        for name, entry in self.config.models.items():
            if entry.method == "stylegan2_encoder" and entry.settings.get("prior") == prior:
                return name
        return None

    def prior_datasets(self, prior: str) -> tuple[str, ...]:
        """Datasets that a prior is assessed on: its own, then the run's but for bad photographs."""
        train, datasets = self.config.models[prior].train, self.config.datasets
        good = [name for name in self.config.run.datasets if not datasets[name].low_quality]
        return tuple(dict.fromkeys((*(train.datasets if train else ()), *good)))

    def prior_weights(self, prior: str) -> list[str]:
        """Weights of a prior and, if there is one, of its encoder."""
        names = [prior, self.encoder_of(prior)]
        return [path for name in names if name for path in [self.weights_path(name)] if path]

    def truth_of(self, dataset: str) -> str | None:
        """The data set that distances of sets compare with; None where there is none."""
        entry = self.config.datasets[dataset]
        return entry.reference if entry.low_quality else dataset

    def needs_labels(self, model: str) -> bool:
        """Whether training `model` reads parsing maps of the truth."""
        return METHODS[self.config.models[model].method].needs_labels

    def needs_reference(self, model: str) -> bool:
        """Whether restoring with `model` needs another photograph of the same person."""
        return METHODS[self.config.models[model].method].needs_reference

    # ----- assets
    def dataset_assets(self, dataset: str) -> list[str]:
        """Assets that the faces of a dataset are made from."""
        entry = self.config.datasets[dataset]
        names = list(kinds.assets_of(entry.source))
        if not entry.aligned or entry.labels.kind == "landmarks":
            names = [*names, "dlib_68", *(["dlib_mmod"] if entry.detector == "mmod" else [])]
        return names

    def training_assets(self, model: str) -> list[str]:
        """Assets that training an entry reads."""
        entry = self.config.models[model]
        row = METHODS[entry.method]
        names = list(row.parts(entry.settings, training=True).values())
        if row.generative:  # for the curves of their distance to real faces
            names += ["mobilenet_v2", *["inception"] * self._available("inception")]
        return list(dict.fromkeys(names))

    def restoring_assets(self, model: str) -> list[str]:
        """Assets that restoring with an entry reads."""
        entry = self.config.models[model]
        return list(METHODS[entry.method].parts(entry.settings, training=False).values())

    def prior_assets(self) -> list[str]:
        """Assets that assessing a prior reads."""
        names = ["dlib_68", "mobilenet_v2", "stlpips_vgg", "dlib_resnet"]
        return names + ["inception"] * self._available("inception")

    def sample_assets(self, model: str) -> list[str]:
        """Assets that comparing the restorations of one face reads."""
        names = ["stlpips_vgg", "dlib_resnet", *self.restoring_assets(model)]
        return list(dict.fromkeys(names))

    def metric_assets(self) -> list[str]:
        """Assets of the protocol's metrics that can be had: fetched, or already there."""
        names = dict.fromkeys(n for metric in self.protocol.metrics for n in METRICS[metric].assets)
        return [name for name in names if self._available(name)]

    def all_assets(self) -> list[str]:
        """Every asset that the selected run reads."""
        names: dict[str, None] = {}
        for model in self.trained_models():
            names |= dict.fromkeys(self.training_assets(model))
        for dataset in sorted(self.config.used_datasets()):
            names |= dict.fromkeys(self.dataset_assets(dataset))
        return [*names, *(n for n in self.metric_assets() if n not in names)]

    def _available(self, name: str) -> bool:
        return can_be_fetched(self.assets[name]) or Path(self.asset_path(name)).exists()

    def file_assets(self) -> list[str]:
        """Assets that are one file."""
        return [name for name in self.assets if name not in self.folder_assets()]

    def folder_assets(self) -> list[str]:
        """Assets that are folders of photographs."""
        return [name for name, asset in self.assets.items() if not Path(asset.file).suffix]

    # ----- what jobs are made of
    def frame(self, dataset: str) -> dict:
        """Where the face is in an aligned image: size, crop_scale, crop_shift."""
        keys = {"size", "crop_scale", "crop_shift"}
        return self.config.datasets[dataset].model_dump(include=keys)

    def titles(self, names: Iterable[str] = ()) -> dict[str, str]:
        """{model: title} of `names`; default: those that the report may name, selected first."""
        names = dict.fromkeys(names or [*self.config.run.models, *self.trained_models()])
        models = self.config.models
        return {name: models[name].title or METHODS[models[name].method].title for name in names}

    def given(self, names: Iterable[str]) -> dict[str, str]:
        """{entry: SHA-256} of those whose weights are a given file: content, not path or time."""
        paths = {n: self.weights_path(n) for n in names if self.config.models[n].weights}
        return {name: file_digest(path) for name, path in paths.items()}

    def made(self, paths: Iterable[str | None]) -> list[str]:
        """Those of some weights files that jobs make; the others are known by their content."""
        return [path for path in paths if path and self._is_made(path)]

    def _is_made(self, path: str) -> bool:
        models, folder = self.config.models, f"{self.config.results}/models"
        return path in {f"{folder}/{name}/weights.safetensors" for name in models}

    def _methods(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.config.models[name].method for name in names))

    def gpus(self, model: str) -> int:
        """GPUs to ask of a cluster for training an entry."""
        train = self.config.models[model].train
        if not METHODS[self.config.models[model].method].trained:
            return 0
        return train.gpus if train else 1

    def restore_gpus(self, model: str) -> int:
        """GPUs to ask for restoring with an entry."""
        own = self.config.models[model].restore.gpus
        return min(1, self.gpus(model)) if own is None else own

    def parts(self, model: str) -> list[str]:
        """Names of the parts of a restored test set: 0000, 0001, ..."""
        return [f"{k:04d}" for k in range(self.config.models[model].restore.shards)]


@functools.cache
def file_digest(path: str | Path) -> str:
    """First 16 hex digits of a file's SHA-256."""
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]


def one_of(names: Iterable[str]) -> str:
    """Regular expression that matches these names alone."""
    return "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or "NONE"
