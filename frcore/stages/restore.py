"""Restored faces of one model on one test set."""

import shutil
from pathlib import Path

from frcore.device import pick_device
from frcore.faces.build import face_files, read_table
from frcore.io.files import atomic_output
from frcore.io.tables import write_table
from frcore.registry import METHODS
from frcore.restore.aligned import restore_folder
from frcore.restore.models import load_entry
from frcore.workflow.jobs import JoinParts, RestoreFaces, RestorePart


def restore_faces(job: RestoreFaces) -> None:
    """One model on one test set, or on a share of it."""
    restorer = load_entry(
        job.name,
        job.entry,
        job.weights,
        job.frame,
        job.assets,
        pick_device("auto"),
        job.recipe,
    )
    ids = [row["id"] for row in read_table(job.input.table)]
    wanted = METHODS[job.entry.method].needs_reference
    counts = restore_folder(
        ids[job.shard :: job.shards],
        job.input.images,
        job.output.images,
        job.output.table,
        restorer,
        job.entry.seed,
        job.entry.restore.batch,
        references=other_faces(job.input.truth, ids) if wanted else None,
    )
    print(counts)


def restore_part(job: RestorePart) -> None:
    """A share of one test set."""
    restore_faces(job)


def other_faces(truth: list[Path], ids: list[str]) -> dict[str, Path | None]:
    """{id: another good photograph of the same person}, the next one in the table; or None.

    truth: table of faces, then their folders; empty where nobody knows the true faces.
    """
    if not truth:
        return dict.fromkeys(ids)
    table = truth[0]
    people = {row["id"]: row["person"] for row in read_table(table)}
    files = dict(face_files(table, table.with_suffix("")))
    faces: dict[str, list[str]] = {}
    for name, person in people.items():
        faces.setdefault(person, []).append(name)
    found: dict[str, Path | None] = {}
    for name in ids:
        own = faces[people[name]]
        after = own[(own.index(name) + 1) % len(own)]
        found[name] = files[after] if after != name else None
    return found


def join_parts(job: JoinParts) -> None:
    """The shares of one test set -> one folder and one table, in the order of ids."""
    rows = sorted(
        (row for table in job.input.tables for row in read_table(table)), key=lambda row: row["id"]
    )
    columns = dict.fromkeys(column for row in rows for column in row)
    with atomic_output(job.output.images, folder=True) as part:
        for folder in job.input.images:
            for path in folder.glob("*.png"):
                shutil.copyfile(path, part / path.name)
    write_table(job.output.table, tuple(columns), rows)
