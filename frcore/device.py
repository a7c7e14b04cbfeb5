"""Which device computes."""

import os

import torch


def pick_device(name: str = "auto") -> torch.device:
    """auto -> cuda, mps or cpu, whichever is there; cuda takes this process's own card.

    Raises ValueError when the device asked for is absent.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and torch.backends.mps.is_available():
            name = "mps"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "--device cuda: this PyTorch sees no GPU (a CPU-only build, or no driver); "
            "use --device cpu or install a CUDA build"
        )
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device mps: not available on this machine")
    if name == "cuda":
        return torch.device(name, int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device(name)
