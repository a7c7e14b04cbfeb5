"""Aligned, restored faces back into their photograph, at the photograph's size or enlarged.

A mask's edge must not show: the face is blended over a soft margin well inside the crop, and what
lies outside the mask keeps its bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from frcore.faces.align import apply_transform, invert_transform

RIM = 2  # photograph pixels at the crop's edge that are never used: resampling mixes them
MARGIN = 1 / 20  # of the crop's side; the blend is twice as wide and begins one margin inside


@dataclass(frozen=True)
class Patch:
    """A restored face and its place.

    pixels: uint8 S x S x 3. transform: 2 x 3, photograph -> aligned face of S px (faces.csv).
    region: float or bool S x S, 1 where the face may be used (None: everywhere), for example the
    parsing map without background.
    """

    pixels: np.ndarray
    transform: np.ndarray
    region: np.ndarray | None = None

    def __post_init__(self):
        size = self.pixels.shape[0]
        if self.pixels.dtype != np.uint8 or self.pixels.shape != (size, size, 3):
            raise ValueError(f"face: expected uint8 SxSx3, got {self.pixels.dtype} "
                             f"{self.pixels.shape}")  # fmt: skip
        if np.shape(self.transform) != (2, 3):
            raise ValueError(f"transform: expected 2x3, got {np.shape(self.transform)}")
        if self.region is not None and self.region.shape != (size, size):
            raise ValueError(f"region: expected {size}x{size}, got {self.region.shape}")


def enlarge_photo(image: Image.Image, scale: int) -> np.ndarray:
    """RGB photograph H x W -> uint8 sH x sW x 3 (bicubic): the background to paste into.

    Pixel p of the photograph lies at scale * p + (scale - 1) / 2.
    """
    if scale == 1:
        return np.asarray(image)
    size = (image.width * scale, image.height * scale)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def paste_faces(background: np.ndarray, patches: Sequence[Patch], scale: int = 1) -> np.ndarray:
    """Blend restored faces into a photograph.

    background: uint8 sH x sW x 3, the photograph enlarged `scale` times (see enlarge_photo).
    Faces are painted from the largest to the smallest, whatever their order. Returns a new array;
    outside of them it equals `background` exactly. Raises ValueError for other types or shapes.
    """
    if background.dtype != np.uint8 or background.ndim != 3 or background.shape[2] != 3:
        raise ValueError(
            f"background: expected uint8 HxWx3, got {background.dtype} {background.shape}"
        )
    pasted = background.copy()
    for patch in _largest_first(patches):
        placed = _place(patch, scale, background.shape[:2])
        if placed is None:
            continue
        window, face, weight = placed
        below = pasted[window].astype(np.float32)
        blended = below + (face - below) * weight[..., None]
        pasted[window] = np.round(np.clip(blended, 0, 255))
    return pasted


def _largest_first(patches):
    def side(patch):  # of the crop in the photograph
        return patch.pixels.shape[0] / np.hypot(*patch.transform[:, 0])

    return sorted(patches, key=side, reverse=True)


def _place(patch, scale, shape):
    """Face and weights resampled to the part of the photograph that they cover.

    Returns (window of rows and columns, float32 h x w x 3, float32 h x w), or None when the face
    lies outside the photograph.
    """
    size = patch.pixels.shape[0]
    to_aligned = np.asarray(patch.transform, dtype=np.float64)
    # enlarged pixel p' is photograph pixel (p' - (s - 1) / 2) / s: with p' = s p the face would
    # move by (s - 1) / 2
    linear = to_aligned[:, :2] / scale
    to_aligned = np.column_stack([linear, to_aligned[:, 2] - linear @ np.full(2, (scale - 1) / 2)])
    side = size / np.hypot(*linear[:, 0])  # of the crop in enlarged pixels

    edge = size - 0.5
    corners = np.array([[-0.5, -0.5], [edge, -0.5], [edge, edge], [-0.5, edge]])
    corners = apply_transform(invert_transform(to_aligned), corners)
    x0, y0 = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, shape[::-1])
    if x1 <= x0 or y1 <= y0:
        return None

    face = _resample(patch.pixels, to_aligned, (x0, y0, x1, y1), side)

    rows, columns = np.mgrid[y0:y1, x0:x1]
    x, y = np.moveaxis(apply_transform(to_aligned, np.stack([columns, rows], axis=-1)), -1, 0)
    # distance of each pixel from the crop's nearest edge, in enlarged pixels
    depth = np.minimum.reduce([x + 0.5, edge - x, y + 0.5, edge - y]) * (side / size)
    margin = side * MARGIN
    weight = _smooth((depth - RIM * scale - margin) / (2 * margin)).astype(np.float32)
    if patch.region is not None:
        soft = Image.fromarray(np.uint8(np.clip(patch.region, 0, 1) * 255.0))
        soft = soft.filter(ImageFilter.GaussianBlur(size * MARGIN / 2))
        region = _resample(np.asarray(soft), to_aligned, (x0, y0, x1, y1), side)
        weight *= np.clip(region / 255, 0, 1)
    return (slice(y0, y1), slice(x0, x1)), face, weight


def _resample(pixels, to_aligned, box, side):
    """Aligned image at the enlarged pixels of `box`: float32 h x w (x 3).

    An aligned face that is finer than the photograph would alias: it is brought to twice the
    photograph's fineness at most, and 2 x 2 samples make a pixel (one filter step more would blur).
    """
    size = pixels.shape[0]
    image = Image.fromarray(pixels)
    reduced = max(1, int(np.ceil(2 * side)))
    if reduced < size:
        image = image.resize((reduced, reduced), Image.Resampling.LANCZOS)
        to_aligned = to_aligned * (reduced / size)
        # scaled about the pixels' edges: (p + 0.5) * f - 0.5
        to_aligned[:, 2] += (reduced / size - 1) / 2
    finer = 2 if image.width > 1.01 * side else 1
    border = 4  # repeated edge, or bicubic would mix in black
    pads = ((border, border), (border, border), (0, 0))[: pixels.ndim]
    image = Image.fromarray(np.pad(np.asarray(image), pads, mode="edge"))
    x0, y0, x1, y1 = box
    linear = to_aligned[:, :2]
    # Pillow counts from the pixels' edges: its position e is enlarged pixel e / finer - 0.5 + x0
    shift = linear @ np.array([x0 - 0.5, y0 - 0.5]) + to_aligned[:, 2] + 0.5 + border
    linear = linear / finer
    coefficients = (*linear[0], shift[0], *linear[1], shift[1])
    target = ((x1 - x0) * finer, (y1 - y0) * finer)
    image = image.transform(target, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    return np.asarray(image.reduce(finer) if finer > 1 else image, dtype=np.float32)


def _smooth(x):
    """0 below 0, 1 above 1, without a kink at either."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
