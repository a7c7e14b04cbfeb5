"""What follows from a checked configuration for the graph: a method a rule. Imports no torch."""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from frcore.config import (
    Dataset,
)
from frcore.degrade.recipes import Recipe
from frcore.faces import listings
from frcore.io.assets import entry_of
from frcore.registry import METHODS, METRICS, default_of
from frcore.registry.metrics import FEATURES
from frcore.workflow import jobs
from frcore.workflow.codehash import code_hash
from frcore.workflow.graph import Graph, file_digest
from frcore.workflow.job import Files
from frcore.workflow.selection import selection

# what stands around the function of every metric
HARNESS = (
    "frcore.metrics.score:score_images",
    "frcore.metrics.score:score_set",
    "frcore.metrics.score:truth_features",
    "frcore.metrics.stage:_read",
)

Names = str | Sequence[str]


@dataclass(frozen=True)
class Plan(Graph):
    """The graph, and what each rule gives its script: a method is named as its rule."""

    # ----- jobs: what a rule gives its script; a method is named as the rule
    def digest(self, rule: str, wildcards=None, **cells: Names) -> str:
        """The rule's parameter: another one makes its outputs anew. cells: in place of wildcards,
        for one job of many cells."""
        return getattr(self, rule)(**words_of(wildcards), **cells).digest()

    def argument(self, rule: str, wildcards, files_in, files_out, **cells: Names) -> str:
        """The word for the rule's script; files_in, files_out: Snakemake's `input` and `output`."""
        job = getattr(self, rule)(**words_of(wildcards), **cells)
        own = {"methods": self.config.methods, "metrics": self.config.metrics}
        files = {
            "input": Files(**plain_files(files_in)),
            "output": Files(**plain_files(files_out)),
        }
        return job.model_copy(update={**own, **files}).argument()

    def fetch_asset(self, asset: str, file: str) -> jobs.FetchAsset:
        """One asset of the catalogue -> resources/{asset}/{file}, checked by its SHA-256."""
        return jobs.FetchAsset(name=asset, entry=self.assets[asset], root=self.config.resources)

    def fetch_photos(self, asset: str, file: str) -> jobs.FetchPhotos:
        """A packaged archive of photographs."""
        return jobs.FetchPhotos(name=asset, entry=self.assets[asset], root=self.config.resources)

    def licences(self) -> jobs.Licences:
        """Licences of everything that a run reads, as Markdown."""
        entries = {name: self.assets[name] for name in self.all_assets()}
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

    def degrade_faces(self, dataset: str, degradation: Names) -> jobs.DegradeFaces:
        """Test faces of a dataset -> their degraded copies, with the drawn parameters."""
        return jobs.DegradeFaces(
            dataset=dataset,
            recipes=self._recipes(degradation),
            seed=self.config.seed,
            limit=self.config.datasets[dataset].test_limit or 0,
            kept=f"{self.config.results}/degraded/{dataset}/kept",
        )

    def contact_sheet(self, dataset: Names, degradation: Names) -> jobs.ContactSheet:
        """Some faces under one degradation, several draws each -> a picture."""
        recipes = tuple(self._recipes(degradation).items())
        return jobs.ContactSheet(recipes=recipes, seed=self.config.seed)

    def _recipes(self, degradation: Names) -> dict[str, Recipe]:
        return {name: self.config.degradations[name] for name in names_of(degradation)}

    def train_model(self, model: str) -> jobs.TrainModel:
        """Faces, helper nets and one entry of `models:` -> weights, card, history, samples."""
        config, entry = self.config, self.config.models[model]
        helpers, degraders = config.helpers_of(model), config.degraders_of(model)
        start = self._init(model)
        datasets = (*entry.training.datasets, *entry.training.low_quality)
        given = self.given([*helpers.values(), *degraders])
        if start and not self._is_made(start):
            given["start"] = file_digest(start)
        return jobs.TrainModel(
            name=model,
            entry=entry,
            start=start,
            frames={name: self.frame(name) for name in datasets},
            people={name: config.datasets[name].split.like or name for name in datasets},
            recipes={name: config.degradations[name] for name in entry.training.degradations},
            helpers={role: self.weights_path(name) for role, name in helpers.items()},
            degraders={name: self.weights_path(name) for name in degraders},
            assets={name: self.asset_path(name) for name in self.training_assets(model)},
            results=config.results,
            state=f"{config.results}/models/{model}/state",
            given=given,
            helper_methods=self._methods([*helpers.values(), *degraders]),
        )

    def restore_faces(self, model: str, dataset: str, degradation: Names) -> jobs.RestoreFaces:
        """One model and some degraded test sets -> restored faces and the status of each."""
        return jobs.RestoreFaces(
            **self._restoring(model, dataset),
            recipes=self._recipes(degradation),
            kept=f"{self.config.results}/restored/{model}/{dataset}/kept",
        )

    def restore_part(self, model, dataset, degradation, part: str) -> jobs.RestorePart:
        """A share of a test set."""
        return jobs.RestorePart(
            **self._restoring(model, dataset),
            recipes=self._recipes(degradation),
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

    def score_faces(self, model: Names, dataset: str, degradation: Names) -> jobs.ScoreFaces:
        """Some restored sets of a dataset and their truth -> scores per image and per set."""
        low = self.config.datasets[dataset].low_quality
        cells = [(m, g) for m in names_of(model) for g in names_of(degradation)]
        scores = f"{self.config.results}/scores"
        return jobs.ScoreFaces(
            protocol=self.protocol,
            frame=self.frame(dataset),
            resources=self.config.resources,
            digests=self.metric_digests,
            dataset=dataset,
            cells=tuple(cells),
            kept=tuple(f"{scores}/{m}/{dataset}/kept/{g}" for m, g in cells),
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
        root = self.config.resources
        there = {n: entry_of(n, root, self.assets).sha256 for n in parts if self._available(n)}
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
        return self.root / "published.csv"

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

    def panel(self, dataset: Names, degradation: Names) -> jobs.Panel:
        """Degraded, restored and true faces of fixed ids -> a picture a test set."""
        cells = tuple(zip(names_of(dataset), names_of(degradation)))
        datasets = self.config.datasets
        return jobs.Panel(
            titles=self.titles(self.config.run.models),
            n=self.config.run.panel,
            results=self.config.results,
            cells=cells,
            unknown=tuple(dict.fromkeys(d for d, _ in cells if datasets[d].low_quality)),
        )

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
        size = config.datasets[entry.training.datasets[0]].size
        return jobs.AssessDegradation(
            name=degrader,
            entry=entry,
            frames={name: self.frame(name) for name in entry.training.datasets},
            trained_on={name: config.degradations[name] for name in entry.training.degradations},
            recipes={name: recipe for name, recipe in named.items() if recipe.size == size},
            seed=config.seed,
            results=config.results,
            resources=config.resources,
            weights=self.weights_path(degrader),
            given=self.given([degrader]),
        )


def words_of(wildcards) -> dict[str, Names]:
    return dict(wildcards.items()) if wildcards is not None else {}


def names_of(names: Names) -> tuple[str, ...]:
    """One name, as a wildcard has it, or several."""
    return (names,) if isinstance(names, str) else tuple(names)


def plain_files(named) -> dict:
    """Snakemake's `input` or `output` -> plain paths under their names."""
    items = dict(named.items())
    return {key: str(v) if isinstance(v, str) else [str(x) for x in v] for key, v in items.items()}


@functools.cache
def _photos_digest(dataset: Dataset) -> str:
    # asked once a shard
    return listings.photos_digest(dataset)
