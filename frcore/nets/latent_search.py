"""Search for the latents of given faces: optimisation over W or W+ of a trained StyleGAN2.

Projection follows StyleGAN2 (1912.04958, appendix D: mean latent as the start, Adam, rate ramped
up and down, noise on w that dies away) and Image2StyleGAN (1904.03189: W+, pixel and perceptual
distance). The noise maps stay fixed here: free ones would hold what belongs into the latents.

N batch, L rows of W+, D length of w, H W image in [0, 1].
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from frcore.frozen.perceptual import feature_distance
from frcore.nets.stylegan2 import Generator


@dataclass(frozen=True)
class Projection:
    """Latents N x L x D, their images N x 3 x H x W in [0, 1], the loss of each, and its course."""

    ws: torch.Tensor
    images: torch.Tensor
    losses: torch.Tensor  # N, the least that was met
    course: list[list[float]]  # a list of N losses a step


def ramp(t: float, up: float = 0.05, down: float = 0.25) -> float:
    """Factor on the learning rate at part t of the search in [0, 1): appendix D of StyleGAN2.

    Rises linearly in the first `up` of it and falls as a half cosine in the last `down`.
    """
    fall = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / down))
    return fall * min(1.0, t / up) if up else fall


def reconstruction(
    target: torch.Tensor, perceptual, pixel_weight: float = 1.0, perceptual_weight: float = 1.0
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Loss of `project`: squared error plus feature distance, a value for each image.

    target N x 3 x H x W in [0, 1]; `perceptual`: a net of frcore.frozen.perceptual, or None.
    """
    wanted = None if perceptual is None else perceptual(target)

    def loss(images: torch.Tensor) -> torch.Tensor:
        # in the networks' range, so that the weight is the encoder's
        total = pixel_weight * (2 * images - 2 * target).square().mean((1, 2, 3))
        if wanted is not None:
            total = total + perceptual_weight * feature_distance(perceptual(images), wanted)
        return total

    return loss


def project(
    prior: Generator,
    loss: Callable[[torch.Tensor], torch.Tensor],
    start: torch.Tensor,
    steps: int = 100,
    learning_rate: float = 0.05,
    space: str = "w+",
    noise: str | list = "fixed",
    wander: float = 0.0,
    near_weight: float = 0.0,
    generator: torch.Generator | None = None,
) -> Projection:
    """Latents whose images have a small `loss`; every image is searched for on its own.

    loss: images N x 3 x H x W in [0, 1] (not bounded) -> N. start: N x L x D (an encoder's, or
    w_avg in every row). space: "w+" frees every row, "w" keeps them equal. wander: standard
    deviation of the noise added to the latents at first, dying away by 3/4 of the search, as in
    StyleGAN2 (for a search from w_avg). near_weight: penalty on the mean square distance to
    `start`. Deterministic but for `wander`, which draws from `generator`. The best step of each
    image is kept, the start included. Gradients do not reach the prior's weights.
    Raises ValueError for an unknown space, no steps, or a start of another shape.
    """
    if space not in ("w", "w+"):
        raise ValueError(f"space: expected w or w+, got {space!r}")
    if steps < 1:
        raise ValueError(f"expected one step or more, got {steps}")
    if start.ndim != 3 or start.shape[1:] != (prior.rows, prior.w_dim):
        wanted = f"N x {prior.rows} x {prior.w_dim}"
        raise ValueError(f"start: expected {wanted}, got {tuple(start.shape)}")
    start = start.detach()
    free = (start.mean(1, keepdim=True) if space == "w" else start).clone().requires_grad_(True)
    optimizer = torch.optim.Adam([free], lr=learning_rate, betas=(0.9, 0.999))
    best_ws, best_images, best, course = None, None, None, []

    for step in range(steps + 1):
        t = step / steps
        ws = free.expand(-1, prior.rows, -1)
        size = wander * max(0.0, 1 - t / 0.75) ** 2
        if size > 0:
            drawn = torch.randn(free.shape, generator=generator, dtype=free.dtype)
            ws = ws + size * drawn.to(free.device)
        images = prior.synthesis(ws, noise) / 2 + 0.5
        each = loss(images)
        course.append(each.tolist())
        with torch.no_grad():
            better = torch.ones_like(each, dtype=torch.bool) if best is None else each < best
            if best is None:
                best_ws, best_images, best = ws.clone(), images.clone(), each.clone()
            best_ws[better], best_images[better], best[better] = (
                ws[better],
                images[better],
                each[better],
            )
        if step == steps:
            break
        total = each.sum() + near_weight * (ws - start).square().mean((1, 2)).sum()
        (free.grad,) = torch.autograd.grad(total, free)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * ramp(t) if step else learning_rate * ramp(1 / steps)
        optimizer.step()

    return Projection(best_ws.detach(), best_images.detach().clamp(0, 1), best.detach(), course)
