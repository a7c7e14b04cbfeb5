"""What the Snakefile asks: names, paths, parameters and checks before any job. Imports no torch.

Everything here is a function of the configuration alone, so that the rules stay free of logic.
"""

import contextlib
import csv
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

from frcore import assets
from frcore.config import (
    Asset,
    Config,
    ConfigError,
    Protocol,
    load_config,
    load_protocol,
    project_file,
)
from frcore.registry import METHODS, METRICS, nearest

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

    def shipped_weights(self, model: str) -> list[str]:
        """The file that training starts from, when there is one."""
        init = self._init(model)
        path = self.root / "weights" / f"{model}.safetensors"
        if init == "shipped":
            return [str(path)] if path.is_file() else []
        return [] if init == "scratch" else [init]

    def _init(self, model: str) -> str:
        """`init` of an entry; where it names another entry, the path of that one's weights."""
        init = self.config.models[model].init
        if init in self.config.models:
            return self.weights_path(init)
        return init if init in ("shipped", "scratch") else project_file(init, self.root)

    def weights_of(self, model: str) -> list[str]:
        """Weights that restoring with `model` reads: its own and its helpers'."""
        names = [model, *self.config.helpers_of(model, training=False).values()]
        return [path for path in map(self.weights_path, names) if path]

    # ----- selections
    def trained_datasets(self, model: str) -> tuple[str, ...]:
        """Datasets that `model` trains on."""
        return self.config.models[model].train.datasets

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

    def run_recipes(self, model: str) -> str:
        """Written degradations of the run, those for faces of the model's size, as JSON."""
        size = self.config.datasets[self.trained_datasets(model)[0]].size
        named = {name: self.config.degradations[name] for name in self.config.run.degradations}
        return _json({name: r.model_dump() for name, r in named.items() if r.size == size})

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

    # ----- assets
    def dataset_assets(self, dataset: str) -> list[str]:
        """Assets that the faces of a dataset are made from."""
        entry = self.config.datasets[dataset]
        names = {"digiface": ["digiface_generator"], "orl": ["orl"]}.get(entry.source, [])
        if not entry.aligned or entry.labels.kind == "landmarks":
            names = [*names, "dlib_68", *(["dlib_mmod"] if entry.detector == "mmod" else [])]
        return names

    def training_assets(self, model: str) -> list[str]:
        """Assets that training an entry reads."""
        entry = self.config.models[model]
        perceptual, row = entry.settings.get("perceptual"), METHODS[entry.method]
        names = list(row.assets)
        if row.generative and self._available("inception"):
            names.append("inception")  # a second curve, where the net is to be had
        # the perceptual net is a setting of the method; its name is the asset's
        if perceptual and names:
            return list(dict.fromkeys([perceptual, *(names if row.generative else ())]))
        return names

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

    # ----- parameters: exactly what a stage depends on, as JSON
    def dataset_spec(self, dataset: str, also: Iterable[str] = ()) -> str:
        """Settings of a dataset that shape its faces, and a digest of a folder's listing.

        `also` adds parts that only later stages read: split, labels.
        """
        entry = self.config.datasets[dataset]
        later = {"labels", "split", "test_limit", "licence", "low_quality", "reference"}
        leave_out = later - set(also)
        spec = entry.model_dump(exclude=leave_out)
        return _json(spec)

    def listing(self, dataset: str) -> str:
        """Digest of names, sizes and times of a folder's photographs; empty for other sources."""
        entry = self.config.datasets[dataset]
        return folder_digest(entry.path) if entry.source == "folder" else ""

    def recipe_spec(self, degradation: str) -> str:
        """One degradation."""
        return _json(self.config.degradations[degradation].model_dump())

    def training_spec(self, model: str) -> str:
        """An entry and the degradations it trains on; not the hardware it is trained with."""
        entry = self.config.models[model]
        hardware = {"gpus", "threads", "memory_mb", "minutes", "save_images", "sample_images"}
        dump = entry.model_dump(exclude={"title": True, "train": hardware})
        dump["init"] = self._init(model)
        sets = {
            d: self.config.datasets[d].model_dump(include={"size", "crop_scale", "crop_shift"})
            for d in entry.train.datasets
        }
        recipes = {g: self.config.degradations[g].model_dump() for g in entry.train.degradations}
        return _json({"entry": dump, "datasets": sets, "recipes": recipes})

    def model_spec(self, model: str) -> str:
        """What restoring with an entry depends on besides its weights."""
        entry = self.config.models[model]
        return _json(entry.model_dump(include={"method", "settings", "seed"}))

    def protocol_spec(self) -> str:
        """The protocol, by what changes a number."""
        return _json(self.protocol.model_dump(exclude={"title", "note"}))

    def frame_spec(self, dataset: str) -> str:
        """Where the face is in an aligned image."""
        keys = {"size", "crop_scale", "crop_shift"}
        return _json(self.config.datasets[dataset].model_dump(include=keys))

    def gpus(self, model: str) -> int:
        """GPUs to ask of a cluster for training or restoring with an entry."""
        train = self.config.models[model].train
        if not METHODS[self.config.models[model].method].trained:
            return 0
        return train.gpus if train else 1


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
        known = settings_fields(METHODS[entry.method].module)
        for key in entry.settings:
            if key not in known:
                mistakes.append(f"models.{name}.settings.{key}: unknown key {nearest(key, known)}")
    if mistakes:
        raise ConfigError(mistakes)


def settings_fields(module: str) -> list[str]:
    """Field names of a method's Settings, read without importing the module (which needs torch)."""
    import ast

    path = Path(__file__).resolve().parents[1].joinpath(*module.split(".")).with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == "Settings":
            return [item.target.id for item in node.body if isinstance(item, ast.AnnAssign)]
    raise ValueError(f"{module} has no class Settings")


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
        if entry.weights and not Path(project_file(entry.weights, root)).is_file():
            mistakes.append(f"models.{name}.weights: no file {entry.weights}")
        made = entry.init in ("shipped", "scratch", *config.models)
        if not made and not Path(project_file(entry.init, root)).is_file():
            mistakes.append(f"models.{name}.init: no file {entry.init}")
    for name in sorted(config.used_datasets()):
        dataset = config.datasets[name]
        for key, path in (("path", dataset.path), ("labels.path", dataset.labels.path)):
            if path and not Path(path).is_dir():
                mistakes.append(f"datasets.{name}.{key}: no folder {path}")
    if mistakes:
        raise ConfigError(mistakes)


def titles(plan: Plan, names: Iterable[str] = ()) -> str:
    """{model: title} of `names`, as JSON.

    Default: every entry that the report may name, selected models first.
    """
    names = dict.fromkeys(names or [*plan.config.run.models, *plan.trained_models()])
    models = plan.config.models
    return _json({n: models[n].title or METHODS[models[n].method].title for n in names}, sort=False)


def figure_spec(plan: Plan, name: str) -> str:
    """An entry of `figures:` with the titles of its models, as JSON."""
    entry = plan.config.figures[name]
    shown = entry.model_dump(exclude={"title", "models"})
    return _json(shown | {"models": json.loads(titles(plan, entry.models))}, sort=False)


def config_spec(plan: Plan) -> str:
    """The whole configuration as JSON, for the stages that describe a run."""
    return _json(plan.config.model_dump())


def launcher(gpus: int) -> str:
    """Command that starts a training script: torchrun with a process a GPU, or plain Python."""
    return f"torchrun --standalone --nproc-per-node {gpus}" if gpus > 1 else "python"


def licence_spec(plan: Plan) -> str:
    """The assets of a run, for the table of licences."""
    return _json({name: plan.assets[name].model_dump() for name in assets_of_run(plan)})


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


def folder_digest(folder: str | Path) -> str:
    """Digest of names, sizes and times below `folder`: adding a photograph reruns its stage."""
    digest = hashlib.sha256()
    for where, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(where, name)
            with_stat = os.stat(path) if os.path.exists(path) else None
            facts = (with_stat.st_size, with_stat.st_mtime_ns) if with_stat else ("gone",)
            line = f"{os.path.relpath(path, folder)}\0{facts}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def one_of(names: Iterable[str]) -> str:
    """Regular expression that matches these names alone."""
    return "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or "NONE"


def _json(value: Mapping, sort: bool = True) -> str:
    return json.dumps(value, sort_keys=sort, default=list)
