"""The whole configuration: every entry names only what exists, told in one go."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from pydantic import Field, model_validator

from frcore.config.schema import Asset, ConfigError, Dataset, Figure, Model, Name, Run, Strict
from frcore.config.types import Different, Folder, Seed
from frcore.degrade.recipes import Recipe
from frcore.registry import METHODS, add_methods_folder, nearest
from frcore.registry import metrics as registry_metrics


class Config(Strict):
    """The whole file."""

    seed: Seed = 0
    results: Folder = "results"  # experiments keep theirs in a folder of their own
    resources: Folder = "resources"
    methods: Different[tuple[str, ...]] = ()  # folders of your own methods, a file each
    metrics: Different[tuple[str, ...]] = ()  # folders of your own metrics
    datasets: dict[Name, Dataset]
    degradations: dict[Name, Recipe]
    models: dict[Name, Model]
    figures: dict[Name, Figure] = Field(default_factory=dict)
    assets: dict[Name, Asset] = Field(default_factory=dict)
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
                named = model.settings.get(helper)
                if named is not None and not isinstance(named, str):
                    where = f"models.{name}.settings.{helper}"
                    mistakes.append(f"{where}: expected the name of an entry, got {named!r:.60}")
                elif named is not None:
                    check(f"models.{name}.settings.{helper}", [named], self.models)
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
            where = f"degradations.{name}.steps.0.model"
            model = self.models.get(recipe.learned or "")
            if model and METHODS[model.method].role != "degrader":
                yield f"{where}: {recipe.learned} is no degradation model"
            elif model and model.settings.get("size", recipe.size) != recipe.size:
                yield (
                    f"{where}: {recipe.learned} makes faces of {model.settings['size']} px, the "
                    f"recipe is for {recipe.size} px"
                )
        tested: list[tuple[str, Iterable[str | None]]]
        tested = [("run.degradations", self.run.degradations)]
        tested += [(f"figures.{n}.degradations", f.degradations) for n, f in self.figures.items()]
        tested += [(f"datasets.{n}.low_quality", [d.low_quality]) for n, d in self.datasets.items()]
        for where, names in tested:
            for tried in names:
                if tried and tried in self.degradations and self.degradations[tried].learned:
                    yield (
                        f"{where}: {tried} makes true faces of its own (step learned), no test "
                        "set; train with it"
                    )
        for name, model in self.models.items():
            row, why = METHODS[model.method], None
            if row.role == "degrader":
                why = "a degradation is learnt from photographs"
            elif row.needs_labels and not model.settings.get("parser"):
                why = "generated faces have no parsing maps but those of settings.parser"
            for learned in self._learned(model) if why else ():
                yield f"models.{name}.train.degradations: {learned} is learned: {why}"

    def _wrong_datasets(self) -> Iterator[str]:
        """Mistakes around datasets that follow another one or have no truth."""
        for name, dataset in self.datasets.items():
            other = self.datasets.get(dataset.split.like or "")
            if other and other.split != dataset.split.model_copy(update={"like": None}):
                yield f"datasets.{name}.split: expected the shares of {dataset.split.like}"
        bad = {name: d for name, d in self.datasets.items() if d.low_quality in self.degradations}
        for name, dataset in bad.items():
            other = self.datasets.get(dataset.reference or "")
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
            train = model.train
            for learnt in (d for d in (train.datasets if train else ()) if d in bad):
                own = bad[learnt].low_quality or ""
                if METHODS[model.method].data != "unpaired":
                    yield f"models.{name}.train.datasets: {learnt} has no true faces (low_quality)"
                elif self.degradations[own].steps and set(model.training.degradations) != {own}:
                    yield f"models.{name}.train.degradations: {learnt} is seen under {own} alone"

    def test_sets(self) -> list[tuple[str, str]]:
        """(dataset, degradation) of the run; faces of low quality under their own one alone."""
        run, own = self.run, {name: d.low_quality for name, d in self.datasets.items()}
        tests = {name: (one,) if one else run.degradations for name, one in own.items()}
        return [(dataset, name) for dataset in run.datasets for name in tests[dataset]]

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
        return list(dict.fromkeys(str(self.degradations[name].learned) for name in recipes))

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
        references = [self.datasets[name].reference for name in self.run.datasets]
        used |= {name for name in references if name}
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
