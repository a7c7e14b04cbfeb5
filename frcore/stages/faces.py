"""Photographs -> aligned faces, their table, parsing maps."""

from pathlib import Path

from frcore.faces.build import build_shard, join_shards
from frcore.faces.build import parse_faces as draw_maps
from frcore.workflow.jobs import AlignFaces, JoinFaces, ParseFaces


def align_faces(job: AlignFaces) -> None:
    """Detect and align the photographs of one shard; bad ones go to the quarantine."""
    build_shard(
        job.name,
        job.dataset,
        job.shard,
        Path(job.resources),
        job.seed,
        job.output.faces,
        job.output.table,
        job.output.quarantine,
    )


def join_faces(job: JoinFaces) -> None:
    """One table of faces, split by person, and one quarantine."""
    print(
        join_shards(
            job.name,
            job.dataset,
            job.seed,
            job.input.tables,
            job.input.quarantines,
            job.output.table,
            job.output.quarantine,
        )
    )


def parse_faces(job: ParseFaces) -> None:
    """Parsing maps of the truth: from landmarks, from CelebAMask-HQ, or predicted."""
    table = job.input.table
    if job.weights is None:
        draw_maps(job.dataset, table, job.output.maps)
    else:
        from frcore.restore.aligned import predict_parsing  # imports torch

        predict_parsing(job.weights, table, table.with_suffix(""), job.output.maps)
