"""What the Snakefile asks: names, paths, parameters and checks before any job. Imports no torch.

Everything here is a function of the configuration alone, so that the rules stay free of logic.
"""

import contextlib
import csv
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from frcore import assets, cards, jobs
from frcore.codehash import code_hash
from frcore.config import (
    Asset,
    Config,
    ConfigError,
    Dataset,
    Model,
    Protocol,
    load_config,
    load_protocol,
    project_file,
)
from frcore.faces import kinds, listings, people
from frcore.registry import METHODS, METRICS, NETS, default_of, nearest, settings_fields
from frcore.registry_metrics import FEATURES

# what stands around the function of every metric
HARNESS = (
    "frcore.metrics.score:score_images",
    "frcore.metrics.score:score_set",
    "frcore.metrics.score:truth_features",
    "frcore.metrics.stage:_read",
)
TABLES = ("scores.csv", "comparison.csv", "comparison.md", "comparison.tex")


@dataclass(frozen=True)
class Plan:
    """A checked configuration and what follows from it for the graph."""

    config: Config
    protocol: Protocol
    assets: Mapping[str, Asset]
    root: Path

    # ----- paths
    def asset_path(self, name: str) -> str:
        """Path of asset `name` under the resources folder."""
        return f"{self.config.resources}/{name}/{self.assets[name].file}"

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
        train = self.config.models[model].train
        return tuple(dict.fromkeys((*train.datasets, *train.low_quality)))

    def runs(self) -> list[tuple[str, str, str]]:
        """(model, dataset, degradation) of every cell of the table."""
        return [(m, d, g) for m in self.config.run.models for d, g in self.config.test_sets()]

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

    def metric_assets(self) -> list[str]:
        """Assets of the protocol's metrics that can be had: fetched, or already there."""
        names = dict.fromkeys(n for metric in self.protocol.metrics for n in METRICS[metric].assets)
        return [name for name in names if self._available(name)]

    def _available(self, name: str) -> bool:
        asset = self.assets[name]
        fetched = bool(asset.package or asset.url or asset.path)
        return fetched or Path(self.asset_path(name)).exists()

    def file_assets(self) -> list[str]:
        """Assets that are one file."""
        return [name for name in self.assets if name not in self.folder_assets()]

    def folder_assets(self) -> list[str]:
        """Assets that are folders of photographs."""
        return [name for name, asset in self.assets.items() if not Path(asset.file).suffix]

    # ----- jobs: what a rule gives its script; a method is named as the rule
    def digest(self, rule: str, wildcards=None) -> str:
        """The rule's parameter: another one makes its outputs anew."""
        return getattr(self, rule)(**_words(wildcards)).digest()

    def argument(self, rule: str, wildcards, files_in, files_out) -> str:
        """The word for the rule's script; files_in, files_out: Snakemake's `input` and `output`."""
        job = getattr(self, rule)(**_words(wildcards))
        own = {"methods": self.config.methods, "metrics": self.config.metrics}
        files = {"input": jobs.Files(**_files(files_in)), "output": jobs.Files(**_files(files_out))}
        return job.model_copy(update={**own, **files}).argument()

    def fetch_asset(self, asset: str, file: str) -> jobs.FetchAsset:
        """One asset of the catalogue -> resources/{asset}/{file}, checked by its SHA-256."""
        return jobs.FetchAsset(name=asset, entry=self.assets[asset], root=self.config.resources)

    def fetch_photos(self, asset: str, file: str) -> jobs.FetchPhotos:
        """A packaged archive of photographs."""
        return jobs.FetchPhotos(name=asset, entry=self.assets[asset], root=self.config.resources)

    def licences(self) -> jobs.Licences:
        """Licences of everything that a run reads, as Markdown."""
        entries = {name: self.assets[name] for name in assets_of_run(self)}
        return jobs.Licences(entries=entries, root=self.config.resources)

    def align_faces(self, dataset: str, shard: str) -> jobs.AlignFaces:
        """Photographs of one shard -> aligned faces, their rows, and the quarantine."""
        return jobs.AlignFaces(
            name=dataset,
            dataset=self.config.datasets[dataset],
            shard=int(shard),
            seed=self.config.seed,
            resources=self.config.resources,
            listing=_photos_digest(self.config.datasets[dataset]),
        )

    def join_faces(self, dataset: str) -> jobs.JoinFaces:
        """Tables of a dataset's shards -> one table of faces, one quarantine."""
        entry = self.config.datasets[dataset]
        return jobs.JoinFaces(
            name=dataset,
            dataset=entry,
            seed=self.config.seed,
            people=listings.people_digest(entry),
        )

    def parse_faces(self, dataset: str) -> jobs.ParseFaces:
        """Aligned faces -> parsing maps of the truth."""
        entry, parser = self.config.datasets[dataset], self.label_parser(dataset)
        labels = listings.labels_digest(entry)
        given = self.given([parser]).get(parser, "") if parser else ""
        return jobs.ParseFaces(
            dataset=entry,
            labels=labels,
            parser=given,
            weights=self.weights_path(parser) if parser else None,
        )

    def degrade_faces(self, dataset: str, degradation: str) -> jobs.DegradeFaces:
        """Test faces of a dataset -> their degraded copies, with the drawn parameters."""
        return jobs.DegradeFaces(
            dataset=dataset,
            degradation=degradation,
            recipe=self.config.degradations[degradation],
            seed=self.config.seed,
            limit=self.config.datasets[dataset].test_limit or 0,
        )

    def contact_sheet(self, dataset: str, degradation: str) -> jobs.ContactSheet:
        """Some faces under one degradation, several draws each -> a picture."""
        recipe = self.config.degradations[degradation]
        return jobs.ContactSheet(degradation=degradation, recipe=recipe, seed=self.config.seed)

    def train_model(self, model: str) -> jobs.TrainModel:
        """Faces, helper nets and one entry of `models:` -> weights, card, history, samples."""
        config, entry = self.config, self.config.models[model]
        helpers, degraders = config.helpers_of(model), config.degraders_of(model)
        start = self._init(model)
        datasets = (*entry.train.datasets, *entry.train.low_quality)
        given = self.given([*helpers.values(), *degraders])
        if start and not self._is_made(start):
            given["start"] = file_digest(start)
        return jobs.TrainModel(
            name=model,
            entry=entry,
            start=start,
            frames={name: self.frame(name) for name in datasets},
            people={name: config.datasets[name].split.like or name for name in datasets},
            recipes={name: config.degradations[name] for name in entry.train.degradations},
            helpers={role: self.weights_path(name) for role, name in helpers.items()},
            degraders={name: self.weights_path(name) for name in degraders},
            assets={name: self.asset_path(name) for name in self.training_assets(model)},
            results=config.results,
            state=f"{config.results}/models/{model}/state",
            given=given,
            helper_methods=self._methods([*helpers.values(), *degraders]),
        )

    def restore_faces(self, model: str, dataset: str, degradation: str) -> jobs.RestoreFaces:
        """One model and one degraded test set -> restored faces and the status of each."""
        recipe = self.config.degradations[degradation]
        return jobs.RestoreFaces(**self._restoring(model, dataset), recipe=recipe)

    def restore_part(self, model, dataset, degradation, part: str) -> jobs.RestorePart:
        """A share of a test set."""
        return jobs.RestorePart(
            **self._restoring(model, dataset),
            recipe=self.config.degradations[degradation],
            shard=int(part),
            shards=self.config.models[model].restore.shards,
        )

    def join_parts(self, model: str, dataset: str, degradation: str) -> jobs.JoinParts:
        """The parts of a restored test set -> one folder and one table."""
        return jobs.JoinParts()

    def assess_samples(self, model: str, dataset: str, degradation: str) -> jobs.AssessSamples:
        """A stochastic model, one degraded test set -> how its restorations differ."""
        return jobs.AssessSamples(
            **self._restoring(model, dataset),
            dataset=dataset,
            degradation=degradation,
            results=self.config.results,
            resources=self.config.resources,
        )

    def _restoring(self, model: str, dataset: str) -> dict:
        entry = self.config.models[model]
        names = [model, *self.config.helpers_of(model, training=False).values()]
        return {
            "name": model,
            "entry": entry,
            "weights": {name: path for name in names if (path := self.weights_path(name))},
            "assets": {
                name: self.asset_path(asset)
                for name, asset in METHODS[entry.method].parts(entry.settings, False).items()
            },
            "frame": self.frame(dataset),
            "given": self.given(names),
            "helper_methods": self._methods(names[1:]),
        }

    def truth_features(self, dataset: str) -> jobs.TruthFeatures:
        """Truth of a dataset -> features and statistics that the set metrics compare with."""
        entry, protocol = self.config.datasets[dataset], self.protocol
        return jobs.TruthFeatures(
            protocol=protocol,
            frame=self.frame(dataset),
            resources=self.config.resources,
            digests=self.feature_digests,
            kept=f"{self.config.results}/truth/kept/{dataset}",
            limit=entry.test_limit or 0,
        )

    def score_faces(self, model: str, dataset: str, degradation: str) -> jobs.ScoreFaces:
        """Restored faces and their truth -> scores per image and per set."""
        low = self.config.datasets[dataset].low_quality
        return jobs.ScoreFaces(
            protocol=self.protocol,
            frame=self.frame(dataset),
            resources=self.config.resources,
            digests=self.metric_digests,
            kept=f"{self.config.results}/scores/{model}/{dataset}/kept/{degradation}",
            dataset=dataset,
            degradation=degradation,
            seed=self.config.seed,
            reference=(self.truth_of(dataset) or "") if low else "",
        )

    @functools.cached_property
    def metric_digests(self) -> dict[str, str]:
        """{metric: digest of its code and its parts} of the protocol's metrics."""
        return {
            name: self._digest_of((*HARNESS, *METRICS[name].code), METRICS[name].assets)
            + json.dumps(dict(METRICS[name].arguments), sort_keys=True)
            for name in self.protocol.metrics
        }

    @functools.cached_property
    def feature_digests(self) -> dict[str, str]:
        """{extractor: digest of its code and its parts} of what the set metrics compare."""
        rows = [METRICS[name] for name in self.protocol.metrics]
        return {
            name: self._digest_of((*HARNESS, *FEATURES[name].code), FEATURES[name].assets)
            for name in dict.fromkeys(row.features for row in rows if row.kind == "set")
        }

    def _digest_of(self, code: tuple[str, ...], parts: tuple[str, ...]) -> str:
        # a part that cannot be had now may be there tomorrow: then there is a value
        there = {name: self.assets[name].sha256 for name in parts if self._available(name)}
        text = json.dumps([code_hash(*code), there], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def join_scores(self) -> jobs.JoinScores:
        """Score files of a run, published numbers and the models' cards -> the long table."""
        run = self.config.run
        return jobs.JoinScores(
            models={name: self.model_facts(name) for name in run.models},
            protocol=self.protocol,
            protocol_name=run.protocol,
            published=run.published,
            published_digest=file_digest(self.published) if run.published else "",
            published_csv=str(self.published),
            seed=self.config.seed,
        )

    @property
    def published(self) -> Path:
        """The table of published numbers."""
        return self.root / "protocols" / "published.csv"

    def model_facts(self, name: str) -> dict:
        """What the rows of an entry say about it, as far as it is known before any job."""
        entry = self.config.models[name]
        facts = {"method": entry.method, "seed": entry.seed}
        perceptual = entry.settings.get(
            "perceptual", default_of(METHODS[entry.method].module, "perceptual")
        )
        shared = [m for m in self.protocol.metrics if perceptual in METRICS[m].assets]
        if perceptual and shared:
            measured = f"{' and '.join(shared)} measure with"
            facts["shared"] = f"trained with {perceptual}, which {measured}"
        if entry.weights:
            facts["weights"] = self.weights_path(name)
        elif entry.train:
            facts["card"] = f"{self.config.results}/models/{name}/weights.json"
        return facts

    def comparison(self) -> jobs.Comparison:
        """Long table -> the comparison for print, as CSV, Markdown and LaTeX."""
        return jobs.Comparison(titles=self.titles(), rows=jobs.metric_rows(self.protocol.metrics))

    def plot_scores(self) -> jobs.PlotScores:
        """Long table -> a figure a metric, as PNG and SVG."""
        names = self.protocol.metrics
        rows = jobs.metric_rows(names)
        return jobs.PlotScores(titles=self.titles(), names=names, rows=rows)

    def plot_training(self) -> jobs.PlotTraining:
        """Histories of trained models -> their losses over images seen."""
        return jobs.PlotTraining(titles=self.titles(self.trained_models()))

    def panel(self, dataset: str, degradation: str) -> jobs.Panel:
        """Degraded, restored and true faces of fixed ids -> one picture."""
        return jobs.Panel(titles=self.titles(self.config.run.models), n=self.config.run.panel)

    def panel_of_strengths(self, figure: str) -> jobs.PanelOfStrengths:
        """Fixed faces under several degradations, restored by several models -> one picture."""
        entry = self.config.figures[figure]
        titles = self.titles(entry.models)
        return jobs.PanelOfStrengths(figure=entry, titles=titles, results=self.config.results)

    def report_page(self) -> jobs.ReportPage:
        """Tables, figures, cards and quarantine of a run -> one self-contained page."""
        rows = jobs.metric_rows(self.protocol.metrics)
        return jobs.ReportPage(config=selection(self.config), protocol=self.protocol, rows=rows)

    def assess_prior(self, prior: str) -> jobs.AssessPrior:
        """Weights of a prior and its encoder, faces -> scores.csv, samples.png, inversion_*.png."""
        datasets, encoder = self.prior_datasets(prior), self.encoder_of(prior)
        names = [prior, *filter(None, [encoder])]
        return jobs.AssessPrior(
            name=prior,
            datasets=datasets,
            frame=self.frame(datasets[0]),
            seed=self.config.seed,
            results=self.config.results,
            resources=self.config.resources,
            weights=tuple(self.prior_weights(prior)),
            given=self.given(names),
            used=self._methods(names),
        )

    def assess_degradation(self, degrader: str) -> jobs.AssessDegradation:
        """Weights of a degradation model, faces -> scores.csv, pairs.png, degradation.png."""
        config, entry = self.config, self.config.models[degrader]
        named = {name: config.degradations[name] for name in config.run.degradations}
        size = config.datasets[entry.train.datasets[0]].size
        return jobs.AssessDegradation(
            name=degrader,
            entry=entry,
            frames={name: self.frame(name) for name in entry.train.datasets},
            trained_on={name: config.degradations[name] for name in entry.train.degradations},
            recipes={name: recipe for name, recipe in named.items() if recipe.size == size},
            seed=config.seed,
            results=config.results,
            resources=config.resources,
            weights=self.weights_path(degrader),
            given=self.given([degrader]),
        )

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


def _words(wildcards) -> dict[str, str]:
    return dict(wildcards.items()) if wildcards is not None else {}


def _files(named) -> dict:
    """Snakemake's `input` or `output` -> plain paths under their names."""
    items = dict(named.items())
    return {key: str(v) if isinstance(v, str) else [str(x) for x in v] for key, v in items.items()}


@functools.cache
def _photos_digest(dataset: Dataset) -> str:
    # asked once a shard
    return listings.photos_digest(dataset)


@functools.cache
def file_digest(path: str | Path) -> str:
    """First 16 hex digits of a file's SHA-256."""
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]


def selection(config: Config) -> Config:
    """What a run uses of its configuration, and every entry that those name: whole by itself."""
    run = config.run
    models, datasets = set(config.used_models()), set(config.used_datasets())
    degradations = {*run.degradations, *(g for _, g in config.test_sets())}
    for name in run.figures:
        degradations |= set(config.figures[name].degradations)
        models |= set(config.figures[name].models)
    size = -1
    while size != len(models) + len(datasets) + len(degradations):
        size = len(models) + len(datasets) + len(degradations)
        for name in [*models]:
            entry = config.models[name]
            roles = METHODS[entry.method].roles
            models |= {entry.settings.get(role) for role in roles}
            if entry.train:
                datasets |= {*entry.train.datasets, *entry.train.low_quality}
                degradations |= set(entry.train.degradations)
        for entry in [config.datasets[name] for name in datasets]:
            datasets |= {entry.split.like, entry.reference}
            degradations.add(entry.low_quality)
            models.add(entry.labels.model)
        models |= {config.degradations[name].learned for name in degradations - {None}}
        models, datasets, degradations = (x - {None} for x in (models, datasets, degradations))

    def chosen(entries, names):
        return {name: entry for name, entry in entries.items() if name in names}

    return config.model_copy(
        update={
            "datasets": chosen(config.datasets, datasets),
            "degradations": chosen(config.degradations, degradations),
            "models": chosen(config.models, models),
            "figures": chosen(config.figures, run.figures),
            "assets": {},
        }
    )


def _weights_mistakes(name: str, entry: Model, root: Path) -> list[str]:
    """What is wrong with the finished weights of an entry, and where it differs from their card."""
    path = Path(project_file(entry.weights, root))
    if not path.is_file():
        return [f"models.{name}.weights: no file {entry.weights}"]
    card = cards.card_of(path)
    if card is None:
        return [f"models.{name}.weights: {entry.weights} has no card: `frcore weights convert` it"]
    wrong = cards.differences(card, entry.method, entry.settings)
    return [f"models.{name}.{line}: leave it out or write the same" for line in wrong]


def set_environment(root: Path) -> None:
    """What jobs inherit: this Python, this folder's frcore, and $SCRIPTS; nothing is activated."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["PYTHONPATH"] = str(root)
    os.environ["SCRIPTS"] = str(root / "workflow_scripts")
    # threads that wait by spinning take ten times as long beside one other busy process
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def open_plan(data: Mapping, root: Path) -> Plan:
    """Check the configuration and stop with one line a mistake, without a traceback."""
    try:
        config = load_config(data)
        protocol = load_protocol(config.run.protocol, root / "protocols")
        catalogue = assets.catalogue(config.assets)
        _check_settings(config)
        _check_parts(config, protocol, catalogue)
        _check_published(config, root)
        _check_paths(config, root)
    except ConfigError as error:
        # Snakemake would print a traceback of the Snakefile around an exception
        print("\n".join(f"config: {line}" for line in error.mistakes), file=sys.stderr)
        sys.exit(1)
    return Plan(config, protocol, catalogue, root)


def _check_settings(config: Config) -> None:
    """Names in the methods' settings, without importing torch: fields read from the syntax tree."""
    mistakes = []
    for name, entry in config.models.items():
        try:
            known = settings_fields(METHODS[entry.method].module)
        except ValueError as error:
            mistakes.append(f"models.{name}: {error}")
            continue
        given = [(f"models.{name}.settings", entry.settings)]
        for place, stage in enumerate(entry.train.stages if entry.train else ()):
            given.append((f"models.{name}.train.stages.{place}.settings", stage.settings))
        for where, settings in given:
            for key in settings:
                if key not in known:
                    mistakes.append(f"{where}.{key}: unknown key {nearest(key, known)}")
    if mistakes:
        raise ConfigError(mistakes)


def _check_parts(config: Config, protocol: Protocol, catalogue: Mapping[str, Asset]) -> None:
    """Pretrained parts that methods and metrics name must be in the catalogue."""
    mistakes = []
    for metric in protocol.metrics:
        for asset in METRICS[metric].assets:
            if asset not in catalogue:
                mistakes.append(f"metric {metric}: no asset {asset!r} {nearest(asset, catalogue)}")
    for name in config.used_models():
        entry = config.models[name]
        parts = METHODS[entry.method].parts(entry.settings, training=entry.train is not None)
        for part, asset in parts.items():
            if asset not in catalogue:
                where = "settings.perceptual" if part == "perceptual" else f"method {entry.method}"
                known = {*catalogue, *NETS}
                mistakes.append(
                    f"models.{name}: {where}: no asset {asset!r} {nearest(asset, known)}"
                )
    if mistakes:
        raise ConfigError(mistakes)


def _check_published(config: Config, root: Path) -> None:
    """Names of published tables: a paper, or a paper and its table ("PSFR-GAN T1")."""
    with open(root / "protocols" / "published.csv", newline="", encoding="utf-8") as opened:
        rows = [(row["paper"], f"{row['paper']} {row['table']}") for row in csv.DictReader(opened)]
    known = {name for row in rows for name in row}
    wrong = [name for name in config.run.published if name not in known]
    if wrong:
        raise ConfigError([f"run.published: no table {n!r} {nearest(n, known)}" for n in wrong])


def _check_paths(config: Config, root: Path) -> None:
    """Folders and files that the selected entries name must be there."""
    mistakes = []
    for name in config.used_models():
        entry = config.models[name]
        if entry.weights:
            mistakes += _weights_mistakes(name, entry, root)
        elif entry.train and entry.init == "shipped":
            path = f"weights/{name}.safetensors"
            if not (root / path).is_file():
                mistakes.append(
                    f"models.{name}.init: no file {path} to start from: write `init: scratch` to "
                    "train from random weights, or another entry or a weights file"
                )
        made = entry.init in ("shipped", "scratch", *config.models)
        if not made and not Path(project_file(entry.init, root)).is_file():
            mistakes.append(f"models.{name}.init: no file {entry.init}")
    for name in sorted(config.used_datasets()):
        dataset = config.datasets[name]
        for key, path in (("path", dataset.path), ("labels.path", dataset.labels.path)):
            if path and not Path(path).is_dir():
                mistakes.append(f"datasets.{name}.{key}: no folder {path}")
        try:
            people.finder(dataset)
        except (ValueError, OSError) as error:
            mistakes.append(f"datasets.{name}.people: {error}")
    if mistakes:
        raise ConfigError(mistakes)


def launcher(gpus: int) -> str:
    """Command that starts a training script: torchrun with a process a GPU, or plain Python."""
    return f"torchrun --standalone --nproc-per-node {gpus}" if gpus > 1 else "python"


def assets_of_run(plan: Plan) -> list[str]:
    """Every asset that the selected run reads."""
    names: dict[str, None] = {}
    for model in plan.trained_models():
        names |= dict.fromkeys(plan.training_assets(model))
    for dataset in sorted(plan.config.used_datasets()):
        names |= dict.fromkeys(plan.dataset_assets(dataset))
    return [*names, *(n for n in plan.metric_assets() if n not in names)]


def before_any_job(plan: Plan, needed: Iterable[str]) -> None:
    """SystemExit with one line when a file cannot be had or an earlier run's jobs are queued."""
    queued = queued_jobs(Path.cwd())
    if queued:
        raise SystemExit(
            "jobs of an earlier run are still in the queue and would write the same files: "
            f"scancel {' '.join(queued)}"
        )
    try:
        assets.preflight(needed, plan.config.resources, plan.assets)
    except assets.AssetMissing as error:
        raise SystemExit(str(error)) from None


def queued_jobs(folder: Path, prefix: str = "fr_") -> list[str]:
    """Ids of this user's Slurm jobs that a killed Snakemake left running in `folder`."""
    if not shutil.which("squeue"):
        return []
    try:
        answer = subprocess.run(
            ["squeue", "-h", "--me", "-o", "%i|%j|%Z"], capture_output=True, text=True, timeout=20
        )
    except subprocess.TimeoutExpired:
        return []
    rows = [line.split("|") for line in answer.stdout.splitlines()]
    return [
        row[0]
        for row in rows
        if len(row) == 3
        and row[1].startswith(prefix)
        and Path(row[2]).resolve() == folder.resolve()
    ]


def clear_after_kill(folder: str | Path) -> None:
    """Stop the jobs that a killed Snakemake left running in `folder`, and remove its lock.

    Nothing is touched while a Snakemake is alive there: then SystemExit says so.
    """
    import psutil

    folder = Path(folder).resolve()
    here = [p for p in psutil.process_iter(["cmdline", "cwd"]) if _works_in(p, folder)]
    if any(_is_snakemake(process) for process in here):
        raise SystemExit(f"another run is going on in {folder}; wait for it or stop it first")
    orphans = [
        process
        for process in here
        if "workflow_scripts/" in " ".join(process.info["cmdline"])
        and process.pid != os.getpid()
        and "after_kill.py" not in " ".join(process.info["cmdline"])
    ]
    for process in orphans:
        print(f"stopping a job of a killed run: {' '.join(process.info['cmdline'])[:120]}")
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()  # a training saves its state
    for process in psutil.wait_procs(orphans, timeout=60)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    shutil.rmtree(folder / ".snakemake" / "locks", ignore_errors=True)


def _works_in(process, folder: Path) -> bool:
    # cmdline and cwd are None for processes of others
    return bool(process.info["cmdline"]) and process.info["cwd"] == str(folder)


def _is_snakemake(process) -> bool:
    words = process.info["cmdline"][:3]
    return any(Path(word).name == "snakemake" for word in words) or words[1:3] == [
        "-m",
        "snakemake",
    ]


def one_of(names: Iterable[str]) -> str:
    """Regular expression that matches these names alone."""
    return "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or "NONE"
