"""Low-quality copies of the test faces, and pictures of what a recipe does."""

from pathlib import Path

from frcore.degrade import test_sets
from frcore.faces.build import face_files
from frcore.io import kept
from frcore.io.files import atomic_output
from frcore.io.images import write_image
from frcore.stages import listed
from frcore.workflow.jobs import ContactSheet, DegradeFaces


def degrade_faces(job: DegradeFaces) -> None:
    """The test sets of one dataset; regenerating one gives the same bytes."""
    table = job.input.table
    faces = face_files(table, table.with_suffix(""), "test", job.limit)
    names, paths = zip(*faces) if faces else ((), ())
    truth = kept.content(paths)
    outputs = zip(listed(job.output.images), listed(job.output.table))
    for (degradation, recipe), (images, drawn) in zip(job.recipes.items(), outputs):
        store = Path(job.kept) / degradation
        key = kept.key_of(job.alone(degradation).digest(), names, truth)
        if kept.take(store, key, images, drawn):
            print(f"{degradation}: as before")
            continue
        test_sets.degrade_folder(faces, images, drawn, recipe, job.seed, job.dataset, degradation)
        kept.keep(store, key, images, drawn)


def contact_sheet(job: ContactSheet) -> None:
    """Four faces under each degradation, several draws each."""
    tables, pictures = listed(job.input.table), listed(job.output.picture)
    for table, (degradation, recipe), picture in zip(tables, job.recipes, pictures):
        faces = face_files(table, table.with_suffix(""), "test", 4)
        with atomic_output(picture) as part:
            pixels = test_sets.contact_sheet(faces, recipe, degradation, seed=job.seed)
            write_image(part, pixels)
