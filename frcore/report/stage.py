"""The report stage: where the pieces of a run are, and what its models' rows must say."""

import json
import struct
from pathlib import Path

from frcore.config import Config, load_protocol
from frcore.registry import METHODS, METRICS
from frcore.report.page import html_report
from frcore.report.table import join_scores


def join_run(config: Config, out: Path) -> None:
    """Write the long table of a run from its score files; one row a number."""
    results, run = Path(config.results), config.run
    join_scores(
        [
            results / "scores" / model / dataset / f"{degradation}.csv"
            for model in run.models
            for dataset, degradation in config.test_sets()
        ],
        {name: model_facts(config, name) for name in run.models},
        load_protocol(run.protocol),
        run.protocol,
        out,
        config.seed,
        run.published,
    )


def model_facts(config: Config, name: str) -> dict:
    """Method, seed, source and note of an entry: its training, nets it shares with metrics."""
    entry = config.models[name]
    facts = {"method": entry.method, "seed": entry.seed}
    if entry.weights:
        card = _card_of(Path(entry.weights))
        # weights that frcore trained have a card; the authors' have none, or one that says so
        official = card is None or card.get("source") == "official_weights"
        source = "official_weights" if official else "measured"
        return facts | {"source": source, "note": f"weights {Path(entry.weights).name}"}
    if not entry.train:
        return facts | {"note": "not trained"}
    card = json.loads((Path(config.results) / "models" / name / "weights.json").read_text())
    notes = [
        f"init {card['init']}",
        f"{card['images_seen']} images seen, {card['images_seen_here']} of them in this run",
    ]
    perceptual = card["settings"].get("perceptual")
    shared = [m for m, row in METRICS.items() if perceptual in row.assets]
    if perceptual and shared:
        notes.append(f"trained with {perceptual}, which {' and '.join(shared)} measure with")
    return facts | {"note": "; ".join(notes)}


def _card_of(path: Path) -> dict | None:
    """The card in a weights file's safetensors header; None for a file without one.

    checkpoint.read_card does the same and imports torch.
    """
    with open(path, "rb") as opened:
        start = opened.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= path.stat().st_size - 8:
            return None
        header = opened.read(length)
    try:
        card = json.loads(json.loads(header)["__metadata__"]["card"])
    except (ValueError, KeyError, TypeError):
        return None
    return card if isinstance(card, dict) else None


def report_run(config: Config, out: Path) -> None:
    """Write the self-contained page of a run."""
    results, run = Path(config.results), config.run
    protocol = load_protocol(run.protocol)
    figures = results / "figures"
    trained = _trained(config)
    titles = {n: config.models[n].title or METHODS[config.models[n].method].title for n in trained}
    html_report(
        config,
        protocol,
        run.protocol,
        results / "tables" / "scores.csv",
        out,
        faces={name: results / "faces" / f"{name}.csv" for name in run.datasets},
        quarantine={name: results / "faces" / f"{name}.quarantine.csv" for name in run.datasets},
        cards={name: results / "models" / name / "weights.json" for name in trained},
        sheets={
            name: path
            for name, dataset in config.first_shown().items()
            if (path := figures / "degradations" / dataset / f"{name}.png").is_file()
        },
        figures={
            "scores": [
                (figures / "scores" / f"{name}.png", f"{METRICS[name].title}. {METRICS[name].what}")
                for name in protocol.metrics
            ],
            "panels": [
                (
                    figures / "panels" / dataset / f"{degradation}.png",
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
                (figures / "strengths" / f"{name}.png", config.figures[name].title or name)
                for name in run.figures
            ],
            "training": [
                (figures / "training.png", "Losses over images seen in this run."),
                *(
                    (
                        results / "models" / name / "samples.png",
                        f"{titles[name]} at the end of training: {_SHOWN[_kind(config, name)]}.",
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


# what samples.png of a trained entry has
_SHOWN = {
    "restores": "degraded, restored and true faces of the training set",
    "makes faces": "faces that it makes",
    "makes pairs": "clean faces that it makes, and below each its degraded twin",
}


def _kind(config: Config, name: str) -> str:
    row = METHODS[config.models[name].method]
    if row.role == "degrader":
        return "makes pairs"
    return "makes faces" if row.generative else "restores"


def _trained(config: Config) -> list[str]:
    return [name for name in config.used_models() if config.models[name].train]
