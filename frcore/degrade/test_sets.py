"""Degraded test sets with their tables, and contact sheets."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from frcore import seeds
from frcore.degrade.cpu import degrade_face
from frcore.degrade.draw import draw
from frcore.degrade.recipes import Recipe
from frcore.io import files
from frcore.io import images as image_files
from frcore.io.tables import table_writer

COLUMNS = ("id", "side_px", "filter", "blur", "noise_std_255", "jpeg_quality", "parameters")


def summary(recipe: Recipe, drawn: dict) -> dict[str, str | int | float]:
    """What a reader wants to know of one draw: side_px, filter, blur, noise_std_255, jpeg_quality.

    A step that did not happen is an empty text.
    """
    row: dict = {"side_px": recipe.size} | dict.fromkeys(COLUMNS[2:-1], "")
    for step, p in zip(recipe.steps, drawn["steps"]):
        if p is not None:
            row |= step.summary(p)
    return row


def degrade_folder(
    faces: Sequence[tuple[str, str | Path]],
    out_dir: str | Path,
    out_csv: str | Path,
    recipe: Recipe,
    seed: int,
    dataset: str,
    preset: str,
    progress: bool = False,
) -> None:
    """Write a test set: `out_dir`/{id}.png per face, and a CSV with the parameters of each.

    `faces`: (id, path of a PNG of the recipe's size). An image depends on (seed, dataset, preset,
    id) and its pixels only, so the bytes are the same in any order and selection. Grey steps that
    would change the truth are left out. `out_dir` and `out_csv` are replaced as wholes, never half
    written.
    Raises ValueError for ids that repeat or are not plain file names, and for faces of another
    size.
    """
    ids = [name for name, _ in faces]
    if len(set(ids)) < len(ids):
        repeated = sorted({name for name in ids if ids.count(name) > 1})
        raise ValueError(f"ids repeat: {repeated[:5]}")
    strange = [name for name in ids if not name or Path(name).name != name]
    if strange:
        raise ValueError(f"ids are not plain file names: {strange[:5]}")
    if progress:
        from tqdm import tqdm

        faces = tqdm(faces, desc=f"{dataset} {preset}", unit="face")
    with (
        files.atomic_output(out_csv) as part_csv,
        files.atomic_output(out_dir, folder=True) as part_dir,
        open(part_csv, "w", newline="") as file,
    ):
        table = table_writer(file, COLUMNS)
        for name, path in faces:
            drawn = draw(recipe, seeds.numpy_generator(seed, dataset, preset, name), True)
            degraded = degrade_file(path, recipe, drawn)
            image_files.write_image(part_dir / f"{name}.png", degraded)
            text = json.dumps(drawn, separators=(",", ":"))
            table.writerow({"id": name, **summary(recipe, drawn), "parameters": text})


def degrade_file(path: str | Path, recipe: Recipe, drawn: dict) -> np.ndarray:
    """One face file -> uint8 H x W x 3."""
    face = image_files.read_image(path)  # its errors name the file
    try:
        return degrade_face(face, recipe, drawn)[0]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def contact_sheet(
    faces: Sequence[tuple[str, str | Path]],
    recipe: Recipe,
    preset: str,
    columns: int = 6,
    seed: int = 0,
    tile_px: int = 128,
) -> np.ndarray:
    """One preset at a glance: uint8 H x W x 3. A row per face: the truth, then `columns` draws.

    Below each tile stands what was drawn: blur, side and filter, noise, JPEG quality. Faces are
    shown at `tile_px` or more, enlarged by a whole factor without smoothing, or shrunk if larger.
    """
    if not faces:
        raise ValueError("a contact sheet needs at least one face")
    enlarge = max(1, round(tile_px / recipe.size))
    tile = min(recipe.size, max(tile_px, 256)) * enlarge
    caption, gap, title = 40, 4, 22
    size = ((columns + 1) * (tile + gap) + gap, len(faces) * (tile + caption + gap) + gap + title)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((gap, gap), f"{preset}: {recipe.description}", fill="black", font_size=12)
    for row, (name, path) in enumerate(faces):
        top = title + row * (tile + caption + gap) + gap
        for column in range(columns + 1):
            left = gap + column * (tile + gap)
            if column == 0:
                pixels, text = image_files.read_image(path), f"truth\n{name[:20]}"
            else:
                rng = seeds.numpy_generator(seed, "contact sheet", preset, name, column)
                drawn = draw(recipe, rng, for_test=True)
                pixels, text = degrade_file(path, recipe, drawn), _caption(recipe, drawn)
            shrink = tile < pixels.shape[0]
            how = Image.Resampling.BOX if shrink else Image.Resampling.NEAREST
            sheet.paste(Image.fromarray(pixels).resize((tile, tile), how), (left, top))
            pen.multiline_text((left, top + tile + 1), text, fill="black", font_size=10, spacing=1)
    return np.asarray(sheet)


def _caption(recipe: Recipe, drawn: dict) -> str:
    row = summary(recipe, drawn)
    noise, quality = row["noise_std_255"], row["jpeg_quality"]
    lines: list = [
        row["blur"] or "no blur",
        f"{row['side_px']} px {row['filter']}",
        ("no noise" if noise == "" else f"noise {noise:.1f}")
        + (", no JPEG" if quality == "" else f", JPEG {quality}"),
    ]
    return "\n".join(lines)
