"""Restored faces of one model on one test set."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

from frcore.device import pick_device
from frcore.faces.build import face_files, read_table
from frcore.io import kept
from frcore.io.files import atomic_output
from frcore.io.tables import write_table
from frcore.registry import METHODS
from frcore.restore.aligned import restore_folder
from frcore.restore.models import Restorer, load_entry
from frcore.stages import listed
from frcore.workflow.jobs import JoinParts, RestoreFaces, RestorePart


def restore_faces(job: RestoreFaces) -> None:
    """One model on some test sets of one dataset."""
    made_of = kept.content([*job.weights.values(), *listed(job.input.truth)])
    restorer = None
    inputs = zip(listed(job.input.images), listed(job.input.table))
    outputs = zip(listed(job.output.images), listed(job.output.table))
    for recipe, given, made in zip(job.recipes.items(), inputs, outputs):
        store = Path(job.kept) / recipe[0]
        key = kept.key_of(job.digest(), recipe[1].facts(), kept.content(given), made_of)
        if kept.take(store, key, *made):
            print(f"{recipe[0]}: as before")
            continue
        restorer = restorer or _load(job)
        print(recipe[0], _restore(job, replace(restorer, recipe=recipe[1]), given, made))
        kept.keep(store, key, *made)


def restore_part(job: RestorePart) -> None:
    """A share of one test set."""
    (recipe,) = job.recipes.values()
    given, made = (job.input.images, job.input.table), (job.output.images, job.output.table)
    print(_restore(job, replace(_load(job), recipe=recipe), given, made))


def _load(job: RestoreFaces) -> Restorer:
    device = pick_device("auto")
    return load_entry(job.name, job.entry, job.weights, job.frame, job.assets, device)


def _restore(job: RestoreFaces, restorer: Restorer, given, made) -> Counter:
    """given, made: folder of images and table."""
    ids = [row["id"] for row in read_table(given[1])]
    wanted = METHODS[job.entry.method].needs_reference
    return restore_folder(
        ids[job.shard :: job.shards],
        given[0],
        made[0],
        made[1],
        restorer,
        job.entry.seed,
        job.entry.restore.batch,
        references=other_faces(job.input.truth, ids) if wanted else None,
    )


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
