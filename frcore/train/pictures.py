"""What a training shows on its way: pictures of fixed faces and curves."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from frcore.faces.batch import Faces, resized
from frcore.metrics import score
from frcore.metrics.sets import frechet_distance
from frcore.registry import METRICS
from frcore.seeds import numpy_generator
from frcore.train.data import TrainingFaces


def restored_picture(
    method, guide: dict, fixed: dict, sides: tuple[int, int] | None = None
) -> Callable:
    """Degraded (if they are), restored and true faces (if they are known) in rows."""

    @torch.no_grad()
    def picture(average: nn.Module) -> torch.Tensor:
        given = fixed["degraded"] if "degraded" in fixed else fixed["truth"]
        generators = [torch.Generator().manual_seed(i) for i in range(len(given))]
        taken = given if sides is None else resized(given, sides[0])
        # a method that needs another photograph sees the true one here: it is a picture, no score
        wanted = getattr(method, "METHOD", {}).get("reference")
        reference = fixed.get("truth", given) if wanted else None
        restored = method.restore(average, Faces(taken, reference, generators), guide)
        rows = [given, resized(restored.float().clamp(0, 1), given.shape[-1])]
        if "degraded" in fixed and "truth" in fixed:
            rows.append(fixed["truth"])
        return grid(torch.cat(rows), len(given))

    return picture


def samples_picture(method, across: int = 10, truncation: float = 0.7) -> Callable:
    """across x across faces of a generative method, of the same latents every time."""

    def picture(average: nn.Module) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return grid(method.sample(average, across**2, generator, truncation), across)

    return picture


def pairs_picture(method, across: int = 8, rows: int = 4, truncation: float = 0.8) -> Callable:
    """Clean faces of a degradation model, each above its degraded twin; the same every time."""

    def picture(average: nn.Module) -> torch.Tensor:
        both = method.pairs(average, range(rows * across), truncation)
        lines = [line for pair in zip(*(part.split(across) for part in both)) for line in pair]
        return grid(torch.cat(lines), across)

    return picture


def grid(images: torch.Tensor, across: int) -> torch.Tensor:
    """N x 3 x H x W -> one image 1 x 3 x (N / across) H x across W, filled row by row."""
    rows = [torch.cat(list(row), 2) for row in images.split(across)]
    return torch.cat(rows, 1)[None]


CURVES = ("fid_mobilenetv2", "fid_inception")  # each where its net is to be had


def set_score(
    method, faces: TrainingFaces, assets: dict[str, Path], settings, device: torch.device
) -> Callable:
    """Frechet distances of a generative method's samples to as many training faces.

    To degraded ones, where the entry trains on those. `settings.score_samples` of each, the same
    latents and faces every time; a set distance of few images is too high, so that it serves as a
    curve and not as a number to be quoted.
    """
    n = min(settings.score_samples, len(faces))
    nets = score.load_nets(assets, CURVES, device)
    places = numpy_generator(0, "score").permutation(len(faces))[:n]
    target = faces.truth(places, device)
    if faces.recipes:  # positions before the run's first image: training never draws the same
        target = faces.degrade(target, range(-n, 0))[1]
    wanted = score.set_features(target, CURVES, nets)

    def scores(average: nn.Module) -> dict[str, float]:
        images = method.sample(average, n, torch.Generator().manual_seed(0))
        found = score.set_features(images, CURVES, nets)
        return {
            metric: frechet_distance(found[net], wanted[net])
            for metric in CURVES
            for net in [METRICS[metric].features]
            if net in found
        }

    return scores
