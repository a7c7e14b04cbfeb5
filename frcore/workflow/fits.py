"""Whether the entries of a configuration fit one another: helpers, cycles, sizes. No torch.

Each function gives one line a mistake. Entries whose own values are wrong are left out: that is
told elsewhere.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from frcore.config import Config, ConfigError, Model, Protocol, project_file
from frcore.config.settings import settings_class, whole_settings
from frcore.config.types import Entry, SameAs
from frcore.io import cards
from frcore.registry import METHODS
from frcore.workflow.graph import Graph
from frcore.workflow.jobs import RULES

CLASSES = {"landmarks": 10, "folder": 19}  # of the parsing maps


@dataclass(frozen=True)
class Fits:
    """The checks of one configuration. root: folder of the catalogue."""

    config: Config
    root: Path

    def mistakes(self, protocol: Protocol | None) -> list[str]:
        """All of them; sizes of images against the protocol, if that could be read."""
        found = [*self.cycles(), *self.helpers(), *self.labels(), *self.batches()]
        return [*found, *self.sizes(protocol), *self.shares(protocol), *self.selection()]

    @functools.cached_property
    def trained(self) -> list[str]:
        """Entries of the run that jobs train."""
        return [name for name in self.config.used_models() if self.is_trained(name)]

    def values(self, model: str) -> dict:
        """An entry's settings with the method's defaults, or its weights' card; {} if unknown."""
        return self._values[model]

    @functools.cached_property
    def _values(self) -> dict[str, dict]:
        return {name: self._values_of(entry) for name, entry in self.config.models.items()}

    def _values_of(self, entry: Model) -> dict:
        if entry.weights:
            path = Path(project_file(entry.weights, self.root))
            card = (cards.card_of(path) or {}) if path.is_file() else {}
            found = card.get("settings", {})
            return found if isinstance(found, dict) else {}
        settings = whole_settings(entry.method, entry.settings)
        return settings.model_dump() if settings else {}

    def is_trained(self, model: str) -> bool:
        """Whether a job makes its weights."""
        entry = self.config.models[model]
        return bool(entry.train) and not entry.weights

    # ----- helpers
    def helpers(self) -> Iterator[str]:
        """Entries that are named as helpers and are something else, or are missing."""
        used = set(self.config.used_models())
        for name, entry in self.config.models.items():
            values, row = self.values(name), METHODS[entry.method]
            marks = _marks(entry.method)
            for role in row.roles:
                where, helper = f"models.{name}.settings.{role}", values.get(role)
                mark = next((m for m in marks.get(role, ()) if isinstance(m, Entry)), None)
                if helper in self.config.models:
                    yield from self._wrong_helper(where, helper, mark.kind if mark else "")
                    if name in used:
                        yield from self._other_values(name, role, helper, marks, values)
                elif mark and values and helper is None and self._is_needed(name, mark):
                    of = f", or `{mark.where}: false`" if mark.where else ""
                    yield f"{where}: is missing: an entry that is a {mark.kind}{of}"
        for name, dataset in self.config.datasets.items():
            parser = dataset.labels.model if dataset.labels.kind == "model" else None
            if parser in self.config.models:
                yield from self._wrong_helper(f"datasets.{name}.labels.model", parser, "parser")

    def _is_needed(self, name: str, mark: Entry) -> bool:
        return name in self.trained and bool(not mark.where or self.values(name).get(mark.where))

    def _wrong_helper(self, where: str, helper: str, kind: str) -> Iterator[str]:
        method = self.config.models[helper].method
        row = METHODS[method]
        is_kind = {
            "parser": row.role == "helper" and row.needs_labels,
            "prior": row.generative and row.role != "degrader",
        }
        if not is_kind.get(kind, row.trained):
            yield f"{where}: {helper} is no {kind or 'trained net'}, but of method {method}"

    def _other_values(self, name, role, helper, marks, values) -> Iterator[str]:
        """Settings that must be the helper's, and are not."""
        theirs = self.values(helper)
        for key, found in marks.items():
            own, other = values.get(key), theirs.get(key)
            if SameAs(role) in found and None not in (own, other) and own != other:
                yield f"models.{name}.settings.{key}: {own}, but the {role} {helper} has {other}"

    # ----- cycles
    def cycles(self) -> Iterator[str]:
        """Entries that need themselves before they are made, with the whole way round."""
        needs = {name: dict(self._needs(name)) for name in self.config.models}
        while True:
            while free := [n for n, found in needs.items() if not found.keys() & needs.keys()]:
                for name in free:
                    del needs[name]
            if not needs:
                return
            way = [next(iter(needs))]
            while way.count(way[-1]) < 2:
                way.append(next(n for n in needs[way[-1]] if n in needs))
            circle = way[way.index(way[-1]) :]
            steps = [f"{b} ({needs[a][b]})" for a, b in itertools.pairwise(circle)]
            first, key = circle[0], needs[circle[0]][circle[1]]
            yield f"models.{first}.{key}: a cycle: {first} needs {', which needs '.join(steps)}"
            for name in circle[:-1]:
                del needs[name]

    def _needs(self, model: str) -> Iterator[tuple[str, str]]:
        """(entry, key that names it) of what must be trained before `model`."""
        config, entry = self.config, self.config.models[model]
        if not self.is_trained(model):
            return
        for role, helper in config.helpers_of(model).items():
            yield helper, f"settings.{role}"
        if entry.init != model:
            yield entry.init, "init"
        for degrader in config.degraders_of(model):
            yield degrader, "train.degradations"
        for name in entry.training.datasets if METHODS[entry.method].needs_labels else ():
            dataset = config.datasets.get(name)
            if dataset and dataset.labels.kind == "model":
                yield dataset.labels.model or "", f"train.datasets by labels of {name}"

    # ----- what trainings see
    def labels(self) -> Iterator[str]:
        """Trainings whose parsing maps have other classes than the net."""
        for name in self.trained:
            entry, own = self.config.models[name], self.values(name).get("labels")
            if not (METHODS[entry.method].needs_labels and own):
                continue
            for dataset in entry.training.datasets:
                labels = self.config.datasets[dataset].labels
                classes = CLASSES.get(labels.kind)
                if labels.model in self.config.models and classes is None:
                    classes = self.values(labels.model or "").get("labels")
                if classes and own != classes:
                    yield (
                        f"models.{name}.settings.labels: {own}, but the parsing maps of {dataset} "
                        f"have {classes}"
                    )

    def batches(self) -> Iterator[str]:
        """Batches that cannot be shared among GPUs, or among the groups of a discriminator."""
        for name in self.trained:
            train, where = self.config.models[name].training, f"models.{name}.train.batch"
            share, rest = divmod(train.batch, max(train.gpus, 1))
            if rest or not share:
                yield f"{where}: {train.batch} cannot be shared by {train.gpus} GPUs"
                continue
            values = self.values(name)
            prior = values.get("prior")
            critics = [values, *([self.values(prior)] if prior in self.config.models else [])]
            for group in {v["group"] for v in critics if isinstance(v.get("group"), int)}:
                if share % min(group, share):
                    yield f"{where}: {share} cannot be cut into groups of {group} (settings.group)"

    # ----- sizes
    def sizes(self, protocol: Protocol | None) -> Iterator[str]:
        """Faces, recipes, nets and protocol of different sizes."""
        config = self.config
        for name in self.trained:
            yield from self._sizes_of_training(name)
        tests: list[tuple[str, str, str]] = []
        tests += [("run.degradations", d, g) for d, g in config.test_sets()]
        for figure, entry in ((name, config.figures[name]) for name in config.run.figures):
            where = f"figures.{figure}"
            tests += [(f"{where}.degradations", entry.dataset, g) for g in entry.degradations]
            yield from self._sizes_of_restoring(f"{where}.models", entry.models, [entry.dataset])
        for name in sorted(config.used_datasets()):
            own = config.datasets[name].low_quality
            tests += [(f"datasets.{name}.low_quality", name, own)] if own else []
        for where, name, degradation in dict.fromkeys(tests):
            recipe, size = config.degradations[degradation], config.datasets[name].size
            if recipe.size != size:
                yield f"{where}: {degradation} is for {recipe.size} px, {name} has {size} px"
        yield from self._sizes_of_restoring("run.models", config.run.models, config.run.datasets)
        for name in config.run.datasets if protocol else ():
            size = config.datasets[name].size
            if protocol and protocol.size != size:
                text = f"{config.run.protocol} measures {protocol.size} px, {name} has {size} px"
                yield f"run.protocol: {text}"

    def _sizes_of_training(self, name: str) -> Iterator[str]:
        config, train = self.config, self.config.models[name].training
        dataset = train.datasets[0]
        size, own = config.datasets[dataset].size, self._side(name)
        if own not in (None, size):
            yield f"models.{name}.settings.size: {own} px, but {dataset} has faces of {size} px"
        for degradation in train.degradations:
            recipe = config.degradations[degradation]
            if recipe.size != size:
                yield (
                    f"models.{name}.train.degradations: {degradation} is for {recipe.size} px, "
                    f"{dataset} has {size} px"
                )

    def _sizes_of_restoring(self, where, models, datasets) -> Iterator[str]:
        for name in models:
            for dataset in datasets:
                own, size = self._side(name), self.config.datasets[dataset].size
                if own not in (None, size):
                    yield f"{where}: {name} is for {own} px, {dataset} has {size} px"

    def _side(self, model: str) -> int | None:
        """Side of the faces that an entry restores; None where any will do."""
        if "sides" in METHODS[self.config.models[model].method].exports:
            return None
        size = self.values(model).get("size")
        return size if isinstance(size, int) else None

    # ----- parts of datasets, what is selected
    def shares(self, protocol: Protocol | None) -> Iterator[str]:
        """Splits without faces for what they are used for."""
        config = self.config
        for name in self.trained:
            train = config.models[name].training
            for dataset in (*train.datasets, *train.low_quality):
                if not config.datasets[dataset].split.train:
                    yield f"datasets.{dataset}.split.train: 0, but {name} trains on it"
        for dataset in config.run.datasets:
            if not config.datasets[dataset].split.test:
                yield f"datasets.{dataset}.split.test: 0, but the run measures on it"
        for figure in config.run.figures:
            dataset = config.figures[figure].dataset
            if not config.datasets[dataset].split.test:
                yield f"datasets.{dataset}.split.test: 0, but the figure {figure} shows it"
        compared = [config.datasets[d].reference or d for d in config.run.datasets]
        if protocol and protocol.reference == "train":
            for dataset in dict.fromkeys(compared):
                if not config.datasets[dataset].split.train:
                    yield f"datasets.{dataset}.split.train: 0, but distances are to these faces"

    def selection(self) -> Iterator[str]:
        """A run of nothing."""
        run = self.config.run
        for key in ("models", "datasets"):
            if not getattr(run, key):
                yield f"run.{key}: name one or more"
        tested = {dataset for dataset, _ in self.config.test_sets()}
        for dataset in run.datasets:
            if dataset not in tested:
                yield f"run.degradations: name one or more: {dataset} is seen under none"


def rules_twice(graph: Graph) -> Iterator[str]:
    """Entries whose jobs of many cells would have the name of another rule."""
    found = [(f"degrade_{d}", f"datasets.{d}") for d in graph.tests_of()]
    found += [(f"restore_{m}_{d}", f"models.{m}") for m, d, _ in graph.restored_together()]
    found += [(f"score_{name}", f"datasets.{d}") for name, d, *_ in graph.scored_together()]
    taken = {*RULES, "contact_sheets", "panels", "all", "tables"}
    for rule, where in found:
        if rule in taken:
            yield f"{where}: another name, please: there is a rule {rule} already"
        taken.add(rule)


@functools.cache
def _marks(method: str) -> dict[str, list]:
    """{setting: marks of frcore.config.types on it}."""
    try:
        fields = settings_class(method).model_fields
    except ConfigError:
        return {}
    return {name: list(field.metadata) for name, field in fields.items()}
