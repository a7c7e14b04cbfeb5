"""Resampling as matrices of one axis, with the filters and conventions of the papers' tools."""

import functools

import numpy as np
import torch

from frcore.degrade.kernels import reflect
from frcore.degrade.steps import (
    RESIZE_FILTERS,
    check_pulse_factor,
)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.clip(1 - np.abs(x), 0, None)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@functools.lru_cache(maxsize=256)
def resample_matrix(source: int, target: int, filter: str, antialias: bool = False) -> np.ndarray:
    """float64 `target` x `source` matrix that resamples a line; its rows sum to 1.

    nearest, area, and bilinear or bicubic without `antialias` follow OpenCV (bicubic a = -0.75,
    border repeated); with `antialias` Pillow (a = -0.5, kernel widened by the factor, cut at the
    border). area averages the exact overlap, also when enlarging. pulse_bicubic: PULSE's operator.
    Raises ValueError for an unknown filter or impossible sides.
    """
    if source < 1 or target < 1:
        raise ValueError(f"sides must be positive, got {source} -> {target}")
    scale = source / target
    rows = np.arange(target)
    columns = np.arange(source)
    centres = (rows + 0.5) * scale - 0.5
    matrix = np.zeros((target, source))
    if filter == "nearest":
        matrix[rows, np.minimum(rows * source // target, source - 1)] = 1
    elif filter == "area":
        low, high = (rows * scale)[:, None], ((rows + 1) * scale)[:, None]
        matrix = np.clip(np.minimum(high, columns + 1) - np.maximum(low, columns), 0, None)
    elif filter == "pulse_bicubic":
        if source % target:
            raise ValueError(f"pulse_bicubic needs a whole factor, got {source} -> {target}")
        factor = source // target
        check_pulse_factor(source, factor)
        taps = np.arange(4 * factor)
        weights = _cubic((taps - 2 * factor + 0.5) / factor, -0.5)
        for tap, weight in zip(taps, weights / weights.sum()):
            reached = reflect(rows * factor + tap - 3 * factor // 2, source)
            np.add.at(matrix, (rows, reached), weight)
    elif filter in ("bilinear", "bicubic") and antialias:
        distance = (columns - centres[:, None]) / max(scale, 1.0)
        matrix = _triangle(distance) if filter == "bilinear" else _cubic(distance, -0.5)
    elif filter in ("bilinear", "bicubic"):
        base = np.floor(centres).astype(int)
        for reach in range(-1, 3):
            distance = base + reach - centres
            weight = _triangle(distance) if filter == "bilinear" else _cubic(distance, -0.75)
            np.add.at(matrix, (rows, np.clip(base + reach, 0, source - 1)), weight)
    else:
        raise ValueError(f"unknown filter {filter!r}; known: {', '.join(RESIZE_FILTERS)}")
    return matrix / matrix.sum(axis=1, keepdims=True)


def resize(
    images: torch.Tensor, size: int | tuple[int, int], filter: str, antialias: bool = False
) -> torch.Tensor:
    """N x C x H x W -> N x C x `size` (side, or height and width); see `resample_matrix`.

    Differentiable; not clipped, so bicubic may leave [0, 1].
    """
    height, width = (size, size) if isinstance(size, int) else size
    if images.ndim != 4:
        raise ValueError(f"images: expected N x C x H x W, got {tuple(images.shape)}")
    like: dict = {"device": images.device, "dtype": images.dtype}
    rows = torch.as_tensor(resample_matrix(images.shape[2], height, filter, antialias), **like)
    columns = torch.as_tensor(resample_matrix(images.shape[3], width, filter, antialias), **like)
    return rows @ (images @ columns.T)
