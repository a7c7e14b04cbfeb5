"""Faces side by side: degraded, restored by each model, and true."""

from pathlib import Path

from frcore.faces.build import face_files, read_table
from frcore.io.files import linked_folder
from frcore.report import panels
from frcore.stages import listed
from frcore.workflow.jobs import Panel, PanelOfStrengths


def panel(job: Panel) -> None:
    """Degraded, restored and true faces of fixed ids, a picture a test set."""
    results = Path(job.results)
    true = {d: {} if d in job.unknown else _true_files(results, d) for d, _ in job.cells}
    for (dataset, degradation), picture in zip(job.cells, listed(job.output.picture)):
        degraded = results / "degraded" / dataset / degradation
        ids = spaced(degraded.with_name(f"{degradation}.csv"), job.n)
        with linked_folder(true[dataset]) as truth:
            restored = [results / "restored" / m / dataset / degradation for m in job.titles]
            columns = [("Degraded", degraded), *zip(job.titles.values(), restored)]
            columns += [("Truth", truth)] if true[dataset] else []
            panels.panel(ids, columns, picture)


def panel_of_strengths(job: PanelOfStrengths) -> None:
    """Faces under several degradations, restored by several models."""
    shown, results = job.figure, Path(job.results)

    def folders(root: Path) -> dict[str, Path]:
        return {name: root / shown.dataset / name for name in shown.degradations}

    ids = spaced(listed(job.input.drawn)[0], shown.faces)
    true = _true_files(results, shown.dataset) if job.input.truth else {}
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


def _true_files(results: Path, dataset: str) -> dict[str, Path]:
    """{id: PNG} of the test faces."""
    table = results / "faces" / f"{dataset}.csv"
    return dict(face_files(table, table.with_suffix(""), "test"))
