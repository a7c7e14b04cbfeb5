"""Mistakes that are told before any job starts."""

import csv
import sys
from collections.abc import Mapping, Sequence
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
    project_file,
)
from frcore.faces import people
from frcore.io import assets, cards, fetch
from frcore.registry import METHODS, METRICS, NETS, nearest, settings_fields
from frcore.workflow.plan import Plan
from frcore.workflow.processes import queued_jobs


def _weights_mistakes(name: str, entry: Model, root: Path) -> list[str]:
    """What is wrong with the finished weights of an entry, and where it differs from their card."""
    path = Path(project_file(entry.weights or "", root))
    if not path.is_file():
        return [f"models.{name}.weights: no file {entry.weights}"]
    card = cards.card_of(path)
    if card is None:
        return [f"models.{name}.weights: {entry.weights} has no card: `frcore weights convert` it"]
    wrong = cards.differences(card, entry.method, entry.settings)
    return [f"models.{name}.{line}: leave it out or write the same" for line in wrong]


def open_plan(data: Mapping, root: Path = CATALOGUE) -> Plan:
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
    with open(root / "published.csv", newline="", encoding="utf-8") as opened:
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
        for key, place in (("path", dataset.path), ("labels.path", dataset.labels.path)):
            if place and not Path(place).is_dir():
                mistakes.append(f"datasets.{name}.{key}: no folder {place}")
        try:
            people.finder(dataset)
        except (ValueError, OSError) as error:
            mistakes.append(f"datasets.{name}.people: {error}")
    if mistakes:
        raise ConfigError(mistakes)


def stop_before_any_job(plan: Plan, needed: Sequence[str]) -> None:
    """SystemExit with one line when a file cannot be had or an earlier run's jobs are queued."""
    queued = queued_jobs(Path.cwd())
    if queued:
        raise SystemExit(
            "jobs of an earlier run are still in the queue and would write the same files: "
            f"scancel {' '.join(queued)}"
        )
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
