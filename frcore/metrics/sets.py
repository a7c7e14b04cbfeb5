"""Distances between two sets of images, from their features; and confidence intervals.

Three steps, each a function: features (frcore.frozen.features), statistics, distance. All in
float64. Nothing here needs a matrix square root: the trace in the Frechet distance is a sum of
singular values, which neither fails nor turns complex when there are fewer images than features.

N images, D length of a feature vector.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from frcore.metrics import set_metric
from frcore.seeds import numpy_generator

LEVEL = 0.95  # of the confidence intervals
FEW_IMAGES = 2048  # below, a Frechet distance is far too high: pytorch-fid's own advice


@dataclass(frozen=True)
class Restored:
    """What a set metric gets of the restored images: features, an entry an image."""

    ids: tuple[str, ...]
    features: np.ndarray  # N x ...
    memo: dict = field(default_factory=dict, compare=False)  # for what several metrics share

    def take(self, rows: np.ndarray) -> "Restored":
        """The images of these row numbers, with repetition."""
        return Restored(tuple(self.ids[row] for row in rows), self.features[rows])


@dataclass(frozen=True)
class Truth:
    """What a set metric gets of the true images, or of the good faces that stand in for them."""

    ids: tuple[str, ...] = ()
    features: np.ndarray | None = None  # N x ...; None where there are statistics alone
    statistics: tuple[np.ndarray, np.ndarray] | None = None  # mean D, covariance D x D
    model: tuple[np.ndarray, ...] | None = None  # of training faces
    people: tuple[str, ...] = ()  # of each id; empty where nobody is known
    name: str = "truth"  # for notes
    net: str = ""  # what made the features
    memo: dict = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class SetScore:
    """A set metric's answer. n: images that it counts; low, high: 95 % interval."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None
    note: str = ""


class NoValue(Exception):
    """A metric has no value here; the text says why."""


def statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """N x D -> mean D and unbiased covariance D x D.

    Raises ValueError unless N >= 2 and all values are finite.
    """
    features = _checked(features, "features")
    return features.mean(0), np.atleast_2d(np.cov(features, rowvar=False))


def frechet_distance(features_1: np.ndarray, features_2: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to N1 x D and N2 x D; >= 0, 0 for equal sets.

    Heusel et al., NeurIPS 2017, eq. 6: |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)). With S = X^T X
    for centred and scaled X, the eigenvalues of S1 S2 are the squared singular values of X1 X2^T,
    so the last trace is their sum: exact for any N, also below D.
    Raises ValueError for fewer than two vectors, values that are not finite, or unequal D.
    """
    mean_1, factor_1 = factor(features_1)
    mean_2, factor_2 = factor(features_2)
    return frechet_from_factors(mean_1, factor_1, mean_2, factor_2)


def frechet_from_statistics(
    mean_1: np.ndarray, cov_1: np.ndarray, mean_2: np.ndarray, cov_2: np.ndarray
) -> float:
    """As `frechet_distance`, from means D and covariances D x D (a published statistics file).

    Raises ValueError for other shapes, or a covariance that is not symmetric.
    """
    return frechet_from_factors(
        *factor_from_statistics(mean_1, cov_1), *factor_from_statistics(mean_2, cov_2)
    )


def frechet_from_factors(
    mean_1: np.ndarray, factor_1: np.ndarray, mean_2: np.ndarray, factor_2: np.ndarray
) -> float:
    """As `frechet_distance`, from what `factor` or `factor_from_statistics` gave for each set."""
    if mean_1.shape != mean_2.shape:
        raise ValueError(f"features differ in length: {len(mean_1)} and {len(mean_2)}")
    spread = np.square(factor_1).sum() + np.square(factor_2).sum()
    shared = np.linalg.svd(factor_1 @ factor_2.T, compute_uv=False).sum()
    return float(max(np.square(mean_1 - mean_2).sum() + spread - 2 * shared, 0.0))


@set_metric(
    "fid_inception",
    features="inception",
    title="FID",
    higher_is_better=False,
    what="Frechet distance of pytorch-fid's Inception-v3 pool features (2048)",
)
@set_metric(
    "fid_mobilenetv2",
    features="mobilenet_v2",
    title="Fréchet distance, MobileNetV2",
    higher_is_better=False,
    what="Frechet distance of ImageNet MobileNetV2 pooled features (1280); not FID",
)
def frechet_of_set(restored: Restored, truth: Truth, seed: int, n_draws: int) -> SetScore:
    """Frechet distance of a measured set to its truth, or to published statistics."""
    if truth.features is not None:
        reference = factor(truth.features)
    elif truth.statistics is not None:
        reference = factor_from_statistics(*truth.statistics)
    else:
        raise NoValue(f"no truth features of {truth.net}")
    value = frechet_from_factors(*factor(restored.features), *reference)
    low, high = frechet_interval(restored.features, *reference, seed, n_draws)
    note = f"{truth.name} n = {len(truth.ids)}" if truth.ids else f"{truth.name}: statistics file"
    if len(restored.ids) < FEW_IMAGES:
        note += f"; n < {FEW_IMAGES}: too high, compare only at equal n and equal {truth.name}"
    return SetScore(value, len(restored.ids), low, high, note)


def factor(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """N x D -> mean D and a matrix F of at most D rows with F^T F = covariance."""
    features = _checked(features, "features")
    mean = features.mean(0)
    centred = (features - mean) / np.sqrt(len(features) - 1)
    if len(centred) > centred.shape[1]:
        centred = np.linalg.qr(centred, mode="r")  # the same product, fewer rows
    return mean, centred


def factor_from_statistics(mean: np.ndarray, cov: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean D and covariance D x D -> as `factor`. Raises as `frechet_from_statistics`."""
    mean, cov = np.asarray(mean, np.float64), np.asarray(cov, np.float64)
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        raise ValueError(f"expected mean D and covariance D x D, got {mean.shape} and {cov.shape}")
    if not np.allclose(cov, cov.T, rtol=1e-5, atol=1e-8 * np.abs(cov).max()):
        raise ValueError("the covariance is not symmetric")
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    # rounding leaves tiny values, also negative, where there is no variance; their roots would add
    # up to a visible amount
    values = np.where(values > values.max() * len(values) * 1e-15, values, 0)
    return mean, np.sqrt(values)[:, None] * vectors.T


def frechet_interval(
    features: np.ndarray, mean_2: np.ndarray, factor_2: np.ndarray, seed: int, n_draws: int = 100
) -> tuple[float, float]:
    """95 % interval of the Frechet distance to (mean_2, factor_2), drawing again from `features`.

    The truth stays as it is: it is the reference, not a sample of the method. A set drawn with
    replacement repeats images, has less spread and so lies farther away; the interval is moved by
    the mean of that. Same arguments and seed give the same interval.
    """
    features = _checked(features, "features")
    value = frechet_from_factors(*factor(features), mean_2, factor_2)
    projected = features @ factor_2.T  # N x rows: the only place where the two sets meet
    spread_2 = np.square(factor_2).sum()

    def distance(rows: np.ndarray) -> float:
        drawn = features[rows]
        mean = drawn.mean(0)
        scale = 1 / (len(rows) - 1)
        spread = np.square(drawn - mean).sum() * scale
        cross = projected[rows]
        cross = (cross - cross.mean(0)) * np.sqrt(scale)
        # squared singular values through the smaller of the two Gram matrices: three times faster,
        # and its lost digits do not show in an interval
        gram = cross @ cross.T if len(cross) <= cross.shape[1] else cross.T @ cross
        shared = np.sqrt(np.linalg.eigvalsh(gram).clip(min=0)).sum()
        return np.square(mean - mean_2).sum() + spread + spread_2 - 2 * shared

    low, high = around(value, redraw(distance, len(features), seed, n_draws))
    return max(low, 0.0), high


@set_metric(
    "kid_mobilenetv2",
    features="mobilenet_v2",
    title="Kernel distance, MobileNetV2",
    higher_is_better=False,
    what="unbiased squared MMD, cubic kernel, same features as fid_mobilenetv2; not KID",
)
def kernel_of_set(restored: Restored, truth: Truth, seed: int, n_draws: int) -> SetScore:
    """Kernel distance of a measured set to its truth. Raises NoValue without features of it."""
    if truth.features is None:
        known = f"truth has statistics of {truth.net} only, no features"
        raise NoValue(known if truth.statistics else f"no truth features of {truth.net}")
    value = kernel_distance(restored.features, truth.features)
    low, high = kernel_interval(restored.features, truth.features, seed, n_draws)
    return SetScore(value, len(restored.ids), low, high, f"{truth.name} n = {len(truth.ids)}")


def kernel_distance(features_1: np.ndarray, features_2: np.ndarray) -> float:
    """Kernel distance: unbiased squared MMD with k(x, y) = (x . y / D + 1)^3; can be negative.

    Binkowski et al., ICLR 2018, section 4, over all pairs (no subsets, so no randomness).
    Raises ValueError as `frechet_distance`.
    """
    value, _, _, _ = _kernel_parts(features_1, features_2)
    return value


def kernel_interval(
    features: np.ndarray, truth: np.ndarray, seed: int, n_draws: int = 1000
) -> tuple[float, float]:
    """95 % interval of `kernel_distance(features, truth)`, by drawing again from `features`.

    Pairs of an image with its own repetition are left out, so drawing adds no bias.
    """
    value, within, across, constant = _kernel_parts(features, truth)

    def distance(rows: np.ndarray) -> float:
        counts = np.bincount(rows, minlength=len(within)).astype(np.float64)
        # `within` has a zero diagonal; the pairs (i, i) leave the count as well
        pairs = counts.sum() ** 2 - np.square(counts).sum()
        return counts @ within @ counts / max(pairs, 1) - 2 * (counts @ across) / len(rows)

    draws = redraw(distance, len(within), seed, n_draws) + constant
    return around(value, draws)


def _kernel_parts(features_1, features_2) -> tuple[float, np.ndarray, np.ndarray, float]:
    """Distance; kernel within set 1, zero diagonal; its row means against set 2; mean within 2."""
    x = _checked(features_1, "features")
    y = _checked(features_2, "features")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features differ in length: {x.shape[1]} and {y.shape[1]}")

    def kernel(a, b):
        return (a @ b.T / x.shape[1] + 1) ** 3

    within = kernel(x, x)
    np.fill_diagonal(within, 0)
    # the truth can be 70000 images: never all of its pairs at once
    blocks = [y[start : start + 1024] for start in range(0, len(y), 1024)]
    across = sum(kernel(x, block).sum(1) for block in blocks) / len(y)
    own = sum(kernel(block, y).sum() for block in blocks)
    own -= ((np.square(y).sum(1) / x.shape[1] + 1) ** 3).sum()
    constant = own / (len(y) * (len(y) - 1))
    value = within.sum() / (len(x) * (len(x) - 1)) - 2 * across.mean() + constant
    return float(value), within, across, float(constant)


def mean_interval(values: np.ndarray, seed: int, n_draws: int = 1000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of N values, one an image; (nan, nan) for none.

    Same values and seed give the same interval. Raises ValueError for NaN: leave missing ones out.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or np.isnan(values).any():
        raise ValueError(f"expected N numbers without NaN, got shape {values.shape}")
    if not len(values):
        return float("nan"), float("nan")
    with np.errstate(invalid="ignore"):  # PSNR of equal images is infinite
        draws = redraw(lambda rows: values[rows].mean(), len(values), seed, n_draws)
    return _quantiles(draws)


def redraw(measure: Callable, n_images: int, seed: int, n_draws: int) -> np.ndarray:
    """`measure(row numbers)` of `n_draws` samples of the images, with replacement."""
    generator = numpy_generator("bootstrap", seed, n_images)
    drawn = (generator.integers(n_images, size=n_images) for _ in range(n_draws))
    return np.array([measure(rows) for rows in drawn])


def around(value: float, draws: np.ndarray) -> tuple[float, float]:
    """Quantiles of the draws around `value` in place of their own mean."""
    low, high = _quantiles(draws - draws.mean())
    return value + low, value + high


def _quantiles(draws: np.ndarray) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    # "nearest" never interpolates between a number and infinity
    low, high = np.quantile(draws, [tail, 1 - tail], method="nearest")
    return float(low), float(high)


def _checked(features: np.ndarray, name: str) -> np.ndarray:
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"{name}: expected N x D with N >= 2, got {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError(f"{name}: there are values that are not finite")
    return features
