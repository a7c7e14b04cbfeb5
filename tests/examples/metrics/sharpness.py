"""Metrics of a user, an image's and a set's."""

from frcore.metrics import metric


@metric("sharpness", title="Sharpness", higher_is_better=None, needs_truth=False, what="mean step")
def sharpness(restored):
    """N x 3 x H x W in [0, 1] -> N values: mean absolute step between neighbours, 0 to 255."""
    steps = (restored[..., 1:] - restored[..., :-1]).abs()
    return 255 * steps.flatten(1).mean(1).numpy()
