"""A per-image optimiser in the manner of PULSE and SAIR, with pixels in the place of latents.

It sees the degraded faces, how they were made worse (the factor of the recipe's shrinking, or an
assumed one), a good photograph of the same person where there is one, and random numbers of each
face's own; it works on a batch, and tells its iterations.
"""

import torch
from torch import nn
from torch.nn import functional as F

from frcore.config import Strict
from frcore.faces.batch import Faces

METHOD = {"title": "Search", "paper": "after Menon et al., PULSE, CVPR 2020", "stochastic": True}


class Settings(Strict):
    steps: int = 20
    rate: float = 0.05
    assumed_factor: int = 4  # where the recipe is not known, or does not shrink by a whole number
    reference_weight: float = 0.05


TINY: dict = {"steps": 3}


class Nothing(nn.Module):
    """There is no net: what is learnt is the picture."""


def build(settings: Settings) -> Nothing:
    return Nothing()


def factor_of(faces: Faces, assumed: int) -> int:
    """By how much the recipe shrinks."""
    steps = faces.recipe.steps if faces.recipe else ()
    known = [step.factor[0] for step in steps if step.kind == "down" and step.factor]
    return int(known[0]) if known and known[0] == int(known[0]) else assumed


def restore(model: Nothing, faces: Faces, guide) -> torch.Tensor:
    s, k = model.settings, factor_of(faces, model.settings.assumed_factor)
    small = F.avg_pool2d(faces.images, k)
    with torch.enable_grad():
        x = (faces.images + 0.02 * faces.randn(*faces.images.shape[1:])).requires_grad_(True)
        optimizer = torch.optim.Adam([x], lr=s.rate)
        for _ in range(s.steps):
            # a sum over faces: each has its own gradient, whatever is beside it
            loss = (F.avg_pool2d(x, k) - small).square().sum()
            loss = loss + 0.01 * (x[..., 1:] - x[..., :-1]).square().sum()
            if faces.reference is not None:
                loss = loss + s.reference_weight * (x - faces.reference).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    faces.tell(iterations=s.steps)
    return x.detach().clamp(0, 1)
