"""Stages that are asked for by name: how good a prior is, a learned degradation, several draws."""

from pathlib import Path

from frcore.assess import MEASURED, prior, samples
from frcore.assess import degradation as learned
from frcore.device import pick_device
from frcore.io.assets import present
from frcore.metrics.score import load_nets
from frcore.restore.models import load_entry
from frcore.workflow.jobs import AssessDegradation, AssessPrior, AssessSamples


def assess_prior(job: AssessPrior) -> None:
    """Samples, distance to real faces, inversion of held-out faces."""
    prior.assess_from_faces(
        job.name,
        [Path(path) for path in job.weights],
        job.datasets,
        Path(job.results),
        Path(job.resources),
        job.output.scores.parent,
        (job.frame["crop_scale"], job.frame["crop_shift"]),
        job.seed,
        pick_device("auto"),
    )


def assess_degradation(job: AssessDegradation) -> None:
    """Pairs beside the low-quality faces they were learnt from, and beside the run's recipes."""
    learned.assess_from_faces(
        job.name,
        Path(job.weights),
        job.entry,
        job.trained_on,
        job.frames,
        job.recipes,
        Path(job.results),
        Path(job.resources),
        job.output.scores.parent,
        job.seed,
        pick_device("auto"),
    )


def assess_samples(job: AssessSamples) -> None:
    """Distances between restorations of one face, and of each to the truth and to other people."""
    device = pick_device("auto")
    restorer = load_entry(job.name, job.entry, job.weights, job.frame, job.assets, device)
    nets = load_nets(present(job.resources), MEASURED, device)
    cell = (job.dataset, job.degradation)
    samples.assess_cell(restorer, cell, Path(job.results), nets, job.output.scores, job.entry.seed)
