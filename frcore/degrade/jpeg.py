"""JPEG in two codecs, and the rounding to 8 bits that goes with it.

"simulated" follows libjpeg step by step in torch: batched, on any device, passes gradients.
"real" is Pillow's libjpeg, one image at a time.

N batch, C channels, H height, W width, S side of the canvas.
"""

import functools
import io
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

Rounding = Literal["hard", "cubic", "straight_through"]
Subsampling = Literal["4:2:0", "4:4:4"]
LUMA = (0.299, 0.587, 0.114)  # BT.601
# Means of whole numbers often end in exactly .5; without a nudge the last bit of the sum would
# decide their rounding, and with it batch size and processor.
NUDGE = 2.0**-10


class _Rounded(torch.autograd.Function):
    """floor(x + 0.5 + NUDGE) forward, identity backward."""

    @staticmethod
    def forward(ctx, values):
        return torch.floor(values + (0.5 + NUDGE))

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def to_bytes(images: torch.Tensor) -> torch.Tensor:
    """[0, 1] -> whole numbers 0..255, still floating point; gradients pass the rounding."""
    return _Rounded.apply(images.clamp(0, 1) * 255)


def _round_coefficients(values: torch.Tensor, rounding: Rounding) -> torch.Tensor:
    # libjpeg rounds halves away from zero; DC coefficients are halves often
    rounded = (values.detach().abs() + (0.5 + NUDGE)).floor_().copysign_(values.detach())
    if rounding == "hard":
        return rounded
    if rounding == "straight_through":
        return rounded + (values - values.detach()) if values.requires_grad else rounded
    return rounded + (values - rounded) ** 3


# ITU-T T.81 annex K
_LUMA_TABLE = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 "
    "14 17 22 29 51 87 80 62 18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 "
    "49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
_CHROMA_TABLE = (
    "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 "
    "47 66 99 99 99 99 99 99" + " 99" * 32
)


@functools.lru_cache(maxsize=128)
def jpeg_tables(quality: int) -> np.ndarray:
    """Quantisation tables (luma, chroma) of libjpeg: int64 2 x 8 x 8, entries 1..255.

    Raises ValueError unless `quality` is a whole number in 1..100.
    """
    if quality != int(quality) or not 1 <= quality <= 100:
        raise ValueError(f"JPEG quality must be a whole number in 1..100, got {quality}")
    percent = 5000 // int(quality) if quality < 50 else 200 - 2 * int(quality)
    base = np.array([_LUMA_TABLE.split(), _CHROMA_TABLE.split()], dtype=np.int64)
    return np.clip((base * percent + 50) // 100, 1, 255).reshape(2, 8, 8)


@functools.lru_cache(maxsize=1)
def _dct_matrix() -> np.ndarray:
    """float64 8 x 8: eight pixels -> DCT, times sqrt(8) as in libjpeg, where DC is the sum."""
    k, n = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    matrix = np.cos((2 * n + 1) * k * np.pi / 16) * math.sqrt(2)
    matrix[0] = 1
    return matrix


def jpeg_on_canvas(
    pixels: torch.Tensor,  # N x 3 x S x S, whole numbers 0..255
    quality: Sequence[float],
    sizes: Sequence[tuple[int, int]],  # height and width of each image on the canvas
    subsampling: Subsampling,
    rounding: Rounding,
) -> torch.Tensor:
    """Decoded pixels on the same canvas; outside each image's size they are meaningless."""
    like: dict = {"device": pixels.device, "dtype": pixels.dtype}
    tables = torch.as_tensor(np.stack([jpeg_tables(q) for q in quality]), **like)
    heights = torch.tensor([size[0] for size in sizes])[:, None]
    widths = torch.tensor([size[1] for size in sizes])[:, None]
    block = 16 if subsampling == "4:2:0" else 8
    out_h, out_w = pixels.shape[2:]
    pad_h = -(-int(heights.max()) // block) * block
    pad_w = -(-int(widths.max()) // block) * block

    rows = torch.arange(pad_h).minimum(heights - 1)
    columns = torch.arange(pad_w).minimum(widths - 1)
    red, green, blue = take(pixels, rows, columns).unbind(1)
    luma = _Rounded.apply(LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)
    chroma = torch.stack(
        [
            -0.168735892 * red - 0.331264108 * green + 0.5 * blue,
            0.5 * red - 0.418687589 * green - 0.081312411 * blue,
        ],
        dim=1,
    )
    # libjpeg adds one less than a half here: exact halves go down
    chroma = _Rounded.apply(chroma + (128 - 2 * NUDGE))

    if subsampling == "4:2:0":
        n = len(quality)
        small_h, small_w = (heights + 1) // 2, (widths + 1) // 2
        quads = chroma.reshape(n, 2, pad_h // 2, 2, pad_w // 2, 2).sum(dim=(3, 5))
        # libjpeg's means of four round 1/4 down in even columns and 1/2 up in odd ones
        bias = torch.tensor([1.0, 2.0], **like).repeat(pad_w // 4)
        chroma = _Rounded.apply((quads + bias) / 4 - (0.5 - 0.01))
        # below the picture libjpeg repeats the last averaged row, not the last pixel row
        below = torch.arange(pad_h // 2).minimum(small_h - 1)
        chroma = take(chroma, below, None)

    luma = _transcode(luma[:, None], tables[:, 0], rounding)[:, 0]
    chroma = _transcode(chroma, tables[:, 1], rounding)
    if subsampling == "4:2:0":
        chroma = _enlarge_chroma(chroma, small_h, small_w)

    blueness, redness = (chroma - 128).unbind(1)
    decoded = torch.stack(
        [
            luma + _Rounded.apply(1.402 * redness),
            luma + _Rounded.apply(-0.344136286 * blueness - 0.714136286 * redness),
            luma + _Rounded.apply(1.772 * blueness),
        ],
        dim=1,
    ).clamp(0, 255)
    grown = (0, max(0, out_w - pad_w), 0, max(0, out_h - pad_h))
    return F.pad(decoded[:, :, :out_h, :out_w], grown)


def take(
    images: torch.Tensor, rows: torch.Tensor | None, columns: torch.Tensor | None
) -> torch.Tensor:
    """Rows and columns of N x C x H x W by index, N x H' and N x W'; None leaves them alone."""
    n, c, _, width = images.shape
    if rows is not None:
        rows = rows.to(images.device).expand(n, -1)
        images = images.gather(2, rows[:, None, :, None].expand(n, c, -1, width))
    if columns is not None:
        columns = columns.to(images.device).expand(n, -1)
        images = images.gather(3, columns[:, None, None].expand(n, c, images.shape[2], -1))
    return images


def _transcode(planes: torch.Tensor, table: torch.Tensor, rounding: Rounding) -> torch.Tensor:
    """Quantise 8 x 8 DCT coefficients: N x C x H x W in 0..255, table N x 8 x 8 -> same shape.

    Rounds where libjpeg's integer DCT (jfdctint, jidctint) does: after the first pass to quarters,
    after the second to eighths of a coefficient. Halves of the table are therefore hit often.
    """
    n, c, height, width = planes.shape
    dct = torch.as_tensor(_dct_matrix(), device=planes.device, dtype=planes.dtype)
    table = table.transpose(1, 2)[:, None]  # coefficients lie transposed below
    blocks = (planes - 128).reshape(n, c, height // 8, 8, width // 8, 8).transpose(3, 4)
    rows = _Rounded.apply(blocks.reshape(n, -1, 8, 8) @ dct.T * 4) / 4
    coefficients = _Rounded.apply(rows.transpose(2, 3) @ dct.T) / 8
    coefficients = _round_coefficients(coefficients / table, rounding) * table
    columns = _Rounded.apply(coefficients @ dct * 4) / 4
    blocks = _Rounded.apply(columns.transpose(2, 3) @ dct / 8 + 128).clamp(0, 255)
    blocks = blocks.reshape(n, c, height // 8, width // 8, 8, 8).transpose(3, 4)
    return blocks.reshape(n, c, height, width)


def _enlarge_chroma(
    chroma: torch.Tensor, small_h: torch.Tensor, small_w: torch.Tensor
) -> torch.Tensor:
    """libjpeg's smooth enlarging by 2: weights 3/4 and 1/4 of the two nearest, each axis."""
    n, c, height, width = chroma.shape
    down = torch.arange(-1, height + 1).clamp(min=0).minimum(small_h - 1)
    along = torch.arange(-1, width + 1).clamp(min=0).minimum(small_w - 1)
    chroma = take(chroma, down, along)
    middle = 3 * chroma[:, :, 1:-1]
    tall = torch.stack([middle + chroma[:, :, :-2], middle + chroma[:, :, 2:]], dim=3)
    tall = tall.reshape(n, c, 2 * height, width + 2)
    middle = 3 * tall[..., 1:-1]
    # (x + 8) >> 4 on the left, (x + 7) >> 4 on the right
    left = (middle + tall[..., :-2] + (8 - 7.99)) / 16
    right = (middle + tall[..., 2:] + (7 - 7.99)) / 16
    smooth = _Rounded.apply(torch.stack([left, right], dim=4).reshape(n, c, 2 * height, 2 * width))
    # libjpeg repeats pixels where there are only two of them in a row
    tiny = (small_w <= 2).to(chroma.device)[:, :, None, None]
    if not bool(tiny.any()):
        return smooth
    plain = chroma[:, :, 1:-1, 1:-1].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return torch.where(tiny, plain, smooth)


def jpeg_real(pixels: np.ndarray, quality: int, subsampling: Subsampling = "4:2:0") -> np.ndarray:
    """uint8 H x W x 3 -> uint8 H x W x 3, through Pillow's libjpeg."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    buffer.seek(0)
    with Image.open(buffer) as decoded:
        return np.asarray(decoded.convert("RGB"))
