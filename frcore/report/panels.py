"""Faces side by side: degraded, restored, true."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

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
            width, height = (max(1, round(length * ratio)) for length in image.size)
            sheet.paste(image.resize((width, height), how), (x, y))
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
