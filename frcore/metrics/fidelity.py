"""Closeness to the ground truth, pixel by pixel and window by window; one float64 value an image.

Images are measured as they are stored: every function rounds its input to 8 bits first, so that a
tensor and the PNG written from it give the same number. Each image is computed alone, so a value
does not depend on the batch.

All take `stored` besides, both batches in bytes (`to_bytes`), where those have been made already;
the images are then neither read nor checked.

N batch, C channels, H height, W width.
"""

import math
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import torch

from frcore.io.images import check_images
from frcore.metrics import metric

WINDOW = 11  # pixels
SIGMA = 1.5  # pixels
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
TOGETHER = 1 << 16  # pixels of planes that are filtered at a time: what the processor's cache holds
MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, section 3.2

_OFFSETS = np.arange(WINDOW) - WINDOW // 2
_GAUSSIAN = np.exp(-0.5 * (_OFFSETS / SIGMA) ** 2)
_GAUSSIAN /= _GAUSSIAN.sum()
_LUMA = np.array([65.481, 128.553, 24.966]) / 255  # of MATLAB's rgb2ycbcr

Stored = tuple[np.ndarray, np.ndarray]  # restored, truth: uint8 N x 3 x H x W


@metric(
    "psnr_rgb",
    title="PSNR (RGB)",
    higher_is_better=True,
    unit="dB",
    what="8-bit RGB, MSE over all three channels",
)
def psnr_rgb(
    restored: torch.Tensor, truth: torch.Tensor, stored: Stored | None = None
) -> np.ndarray:
    """10 log10(255^2 / MSE) over all pixels and channels -> N values in dB; inf where equal.

    Both are N x 3 x H x W in [0, 1]. Raises ValueError for other or unequal shapes and ranges.
    """

    def measure(x: np.ndarray, y: np.ndarray) -> float:
        return _decibels(cv2.norm(x, y, cv2.NORM_L2SQR) / x.size)  # of bytes: whole numbers

    return _each(restored, truth, stored, measure)


@metric(
    "psnr_y",
    title="PSNR (Y)",
    higher_is_better=True,
    unit="dB",
    what="BT.601 studio-range luma, peak 255",
)
def psnr_y(restored: torch.Tensor, truth: torch.Tensor, stored: Stored | None = None) -> np.ndarray:
    """As `psnr_rgb` on luma (`luma`); the peak stays 255 although luma spans only 16 to 235."""

    def measure(x: np.ndarray, y: np.ndarray) -> float:
        return _decibels(np.square(_luma_plane(x) - _luma_plane(y)).mean())

    return _each(restored, truth, stored, measure)


@metric(
    "ssim_rgb",
    title="SSIM (RGB)",
    higher_is_better=True,
    min_side=11,
    what="Gaussian 11 x 11 window, sigma 1.5, valid region, mean of the three channels",
)
def ssim_rgb(
    restored: torch.Tensor, truth: torch.Tensor, stored: Stored | None = None
) -> np.ndarray:
    """Structural similarity -> N values in [-1, 1]; Wang et al., TIP 2004, eq. 13.

    Gaussian 11 x 11 window with sigma 1.5, only where it lies inside the image; K1 = 0.01,
    K2 = 0.03; each channel alone, then the mean. Raises ValueError as `psnr_rgb`, or for sides
    below 11.
    """
    return _each(restored, truth, stored, _ssim, min_side=WINDOW)


@metric(
    "ssim_y",
    title="SSIM (Y)",
    higher_is_better=True,
    min_side=11,
    what="as ssim_rgb on BT.601 studio-range luma",
)
def ssim_y(restored: torch.Tensor, truth: torch.Tensor, stored: Stored | None = None) -> np.ndarray:
    """As `ssim_rgb` on luma (`luma`)."""

    def measure(x: np.ndarray, y: np.ndarray) -> float:
        return _ssim(_luma_plane(x), _luma_plane(y))

    return _each(restored, truth, stored, measure, min_side=WINDOW)


@metric(
    "ms_ssim_rgb",
    title="MS-SSIM (RGB)",
    higher_is_better=True,
    min_side=176,
    what="Wang et al. 2003: five scales, mean of the three channels",
)
def ms_ssim_rgb(
    restored: torch.Tensor, truth: torch.Tensor, stored: Stored | None = None
) -> np.ndarray:
    """Multi-scale structural similarity -> N values in [0, 1]; Wang et al., Asilomar 2003, eq. 7.

    Five scales, halved by 2 x 2 means; luminance at the last scale only; negative terms count as 0.
    Each channel alone, then the mean. Raises ValueError as `psnr_rgb`, or for sides below 176,
    where the window is larger than the last scale.
    """
    return _multi_scale(restored, truth, stored, MS_WEIGHTS)


@metric(
    "ms_ssim3_rgb",
    title="MS-SSIM, 3 scales (RGB)",
    higher_is_better=True,
    min_side=44,
    what="first three of the five scales, their weights scaled to sum 1; not MS-SSIM",
)
def ms_ssim3_rgb(
    restored: torch.Tensor, truth: torch.Tensor, stored: Stored | None = None
) -> np.ndarray:
    """As `ms_ssim_rgb` with the first three scales, their weights scaled to sum 1; from 44 px up.

    Not MS-SSIM: it is for small images, and compares only with itself.
    """
    weights = np.array(MS_WEIGHTS[:3])
    return _multi_scale(restored, truth, stored, tuple(weights / weights.sum()))


def luma(pixels: np.ndarray) -> np.ndarray:
    """uint8 H x W x 3 RGB -> float64 H x W x 1, BT.601 studio range, 16 (black) to 235 (white).

    Not rounded to integers afterwards, as in BasicSR.
    """
    return _luma_plane(pixels.transpose(2, 0, 1))[0, ..., None]


def _luma_plane(pixels: np.ndarray) -> np.ndarray:
    """uint8 3 x H x W -> float64 1 x H x W, as `luma`."""
    flat = 16 + _LUMA @ pixels.reshape(3, -1).astype(np.float64)
    return flat.reshape(1, *pixels.shape[1:])


def to_bytes(images: torch.Tensor) -> np.ndarray:
    """N x 3 x H x W in [0, 1], which is not checked -> uint8, rounded half to even."""
    values = images.detach().cpu().float().contiguous().numpy()
    if not values.size:
        return values.astype(np.uint8)
    return cv2.convertScaleAbs(values.reshape(-1, values.shape[3]), alpha=255).reshape(values.shape)


def _each(
    restored: torch.Tensor,
    truth: torch.Tensor,
    stored: Stored | None,
    measure: Callable[[np.ndarray, np.ndarray], float],
    min_side: int = 1,
) -> np.ndarray:
    """`measure` of each pair of uint8 3 x H x W, after checks."""
    sides = tuple(restored.shape[2:])
    if stored is None:
        pairs = _pairs(restored, truth)
    else:
        pairs = zip(*stored, strict=True)
    if restored.shape == truth.shape and min(sides, default=min_side) < min_side:
        raise ValueError(f"sides must be at least {min_side} px, got {sides}")
    return np.array([measure(x, y) for x, y in pairs], dtype=np.float64)


def _pairs(restored: torch.Tensor, truth: torch.Tensor) -> Iterator[Stored]:
    """Both in bytes, image by image, after checks."""
    if restored.shape != truth.shape or restored.ndim != 4:
        check_images(restored, "restored")
        check_images(truth, "truth")
        raise ValueError(
            f"restored and truth differ in shape: {tuple(restored.shape)}, {tuple(truth.shape)}"
        )
    step = max(1, TOGETHER // max(1, restored.shape[2] * restored.shape[3]))
    for x, y in zip(restored.split(step), truth.split(step)):
        check_images(x, "restored")
        check_images(y, "truth")
        yield from zip(to_bytes(x), to_bytes(y))


def _decibels(mse: float) -> float:
    return 10 * math.log10(255**2 / mse) if mse else math.inf


def _ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Mean over channels and places; both C x H x W."""
    found = [(luminance * contrast).mean((1, 2)) for luminance, contrast in _ssim_maps(x, y)]
    return float(np.concatenate(found).mean())


def _ssim_maps(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Two C x H x W -> luminance term and contrast-structure term, where the window fits.

    As many channels at a time as the cache holds.
    """
    step = max(1, TOGETHER // (x.shape[1] * x.shape[2]))
    for start in range(0, len(x), step):
        a, b = (part[start : start + step].astype(np.float64) for part in (x, y))
        mean_a, mean_b, squares, product = map(_blur, (a, b, a * a + b * b, a * b))
        means = mean_a * mean_b
        both = mean_a * mean_a + mean_b * mean_b
        luminance = (2 * means + C1) / (both + C1)
        # sums of variances and of covariances
        yield luminance, (2 * (product - means) + C2) / (squares - both + C2)


def _blur(x: np.ndarray) -> np.ndarray:
    """C x H x W -> the same less the border. One plane below the other: filtered as one image."""
    edge = WINDOW // 2
    found = cv2.sepFilter2D(x.reshape(-1, x.shape[2]), cv2.CV_64F, _GAUSSIAN, _GAUSSIAN)
    return found.reshape(x.shape)[:, edge:-edge, edge:-edge]


def _multi_scale(restored, truth, stored: Stored | None, weights: tuple) -> np.ndarray:
    last = len(weights) - 1

    def measure(x: np.ndarray, y: np.ndarray) -> float:
        product = np.ones(3)
        for scale, weight in enumerate(weights):
            if scale:
                x, y = _halve(x), _halve(y)
            terms = [
                (contrast if scale < last else luminance * contrast).mean((1, 2))
                for luminance, contrast in _ssim_maps(x, y)
            ]
            # a negative mean has no real power
            product *= np.maximum(np.concatenate(terms), 0) ** weight
        return float(product.mean())

    return _each(restored, truth, stored, measure, WINDOW * 2**last)


def _halve(x: np.ndarray) -> np.ndarray:
    """C x H x W -> means of 2 x 2 pixels; the last row and column of an odd size count twice."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2)), "edge")
    rows = x[:, ::2] + x[:, 1::2]
    return (rows[..., ::2] + rows[..., 1::2]) / 4
