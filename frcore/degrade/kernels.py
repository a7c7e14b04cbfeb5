"""Kernels of blur, and blur as matrices of one axis."""

import functools
import math

import numpy as np


def gaussian_taps(sigma_px: float, kernel_px: int) -> np.ndarray:
    """float64 K weights that sum to 1; sigma 0 is the identity."""
    offsets = np.arange(kernel_px) - (kernel_px - 1) / 2
    if sigma_px < 1e-3:
        return (offsets == 0).astype(np.float64)
    taps = np.exp(-0.5 * (offsets / sigma_px) ** 2)
    return taps / taps.sum()


def anisotropic_kernel(
    sigma_x_px: float, sigma_y_px: float, angle_rad: float, kernel_px: int
) -> np.ndarray:
    """float64 K x K, sums to 1: exp(-u' S^-1 u / 2), S = R(angle) diag(sigma^2) R(angle)'.

    GFP-GAN's kernel. Sigmas below 0.001 px are taken as 0.001 px.
    """
    grid = np.arange(kernel_px) - (kernel_px - 1) / 2
    y, x = np.meshgrid(grid, grid, indexing="ij")
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    along = (cos * x + sin * y) / max(sigma_x_px, 1e-3)
    across = (cos * y - sin * x) / max(sigma_y_px, 1e-3)
    kernel = np.exp(-0.5 * (along**2 + across**2))
    return kernel / kernel.sum()


def motion_kernel(kernel_px: int, angle_deg: float, direction: float) -> np.ndarray:
    """float64 K x K, sums to 1: an upright line, weights d to 1-d with d = (direction + 1) / 2,

    turned about the centre with bilinear interpolation (PSFR-GAN's training data, after imgaug).
    """
    start = (direction + 1) / 2
    line = np.zeros((kernel_px, kernel_px))
    line[:, kernel_px // 2] = np.linspace(start, 1 - start, kernel_px)
    centre = (kernel_px - 1) / 2
    y, x = np.meshgrid(np.arange(kernel_px) - centre, np.arange(kernel_px) - centre, indexing="ij")
    cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    from_x, from_y = cos * x + sin * y + centre, cos * y - sin * x + centre
    kernel = np.zeros_like(line)
    left, top = np.floor(from_x).astype(int), np.floor(from_y).astype(int)
    for row in (0, 1):
        for column in (0, 1):
            weight = np.abs(1 - row - (from_y - top)) * np.abs(1 - column - (from_x - left))
            r, c = top + row, left + column
            inside = (r >= 0) & (r < kernel_px) & (c >= 0) & (c < kernel_px)
            kernel[inside] += weight[inside] * line[r[inside], c[inside]]
    return kernel / kernel.sum()


def reflect(index: np.ndarray, side: int) -> np.ndarray:
    """Fold indices into 0..side-1 as OpenCV's reflect-101 border does: dcb|abcd|cba."""
    if side == 1:
        return np.zeros_like(index)
    folded = np.abs(index) % (2 * side - 2)
    return np.where(folded >= side, 2 * side - 2 - folded, folded)


@functools.lru_cache(maxsize=256)
def gaussian_matrix(side: int, sigma_px: float, kernel_px: int) -> np.ndarray:
    return blur_matrix(side, gaussian_taps(sigma_px, kernel_px))


@functools.lru_cache(maxsize=64)
def box_matrix(side: int, kernel_px: int) -> np.ndarray:
    return blur_matrix(side, np.full(kernel_px, 1 / kernel_px))


def blur_matrix(side: int, taps: np.ndarray) -> np.ndarray:
    """side x side matrix that filters a line with `taps`, border reflected, anchor at len // 2."""
    matrix = np.zeros((side, side))
    rows = np.arange(side)
    for tap, weight in enumerate(taps):
        np.add.at(matrix, (rows, reflect(rows + tap - len(taps) // 2, side)), weight)
    return matrix
