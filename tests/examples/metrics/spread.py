"""A user's metric of a set: how far its images are apart. It returns a number, no interval."""

import numpy as np

from frcore.metrics import features, set_metric


@features("thumbnail")
def thumbnail(images):
    """N x 3 x H x W in [0, 1] -> N x 48: the mean of each of 4 x 4 parts."""
    n, _, h, w = images.shape
    parts = images.numpy().reshape(n, 3, 4, h // 4, 4, w // 4)
    return parts.mean((3, 5)).reshape(n, -1)


@set_metric(
    "spread_p{power}",
    features="thumbnail",
    title="Spread, power {power}",
    higher_is_better=None,
    needs_truth=False,
    what="mean distance between two thumbnails of the set, to the power {power}",
    each={"power": [1, 2]},
)
def spread(restored, power):
    """Mean over pairs of images."""
    x = restored.features
    distances = np.linalg.norm(x[:, None] - x[None], axis=2) ** power
    return distances.sum() / (len(x) * (len(x) - 1))
