"""One mean and one interval for every number that is an average over images. No torch here.

N images, B draws.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from frcore.seeds import numpy_generator

NO_VALUE = "without a value"
NOT_THERE = "not in the score file"


def mean_of_images(
    rows: Sequence[Mapping], order: Sequence[str], counts: np.ndarray
) -> dict[str, object]:
    """value, n, ci_low, ci_high and note of one metric from its rows {id, value, note}.

    value of a row: a number, or None or NaN where there is none. order: ids of all images, those
    without a row too. counts: of `resample_counts` for as many images.
    The mean is over the images that have a finite value, n counts them. An infinite value (the PSNR
    of an image that equals its truth) is left out and counted in the note; where all are infinite,
    so is the mean. Missing values and interval are "".
    """
    if not rows:
        return {"value": "", "n": 0, "ci_low": "", "ci_high": "", "note": NOT_THERE}
    by_id = {row["id"]: row for row in rows}
    found = (by_id.get(name, {}).get("value") for name in order)
    values = np.array([math.nan if value is None else float(value) for value in found])
    infinite, failed = np.isinf(values), np.isnan(values)
    empty = {"value": "", "n": 0, "ci_low": "", "ci_high": ""}
    notes = []
    if failed.any():
        lost = [row for name, row in by_id.items() if _is_missing(row["value"])]
        given = Counter(row["note"] or "no reason given" for row in lost)
        if len(order) > len(rows):
            given[NOT_THERE] = len(order) - len(rows)
        common = sorted(given.items(), key=lambda item: (-item[1], item[0]))
        if failed.all() and len(common) == 1:
            return empty | {"note": common[0][0]}
        reasons = "; ".join(f"{text} ({count})" for text, count in common[:3])
        reasons += "; other reasons" * (len(common) > 3)
        notes.append(f"{failed.sum()} of {len(order)} images {NO_VALUE}: {reasons}")
    if failed.all():
        return empty | {"note": notes[0]}
    if infinite.any() and infinite.sum() + failed.sum() == len(values):
        notes.append("infinite: every image equals its truth")
        n = int(infinite.sum())
        return empty | {"value": math.inf, "n": n, "note": "; ".join(notes)}
    if infinite.any():
        notes.append(f"{infinite.sum()} images with an infinite value left out of the mean")
    usable = values[np.isfinite(values)]
    interval = bootstrap_interval(np.where(infinite, np.nan, values), counts)
    low, high = interval or ("", "")
    return {
        "value": float(usable.mean()),
        "n": len(usable),
        "ci_low": low,
        "ci_high": high,
        "note": "; ".join(notes),
    }


def _is_missing(value) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def bootstrap_interval(values: np.ndarray, counts: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of the mean of `values` [N], NaN where missing, under draws `counts` [B, N].

    Missing images weigh nothing in a draw. None when fewer than two values or no draws.
    """
    usable = np.isfinite(values)
    if usable.sum() < 2 or not len(counts):
        return None
    weights = counts @ usable.astype(np.float64)
    # deviations from the mean keep a constant exact
    centre = float(values[usable].mean())
    sums = counts @ np.where(usable, values - centre, 0.0)
    means = centre + sums[weights > 0] / weights[weights > 0]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def resample_counts(n: int, samples: int, *seed: str | int) -> np.ndarray:
    """How often each of n images is in each of `samples` draws with replacement: [samples, n].

    The same seed words give the same draws, so that models measured on one set of images can be
    compared image by image.
    """
    if not n or not samples:
        return np.zeros((0, n))
    drawn = numpy_generator(*seed).integers(n, size=(samples, n))
    flat = (drawn + np.arange(samples)[:, None] * n).ravel()
    return np.bincount(flat, minlength=samples * n).reshape(samples, n).astype(np.float64)
