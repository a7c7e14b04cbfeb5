"""Scores of restored faces, and what set metrics compare with."""

from pathlib import Path

from frcore.device import pick_device
from frcore.faces.build import face_files, read_table
from frcore.io import assets
from frcore.metrics.stage import write_scores, write_truth
from frcore.seeds import seed_for
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
    """All metrics of the protocol for one model on one test set."""
    truth, features = job.input.truth, job.input.features
    known = dict(face_files(truth[0], truth[0].with_suffix(""), "test")) if truth else None
    write_scores(
        read_table(job.input.status),
        job.input.images,
        known,
        features[0] if features else None,
        job.protocol,
        assets.present(job.resources),
        job.frame["crop_scale"],
        job.frame["crop_shift"],
        seed_for(job.seed, f"{job.dataset}/{job.degradation}"),
        job.output.images,
        job.output.sets,
        pick_device("auto"),
        job.reference,
        kept=Path(job.kept),
        digests=job.digests,
    )
