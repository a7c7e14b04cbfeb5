"""Batches bounded by pixels, so that memory does not grow with number and size of images."""

from collections.abc import Callable, Iterator

import torch


def slices(n: int, pixels: int, limit: int) -> Iterator[slice]:
    """Places of `n` images of `pixels` pixels each: as many as `limit` allows, one at least."""
    step = max(1, limit // max(1, pixels))
    return (slice(start, start + step) for start in range(0, max(1, n), step))


def in_parts(
    function: Callable[..., torch.Tensor], limit: int, *batches: torch.Tensor
) -> torch.Tensor:
    """function(*batches), `limit` pixels of each N x C x H x W at a time -> results, one after
    the other. Raises ValueError for batches of different lengths."""
    if len({len(batch) for batch in batches}) > 1:
        raise ValueError(f"batches differ in length: {[len(batch) for batch in batches]}")
    first = batches[0]
    parts = slices(len(first), first.shape[2] * first.shape[3], limit)
    return torch.cat([function(*(batch[part] for batch in batches)) for part in parts])
