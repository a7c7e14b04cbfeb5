"""Figures of a run: scores with intervals, training curves, faces side by side. No torch here."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from frcore.registry import METRICS, nearest
from frcore.report.table import read_long_table, row_titles

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
    paths = [(title, [Path(folder) / f"{i}.png" for i in ids]) for title, folder in columns]
    return _draw_panel(ids, paths, out_png, caption)


def panel_of_strengths(
    ids: Sequence[str],
    degradations: Sequence[str],
    columns: Sequence[tuple[str, str | Path | Mapping[str, str | Path]]],
    out_png: str | Path,
    caption: str = "",
) -> list[tuple[str, str]]:
    """For every face a row a degradation; returns the (row, column title) that are missing.

    columns: (title, {degradation: folder of PNGs}), or one folder for all rows, as the truth has.
    """
    rows = [(i, degradation) for i in ids for degradation in degradations]
    paths = [
        (title, [Path(f[g] if isinstance(f, Mapping) else f) / f"{i}.png" for i, g in rows])
        for title, f in columns
    ]
    return _draw_panel([f"{i} {g}" for i, g in rows], paths, out_png, caption)


def _draw_panel(ids, columns, out_png, caption) -> list[tuple[str, str]]:
    """Rows named `ids`; columns: (title, a picture's path for each row)."""
    from PIL import Image, ImageDraw

    found = {}
    for column, (_, paths) in enumerate(columns):
        for row, path in enumerate(paths):
            if path.is_file():
                with Image.open(path) as opened:
                    found[row, column] = opened.convert("RGB")
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
            image = found.get((row, column))
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
