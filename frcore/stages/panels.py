"""Faces side by side: degraded, restored by each model, and true."""

from pathlib import Path

from frcore.faces.build import face_files, read_table
from frcore.io.files import linked_folder
from frcore.report import panels
from frcore.workflow.jobs import Panel, PanelOfStrengths


def panel(job: Panel) -> None:
    """Degraded, restored and true faces of fixed ids."""
    ids = spaced(job.input.drawn, job.n)
    true = true_files(job.input.truth)
    with linked_folder(true) as truth:
        models = [(job.titles[p.parts[-3]], p) for p in listed(job.input.restored)]
        last = [("Truth", truth)] if true else []
        columns = [("Degraded", job.input.degraded), *models, *last]
        panels.panel(ids, columns, job.output.picture)


def panel_of_strengths(job: PanelOfStrengths) -> None:
    """Faces under several degradations, restored by several models."""
    shown, results = job.figure, Path(job.results)

    def folders(root: Path) -> dict[str, Path]:
        return {name: root / shown.dataset / name for name in shown.degradations}

    ids = spaced(listed(job.input.drawn)[0], shown.faces)
    true = true_files(job.input.truth)
    with linked_folder(true) as truth:
        models = [(job.titles[m], folders(results / "restored" / m)) for m in shown.models]
        columns: list[tuple[str, Path | dict[str, Path]]]
        columns = [("Degraded", folders(results / "degraded")), *models]
        columns += [("Truth", truth)] if true else []
        panels.panel_of_strengths(ids, shown.degradations, columns, job.output.picture)


def spaced(table: Path, n: int) -> list[str]:
    """n ids of a table of degraded faces, evenly spaced: neighbours are often one person."""
    rows = read_table(table)
    return [row["id"] for row in rows[:: max(1, len(rows) // n)][:n]]


def true_files(truth: list[Path]) -> dict[str, Path]:
    """{id: PNG} of the test faces. truth: table and folders, empty where nobody knows them."""
    return dict(face_files(truth[0], truth[0].with_suffix(""), "test")) if truth else {}


def listed(files: Path | list[Path]) -> list[Path]:
    """One file or several of a rule, as a list."""
    return [files] if isinstance(files, Path) else files
