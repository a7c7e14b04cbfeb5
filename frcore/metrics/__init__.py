"""Metrics: each is one function with its row above it. No torch here.

The row is a decorator with literal arguments, read without importing the file
(frcore/registry/metrics.py): the command line's choices, tables and the workflow's graph know it by
that. A function gets what the names of its parameters ask for.

    @metric("psnr_rgb", title="PSNR (RGB)", higher_is_better=True, unit="dB", what="...")
    def psnr_rgb(restored, truth): ...

`metric`: a value an image. Of restored, truth (N x 3 x H x W in [0, 1], rounded to 8 bits), stored
(both as uint8 N x 3 x H x W, None without truth), net (that of the row's first asset), crop_scale
and crop_shift (of the alignment) -> N numbers.

`set_metric`: a value for a set. Of restored and truth (frcore.metrics.sets.Restored and Truth: what
`features` made of the two sets), seed and n_draws -> a number, whose interval is then drawn from
new samples of the restored images, or a SetScore. NoValue(reason) leaves the value empty.

`features`: what set metrics compare, made of images and, if there is one, the net of its asset ->
N x ... array. Other names as for `metric`.

A family is one decorator with `each={"k": [1, 4]}` and "{k}" in its texts, or with a word for each
value, `each={"k": {1: "nearest", 4: "4th nearest"}}` and "{k_word}"; several decorators may stand
above one function; `each` and `arguments` are passed to it by name.
"""

from collections.abc import Callable, Mapping, Sequence


def metric(
    name: str,
    *,
    title: str,
    higher_is_better: bool | None,  # None: neither direction is better
    what: str,  # one line
    needs_truth: bool = True,
    assets: Sequence[str] = (),  # pretrained parts without which there is no value
    min_side: int = 1,  # pixels; smaller images have no value
    square: bool = False,  # other images have no value
    unit: str = "",  # "" for a plain number
    each: Mapping[str, Sequence | Mapping] | None = None,
    arguments: Mapping | None = None,
) -> Callable:
    """Row of a metric that has a value an image; leaves the function as it is."""
    return lambda function: function


def set_metric(
    name: str,
    *,
    features: str,
    title: str,
    higher_is_better: bool | None,
    what: str,
    needs_truth: bool = True,
    pairs: bool = False,  # each face with its own truth: no value where good faces stand in for it
    unit: str = "",
    each: Mapping[str, Sequence | Mapping] | None = None,
    arguments: Mapping | None = None,
) -> Callable:
    """Row of a metric that has a value for a set; leaves the function as it is."""
    return lambda function: function


def features(
    name: str,
    *,
    assets: Sequence[str] = (),
    min_side: int = 1,
    square: bool = False,
    statistics: bool = False,  # mean and covariance of the truth are kept with its features
    train: str | None = None,  # a function here that makes a model of features of training faces
) -> Callable:
    """Row of what set metrics compare; leaves the function as it is."""
    return lambda function: function
