"""Mistakes that are told before any job starts."""

import csv
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from frcore.config import (
    CATALOGUE,
    Asset,
    Config,
    ConfigError,
    Model,
    Protocol,
    load_config,
    load_protocol,
    load_settings,
    placed,
    project_file,
    read_yaml,
)
from frcore.config.settings import settings_class
from frcore.config.types import PERCEPTUAL
from frcore.faces import people
from frcore.io import assets, cards, fetch
from frcore.registry import METHODS, METRICS, NETS, nearest
from frcore.workflow.fits import Fits, rules_twice
from frcore.workflow.plan import Plan
from frcore.workflow.processes import clear_killed_jobs, note_run, queued_jobs


def open_plan(data: Mapping, root: Path = CATALOGUE, files: Sequence[str | Path] = ()) -> Plan:
    """Check the configuration and stop with one line a mistake, without a traceback.

    files: those that `data` was merged of, the last above the others; mistakes then name the file
    and line.
    """
    here, shown = Path.cwd(), [Path(file) for file in files]
    shown = [file.relative_to(here) if file.is_relative_to(here) else file for file in shown]
    try:
        with placed(shown):
            for file in shown:
                read_yaml(file)  # what only its text shows: keys that are there twice
            return checked_plan(load_config(data), root)
    except ConfigError as error:
        # Snakemake would print a traceback of the Snakefile around an exception
        print("\n".join(f"config: {line}" for line in error.mistakes), file=sys.stderr)
        sys.exit(1)


def checked_plan(config: Config, root: Path = CATALOGUE) -> Plan:
    """The plan of a configuration. Raises ConfigError with all that the workflow refuses."""
    protocol = catalogue = None
    mistakes: list[str] = []
    try:
        protocol = load_protocol(config.run.protocol, root / "protocols")
    except ConfigError as error:
        mistakes += [f"run.protocol: {line}" for line in error.mistakes]
    try:
        catalogue = assets.catalogue(config.assets)
    except ConfigError as error:
        mistakes += error.mistakes
    mistakes += _settings_mistakes(config)
    if catalogue is not None:
        mistakes += _part_mistakes(config, protocol, catalogue)
    mistakes += [*_published_mistakes(config, root), *_folder_mistakes(config)]
    mistakes += [*_weights_mistakes(config, root), *_dataset_mistakes(config)]
    mistakes += Fits(config, root).mistakes(protocol)
    if mistakes or protocol is None or catalogue is None:
        raise ConfigError([*dict.fromkeys(mistakes)])
    plan = Plan(config, protocol, catalogue, root)
    if twice := [*rules_twice(plan)]:
        raise ConfigError(twice)
    return plan


def _settings_mistakes(config: Config) -> Iterator[str]:
    """What the methods' own classes say of the settings of entries and of their stages."""
    for name, entry in config.models.items():
        try:
            wanted = settings_class(entry.method)
        except ConfigError as error:
            yield from (f"models.{name}.method: {line}" for line in error.mistakes)
            continue
        given = [(f"models.{name}.settings", entry.settings)]
        for place, stage in enumerate(entry.train.stages if entry.train else ()):
            merged = {**entry.settings, **stage.settings}
            given.append((f"models.{name}.train.stages.{place}.settings", merged))
        found: set[str] = set()
        for where, settings in given:
            try:
                load_settings(wanted, settings, ".")
            except ConfigError as error:
                new = [line for line in error.mistakes if line not in found]
                found |= {*new}
                yield from (f"{where}{line}" for line in new)


def _part_mistakes(
    config: Config, protocol: Protocol | None, catalogue: Mapping[str, Asset]
) -> Iterator[str]:
    """Pretrained parts that methods and metrics name must be in the catalogue."""
    for metric in protocol.metrics if protocol else ():
        for asset in METRICS[metric].assets:
            if asset not in catalogue:
                where = f"run.protocol: metric {metric}"
                yield f"{where}: no asset {asset!r} {nearest(asset, catalogue)}"
    for name in config.used_models():
        entry = config.models[name]
        parts = METHODS[entry.method].parts(entry.settings, training=entry.train is not None)
        for part, asset in parts.items():
            perceptual = part == "perceptual"
            where = f"models.{name}: " + (
                "settings.perceptual" if perceptual else f"method {entry.method}"
            )
            known = PERCEPTUAL if perceptual else {*catalogue, *NETS}
            if not isinstance(asset, str):
                continue  # the method's own class says so
            if asset not in catalogue:
                yield f"{where}: no asset {asset!r} {nearest(asset, {*catalogue, *NETS})}"
            elif perceptual and asset not in known:
                yield f"{where}: {asset} is no perceptual net {nearest(asset, known)}"


def _published_mistakes(config: Config, root: Path) -> Iterator[str]:
    """Names of published tables: a paper, or a paper and its table ("PSFR-GAN T1")."""
    with open(root / "published.csv", newline="", encoding="utf-8") as opened:
        rows = [(row["paper"], f"{row['paper']} {row['table']}") for row in csv.DictReader(opened)]
    known = {name for row in rows for name in row}
    for name in config.run.published:
        if name not in known:
            yield f"run.published: no table {name!r} {nearest(name, known)}"


def _folder_mistakes(config: Config) -> Iterator[str]:
    """Where a run writes."""
    here = Path.cwd().resolve()
    for key in ("results", "resources"):
        folder = Path(getattr(config, key))
        place = folder.resolve()
        if place == here or place in here.parents:
            yield f"{key}: {folder} holds the working folder: a folder of its own is needed"
            continue
        there = next(p for p in (place, *place.parents) if p.exists())
        if not there.is_dir():
            yield f"{key}: {there} is no folder"
        elif key == "results" and not os.access(there, os.W_OK | os.X_OK):
            yield f"{key}: nothing can be written in {there}"
    if Path(config.results).resolve() == Path(config.resources).resolve():
        yield f"results: {config.results} is the folder of resources"


def _weights_mistakes(config: Config, root: Path) -> Iterator[str]:
    """Weights files that the run's entries name."""
    parsers = [
        config.datasets[dataset].labels.model
        for name in config.used_models()
        if METHODS[config.models[name].method].needs_labels and config.models[name].train
        for dataset in config.models[name].training.datasets
        if config.datasets[dataset].labels.kind == "model"
    ]
    for name in dict.fromkeys([*config.used_models(), *filter(None, parsers)]):
        entry = config.models[name]
        if entry.weights:
            yield from _wrong_weights(f"models.{name}", entry, root)
        elif entry.train and entry.init == "shipped":
            path = f"weights/{name}.safetensors"
            if not (root / path).is_file():
                yield (
                    f"models.{name}.init: no file {path} to start from: write `init: scratch` to "
                    "train from random weights, or another entry or a weights file"
                )
        made = entry.init in ("shipped", "scratch", *config.models)
        if not made and not Path(project_file(entry.init, root)).is_file():
            yield f"models.{name}.init: no file {entry.init}{_unexpanded(entry.init)}"


def _wrong_weights(where: str, entry: Model, root: Path) -> Iterator[str]:
    """What is wrong with the finished weights of an entry, and where it differs from their card."""
    path = Path(project_file(entry.weights or "", root))
    if not path.is_file():
        yield f"{where}.weights: no file {entry.weights}{_unexpanded(entry.weights or '')}"
        return
    card = cards.card_of(path)
    if card is None:
        text = f"{entry.weights} has no card: `frcore weights convert` it"
        yield f"{where}.weights: {text}"
        return
    for line in cards.differences(card, entry.method, entry.settings):
        yield f"{where}.{line}: leave it out or write the same"


def _dataset_mistakes(config: Config) -> Iterator[str]:
    """Folders and tables that the run's datasets name."""
    for name in sorted(config.used_datasets()):
        dataset = config.datasets[name]
        labels = dataset.labels.path if dataset.labels.kind == "folder" else None
        for key, place in (("path", dataset.path), ("labels.path", labels)):
            if place and not Path(place).is_dir():
                yield f"datasets.{name}.{key}: no folder {place}{_unexpanded(place)}"
        try:
            people.finder(dataset)
        except (ValueError, OSError) as error:
            yield f"datasets.{name}.people: {error}"


def _unexpanded(path: str) -> str:
    return " (~ and $NAME are not replaced)" if path.startswith("~") or "$" in path else ""


def asset_mistakes(plan: Plan) -> list[str]:
    """Files of a run that are not there and that nothing fetches; no index is asked."""
    errors = fetch.cannot_be_had(plan.all_assets(), plan.config.resources, plan.assets)
    return [f"{error}{_without(plan, str(error))}" for error in errors]


def stop_before_any_job(plan: Plan, needed: Sequence[str]) -> None:
    """SystemExit with one line when a file cannot be had or an earlier run's jobs are queued."""
    queued = queued_jobs(Path.cwd())
    if queued:
        raise SystemExit(
            "jobs of an earlier run are still in the queue and would write the same files: "
            f"scancel {' '.join(queued)}"
        )
    note_run()
    clear_killed_jobs(plan.config.results)
    try:
        fetch.preflight(needed, plan.config.resources, plan.assets)
    except assets.AssetMissing as error:
        raise SystemExit(f"{error}{_without(plan, str(error))}") from None


def _without(plan: Plan, text: str) -> str:
    """How a run goes on without the asset that `text` says is missing; "" where it cannot."""
    name = text.removeprefix("asset ").split(" ")[0].rstrip(":")
    metrics = [metric for metric in plan.protocol.metrics if name in METRICS[metric].assets]
    learners = [model for model in plan.trained_models() if name in plan.training_assets(model)]
    entries = {model: plan.config.models[model] for model in learners}
    parts = {m: METHODS[e.method].parts(e.settings, training=True) for m, e in entries.items()}
    others = name != "mobilenet_v2"
    choosers = [model for model in learners if others and parts[model].get("perceptual") == name]
    if choosers != learners or not (choosers or metrics):
        return ""
    ways = [f"`perceptual: mobilenet_v2` in the settings of {', '.join(choosers)}"] * bool(choosers)
    ways += [f"a protocol without {', '.join(metrics)}"] * bool(metrics)
    return f"; or do without it: {' and '.join(ways)}"
