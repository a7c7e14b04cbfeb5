"""Scores of restored faces, and what set metrics compare with."""

from pathlib import Path

from frcore.device import pick_device
from frcore.faces.build import face_files, read_table
from frcore.io import assets
from frcore.metrics.stage import RestoredSet, write_scores, write_truth
from frcore.seeds import seed_for
from frcore.stages import listed
from frcore.workflow.jobs import ScoreFaces, TruthFeatures


def truth_features(job: TruthFeatures) -> None:
    """Features and statistics of a dataset's truth that the set metrics compare with."""
    table = job.input.table
    faces, only_train = table.with_suffix(""), job.protocol.reference == "train"
    test = face_files(table, faces, "test", job.limit, allow_none=only_train)
    train = face_files(table, faces, "train", allow_none=True)
    write_truth(
        test,
        train,
        job.protocol,
        assets.present(job.resources),
        job.output.features,
        job.frame["crop_scale"],
        job.frame["crop_shift"],
        {row["id"]: row["person"] for row in read_table(table)},
        pick_device("auto"),
        kept=Path(job.kept),
        digests=job.digests,
    )


def score_faces(job: ScoreFaces) -> None:
    """All metrics of the protocol for some restored sets of one dataset."""
    truth, features = listed(job.input.truth), listed(job.input.features)
    known = dict(face_files(truth[0], truth[0].with_suffix(""), "test")) if truth else None
    inputs = zip(listed(job.input.images), listed(job.input.status))
    outputs = zip(listed(job.output.images), listed(job.output.sets))
    sets = []
    for cell, place, (images, status), written in zip(job.cells, job.kept, inputs, outputs):
        seed = seed_for(job.seed, f"{job.dataset}/{cell[1]}")
        sets.append(RestoredSet(read_table(status), images, *written, seed, Path(place)))
    write_scores(
        sets,
        known,
        features[0] if features else None,
        job.protocol,
        assets.present(job.resources),
        job.frame["crop_scale"],
        job.frame["crop_shift"],
        pick_device("auto"),
        job.reference,
        digests=job.digests,
    )
