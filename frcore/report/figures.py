"""Scores, losses and degradations as plots."""

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from frcore.registry import METRICS, nearest
from frcore.report.scores import read_long_table
from frcore.report.tables import row_titles

# Okabe and Ito's colours without yellow and black: told apart with every kind of colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = "osD^vP"


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
    titles = row_titles(ours, titles)
    ours = ours[ours["metric"] == metric]
    if ours.empty:
        raise ValueError(f"no measured {metric} {nearest(metric, set(scores['metric']))}")
    if ours["value"].isna().all():
        reasons = "; ".join(dict.fromkeys(note for note in ours["note"]))
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


def plot_degradation(sets: Mapping[str, Mapping], out_png: str | Path) -> None:
    """Power spectra, and histograms of luma and colour, of several sets of faces: a line a set.

    sets: {name: frequency, power, luma, colour} of learned.statistics.
    """
    figure = _figure(9.6, 3.0)
    axes = figure.subplots(1, 3)
    for index, (name, values) in enumerate(sets.items()):
        style = {"color": COLOURS[index % 6], "lw": 1.6, "label": name}
        axes[0].plot(values["frequency"], values["power"], **style)
        for axis, key in zip(axes[1:], ("luma", "colour")):
            bins = len(values[key])
            axis.plot([(i + 0.5) / bins for i in range(bins)], values[key], **style)
    axes[0].set(xscale="log", yscale="log", xlabel="cycles per image", title="Power of luma")
    axes[1].set(xlabel="luma", title="Share of pixels")
    axes[2].set(xlabel="largest channel less smallest", title="Share of pixels")
    for axis in axes:
        axis.title.set_size(9)
        axis.grid(color="0.9", lw=0.8)
        axis.tick_params(length=0)
    axes[2].legend(fontsize=8, frameon=False)
    _save(figure, out_png, None)
