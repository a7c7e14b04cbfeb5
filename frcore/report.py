"""The long table of scores, tables for print, figures and the self-contained page. No torch here.

scores.csv holds one number a row (`COLUMNS`); everything else in this file is drawn from it.
In `note`, what concerns the number stands before ` | ` and what concerns the model after it.
"""

import base64
import csv
import html
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from frcore import __version__
from frcore.config import ROOT, Config, Protocol
from frcore.registry import METHODS, METRICS, nearest
from frcore.seeds import numpy_generator

COLUMNS = [
    "model", "method", "dataset", "degradation", "protocol", "metric", "value", "n", "ci_low",
    "ci_high", "seed", "source", "note",
]  # fmt: skip
SOURCES = ("measured", "official_weights", "published")
PUBLISHED = ROOT / "protocols" / "published.csv"
AS_PRINTED = "as printed"
MODEL_NOTE = " | "
NO_VALUE = "without a value"
PUBLISHED_CAPTION = (
    "† Published numbers, as printed, under each paper's own protocol and data: not comparable "
    "with measured rows and not ranked."
)
# papers' own metric names; only their arrows are taken from here, they are never compared
PRINTED_HIGHER_IS_BETTER = {
    "PSNR": True, "SSIM": True, "MSSIM": True, "LPIPS": False, "FID": False, "NIQE": False,
    "IP": True, "Similarity": True, "iPrecision_k4": True, "user_preference_percent": True,
    "seconds": False,
}  # fmt: skip
TEX_COLUMNS = 7
# Okabe and Ito's colours without yellow and black: told apart with every kind of colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = "osD^vP"


# ---- the long table ----------------------------------------------------------------------------


def join_scores(
    score_files: Iterable[str | Path | Mapping],
    models: Mapping[str, Mapping],
    protocol: Protocol,
    protocol_name: str,
    out: str | Path,
    seed: int = 0,
    published: Sequence[str] = (),
    published_csv: str | Path = PUBLISHED,
) -> None:
    """Write the long table `out` from per-image and per-set scores.

    score_files: paths `.../{model}/{dataset}/{degradation}.csv` (id, metric, value, note), or
    mappings with `model`, `dataset`, `degradation`, `images` and `sets` (paths). The set scores
    (metric, value, n, ci_low, ci_high, note) lie beside them as `{degradation}.sets.csv`.
    models: name -> `method`, `seed` and optionally `source` and `note`.
    published: papers or tables of `published_csv`, such as "LCQS" or "LCQS T1".

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
    for (dataset, degradation), paths in groups.items():
        measured = _group_scores(paths, protocol, seed, dataset, degradation)
        for (model, metric), found in measured.items():
            about = models[model]
            source = about.get("source", "measured")
            if source not in SOURCES[:2]:
                raise ValueError(f"model {model}: source {source!r} is none of {SOURCES[:2]}")
            if about.get("note"):
                found["note"] += f"{MODEL_NOTE}{about['note']}"
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
                    **found,
                }
            )
    rank = {name: index for index, name in enumerate(protocol.metrics)}
    rows.sort(key=lambda r: (r["dataset"], r["degradation"], r["model"], rank[r["metric"]]))
    rows += _published_rows(published, published_csv)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _number(value) for key, value in row.items()})


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
            counts = _resample_counts(len(order), protocol.bootstrap, *parts)
            for model, frame in frames.items():
                chosen = frame[frame["metric"] == metric]
                found[model, metric] = _mean_score(chosen, order, counts)
    for model, (_, sets) in paths.items():
        if not of_kind["set"]:
            break
        frame = _read_scores(sets, of_kind["set"], ["metric"]).set_index("metric")
        for metric in of_kind["set"]:
            if metric not in frame.index:
                found[model, metric] = {"value": "", "n": 0, "note": "not in the score file"}
                continue
            row = frame.loc[metric].to_dict()
            row["n"] = "" if _missing(row["n"]) else int(row["n"])
            if _missing(row["value"]):
                row["note"] = row["note"] or "no reason given"
            found[model, metric] = {
                name: row[name] for name in ("value", "n", "ci_low", "ci_high", "note")
            }
    return found


def bootstrap_interval(values: np.ndarray, counts: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of the mean of `values` [N], NaN where missing, under draws `counts` [B, N].

    Missing images weigh nothing in a draw. None when fewer than two values or no draws.
    """
    usable = np.isfinite(values)
    if usable.sum() < 2 or not len(counts):
        return None
    weights = counts @ usable.astype(np.float64)
    # deviations from the mean keep a constant exact
    centre = float(values[usable].mean())
    sums = counts @ np.where(usable, values - centre, 0.0)
    means = centre + sums[weights > 0] / weights[weights > 0]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _resample_counts(n: int, samples: int, *seed: str | int) -> np.ndarray:
    """How often each of n images is in each of `samples` draws with replacement: [samples, n]."""
    if not n or not samples:
        return np.zeros((0, n))
    drawn = numpy_generator(*seed).integers(n, size=(samples, n))
    flat = (drawn + np.arange(samples)[:, None] * n).ravel()
    return np.bincount(flat, minlength=samples * n).reshape(samples, n).astype(np.float64)


def _mean_score(frame: pd.DataFrame, order: list[str], counts: np.ndarray) -> dict:
    """value, n, ci_low, ci_high and note of one image metric from its rows."""
    if frame.empty:
        return {"value": "", "n": 0, "note": "not in the score file"}
    by_id = frame.set_index("id")["value"].astype(float)
    values = by_id.reindex(order).to_numpy()
    infinite, failed = np.isinf(values), np.isnan(values)
    notes = []
    if failed.any():
        given = Counter(
            note or "no reason given" for note in frame.loc[frame["value"].isna(), "note"]
        )
        if len(order) > len(frame):
            given["not in the score file"] = len(order) - len(frame)
        common = sorted(given.items(), key=lambda item: (-item[1], item[0]))
        if failed.all() and len(common) == 1:
            return {"value": "", "n": 0, "note": common[0][0]}
        reasons = "; ".join(f"{text} ({count})" for text, count in common[:3])
        reasons += "; other reasons" * (len(common) > 3)
        notes.append(f"{failed.sum()} of {len(order)} images {NO_VALUE}: {reasons}")
    if failed.all():
        return {"value": "", "n": 0, "note": notes[0]}
    if infinite.any() and infinite.sum() + failed.sum() == len(values):
        notes.append("infinite: every image equals its truth")
        return {"value": math.inf, "n": int(infinite.sum()), "note": "; ".join(notes)}
    if infinite.any():
        notes.append(f"{infinite.sum()} images with an infinite value left out of the mean")
    usable = values[np.isfinite(values)]
    interval = bootstrap_interval(np.where(infinite, np.nan, values), counts)
    low, high = interval or ("", "")
    return {
        "value": float(usable.mean()),
        "n": len(usable),
        "ci_low": low,
        "ci_high": high,
        "note": "; ".join(notes),
    }


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
            frame[name] = frame[name].map(_float).astype(np.float64)
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


def _float(text: str) -> float:
    return float(text) if text else math.nan


def _missing(value) -> bool:
    return value == "" or (isinstance(value, float) and math.isnan(value))


def _number(value) -> str:
    """A cell of the long table: six significant digits, empty for what is missing."""
    if _missing(value):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def read_long_table(path: str | Path) -> pd.DataFrame:
    """scores.csv with `value`, `n`, `ci_low`, `ci_high` as numbers and `text`, value as written."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    if list(frame.columns) != COLUMNS:
        raise ValueError(f"{path}: expected columns {COLUMNS}, got {list(frame.columns)}")
    frame["text"] = frame["value"]
    for name in ("value", "n", "ci_low", "ci_high"):
        frame[name] = frame[name].map(_float).astype(np.float64)
    return frame


# ---- tables for print --------------------------------------------------------------------------


@dataclass
class _Cell:
    text: str  # value as printed
    spread: str = ""  # half of the interval
    mark: str = ""  # best | second
    notes: tuple[int, ...] = ()  # numbers of footnotes


@dataclass
class _Row:
    title: str
    tag: str  # official weights, dagger or nothing
    cells: list[_Cell]
    notes: tuple[int, ...] = ()


@dataclass
class _Table:
    heading: str
    groups: list[tuple[str, int]]  # spanning titles and how many columns each; [] for none
    columns: list[tuple[str, str, tuple[int, ...]]]  # title, arrow, footnotes
    rows: list[_Row]
    published: bool


@dataclass
class _Tables:
    tables: list[_Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)  # metrics without any value, and why
    captions: list[str] = field(default_factory=list)  # of measured, of published tables

    def note(self, *texts: str) -> tuple[int, ...]:
        """Numbers of the footnotes with `texts`; each is added once, empty ones are left out."""
        self.notes += [text for text in dict.fromkeys(texts) if text and text not in self.notes]
        return tuple(self.notes.index(text) + 1 for text in texts if text)


def comparison(
    scores_csv: str | Path,
    out_csv: str | Path,
    out_md: str | Path,
    out_tex: str | Path,
    titles: Mapping[str, str] | None = None,
) -> None:
    """Wide tables for print, one per dataset and degradation, from the long table.

    titles: model -> title, also the order of rows (default: the methods' titles, in file order).
    Among measured rows the best is bold and the second underlined, by the direction of the
    metric's registry row and by the printed digits; a mean over fewer images than another model's
    takes no part. Published numbers stand in tables of their own and are never ranked.
    """
    built = _build_tables(read_long_table(scores_csv), titles)
    writers = ((out_csv, _table_csv), (out_md, _table_markdown), (out_tex, _table_latex))
    for path, write in writers:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(write(built), encoding="utf-8", newline="\n")


def _build_tables(scores: pd.DataFrame, titles: Mapping[str, str] | None) -> _Tables:
    built = _Tables()
    ours = scores[scores["source"] != "published"]
    titles = _titles(ours, titles)
    metrics = list(dict.fromkeys(ours["metric"]))
    digits = {name: _digits(ours.loc[ours["metric"] == name, "value"]) for name in metrics}
    for metric in metrics:
        part = ours[ours["metric"] == metric]
        if part["value"].isna().all():
            reasons = dict.fromkeys(_own_note(note) or "no reason given" for note in part["note"])
            built.absent.append(f"{METRICS[metric].title}: {'; '.join(reasons)}")
    metrics = [name for name in metrics if not ours[ours["metric"] == name]["value"].isna().all()]
    for (protocol, dataset, degradation), group in ours.groupby(
        ["protocol", "dataset", "degradation"], sort=False
    ):
        several = ours["protocol"].nunique() > 1
        heading = f"{dataset} · {degradation}" + f" · {protocol}" * several
        built.tables.append(_measured_table(built, heading, group, titles, metrics, digits))
    published = scores[scores["source"] == "published"]
    for name, group in published.groupby(published["note"].str.split(":").str[0], sort=False):
        built.tables.append(_published_table(built, str(name), group))
    built.captions = [_caption(ours), "" if published.empty else PUBLISHED_CAPTION]
    return built


def _own_note(note: str) -> str:
    """The part of a row's note that concerns its number."""
    return note.partition(MODEL_NOTE)[0]


def _titles(ours: pd.DataFrame, titles: Mapping[str, str] | None) -> dict[str, str]:
    """model -> title in the order of rows; equal titles get the entry's name."""
    method = dict(zip(ours["model"], ours["method"]))
    given = dict(titles or {})
    for model, name in method.items():
        given.setdefault(model, METHODS[name].title if name in METHODS else model)
    given = {model: title for model, title in given.items() if model in method}
    count = Counter(given.values())
    return {
        model: title if count[title] == 1 else f"{title} ({model})"
        for model, title in given.items()
    }


def _digits(values: pd.Series) -> int:
    largest = values[np.isfinite(values)].abs().max()
    if not largest > 0:  # none, or all zero
        return 2
    return next((d for limit, d in ((1000, 0), (100, 1), (1, 2), (0.01, 3)) if largest >= limit), 5)


def _measured_table(built, heading, group, titles, metrics, digits) -> _Table:
    columns, cells = [], {}
    for metric in metrics:
        part = group[group["metric"] == metric].set_index("model")
        own = part["note"].map(_own_note)
        most = part["n"].max()
        short = part["n"] < most
        # a remark that the whole column, or all its numbers, share belongs to the column
        valued = own if own.nunique() == 1 else own[part["value"].notna()]
        shared = valued.iloc[0] if len(valued) > 1 and valued.nunique() == 1 else ""
        for model in part.index:
            row = part.loc[model]
            if pd.isna(row["value"]):
                reason = own[model] or "no reason given"
                cell = _Cell("–", notes=built.note("" if reason == shared else reason))
            else:
                cell = _Cell(_shown(row["value"], digits[metric]))
                if pd.notna(row["ci_low"]) and math.isfinite(row["value"]):
                    cell.spread = f"{(row['ci_high'] - row['ci_low']) / 2:.{digits[metric]}f}"
                remark = "" if own[model] == shared else own[model]
                if short[model]:
                    remark = f"mean over {row['n']:g} of {most:g} images, not ranked" + (
                        f": {own[model]}" if own[model] else ""
                    )
                cell.notes = built.note(remark)
            cells[model, metric] = cell
        rankable = [m for m in part.index if pd.notna(part["value"][m]) and not short[m]]
        _mark_best([cells[m, metric] for m in rankable], METRICS[metric].higher_is_better)
        columns.append(
            (METRICS[metric].title, _arrow(METRICS[metric].higher_is_better), built.note(shared))
        )
    tags = dict(zip(group["model"], group["source"]))
    about = {m: note.partition(MODEL_NOTE)[2] for m, note in zip(group["model"], group["note"])}
    rows = [
        _Row(
            title,
            "official weights" if tags[model] == "official_weights" else "",
            [cells.get((model, metric)) or _Cell("–", notes=built.note("not measured"))
             for metric in metrics],
            built.note(about[model]),
        )
        for model, title in titles.items()
        if model in tags
    ]  # fmt: skip
    counts = sorted({int(n) for n in group["n"].dropna() if n > 0})
    if counts:
        heading += f" (n = {counts[-1]})"
    return _Table(heading, [], columns, rows, published=False)


def _published_table(built, name, group) -> _Table:
    sets = list(dict.fromkeys(zip(group["dataset"], group["degradation"])))
    places = dict.fromkeys(zip(group["dataset"], group["degradation"], group["metric"]))
    places = sorted(places, key=lambda place: sets.index(place[:2]))
    remarks = group["note"].str.partition(": ")[2].str.split("; ")
    columns, groups, cells = [], [], {}
    for place in places:
        dataset, degradation, metric = place
        span = " · ".join(part for part in (dataset, degradation) if part)
        if groups and groups[-1][0] == span:
            groups[-1] = (span, groups[-1][1] + 1)
        else:
            groups.append((span, 1))
        here = (
            (group["dataset"] == dataset)
            & (group["degradation"] == degradation)
            & (group["metric"] == metric)
        )
        # what is remarked of all numbers of a column stands at its head
        valued = [set(remarks[index]) for index in group.index[here] if group["text"][index]]
        shared = set.intersection(*valued) if valued else set()
        ordered = [text for index in group.index[here] for text in remarks[index] if text in shared]
        for index in group.index[here]:
            own = [text for text in remarks[index] if text not in shared]
            cell = _Cell(group["text"][index] or "–", notes=built.note(*own))
            cells[group["model"][index], place] = cell
        arrow = _arrow(PRINTED_HIGHER_IS_BETTER.get(metric))
        columns.append((metric.replace("_", " "), arrow, built.note(*dict.fromkeys(ordered))))
    rows = [
        _Row(
            model,
            "†",
            [cells.get((model, place)) or _Cell("–", notes=built.note("not in the table"))
             for place in places],
        )
        for model in dict.fromkeys(group["model"])
    ]  # fmt: skip
    return _Table(f"{name}, as printed", groups, columns, rows, published=True)


def _mark_best(cells: list[_Cell], higher_is_better: bool | None) -> None:
    """Mark by the printed digits: equal cells share a mark, two best leave no second."""
    if higher_is_better is None or len(cells) < 2:
        return
    values = [float(cell.text.replace("∞", "inf")) for cell in cells]
    ranked = sorted(set(values), reverse=higher_is_better)
    if len(ranked) < 2:
        return
    second = "second" if values.count(ranked[0]) == 1 else ""
    for cell, value in zip(cells, values):
        if value in ranked[:2]:
            cell.mark = "best" if value == ranked[0] else second


def _shown(value: float, digits: int) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _arrow(higher_is_better: bool | None) -> str:
    return {True: "↑", False: "↓", None: ""}[higher_is_better]


def _caption(ours: pd.DataFrame) -> str:
    if ours.empty:
        return ""
    names = ", ".join(sorted(set(ours["protocol"])))
    seeds = ", ".join(sorted(set(ours["seed"]), key=lambda text: (len(text), text)))
    sources = " and ".join(s.replace("_", " ") for s in SOURCES if s in set(ours["source"]))
    counts = sorted({int(n) for n in ours["n"].dropna() if n > 0}) or [0]
    span = " to ".join(str(n) for n in dict.fromkeys([counts[0], counts[-1]]))
    return (
        f"Protocol {names}; {sources}; models' seed {seeds}; n = {span} images. "
        "± is half the width of the 95 % bootstrap interval over images. Arrows point to better "
        "values. Best in bold, second best underlined, among rows measured under this protocol on "
        "the same number of images."
    )


def _table_csv(built: _Tables) -> str:
    """One row a model and table; the cells are text for print (numbers are in scores.csv)."""
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for index, table in enumerate(built.tables):
        if index:
            writer.writerow([])
        spans = [name for name, width in table.groups for _ in range(width)]
        titles = [" ".join(filter(None, column[:2])) for column in table.columns]
        if spans:
            titles = [f"{span}: {title}" for span, title in zip(spans, titles)]
        writer.writerow([table.heading, "source", *titles])
        for row in table.rows:
            source = "published" if table.published else row.tag or "measured"
            shown = [c.text + (f" ± {c.spread}" if c.spread else "") for c in row.cells]
            writer.writerow([row.title, source, *shown])
    return text.getvalue()


def _table_markdown(built: _Tables) -> str:
    lines = []
    for table in built.tables:
        spans = [name for name, width in table.groups for _ in range(width)]
        titles = []
        for index, (title, arrow, note) in enumerate(table.columns):
            span = f"{_md(spans[index])}<br>" if spans else ""
            titles.append(f"{span}{_md(title)} {arrow}".rstrip() + _sup(note))
        lines += [f"### {_md(table.heading)}", ""]
        lines.append(f"| model | {' | '.join(titles)} |")
        lines.append("|:--" + "|--:" * len(titles) + "|")
        for row in table.rows:
            tag = row.tag if row.tag == "†" else f" ({row.tag})" * bool(row.tag)
            shown = []
            for cell in row.cells:
                value = {"best": "**{}**", "second": "<ins>{}</ins>"}.get(cell.mark, "{}")
                spread = f" ± {cell.spread}" if cell.spread else ""
                shown.append(value.format(cell.text) + spread + _sup(cell.notes))
            title = f"{_md(row.title)}{tag}{_sup(row.notes)}"
            lines.append(f"| {title} | {' | '.join(shown)} |")
        lines.append("")
    lines += [_md(" ".join(filter(None, built.captions))), ""]
    lines += [f"{number}. {_md(text)}" for number, text in enumerate(built.notes, 1)]
    if built.absent:
        lines += ["", "Without a value in every row, hence without a column:", ""]
        lines += [f"- {_md(text)}" for text in built.absent]
    return "\n".join(lines).rstrip() + "\n"


def _sup(notes: Sequence[int]) -> str:
    return f"<sup>{','.join(map(str, notes))}</sup>" if notes else ""


def _md(text: str) -> str:
    """Escape what Markdown and the HTML inside it would take for markup."""
    text = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", text)


def _table_latex(built: _Tables) -> str:
    """A table environment each; needs \\usepackage{booktabs} and a UTF-8 engine, nothing else."""
    lines = ["% \\usepackage{booktabs}"]
    for table in built.tables:
        used = sorted(
            {note for row in table.rows for cell in row.cells for note in cell.notes}
            | {note for column in table.columns for note in column[2]}
            | {note for row in table.rows for note in row.notes}
        )
        caption = built.captions[table.published]
        lines += ["\\begin{table*}[t]", "\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}"]
        lines.append(f"\\caption{{{_tex(table.heading)}. {_tex(caption)}}}")
        # published tables are as wide as in their papers; ours break after seven metrics
        part = len(table.columns) if table.published else TEX_COLUMNS
        for start in range(0, len(table.columns), part):
            lines += ["", "\\medskip"] * (start > 0)
            lines += _tabular(table, start, start + part)
        if used:
            texts = [f"$^{{{number}}}$ {_tex(built.notes[number - 1])}" for number in used]
            # the blank line ends the tabular's paragraph, \par keeps the small line spacing
            lines += ["", f"\\smallskip\\parbox{{\\linewidth}}{{\\scriptsize {'; '.join(texts)}.}}"]
        if built.absent and not table.published:
            absent = f"Without a value in every row: {'. '.join(built.absent)}."
            lines += ["", f"\\smallskip\\parbox{{\\linewidth}}{{\\scriptsize {_tex(absent)}}}"]
        lines += ["\\end{table*}", ""]
    return "\n".join(lines)


def _tabular(table: _Table, start: int, stop: int) -> list[str]:
    """Lines of the tabular with columns start to stop; groups are only in tables of one part."""
    columns = table.columns[start:stop]
    lines = [f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", "\\toprule"]
    if table.groups:
        spans, rules, first = [], [], 2
        for name, width in table.groups:
            spans.append(f"\\multicolumn{{{width}}}{{c}}{{{_tex(name)}}}")
            rules.append(f"\\cmidrule(lr){{{first}-{first + width - 1}}}")
            first += width
        lines += [f" & {' & '.join(spans)} \\\\", " ".join(rules)]
    titles = []
    for title, arrow, notes in columns:
        # "NIQE refit (32 px blocks)" in two lines, or seven metrics do not fit a page
        words = [_tex(part) for part in title.replace(" (", "\n(").split("\n")]
        words[-1] += f" {_tex(arrow)}" * bool(arrow) + _tex_sup(notes)
        stacked = "\\shortstack[r]{" + " \\\\ ".join(words) + "}"
        titles.append(stacked if len(words) > 1 else words[0])
    lines += [f"model & {' & '.join(titles)} \\\\", "\\midrule"]
    for row in table.rows:
        tag = _tex(row.tag) if row.tag == "†" else f" ({_tex(row.tag)})" * bool(row.tag)
        shown = []
        for cell in row.cells[start:stop]:
            value = {"best": "\\textbf{%s}", "second": "\\underline{%s}"}.get(cell.mark, "%s")
            spread = f"{{\\scriptsize\\,$\\pm$\\,{cell.spread}}}" if cell.spread else ""
            shown.append(value % _tex(cell.text) + spread + _tex_sup(cell.notes))
        lines.append(f"{_tex(row.title)}{tag}{_tex_sup(row.notes)} & {' & '.join(shown)} \\\\")
    return [*lines, "\\bottomrule", "\\end{tabular}"]


def _tex_sup(notes: Sequence[int]) -> str:
    return f"$^{{{','.join(map(str, notes))}}}$" if notes else ""


def _tex(text: str) -> str:
    """Escape LaTeX's special characters and write the signs of this file as commands."""
    table = {
        "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
        "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
        "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
        "↑": r"$\uparrow$", "↓": r"$\downarrow$", "±": r"$\pm$", "·": r"$\cdot$",
        "×": r"$\times$", "∞": r"$\infty$", "†": r"$^{\dagger}$", "–": "--", '"': "''",
    }  # fmt: skip
    return "".join(table.get(letter, letter) for letter in " ".join(text.split()))


# ---- figures -----------------------------------------------------------------------------------


def plot_scores(
    scores_csv: str | Path,
    metric: str,
    out_png: str | Path,
    out_svg: str | Path | None = None,
    titles: Mapping[str, str] | None = None,
) -> None:
    """Dots with 95 % intervals of one metric: a panel per dataset and degradation, a row a model.

    A value that is missing stays an empty row marked –, so that no model drops out of sight.
    """
    scores = read_long_table(scores_csv)
    ours = scores[(scores["source"] != "published")]
    titles = _titles(ours, titles)
    ours = ours[ours["metric"] == metric]
    if ours.empty:
        raise ValueError(f"no measured {metric} {nearest(metric, set(scores['metric']))}")
    if ours["value"].isna().all():
        reasons = "; ".join(dict.fromkeys(_own_note(note) for note in ours["note"]))
        figure = _figure(6.5, 0.5)
        figure.text(
            0.01, 0.5, f"{METRICS[metric].title}: no value ({reasons})", va="center", size=9
        )
        _save(figure, out_png, out_svg)
        return
    groups = list(ours.groupby(["dataset", "degradation"], sort=False))
    down = math.ceil(len(groups) / 3)
    across = math.ceil(len(groups) / down)
    row = METRICS[metric]
    height = 0.3 * len(titles) + 0.5
    figure = _figure(1.9 + 2.6 * across, height * down + 1.0)
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for axis in axes[len(groups) :]:
        axis.set_visible(False)
    for axis, ((dataset, degradation), group) in zip(axes, groups):
        group = group.set_index("model")
        for index, model in enumerate(titles):
            colour, marker = COLOURS[index % 6], MARKERS[(index + index // 6) % 6]
            value = group["value"].get(model, math.nan)
            if not math.isfinite(value):
                sign = "∞" if math.isinf(value) else "–"
                place = axis.get_yaxis_transform()
                axis.text(0.5, index, sign, transform=place, ha="center", va="center", color="0.4")
                continue
            low, high = group["ci_low"][model], group["ci_high"][model]
            if pd.notna(low):
                axis.plot([low, high], [index, index], color=colour, lw=1.6, solid_capstyle="butt")
            axis.plot(value, index, marker, color=colour, ms=6.5, mec="white", mew=0.5)
        axis.set_title(f"{dataset} · {degradation}", fontsize=9, loc="left")
        axis.set_yticks(range(len(titles)), list(titles.values()))
        axis.set_ylim(len(titles) - 0.4, -0.6)
        axis.tick_params(axis="both", length=0)
        axis.tick_params(axis="x", labelbottom=True)
        axis.locator_params(axis="x", nbins=6)
        axis.grid(axis="x", color="0.9", lw=0.8)
        axis.grid(axis="y", color="0.95", lw=0.8)
    unit = f", {row.unit}" if row.unit else ""
    better = {True: "higher is better →", False: "← lower is better", None: "no better direction"}
    figure.suptitle(f"{row.title}{unit}    {better[row.higher_is_better]}", fontsize=10, x=0.01,
                    ha="left", fontweight="bold")  # fmt: skip
    _save(figure, out_png, out_svg)


def plot_training(histories: Mapping[str, str | Path], out_png: str | Path) -> None:
    """Training curves as small multiples: a block of panels per model, a panel per loss term.

    histories: title -> history.csv (`images`, perhaps `seconds`, then one column a term). The thin
    line is what was logged, the thick one a running mean over about a twentieth of it.
    """
    loaded = {}
    for title, path in histories.items():
        frame = pd.read_csv(path).apply(pd.to_numeric, errors="coerce")
        if "images" not in frame.columns:
            raise ValueError(f"{path}: no column images")
        logged = frame.drop(columns=["images", "seconds"], errors="ignore").dropna(
            axis=1, how="all"
        )
        terms = list(logged.columns)
        if terms:
            loaded[title] = (frame, terms)
    if not loaded:
        raise ValueError("no history holds a logged loss")
    across = min(5, max(len(terms) for _, terms in loaded.values()))
    rows = [
        (title, terms[start : start + across])
        for title, (_, terms) in loaded.items()
        for start in range(0, len(terms), across)
    ]
    figure = _figure(2.3 * across + 0.4, 1.75 * len(rows) + 0.3)
    axes = figure.subplots(len(rows), across, squeeze=False)
    seen = set()
    for line, (title, terms) in zip(axes, rows):
        colour = COLOURS[list(loaded).index(title) % 6]
        frame = loaded[title][0]
        for axis in line[len(terms) :]:
            axis.set_visible(False)
        for index, (axis, term) in enumerate(zip(line, terms)):
            points = frame[["images", term]].dropna().sort_values("images")
            smooth = points[term].rolling(max(1, len(points) // 20), 1, center=True).mean()
            axis.plot(points["images"], points[term], color=colour, lw=0.7, alpha=0.3)
            axis.plot(points["images"], smooth, color=colour, lw=1.5)
            axis.set_title(f"\n{term}", fontsize=8, loc="left")
            if index == 0 and title not in seen:
                place = {"xy": (0, 1), "xycoords": "axes fraction", "textcoords": "offset points"}
                axis.annotate(title, xytext=(0, 17), fontsize=9, fontweight="bold", **place)
            axis.xaxis.set_major_formatter(lambda value, _: _short(value))
            axis.locator_params(nbins=4)
            axis.tick_params(length=0, labelsize=7)
            axis.grid(color="0.92", lw=0.8)
            axis.set_xlabel("images seen", fontsize=7)
        seen.add(title)
    _save(figure, out_png)


def _short(value: float) -> str:
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{letter}"
    return f"{value:g}"


def _figure(width: float, height: float):
    # the object interface: no global state, no display
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")


def _save(figure, out_png, out_svg=None) -> None:
    import matplotlib

    for axis in figure.axes:
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.spines["bottom"].set_color("0.7")
    Path(out_png).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_png, metadata={"Software": None})
    if out_svg:
        # without salt and date the same figure would give other bytes every time
        with matplotlib.rc_context({"svg.hashsalt": "frcore", "svg.fonttype": "none"}):
            figure.savefig(out_svg, metadata={"Date": None})


TILE = 128  # smallest side of a picture in a panel
TILE_MAX = 320  # larger faces are reduced to this, or a page of 512 px faces would weigh 100 MB
GAP = 8


def panel(
    ids: Sequence[str],
    columns: Sequence[tuple[str, str | Path]],
    out_png: str | Path,
    caption: str = "",
) -> list[tuple[str, str]]:
    """One row a face, one column a folder of PNGs; returns the (id, column title) that are missing.

    columns: (title, folder), such as degraded, one per model, truth. Faces are enlarged by a whole
    factor without interpolation. A missing picture is a crossed box: nothing takes its place.
    """
    from PIL import Image, ImageDraw

    paths = {(i, t): Path(folder) / f"{i}.png" for i in ids for t, folder in columns}
    found = {}
    for key, path in paths.items():
        if path.is_file():
            with Image.open(path) as opened:
                found[key] = opened.convert("RGB")
    side = max((max(image.size) for image in found.values()), default=TILE)
    factor = max(1, math.ceil(TILE / side))
    tile = min(side * factor, TILE_MAX)

    font, small = _font(13), _font(11)
    titles = [_wrapped(title, font, tile) for title, _ in columns]
    names = [_wrapped(str(name), small, 92) for name in ids]
    left = 2 * GAP + max((_width(line, small) for lines in names for line in lines), default=0)
    head = 2 * GAP + 16 * max((len(lines) for lines in titles), default=1)
    width = left + len(columns) * (tile + GAP)
    scale = f"Pixels enlarged ×{factor}." if side * factor == tile else f"Reduced to {tile} px."
    foot = _wrapped(f"{caption} {scale}".strip(), small, width - 2 * GAP)
    height = head + len(ids) * (tile + GAP) + 15 * len(foot) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    missing = []
    for column, (title, _) in enumerate(columns):
        x = left + column * (tile + GAP)
        for line, text in enumerate(reversed(titles[column])):
            y = head - GAP - 16 * (line + 1)
            draw.text((x + tile / 2, y), text, fill="#222222", font=font, anchor="ma")
        for row, name in enumerate(ids):
            y = head + row * (tile + GAP)
            image = found.get((name, title))
            if image is None:
                missing.append((name, title))
                _draw_failed(draw, x, y, tile, small)
                continue
            how = Image.Resampling.NEAREST if max(image.size) <= tile else Image.Resampling.LANCZOS
            ratio = tile / max(image.size)
            size = tuple(max(1, round(length * ratio)) for length in image.size)
            sheet.paste(image.resize(size, how), (x, y))
    for row, lines in enumerate(names):
        middle = head + row * (tile + GAP) + tile / 2 - 7 * len(lines)
        for line, text in enumerate(lines):
            draw.text((GAP, middle + 14 * line), text, fill="#555555", font=small)
    for line, text in enumerate(foot):
        y = head + len(ids) * (tile + GAP) + 15 * line
        draw.text((GAP, y), text, fill="#555555", font=small)
    Path(out_png).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out_png, format="PNG", optimize=True)
    return missing


def _draw_failed(draw, x: int, y: int, tile: int, font) -> None:
    box = (x, y, x + tile - 1, y + tile - 1)
    draw.rectangle(box, fill="#f4f4f4", outline="#b0b0b0")
    draw.line(box, fill="#b0b0b0")
    draw.line((x, y + tile - 1, x + tile - 1, y), fill="#b0b0b0")
    centre = (x + tile / 2, y + tile / 2)
    label = draw.textbbox(centre, "failed", font=font, anchor="mm")
    draw.rectangle((label[0] - 5, label[1] - 3, label[2] + 5, label[3] + 3), fill="#f4f4f4")
    draw.text(centre, "failed", fill="#8a1c1c", font=font, anchor="mm")


def _font(size: int):
    import matplotlib
    from PIL import ImageFont

    # the one font with wide coverage that is there whenever this package is
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)


def _width(text: str, font) -> int:
    return math.ceil(font.getlength(text))


def _wrapped(text: str, font, width: int) -> list[str]:
    """`text` in lines of at most `width` pixels, broken at spaces or after - and _ where it can."""
    lines = [""]
    for word in re.findall(r"[^\s_-]*[\s_-]?", " ".join(text.split())):
        if _width((lines[-1] + word).rstrip(), font) <= width:
            lines[-1] += word
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and _width(lines[-1] + letter, font) > width:
                lines.append("")
            lines[-1] += letter
    return [line.strip() for line in lines if line.strip()] or [""]


# ---- the page ----------------------------------------------------------------------------------

NOTICE = (
    "Restored detail is invented: it is likely, not recovered. A restored face is no evidence of "
    "what a person looked like and must not be used to identify anyone."
)
FIGURE_KINDS = ("scores", "panels", "training")
LISTED = 40  # rows of a failure list that are written out; the rest is counted


def html_report(
    config: Config,
    protocol: Protocol,
    protocol_name: str,
    scores_csv: str | Path,
    out: str | Path,
    *,
    faces: Mapping[str, str | Path] | None = None,
    quarantine: Mapping[str, str | Path] | None = None,
    cards: Mapping[str, str | Path] | None = None,
    sheets: Mapping[str, str | Path] | None = None,
    figures: Mapping[str, Sequence[tuple[str | Path, str]]] | None = None,
    licences: str | Path | None = None,
    command: str = "",
) -> None:
    """Write one self-contained page: what was run, on what, what came out and what failed.

    faces, quarantine: dataset -> faces.csv and quarantine.csv. cards: model -> weights.json.
    sheets: degradation -> contact sheet (PNG). figures: "scores", "panels" and "training" -> list
    of (PNG, caption). licences: Markdown with the table of assets. command: how to run it again.
    Pictures are embedded; nothing is fetched and no script runs. The same inputs give the same
    bytes. Raises ValueError for an unknown kind of figure.
    """
    figures = dict(figures or {})
    for kind in figures:
        if kind not in FIGURE_KINDS:
            raise ValueError(f"unknown kind of figure {kind!r} {nearest(kind, FIGURE_KINDS)}")
    scores = read_long_table(scores_csv)
    ours = scores[scores["source"] != "published"]
    titles = _titles(ours, {m: _title_of(config, m) for m in config.run.models})
    read = {
        name: json.loads(Path(p).read_text(encoding="utf-8")) for name, p in (cards or {}).items()
    }
    tables = _build_tables(scores, titles)
    rejected = {
        name: pd.read_csv(path, dtype=str, keep_default_na=False)
        for name, path in (quarantine or {}).items()
    }
    pictures = _figures_html(figures.get("panels"))
    sections = [
        ("run", "What was run", _run_html(config, protocol, protocol_name, command)),
        ("results", "Results", _tables_html(tables)),
        ("plots", "Scores with intervals", _figures_html(figures.get("scores"))),
        ("faces", "Faces side by side", pictures and f'<p class="caption">{NOTICE}</p>{pictures}'),
        ("data", "Data", _datasets_html(config, faces or {}, rejected)),
        ("degradations", "Degradations", _degradations_html(config, sheets or {})),
        ("models", "Models", _models_html(config, titles, read)),
        ("training", "Training", _figures_html(figures.get("training"))),
        ("failures", "What failed or was left out", _failures_html(ours, titles, rejected)),
        ("licences", "Licences", _markdown_html(Path(licences)) if licences else ""),
    ]
    sections = [section for section in sections if section[2]]
    links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, title, _ in sections)
    body = "".join(
        f'<section id="{key}"><h2>{title}</h2>{text}</section>' for key, title, text in sections
    )
    facts = _facts_html(config, ours, rejected)
    name = _esc(protocol.title)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # nothing may be fetched even if a name in the data got through as markup
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        f"<title>Face restoration: {name}</title><style>{_CSS}</style></head><body>"
        f'<header><p class="kind">Face restoration report</p><h1>{name}</h1>'
        f'<p class="lead">Every number on this page was measured under protocol '
        f"<code>{_esc(protocol_name)}@{protocol.digest()}</code>, unless it is marked as "
        f"published.</p>{facts}</header>"
        f'<div class="page"><nav aria-label="Contents"><ol>{links}</ol></nav><main>{body}</main>'
        f"</div><footer><p>{NOTICE}</p><p>frcore {_esc(__version__)}</p></footer></body></html>\n"
    )
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(page, encoding="utf-8", newline="\n")


def _title_of(config: Config, model: str) -> str:
    entry = config.models[model]
    return entry.title or METHODS[entry.method].title


def _esc(value) -> str:
    return html.escape(str(value))


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table in its own scrolling box; the cells are HTML already. "" without rows."""
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows)
    if not body:
        return ""
    titles = "".join(f'<th scope="col">{title}</th>' for title in head)
    return (
        f'<div class="scroll {kind}"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cells(row: Sequence[str]) -> str:
    first, *others = row
    return f'<th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others)


def _facts_html(config: Config, ours: pd.DataFrame, rejected: Mapping) -> str:
    counts = [int(n) for n in ours["n"].dropna()]
    missing = int(ours["value"].isna().sum())
    facts = [
        (len(config.run.models), "models"),
        (len(config.run.datasets), "datasets"),
        (len(config.run.degradations), "degradations"),
        (len(set(ours["metric"])), "metrics"),
        (max(counts, default=0), "test faces, at most"),
        (missing, "scores missing"),
        (sum(map(len, rejected.values())), "photographs quarantined"),
    ]
    items = "".join(f"<div><dt>{text}</dt><dd>{number:,}</dd></div>" for number, text in facts)
    return f'<dl class="facts">{items}</dl>'


def _run_html(config: Config, protocol: Protocol, name: str, command: str) -> str:
    metrics = _grid(
        ["Metric", "Name in the tables", "Better", "Measured on", "What it is"],
        [
            (
                _esc(METRICS[metric].title),
                f"<code>{_esc(metric)}</code>",
                {True: "higher&nbsp;↑", False: "lower&nbsp;↓", None: "–"}[
                    METRICS[metric].higher_is_better
                ],
                "each face" if METRICS[metric].kind == "image" else "the whole set",
                _esc(METRICS[metric].what),
            )
            for metric in protocol.metrics
        ],
        "text",
    )
    reference = {"truth": "the undegraded test faces", "train": "the training faces"}
    rows = [
        ("Protocol", f"<code>{_esc(name)}@{protocol.digest()}</code>"),
        ("Seed", f"{config.seed}: all randomness of this run derives from it and from names"),
        ("Face size", f"{protocol.size} px, {protocol.crop} px left out on each side"),
        ("Set distances", f"compare with {reference[protocol.reference]}"),
        (
            "Intervals",
            f"95 %, {protocol.bootstrap:,} bootstrap draws of faces, equal for all models",
        ),
        ("Models", ", ".join(f"<code>{_esc(m)}</code>" for m in config.run.models)),
        ("Datasets", ", ".join(f"<code>{_esc(d)}</code>" for d in config.run.datasets)),
        ("Degradations", ", ".join(f"<code>{_esc(d)}</code>" for d in config.run.degradations)),
    ]
    if command:
        rows.append(("Run again", f"<code>{_esc(command)}</code>"))
    items = "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in rows)
    note = f"<p>{_esc(protocol.note)}</p>" if protocol.note else ""
    return f'{note}<dl class="pairs">{items}</dl>{metrics}'


def _tables_html(built: _Tables) -> str:
    text = ""
    for number, table in enumerate(built.tables, 1):
        titles = "".join(_title_cell(*column) for column in table.columns)
        # many columns: the interval goes under the value, so that the table fits the page
        stacked = " stacked" * (len(table.columns) > 7 and not table.published)
        head = f'<tr><th scope="col">Model</th>{titles}</tr>'
        if table.groups:
            spans = "".join(
                f'<th scope="colgroup" colspan="{width}">{_esc(name)}</th>'
                for name, width in table.groups
            )
            head = f'<tr class="span"><td></td>{spans}</tr>{head}'
        rows = []
        for row in table.rows:
            tag = "&nbsp;†" if row.tag == "†" else f' <i class="tag">{_esc(row.tag)}</i>'
            cells = []
            for cell in row.cells:
                value = {"best": "<b>{}</b>", "second": "<u>{}</u>"}.get(cell.mark, "{}")
                spread = f' <span class="pm">± {cell.spread}</span>' if cell.spread else ""
                cells.append(value.format(_esc(cell.text)) + _html_notes(cell.notes) + spread)
            title = _esc(row.title) + tag * bool(row.tag) + _html_notes(row.notes)
            rows.append(f"<tr>{_cells([title, *cells])}</tr>")
        text += (
            f'<figure class="table"><figcaption><b>Table {number}.</b> {_esc(table.heading)}'
            f'</figcaption><div class="scroll numbers{stacked}"><table><thead>{head}</thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div></figure>"
        )
    notes = "".join(f'<li id="note-{n}">{_esc(t)}</li>' for n, t in enumerate(built.notes, 1))
    notes = f'<ol class="notes">{notes}</ol>' if notes else ""
    if built.absent:
        absent = "".join(f"<li>{_esc(text)}</li>" for text in built.absent)
        notes += (
            '<p class="caption">Without a value in every row, hence without a column:</p>'
            f'<ul class="notes">{absent}</ul>'
        )
    captions = "".join(f'<p class="caption">{_esc(text)}</p>' for text in built.captions if text)
    return f"{captions}{text}{notes}"


def _title_cell(title: str, arrow: str, notes: Sequence[int]) -> str:
    """Header cell whose arrow and footnote stay on the line of the title's last word."""
    start, _, last = title.rpartition(" ")
    end = f"{_esc(last)}&nbsp;{arrow}" if arrow else _esc(last)
    return f'<th scope="col">{_esc(start)} <span class="end">{end}{_html_notes(notes)}</span></th>'


def _html_notes(notes: Sequence[int]) -> str:
    links = ",".join(f'<a href="#note-{note}">{note}</a>' for note in notes)
    return f"<sup>{links}</sup>" if links else ""


def _figures_html(figures: Sequence[tuple[str | Path, str]] | None) -> str:
    return "".join(_figure_html(path, caption) for path, caption in figures or ())


def _figure_html(path: str | Path, caption: str) -> str:
    from PIL import Image

    with Image.open(path) as opened:
        width, height = opened.size
        dpi = round(opened.info.get("dpi", (0, 0))[0])
    data = base64.b64encode(Path(path).read_bytes()).decode()
    # plots carry their resolution and are shown at 100 dpi; small pictures in whole pixels
    enlarged = 1 if dpi else max(1, 640 // width)
    shown = f"width:{round(width * 100 / dpi) if dpi else width * enlarged}px"
    shown += ";image-rendering:pixelated" * (enlarged > 1)
    kind = "plot" if dpi else "pixels"
    return (
        f'<figure class="{kind}"><div class="paper"><img alt="{_esc(caption)}" width="{width}" '
        f'height="{height}" style="{shown}" src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{_esc(caption)}</figcaption></figure>"
    )


def _datasets_html(config: Config, faces: Mapping, rejected: Mapping) -> str:
    rows = []
    for name in config.run.datasets:
        entry = config.datasets[name]
        counts = ["–"] * 5
        if name in faces:
            table = pd.read_csv(faces[name], dtype=str, keep_default_na=False)
            splits = Counter(table["split"])
            people = len(set(table["person"]) - {""})
            counts = [len(table), people or "unknown"]
            counts = [f"{n:,}" if isinstance(n, int) else n for n in counts]
            counts += [f"{splits[split]:,}" for split in ("train", "val", "test")]
        left = f"{len(rejected[name]):,}" if name in rejected else "–"
        what = f"{entry.source}, {entry.size} px" + ", aligned before" * entry.aligned
        rows.append((_esc(name), what, *counts, left, _esc(entry.licence)))
    head = [
        "Dataset",
        "Source",
        "Faces",
        "People",
        "Train",
        "Val",
        "Test",
        "Quarantined",
        "Licence",
    ]
    text = _grid(head, rows, "data")
    reasons = []
    for name, table in rejected.items():
        counts = sorted(Counter(table["reason"]).items(), key=lambda item: (-item[1], item[0]))
        reasons += [(_esc(name), _esc(reason), f"{count:,}") for reason, count in counts]
    if reasons:
        text += "<h3>Why photographs were quarantined</h3>"
        text += _grid(["Dataset", "Reason", "Photographs"], reasons, "text last")
    return text


def _degradations_html(config: Config, sheets: Mapping) -> str:
    text = ""
    for name in config.run.degradations:
        recipe = config.degradations[name]
        steps = "".join(_step_html(step.model_dump(mode="json")) for step in recipe.steps)
        about = ". ".join(
            filter(None, [recipe.description.rstrip("."), f"Faces of {recipe.size} px"])
        )
        if recipe.source:
            about += f". Source: {recipe.source}"
        text += f"<h3><code>{_esc(name)}</code></h3><p>{_esc(about)}</p>"
        text += f'<ol class="steps">{steps}</ol>'
        if name in sheets:
            text += _figure_html(sheets[name], f"Faces degraded by {name}.")
    return text


def _step_html(step: dict) -> str:
    kind, chance = step.pop("kind"), step.pop("p", 1.0)
    title = f"<b>{_esc(kind.replace('_', ' '))}</b>"
    if chance != 1:
        title += f" with probability {chance:g}"
    settings = {key: value for key, value in step.items() if value is not None}
    return f"<li>{title}: {_setting(settings)}</li>" if settings else f"<li>{title}</li>"


def _setting(value) -> str:
    """Nested settings in words: a range of two numbers, `key value` pairs, alternatives."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_esc(key)} {_setting(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        numbers = all(isinstance(item, int | float) for item in value)
        if numbers and len(value) == 2:
            return f"{value[0]:g}" if value[0] == value[1] else f"{value[0]:g} to {value[1]:g}"
        return " <i>or</i> ".join(_setting(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else _esc(value)


def _models_html(config: Config, titles: Mapping[str, str], cards: Mapping) -> str:
    rows, details = [], ""
    for name in config.run.models:
        entry, card = config.models[name], cards.get(name, {})
        row = METHODS[entry.method]
        title = titles.get(name, _title_of(config, name))
        seen = f"{card['images_seen']:,}" if "images_seen" in card else "–"
        if card.get("images_seen_here", 0) != card.get("images_seen", 0):
            seen += f" ({card['images_seen_here']:,} in this run)"
        parameters = f"{card['parameters']:,}" if "parameters" in card else "–"
        start = card.get("init") or (entry.weights and "given weights") or "nothing trained"
        facts = [card.get("commit"), card.get("hardware"), card.get("date")]
        rows.append(
            (
                f"{_esc(title)}<br><code>{_esc(name)}</code>",
                parameters,
                seen,
                _esc(start),
                str(entry.seed),
                _esc(card.get("licence", "–")),
                "<br>".join(_esc(fact) for fact in facts if fact) or "–",
            )
        )
        known = {k: v for k, v in (card or entry.settings).items() if v not in (None, "", [], {})}
        what = " and the weights' card" if card else " and settings" if known else ""
        listed = "".join(f"<dt>{_esc(k)}</dt><dd>{_setting(v)}</dd>" for k, v in known.items())
        details += (
            f"<details><summary>{_esc(title)}: paper{what}</summary>"
            f'<p>{_esc(row.paper)}</p><dl class="pairs">{listed}</dl></details>'
        )
    head = ["Model", "Parameters", "Images seen", "Started from", "Seed", "Licence", "Made"]
    return _grid(head, rows, "text") + details


def _failures_html(ours: pd.DataFrame, titles: Mapping[str, str], rejected: Mapping) -> str:
    places: dict[tuple[str, str], list] = {}
    for row in ours.itertuples(index=False):
        reason = _own_note(row.note)
        if math.isnan(row.value) or NO_VALUE in reason:
            place = (titles[row.model], row.dataset, row.degradation)
            places.setdefault((METRICS[row.metric].title, reason), []).append(place)
    everywhere = len(ours[["model", "dataset", "degradation"]].drop_duplicates())
    found: dict[tuple, list[str]] = {}
    for (metric, reason), where in places.items():
        where = [("all", "all", "all")] if len(where) == everywhere else where
        for place in where:
            found.setdefault((*place, reason), []).append(metric)
    head = ["Model", "Dataset", "Degradation", "Metrics", "Why"]
    rows = [
        [_esc(text) for text in (*key[:3], ", ".join(metrics), key[3])]
        for key, metrics in found.items()
    ]
    text = "<h3>Scores</h3>" + (
        _grid(head, rows[:LISTED], "text") or "<p>Every score has a value over every face.</p>"
    )
    text += _rest(len(rows))
    photos = [
        [_esc(text) for text in (row.photo, name, row.reason)]
        for name, table in rejected.items()
        for row in table.itertuples(index=False)
    ]
    text += "<h3>Quarantined photographs</h3>" + (
        _grid(["Photograph", "Dataset", "Reason"], photos[:LISTED], "text")
        or "<p>No photograph was quarantined.</p>"
    )
    return text + _rest(len(photos))


def _rest(count: int) -> str:
    return f"<p>… and {count - LISTED:,} more in the tables on disk.</p>" if count > LISTED else ""


def _markdown_html(path: Path) -> str:
    """A Markdown file of paragraphs and pipe tables; anything else stays text."""
    text, head, rows = "", None, []
    for line in [*path.read_text(encoding="utf-8").splitlines(), ""]:
        line = line.strip()
        if line.startswith("|"):
            cells = [c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", line)[1:-1]]
            if all(re.fullmatch(r":?-+:?", cell) for cell in cells):
                continue
            shown = [re.sub(r"`([^`]+)`", r"<code>\1</code>", _esc(cell)) for cell in cells]
            head, rows = (shown, rows) if head is None else (head, [*rows, shown])
            continue
        if head is not None:
            text += _grid(head, rows, "text")
            head, rows = None, []
        if line:
            text += f"<p>{_esc(line.lstrip('# '))}</p>"
    return text


_CSS = """
:root{color-scheme:light dark;--ink:#1c2024;--soft:#5d666f;--line:#dfe3e6;--back:#fff;
--tint:#f5f7f8;
--link:#0b5c9e;--paper:#fff}
@media (prefers-color-scheme:dark){:root{--ink:#e4e7ea;--soft:#9aa4ad;--line:#343b42;--back:#15181b;
--tint:#1d2226;--link:#79b8f3;--paper:#f4f5f6}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;scroll-padding-top:1rem}
body{margin:0;background:var(--back);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
header,.page,footer{max-width:1240px;margin:0 auto;padding:0 24px}
header{padding-top:48px}
.kind{margin:0;color:var(--soft);font-size:.8rem;letter-spacing:.08em;text-transform:uppercase}
h1{margin:.15em 0 .3em;font-size:2rem;line-height:1.2;font-weight:650;letter-spacing:-.01em}
.lead{margin:0;color:var(--soft);max-width:46rem}
h2{margin:0 0 .8rem;padding-top:.9rem;border-top:1px solid var(--line);font-size:1.35rem;
font-weight:650}
h3{margin:1.8rem 0 .5rem;font-size:1.05rem;font-weight:650}
section{margin:0 0 3.2rem}
p{margin:.5rem 0;max-width:46rem}
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}
code{font:.88em/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
overflow-wrap:anywhere}
td code,th code{white-space:nowrap}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.2rem,1fr));gap:1px;
margin:28px 1px 36px}
.facts div{display:flex;flex-direction:column-reverse;justify-content:flex-end;padding:12px 14px;
box-shadow:0 0 0 1px var(--line)}
.facts dd{margin:0;font-size:1.5rem;font-weight:600;font-variant-numeric:tabular-nums;
line-height:1.25}
.facts dt{color:var(--soft);font-size:.8rem;line-height:1.3}
.page{display:grid;grid-template-columns:10.5rem minmax(0,1fr);gap:32px;align-items:start}
nav{position:sticky;top:0;padding-top:1rem;font-size:.88rem}
nav ol{list-style:none;margin:0;padding:0}
nav li{margin:0 0 .45rem;line-height:1.3}
nav a{color:var(--soft)}
.pairs{display:grid;grid-template-columns:minmax(7rem,max-content) minmax(0,1fr);gap:.3rem 1.4rem;
margin:.8rem 0 1.4rem}
.pairs dt{color:var(--soft)}.pairs dd{margin:0;overflow-wrap:anywhere}
.scroll{overflow:auto;max-height:86vh;border-top:1.5px solid var(--ink);
border-bottom:1.5px solid var(--ink)}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:.875rem;line-height:1.4;
font-variant-numeric:tabular-nums}
th,td{padding:.42rem .7rem;text-align:left;vertical-align:top}
tbody tr+tr>*{border-top:1px solid var(--line)}
thead th,thead td{position:sticky;top:0;z-index:2;background:var(--back);font-weight:600;
vertical-align:bottom;border-bottom:1px solid var(--ink)}
thead tr.span>*{position:static;border-bottom:0;padding-bottom:.1rem}
thead tr.span th{text-align:center}
thead tr.span th+th{border-left:8px solid var(--back)}
thead tr.span th{box-shadow:inset 0 -1px 0 var(--line)}
tbody th{position:sticky;left:0;z-index:1;background:var(--back);font-weight:400}
thead tr:last-child th:first-child{left:0;z-index:3}
tbody tr:hover>*{background:var(--tint)}
.numbers th+th,.numbers td,.last td:last-child,.last th:last-child{text-align:right;
white-space:nowrap}
.numbers thead tr.span th{text-align:center}
.numbers table{font-size:.85rem}
.numbers th,.numbers td{padding-left:.45rem;padding-right:.45rem}
.numbers tbody th,.end{white-space:nowrap}
.numbers thead th+th{white-space:normal}
.data th,.data td{white-space:nowrap}
.data td:last-child{white-space:normal;min-width:12rem}
.data td:nth-child(n+3):nth-child(-n+8),.data th:nth-child(n+3):nth-child(-n+8){text-align:right}
.text td:last-child{min-width:12rem}
.stacked .pm{display:block}
.stacked th,.stacked td{padding-left:.3rem;padding-right:.3rem}
.stacked thead th{font-size:.8rem}
.pm{color:var(--soft);font-size:.92em}
u{text-decoration-thickness:1.5px;text-underline-offset:3px}
sup{font-size:.7em;line-height:0;margin-left:.1em}
.tag{color:var(--soft);font-style:normal;font-size:.85em}
figure{margin:1.6rem 0 2.2rem}
figcaption,.caption{color:var(--soft);font-size:.88rem;line-height:1.45;max-width:52rem}
figure.table figcaption{margin-bottom:.45rem}
figcaption b{color:var(--ink);font-weight:600}
.paper{overflow:auto;width:fit-content;max-width:100%;background:var(--paper);
border:1px solid var(--line);padding:10px;
margin-bottom:.5rem}
.paper img{display:block;max-width:100%;height:auto}
.notes{margin:.6rem 0;padding-left:1.5rem;color:var(--soft);font-size:.84rem}
.notes li:target{color:var(--ink);background:var(--tint)}
.steps{margin:.4rem 0 1rem;padding-left:1.4rem;font-size:.92rem}
.steps i{color:var(--soft)}
details{border-bottom:1px solid var(--line);padding:.45rem 0}
summary{cursor:pointer}
footer{border-top:1px solid var(--line);padding-top:18px;padding-bottom:40px;color:var(--soft);
font-size:.84rem}
@media (max-width:860px){.page{display:block}nav{position:static;padding:0 0 1.6rem}
nav ol{columns:2;column-gap:24px}header,.page,footer{padding-left:16px;padding-right:16px}
header{padding-top:28px}h1{font-size:1.6rem}.pairs{grid-template-columns:1fr;gap:0}
.pairs dd{margin-bottom:.6rem}.facts{grid-template-columns:repeat(2,1fr)}
th,td{padding:.4rem .5rem}.numbers tbody th{white-space:normal;min-width:7rem}}
@media print{nav{display:none}.page{display:block}.scroll{max-height:none;overflow:visible}
thead th,tbody th{position:static}body{font-size:10.5pt}section{margin-bottom:1.6rem}
.plot .paper img{max-height:10.5cm;width:auto!important}
figure,tr{break-inside:avoid}h2,h3{break-after:avoid}details>*{display:block}}
""".strip()
