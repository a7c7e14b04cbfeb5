"""Low-quality copies of the test faces, and pictures of what a recipe does."""

from frcore.degrade import test_sets
from frcore.faces.build import face_files
from frcore.io.files import atomic_output
from frcore.io.images import write_image
from frcore.workflow.jobs import ContactSheet, DegradeFaces


def degrade_faces(job: DegradeFaces) -> None:
    """One test set; regenerating it gives the same bytes."""
    table = job.input.table
    faces = face_files(table, table.with_suffix(""), "test", job.limit)
    test_sets.degrade_folder(
        faces,
        job.output.images,
        job.output.table,
        job.recipe,
        job.seed,
        job.dataset,
        job.degradation,
    )


def contact_sheet(job: ContactSheet) -> None:
    """Four faces under one degradation, several draws each."""
    table = job.input.table
    faces = face_files(table, table.with_suffix(""), "test", 4)
    with atomic_output(job.output.picture) as part:
        picture = test_sets.contact_sheet(faces, job.recipe, job.degradation, seed=job.seed)
        write_image(part, picture)
