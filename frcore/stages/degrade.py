"""Low-quality copies of the test faces, and pictures of what a recipe does."""

from frcore import degrade
from frcore.faces.build import face_files
from frcore.images import atomic_output, write_image
from frcore.jobs import ContactSheet, DegradeFaces


def degrade_faces(job: DegradeFaces) -> None:
    """One test set; regenerating it gives the same bytes."""
    table = job.input.table
    faces = face_files(table, table.with_suffix(""), "test", job.limit)
    degrade.degrade_folder(
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
        picture = degrade.contact_sheet(faces, job.recipe, job.degradation, seed=job.seed)
        write_image(part, picture)
