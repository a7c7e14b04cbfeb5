"""Training of one entry of `models:`."""

from pathlib import Path

from frcore.device import pick_device
from frcore.faces.build import face_files, read_table
from frcore.registry import METHODS
from frcore.train import entry
from frcore.train.data import Sample, disjoint
from frcore.workflow.codehash import code_hash
from frcore.workflow.jobs import TrainModel


def train_model(job: TrainModel) -> None:
    """Train one entry; a retry or a second call goes on where the first was stopped.

    Faces of the training split alone are seen.
    """
    settings, labels = job.entry.training, METHODS[job.entry.method].needs_labels
    samples = {name: training_faces(job, name, labels) for name in settings.datasets}
    low_quality = {name: training_faces(job, name, False) for name in settings.low_quality}
    if low_quality:
        parts = [[s for part in p.values() for s in part] for p in (samples, low_quality)]
        good, bad = disjoint(parts[0], parts[1], job.entry.seed)
        samples, low_quality = {"good": good}, {"bad": bad}
    frame = job.frames[settings.datasets[0]]
    entry.train_model(
        name=job.name,
        entry=job.entry,
        samples=samples,
        recipes=job.recipes,
        helpers={role: Path(path) for role, path in job.helpers.items()},
        assets={name: Path(path) for name, path in job.assets.items()},
        out=job.output.weights.parent,
        state=Path(job.state),
        start=Path(job.start) if job.start else None,
        device=pick_device("auto"),
        card={"crop_scale": frame["crop_scale"], "crop_shift": frame["crop_shift"]},
        code=code_hash("frcore.train.entry:train_model", *job.code()),
        log=lambda line: print(line, flush=True),
        degraders={name: Path(path) for name, path in job.degraders.items()},
        low_quality=low_quality,
    )


def training_faces(job: TrainModel, dataset: str, labels: bool) -> list[Sample]:
    """The training split of one of the job's datasets, with parsing maps or without."""
    table = Path(job.results) / "faces" / f"{dataset}.csv"
    maps = Path(job.results) / "parsing" / dataset
    people = {row["id"]: row["person"] for row in read_table(table)}
    return [
        Sample(
            name, path, maps / f"{name}.png" if labels else None, owner(job, dataset, people[name])
        )
        for name, path in face_files(table, table.with_suffix(""), "train")
    ]


def owner(job: TrainModel, dataset: str, person: str) -> str:
    """A person's name that is the same in two views of one set, and different in two sets."""
    return f"{job.people.get(dataset, dataset)}/{person}" if person else ""
