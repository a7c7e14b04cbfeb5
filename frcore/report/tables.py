"""The long table -> tables for print: what stands in which cell."""

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd

from frcore.registry import METHODS, METRICS
from frcore.report.cells import Cell, Row, Table, Tables
from frcore.report.scores import SOURCES

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


def build_tables(scores: pd.DataFrame, titles: Mapping[str, str] | None) -> Tables:
    built = Tables()
    ours = scores[scores["source"] != "published"]
    titles = row_titles(ours, titles)
    metrics = list(dict.fromkeys(ours["metric"]))
    digits = {name: decimals_of(ours.loc[ours["metric"] == name, "value"]) for name in metrics}
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
    built.captions = [caption(ours), "" if published.empty else PUBLISHED_CAPTION]
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


def decimals_of(values: pd.Series) -> int:
    """Decimals of a column; a share keeps three where one model reaches 1."""
    largest = values[np.isfinite(values)].abs().max()
    if not largest > 0:  # none, or all zero
        return 2
    return next((d for limit, d in ((1000, 0), (100, 1), (1, 2), (0.01, 3)) if largest > limit), 5)


def _measured_table(built, heading, group, titles, metrics, digits) -> Table:
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
                cell = Cell("–", notes=built.note("" if reason == shared else reason))
            else:
                cell = Cell(shown(row["value"], digits[metric]))
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
        mark_best([cells[m, metric] for m in rankable], METRICS[metric].higher_is_better)
        columns.append(
            (METRICS[metric].title, arrow_of(METRICS[metric].higher_is_better), built.note(shared))
        )
    tags = dict(zip(group["model"], group["source"]))
    about = dict(zip(group["model"], group["model_note"]))
    rows = [
        Row(
            title,
            "official weights" if tags[model] == "official_weights" else "",
            [cells.get((model, metric)) or Cell("–", notes=built.note("not measured"))
             for metric in metrics],
            built.note(about[model]),
        )
        for model, title in titles.items()
        if model in tags
    ]  # fmt: skip
    counts = sorted({int(n) for n in group["n"].dropna() if n > 0})
    if counts:
        heading += f" (n = {counts[-1]})"
    return Table(heading, [], columns, rows, published=False)


def _published_table(built, name, group) -> Table:
    sets = list(dict.fromkeys(zip(group["dataset"], group["degradation"])))
    found = dict.fromkeys(zip(group["dataset"], group["degradation"], group["metric"]))
    places = sorted(found, key=lambda place: sets.index(place[:2]))
    remarks = group["note"].str.partition(": ")[2].str.split("; ")
    groups: list[tuple[str, int]] = []
    columns, cells = [], {}
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
            cell = Cell(group["text"][index] or "–", notes=built.note(*own))
            cells[group["model"][index], place] = cell
        arrow = arrow_of(PRINTED_HIGHER_IS_BETTER.get(metric))
        columns.append((metric.replace("_", " "), arrow, built.note(*dict.fromkeys(ordered))))
    rows = [
        Row(
            model,
            "†",
            [cells.get((model, place)) or Cell("–", notes=built.note("not in the table"))
             for place in places],
        )
        for model in dict.fromkeys(group["model"])
    ]  # fmt: skip
    return Table(f"{name}, as printed", groups, columns, rows, published=True)


def mark_best(cells: list[Cell], higher_is_better: bool | None) -> None:
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


def shown(value: float, digits: int) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def arrow_of(higher_is_better: bool | None) -> str:
    return {True: "↑", False: "↓", None: ""}[higher_is_better]


def caption(ours: pd.DataFrame) -> str:
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
