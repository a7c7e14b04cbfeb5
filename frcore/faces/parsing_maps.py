"""Parsing maps of aligned faces: drawn from 68 landmarks (10 classes) or put together from
CelebAMask-HQ's files (19 classes).

A map is a uint8 array H x W of channel numbers. "Left" is the image's left, not the person's.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

# channel = position; later ones are painted over earlier ones
LABELS_10 = (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "nose", "u_lip", "l_lip", "mouth",
)  # fmt: skip
# CelebAMask-HQ's order as PSFR-GAN uses it; other orders exist in the same data set's scripts
LABELS_19 = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip
BROW_WIDTH = 0.10  # of the eye distance
FINE = 5  # drawn this much finer; odd, so that a pixel's centre is one of the fine pixels


def parse_landmarks(landmarks: np.ndarray, size: int) -> np.ndarray:
    """68 landmarks in an aligned face's pixels -> 10-class map, uint8 size x size.

    Painted in this order: skin (jaw and half an ellipse over the forehead, as high as brow to nose
    base: a rule of thirds, not a measurement), brows, eyes, nose, upper lip, lower lip, inner
    mouth. Hair, ears and neck are not in the points and belong to the background.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (68, 2) or not np.isfinite(points).all():
        raise ValueError(f"expected 68 x 2 finite landmarks, got shape {points.shape}")
    canvas = Image.new("L", (size * FINE, size * FINE))
    draw = ImageDraw.Draw(canvas)

    def fine(shape):
        return [tuple(p) for p in (shape + 0.5) * FINE - 0.5]

    def polygon(shape, label):
        draw.polygon(fine(shape), fill=LABELS_10.index(label))

    polygon(_skin(points), "skin")
    eye_distance = np.hypot(*(points[42:48].mean(axis=0) - points[36:42].mean(axis=0)))
    width = max(1, round(BROW_WIDTH * eye_distance * FINE))
    for label, brow in (("l_brow", points[17:22]), ("r_brow", points[22:27])):
        line = fine(brow)
        draw.line(line, fill=LABELS_10.index(label), width=width, joint="curve")
        for x, y in (line[0], line[-1]):  # round ends
            r = width / 2
            draw.ellipse((x - r, y - r, x + r, y + r), fill=LABELS_10.index(label))
    polygon(points[36:42], "l_eye")
    polygon(points[42:48], "r_eye")
    polygon(_nose(points), "nose")
    polygon(points[[48, 49, 50, 51, 52, 53, 54, 64, 63, 62, 61, 60]], "u_lip")
    polygon(points[[54, 55, 56, 57, 58, 59, 48, 60, 67, 66, 65, 64]], "l_lip")
    polygon(points[60:68], "mouth")
    return np.asarray(canvas)[FINE // 2 :: FINE, FINE // 2 :: FINE].copy()


def _skin(points):
    """Jaw line closed by half an ellipse from jaw end to jaw end over the forehead."""
    left, right = points[0], points[16]
    brow, base = points[17:27].mean(axis=0), points[33]
    up = brow - base  # brow to nose base, repeated above the brows
    centre, across = (left + right) / 2, (right - left) / 2
    # the top of the ellipse is one such length above the brows
    rise = (brow + up) - centre
    angles = np.linspace(0, np.pi, 33)[1:-1, None]
    return np.vstack([points[:17], centre + across * np.cos(angles) + rise * np.sin(angles)])


def _nose(points):
    """From between the eyes down around both wings, which reach beyond the outer points 31, 35."""
    bridge = 0.2 * (points[42] - points[39]) / 2
    half, tip = (points[35] - points[31]) / 2, points[30]
    height = points[33] - tip
    left = [points[31] - 0.3 * half - 0.5 * height, points[31] - 0.4 * half - 0.1 * height]
    right = [points[35] + 0.4 * half - 0.1 * height, points[35] + 0.3 * half - 0.5 * height]
    return np.vstack([points[27] - bridge, *left, points[31:36], *right, points[27] + bridge])


def compose_celebamask(folder: str | Path, index: int, size: int = 512) -> np.ndarray:
    """CelebAMask-HQ's part files of photograph `index` -> 19-class map, uint8 size x size.

    Files {index:05d}_{part}.png are looked for in `folder` and in its sub-folder {index // 2000},
    as the data set is shipped. Later labels overwrite earlier ones. A part that a face does not
    have has no file; FileNotFoundError when there is none at all.
    """
    folder = Path(folder)
    labels = np.zeros((size, size), np.uint8)
    found = False
    for channel, part in enumerate(LABELS_19[1:], start=1):
        name = f"{index:05d}_{part}.png"
        paths = [folder / name, folder / str(index // 2000) / name]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            continue
        found = True
        with Image.open(path) as image:
            mask = image.convert("L").resize((size, size), Image.Resampling.NEAREST)
        labels[np.asarray(mask) > 127] = channel
    if not found:
        raise FileNotFoundError(f"no part files {index:05d}_*.png in {folder}")
    return labels


def mirror_table(classes: int) -> np.ndarray:
    """uint8 table: table[map[:, ::-1]] is the map of the mirrored face (left and right swapped).

    Raises ValueError for a number of classes other than 10 or 19.
    """
    if classes not in (10, 19):
        raise ValueError(f"parsing maps have 10 or 19 classes, got {classes}")
    names = LABELS_10 if classes == 10 else LABELS_19
    swapped = []
    for name in names:
        # l_lip and u_lip are lower and upper, neck_l is a necklace, ear_r an earring
        other = {"l_": "r_", "r_": "l_"}.get(name[:2], name[:2]) + name[2:]
        swapped.append(names.index(other if other in names else name))
    return np.array(swapped, dtype=np.uint8)
