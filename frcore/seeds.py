"""Randomness is an argument: every seed is a digest of the names of what it is for.

A seed made of (run seed, dataset, preset, image id) does not depend on order, batch size, workers
or which other images exist, so one image can be made again alone.
"""

import hashlib
import os


def seed_for(*parts: str | int) -> int:
    """Stable 63-bit seed of `parts`; the same on every machine and Python version.

    Raises TypeError for a part that is neither text nor integer: a float's text form, or None
    where a seed was meant, would silently give another seed.
    """
    for part in parts:
        if not isinstance(part, str | int) or isinstance(part, bool):
            raise TypeError(f"a seed is made of text and integers, got {part!r}")
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def numpy_generator(*parts: str | int):
    """numpy Generator (PCG64) seeded by `parts`."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(seed_for(*parts)))


def torch_generator(*parts: str | int, device: str = "cpu"):
    """torch.Generator on `device` seeded by `parts`."""
    import torch

    return torch.Generator(device=device).manual_seed(seed_for(*parts))


def make_deterministic() -> None:
    """Choose deterministic kernels for training and evaluation; call once per process.

    cuDNN's autotuner picks kernels by timing, and some CUDA reductions add in any order: both would
    make a resumed run differ from an uninterrupted one.
    """
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # or memory that is overwritten at once would be filled first: up to a fifth of a step
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
