"""The long table of scores, and tables for print drawn from it. No torch here.

scores.csv holds one number a row (`COLUMNS`); everything else in this package is drawn from it.
`note` is about the number, `model_note` about the model.
"""

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from frcore.config import ROOT, Protocol
from frcore.metrics.intervals import NOT_THERE, mean_of_images, resample_counts
from frcore.registry import METHODS, METRICS, nearest

COLUMNS = [
    "model", "method", "dataset", "degradation", "protocol", "metric", "value", "n", "ci_low",
    "ci_high", "seed", "source", "note", "model_note",
]  # fmt: skip
SOURCES = ("measured", "official_weights", "published")
PUBLISHED = ROOT / "protocols" / "published.csv"
AS_PRINTED = "as printed"
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
    for (dataset, degradation), paths in groups.items():
        measured = _group_scores(paths, protocol, seed, dataset, degradation)
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
            row["n"] = "" if _missing(row["n"]) else int(row["n"])
            if _missing(row["value"]):
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
class Tables:
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
    built = build_tables(read_long_table(scores_csv), titles)
    writers = ((out_csv, _table_csv), (out_md, _table_markdown), (out_tex, _table_latex))
    for path, write in writers:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(write(built), encoding="utf-8", newline="\n")


def build_tables(scores: pd.DataFrame, titles: Mapping[str, str] | None) -> Tables:
    built = Tables()
    ours = scores[scores["source"] != "published"]
    titles = row_titles(ours, titles)
    metrics = list(dict.fromkeys(ours["metric"]))
    digits = {name: _digits(ours.loc[ours["metric"] == name, "value"]) for name in metrics}
    for metric in metrics:
        part = ours[ours["metric"] == metric]
        if part["value"].isna().all():
            reasons = dict.fromkeys(note or "no reason given" for note in part["note"])
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


def row_titles(ours: pd.DataFrame, titles: Mapping[str, str] | None) -> dict[str, str]:
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
    """Decimals of a column; a share keeps three where one model reaches 1."""
    largest = values[np.isfinite(values)].abs().max()
    if not largest > 0:  # none, or all zero
        return 2
    return next((d for limit, d in ((1000, 0), (100, 1), (1, 2), (0.01, 3)) if largest > limit), 5)


def _measured_table(built, heading, group, titles, metrics, digits) -> _Table:
    columns, cells = [], {}
    for metric in metrics:
        part = group[group["metric"] == metric].set_index("model")
        own = part["note"]
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
    about = dict(zip(group["model"], group["model_note"]))
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


def split_columns(table: _Table, most: int) -> list[slice]:
    """Few parts of like width, at most `most` columns each; published tables stay as they are."""
    n = max(1, len(table.columns))
    width = n if table.published else math.ceil(n / math.ceil(n / most))
    return [slice(start, start + width) for start in range(0, n, width)]


def _table_csv(built: Tables) -> str:
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


def _table_markdown(built: Tables) -> str:
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


def _table_latex(built: Tables) -> str:
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
        for part in split_columns(table, TEX_COLUMNS):
            lines += ["", "\\medskip"] * (part.start > 0)
            lines += _tabular(table, part)
        if used:
            texts = [f"$^{{{number}}}$ {_tex(built.notes[number - 1])}" for number in used]
            # the blank line ends the tabular's paragraph, \par keeps the small line spacing
            lines += ["", f"\\smallskip\\parbox{{\\linewidth}}{{\\scriptsize {'; '.join(texts)}.}}"]
        if built.absent and not table.published:
            absent = f"Without a value in every row: {'. '.join(built.absent)}."
            lines += ["", f"\\smallskip\\parbox{{\\linewidth}}{{\\scriptsize {_tex(absent)}}}"]
        lines += ["\\end{table*}", ""]
    return "\n".join(lines)


def _tabular(table: _Table, part: slice) -> list[str]:
    """Lines of the tabular with some columns; groups are only in tables of one part."""
    columns = table.columns[part]
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
        cut = title.replace(" (", "\n(") if "(" in title else title.replace(", ", ",\n")
        words = [_tex(part) for part in cut.split("\n")]
        words[-1] += f" {_tex(arrow)}" * bool(arrow) + _tex_sup(notes)
        stacked = "\\shortstack[r]{" + " \\\\ ".join(words) + "}"
        titles.append(stacked if len(words) > 1 else words[0])
    lines += [f"model & {' & '.join(titles)} \\\\", "\\midrule"]
    for row in table.rows:
        tag = _tex(row.tag) if row.tag == "†" else f" ({_tex(row.tag)})" * bool(row.tag)
        shown = []
        for cell in row.cells[part]:
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
