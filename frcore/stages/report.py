"""The long table, tables for print, plots and the page. No torch here."""

import csv
import json
import statistics
from collections.abc import Iterable
from pathlib import Path

from frcore.io.cards import card_of
from frcore.registry import METHODS
from frcore.report import figures
from frcore.report.page import html_report
from frcore.report.scores import join_scores as write_scores
from frcore.report.writers import comparison as write_comparison
from frcore.workflow.jobs import Comparison, JoinScores, PlotScores, PlotTraining, ReportPage


def join_scores(job: JoinScores) -> None:
    """The long table of a run from its score files; one row a number."""
    write_scores(
        job.input.scores,
        {name: model_facts(facts) for name, facts in job.models.items()},
        job.protocol,
        job.protocol_name,
        job.output.table,
        job.seed,
        job.published,
        job.published_csv,
        cell_notes=restoring_notes(job.input.restored),
    )


def model_facts(facts: dict) -> dict:
    """Method, seed, source and note of an entry: its training, nets it shares with metrics.

    facts: of workflow.plan.Plan.model_facts.
    """
    about = {"method": facts["method"], "seed": facts["seed"]}
    if "weights" in facts:
        path = Path(facts["weights"])
        card = card_of(path)
        # weights that frcore trained have a card; the authors' have none, or one that says so
        official = card is None or card.get("source") == "official_weights"
        source = "official_weights" if official else "measured"
        return about | {"source": source, "note": f"weights {path.name}"}
    if "card" not in facts:
        return about | {"note": "not trained"}
    card = json.loads(Path(facts["card"]).read_text())
    notes = [
        f"init {card['init']}",
        f"{card['images_seen']} images seen, {card['images_seen_here']} of them in this run",
    ]
    if facts.get("shared"):
        notes.append(facts["shared"])
    return about | {"note": "; ".join(notes)}


def restoring_notes(tables: Iterable[Path]) -> dict[tuple[str, str, str], str]:
    """{(model, dataset, degradation): what its table of restored faces says about the work}."""
    found = {}
    for table in tables:
        with open(table, newline="", encoding="utf-8") as opened:
            rows = [row for row in csv.DictReader(opened) if row["status"] == "restored"]
        notes = list(dict.fromkeys(row["note"] for row in rows if row.get("note")))
        for column, unit in (("iterations", "iterations"), ("seconds", "s")):
            values = [float(row[column]) for row in rows if row.get(column)]
            if values:
                notes.append(f"{statistics.median(values):.3g} {unit} a face")
        if notes:
            found[table.parts[-3], table.parts[-2], table.stem] = "; ".join(notes)
    return found


def comparison(job: Comparison) -> None:
    """The table for print: CSV, Markdown and LaTeX."""
    out = job.output
    write_comparison(job.input.scores, out.csv, out.md, out.tex, job.titles)


def plot_scores(job: PlotScores) -> None:
    """A figure a metric, as PNG and SVG."""
    for metric, png, svg in zip(job.names, _list(job.output.png), _list(job.output.svg)):
        figures.plot_scores(job.input.scores, metric, png, svg, job.titles)


def plot_training(job: PlotTraining) -> None:
    """Losses of every model that was trained in this run."""
    histories = {job.titles[path.parent.name]: path for path in _list(job.input.histories)}
    figures.plot_training(histories, job.output.picture)


def _list(files: Path | list[Path]) -> list[Path]:
    return [files] if isinstance(files, Path) else files


# what samples.png of a trained entry has
_SHOWN = {
    "restores": "degraded, restored and true faces of the training set",
    "makes faces": "faces that it makes",
    "makes pairs": "clean faces that it makes, and below each its degraded twin",
}


def report_page(job: ReportPage) -> None:
    """One self-contained page: what was run, how it was measured, and what came out."""
    config, run, rows = job.config, job.config.run, job.rows
    results = Path(config.results)
    pictures = results / "figures"
    trained = [name for name in config.used_models() if config.models[name].train]
    titles = {n: config.models[n].title or METHODS[config.models[n].method].title for n in trained}
    html_report(
        config,
        job.protocol,
        run.protocol,
        results / "tables" / "scores.csv",
        job.output.page,
        faces={name: results / "faces" / f"{name}.csv" for name in run.datasets},
        quarantine={name: results / "faces" / f"{name}.quarantine.csv" for name in run.datasets},
        cards={name: results / "models" / name / "weights.json" for name in trained},
        sheets={
            name: path
            for name, dataset in config.first_shown().items()
            if (path := pictures / "degradations" / dataset / f"{name}.png").is_file()
        },
        figures={
            "scores": [
                (
                    pictures / "scores" / f"{name}.png",
                    f"{rows[name]['title']}. {rows[name]['what']}",
                )
                for name in job.protocol.metrics
            ],
            "panels": [
                (
                    pictures / "panels" / dataset / f"{degradation}.png",
                    f"{dataset}, {degradation}: {run.panel} test faces, "
                    + (
                        "as they are and restored by each model."
                        if config.datasets[dataset].low_quality
                        else "degraded, restored by each model, and true."
                    ),
                )
                for dataset, degradation in config.test_sets()
            ]
            + [
                (pictures / "strengths" / f"{name}.png", config.figures[name].title or name)
                for name in run.figures
            ],
            "training": [
                (pictures / "training.png", "Losses over images seen in this run."),
                *(
                    (
                        results / "models" / name / "samples.png",
                        f"{titles[name]} at the end of training: "
                        f"{_SHOWN[_kind(config.models[name].method)]}.",
                    )
                    for name in trained
                ),
            ]
            if trained
            else [],
        },
        licences=results / "tables" / "licences.md",
        command="snakemake --cores 2",
    )


def _kind(method: str) -> str:
    row = METHODS[method]
    if row.role == "degrader":
        return "makes pairs"
    return "makes faces" if row.generative else "restores"
