"""Scores of a run and published numbers -> the long table."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from frcore.config import CATALOGUE, Protocol
from frcore.io.tables import table_writer
from frcore.metrics.intervals import NOT_THERE, mean_of_images, resample_counts
from frcore.registry import METRICS, nearest

COLUMNS = [
    "model", "method", "dataset", "degradation", "protocol", "metric", "value", "n", "ci_low",
    "ci_high", "seed", "source", "note", "model_note",
]  # fmt: skip
AS_PRINTED = "as printed"
SOURCES = ("measured", "official_weights", "published")
PUBLISHED = CATALOGUE / "published.csv"


def join_scores(
    score_files: Iterable[str | Path | Mapping],
    models: Mapping[str, Mapping],
    protocol: Protocol,
    protocol_name: str,
    out: str | Path,
    seed: int = 0,
    published: Sequence[str] = (),
    published_csv: str | Path = PUBLISHED,
    cell_notes: Mapping[tuple[str, str, str], str] | None = None,
) -> None:
    """Write the long table `out` from per-image and per-set scores.

    score_files: paths `.../{model}/{dataset}/{degradation}.csv` (id, metric, value, note), or
    mappings with `model`, `dataset`, `degradation`, `images` and `sets` (paths). The set scores
    (metric, value, n, ci_low, ci_high, note) lie beside them as `{degradation}.sets.csv`.
    models: name -> `method`, `seed` and optionally `source` and `note`.
    published: papers or tables of `published_csv`, such as "LCQS" or "LCQS T1".
    cell_notes: {(model, dataset, degradation): more about the model on these faces}.

    Image metrics are averaged over the images that have a value; their 95 % bootstrap intervals
    use the same draws of images for every model, so that differences between models are paired.
    Infinite values (PSNR of equal images) are left out of the mean and counted in the note.
    Raises ValueError for unknown models, metrics outside the protocol, repeated rows and unknown
    published tables. The bytes do not depend on the order of `score_files`.
    """
    cells = [_score_cell(item) for item in score_files]
    if len({cell[:3] for cell in cells}) < len(cells):
        raise ValueError("a model, dataset and degradation occur twice among the score files")
    unknown = sorted({cell[0] for cell in cells} - set(models))
    if unknown:
        raise ValueError(f"scores of unknown models {unknown} (known: {', '.join(models)})")
    groups: dict[tuple[str, str], dict] = {}
    for model, dataset, degradation, *paths in cells:
        groups.setdefault((dataset, degradation), {})[model] = paths
    rows = []
    for (dataset, degradation), files in groups.items():
        measured = _group_scores(files, protocol, seed, dataset, degradation)
        for (model, metric), found in measured.items():
            about = models[model]
            source = about.get("source", "measured")
            if source not in SOURCES[:2]:
                raise ValueError(f"model {model}: source {source!r} is none of {SOURCES[:2]}")
            more = (cell_notes or {}).get((model, dataset, degradation))
            rows.append(
                {
                    "model": model,
                    "method": about["method"],
                    "dataset": dataset,
                    "degradation": degradation,
                    "protocol": f"{protocol_name}@{protocol.digest()}",
                    "metric": metric,
                    "seed": about.get("seed", ""),
                    "source": source,
                    "model_note": "; ".join(filter(None, [about.get("note"), more])),
                    **found,
                }
            )
    rank = {name: index for index, name in enumerate(protocol.metrics)}
    rows.sort(key=lambda r: (r["dataset"], r["degradation"], r["model"], rank[r["metric"]]))
    rows += _published_rows(published, published_csv)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w", encoding="utf-8", newline="") as opened:
        writer = table_writer(opened, COLUMNS)
        for row in rows:
            writer.writerow({key: as_text(value) for key, value in row.items()})


def _group_scores(
    paths: Mapping[str, Sequence[Path]], protocol: Protocol, seed: int, dataset, degradation
) -> dict[tuple[str, str], dict]:
    """(model, metric) -> value, n, interval and note, for the models of one degraded dataset.

    `paths`: model -> (per-image file, per-set file).
    """
    of_kind = {
        kind: [name for name in protocol.metrics if METRICS[name].kind == kind]
        for kind in ("image", "set")
    }
    found: dict[tuple[str, str], dict] = {}
    if of_kind["image"]:
        frames = {
            model: _read_scores(images, of_kind["image"], ["id", "metric"])
            for model, (images, _) in paths.items()
        }
        order = sorted({name for frame in frames.values() for name in frame["id"]})
        for metric in of_kind["image"]:
            parts = (seed, dataset, degradation, metric)
            counts = resample_counts(len(order), protocol.bootstrap, *parts)
            for model, frame in frames.items():
                chosen = frame[frame["metric"] == metric].to_dict("records")
                found[model, metric] = mean_of_images(chosen, order, counts)
    for model, (_, sets) in paths.items():
        if not of_kind["set"]:
            break
        frame = _read_scores(sets, of_kind["set"], ["metric"]).set_index("metric")
        for metric in of_kind["set"]:
            if metric not in frame.index:
                found[model, metric] = {"value": "", "n": 0, "note": NOT_THERE}
                continue
            row = frame.loc[metric].to_dict()
            row["n"] = "" if is_missing(row["n"]) else int(row["n"])
            if is_missing(row["value"]):
                row["note"] = row["note"] or "no reason given"
            found[model, metric] = {
                name: row[name] for name in ("value", "n", "ci_low", "ci_high", "note")
            }
    return found


def _score_cell(item: str | Path | Mapping) -> tuple[str, str, str, Path, Path]:
    if isinstance(item, Mapping):
        names = (item["model"], item["dataset"], item["degradation"])
        return (*names, Path(item["images"]), Path(item["sets"]))
    path = Path(item)
    return path.parts[-3], path.parts[-2], path.stem, path, path.with_suffix(".sets.csv")


def _read_scores(path: Path, metrics: Sequence[str], key: list[str]) -> pd.DataFrame:
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    needed = [*key, "value", "note"] + (["n", "ci_low", "ci_high"] if key == ["metric"] else [])
    lacking = [name for name in needed if name not in frame.columns]
    if lacking:
        raise ValueError(f"{path}: no column {', '.join(lacking)}")
    foreign = sorted(set(frame["metric"]) - set(metrics))
    if foreign:
        raise ValueError(f"{path}: metric {foreign[0]} {nearest(foreign[0], metrics)}")
    if frame.duplicated(key).any():
        raise ValueError(f"{path}: repeated {frame[frame.duplicated(key)][key].iloc[0].tolist()}")
    for name in ("value", "n", "ci_low", "ci_high"):
        if name in frame.columns:
            frame[name] = frame[name].map(as_float).astype(np.float64)
    return frame


def _published_rows(wanted: Sequence[str], path: str | Path) -> list[dict]:
    if not wanted:
        return []
    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    table["name"] = table["paper"] + " " + table["table"]
    known = list(dict.fromkeys([*table["paper"], *table["name"]]))
    for name in wanted:
        if name not in known:
            raise ValueError(f"no published table {name!r} {nearest(name, known)}")
    chosen = table[table["paper"].isin(wanted) | table["name"].isin(wanted)]
    return [
        {
            "model": row.method,
            "method": row.method,
            "dataset": row.dataset,
            "degradation": row.degradation,
            "protocol": AS_PRINTED,
            "metric": row.metric,
            "value": row.value,  # text: the paper's digits are kept
            "source": "published",
            "note": f"{row.name}: {row.note}" if row.note else row.name,
        }
        for row in chosen.itertuples(index=False)
    ]


def as_float(text: str) -> float:
    return float(text) if text else math.nan


def is_missing(value) -> bool:
    return value == "" or (isinstance(value, float) and math.isnan(value))


def as_text(value) -> str:
    """A cell of the long table: six significant digits, empty for what is missing."""
    if is_missing(value):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def read_long_table(path: str | Path) -> pd.DataFrame:
    """scores.csv with `value`, `n`, `ci_low`, `ci_high` as numbers and `text`, value as written."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    if list(frame.columns) != COLUMNS:
        raise ValueError(f"{path}: expected columns {COLUMNS}, got {list(frame.columns)}")
    frame["text"] = frame["value"]
    for name in ("value", "n", "ci_low", "ci_high"):
        frame[name] = frame[name].map(as_float).astype(np.float64)
    return frame
