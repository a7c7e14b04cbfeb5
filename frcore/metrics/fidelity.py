"""Closeness to the ground truth, pixel by pixel and window by window; one float64 value an image.

Images are measured as they are stored: every function rounds its input to 8 bits first, so that a
tensor and the PNG written from it give the same number. Each image is computed alone, so a value
does not depend on the batch.

N batch, H height, W width.
"""

from collections.abc import Callable

import cv2
import numpy as np
import torch

from frcore.io.images import check_images
from frcore.metrics import metric

WINDOW = 11  # pixels
SIGMA = 1.5  # pixels
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, section 3.2

_OFFSETS = np.arange(WINDOW) - WINDOW // 2
_GAUSSIAN = np.exp(-0.5 * (_OFFSETS / SIGMA) ** 2)
_GAUSSIAN /= _GAUSSIAN.sum()


@metric(
    "psnr_rgb",
    title="PSNR (RGB)",
    higher_is_better=True,
    unit="dB",
    what="8-bit RGB, MSE over all three channels",
)
def psnr_rgb(restored: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """10 log10(255^2 / MSE) over all pixels and channels -> N values in dB; inf where equal.

    Both are N x 3 x H x W in [0, 1]. Raises ValueError for other or unequal shapes and ranges.
    """
    x, y = _stored(restored, truth)
    squares = [cv2.norm(a, b, cv2.NORM_L2SQR) for a, b in zip(x, y)]  # of bytes: whole numbers
    return _decibels(np.array(squares) / x[0].size)


@metric(
    "psnr_y",
    title="PSNR (Y)",
    higher_is_better=True,
    unit="dB",
    what="BT.601 studio-range luma, peak 255",
)
def psnr_y(restored: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """As `psnr_rgb` on luma (`luma`); the peak stays 255 although luma spans only 16 to 235."""
    return _each(restored, truth, _psnr, luma, min_side=1)


@metric(
    "ssim_rgb",
    title="SSIM (RGB)",
    higher_is_better=True,
    min_side=11,
    what="Gaussian 11 x 11 window, sigma 1.5, valid region, mean of the three channels",
)
def ssim_rgb(restored: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """Structural similarity -> N values in [-1, 1]; Wang et al., TIP 2004, eq. 13.

    Gaussian 11 x 11 window with sigma 1.5, only where it lies inside the image; K1 = 0.01,
    K2 = 0.03; each channel alone, then the mean. Raises ValueError as `psnr_rgb`, or for sides
    below 11.
    """
    return _each(restored, truth, _ssim, _planes, min_side=WINDOW)


@metric(
    "ssim_y",
    title="SSIM (Y)",
    higher_is_better=True,
    min_side=11,
    what="as ssim_rgb on BT.601 studio-range luma",
)
def ssim_y(restored: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """As `ssim_rgb` on luma (`luma`)."""
    return _each(restored, truth, _ssim, luma, min_side=WINDOW)


@metric(
    "ms_ssim_rgb",
    title="MS-SSIM (RGB)",
    higher_is_better=True,
    min_side=176,
    what="Wang et al. 2003: five scales, mean of the three channels",
)
def ms_ssim_rgb(restored: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """Multi-scale structural similarity -> N values in [0, 1]; Wang et al., Asilomar 2003, eq. 7.

    Five scales, halved by 2 x 2 means; luminance at the last scale only; negative terms count as 0.
    Each channel alone, then the mean. Raises ValueError as `psnr_rgb`, or for sides below 176,
    where the window is larger than the last scale.
    """
    return _multi_scale(restored, truth, MS_WEIGHTS)


@metric(
    "ms_ssim3_rgb",
    title="MS-SSIM, 3 scales (RGB)",
    higher_is_better=True,
    min_side=44,
    what="first three of the five scales, their weights scaled to sum 1; not MS-SSIM",
)
def ms_ssim3_rgb(restored: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """As `ms_ssim_rgb` with the first three scales, their weights scaled to sum 1; from 44 px up.

    Not MS-SSIM: it is for small images, and compares only with itself.
    """
    weights = np.array(MS_WEIGHTS[:3])
    return _multi_scale(restored, truth, tuple(weights / weights.sum()))


def luma(pixels: np.ndarray) -> np.ndarray:
    """uint8 H x W x 3 RGB -> float64 H x W x 1, BT.601 studio range, 16 (black) to 235 (white).

    The weights of MATLAB's rgb2ycbcr; not rounded to integers afterwards, as in BasicSR.
    """
    return 16 + pixels.astype(np.float64) @ np.array([[65.481], [128.553], [24.966]]) / 255


def _planes(pixels: np.ndarray) -> np.ndarray:
    """uint8 H x W x 3 -> float64."""
    return pixels.astype(np.float64)


def _stored(restored: torch.Tensor, truth: torch.Tensor, min_side: int = 1):
    """Both as uint8 N x 3 x H x W, rounded half to even, after checks."""
    check_images(restored, "restored")
    check_images(truth, "truth")
    if restored.shape != truth.shape:
        raise ValueError(
            f"restored and truth differ in shape: {tuple(restored.shape)}, {tuple(truth.shape)}"
        )
    if min(restored.shape[2:]) < min_side:
        raise ValueError(f"sides must be at least {min_side} px, got {tuple(restored.shape[2:])}")
    return _bytes(restored), _bytes(truth)


def _bytes(images: torch.Tensor) -> np.ndarray:
    values = images.detach().cpu().float().contiguous().numpy()
    rows = values.reshape(len(values) * 3, -1) if len(values) else values.reshape(0, 1)
    return cv2.convertScaleAbs(rows, alpha=255).reshape(values.shape)


def _each(
    restored: torch.Tensor,
    truth: torch.Tensor,
    measure: Callable[[np.ndarray, np.ndarray], float],
    colour: Callable[[np.ndarray], np.ndarray],
    min_side: int,
) -> np.ndarray:
    """`measure` of each pair, after checks, rounding to 8 bits and `colour`."""
    pairs = zip(*(part.transpose(0, 2, 3, 1) for part in _stored(restored, truth, min_side)))
    return np.array([measure(colour(x), colour(y)) for x, y in pairs], dtype=np.float64)


def _psnr(x: np.ndarray, y: np.ndarray) -> float:
    return float(_decibels(np.square(x - y).mean()))


def _decibels(mse):
    with np.errstate(divide="ignore"):  # equal images: infinite
        return 10 * np.log10(255**2 / np.asarray(mse))


def _ssim(x: np.ndarray, y: np.ndarray) -> float:
    luminance, contrast = _ssim_maps(x, y)
    return float((luminance * contrast).mean())


def _ssim_maps(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two H x W x C -> luminance term and contrast-structure term, where the window fits."""
    mean_x, mean_y, squares, product = map(_blur, (x, y, x * x + y * y, x * y))
    means, both = mean_x * mean_y, mean_x**2 + mean_y**2
    luminance = (2 * means + C1) / (both + C1)
    # sums of variances and of covariances
    return luminance, (2 * (product - means) + C2) / (squares - both + C2)


def _blur(x: np.ndarray) -> np.ndarray:
    edge = WINDOW // 2
    return cv2.sepFilter2D(x, cv2.CV_64F, _GAUSSIAN, _GAUSSIAN).reshape(x.shape)[
        edge:-edge, edge:-edge
    ]


def _multi_scale(restored: torch.Tensor, truth: torch.Tensor, weights: tuple) -> np.ndarray:
    def measure(x: np.ndarray, y: np.ndarray) -> float:
        product = np.ones(3)
        for scale, weight in enumerate(weights):
            if scale:
                x, y = _halve(x), _halve(y)
            luminance, contrast = _ssim_maps(x, y)
            term = contrast if scale < len(weights) - 1 else luminance * contrast
            # a negative mean has no real power
            product *= np.maximum(term.mean((0, 1)), 0) ** weight
        return float(product.mean())

    return _each(restored, truth, measure, _planes, WINDOW * 2 ** (len(weights) - 1))


def _halve(x: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; the last row and column of an odd size count twice."""
    x = np.pad(x, ((0, x.shape[0] % 2), (0, x.shape[1] % 2), (0, 0)), mode="edge")
    return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4
