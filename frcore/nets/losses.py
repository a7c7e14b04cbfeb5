"""Losses with several users: they take logits, images or features and load nothing.

N batch, C channels, H W image, L rows of W+, D length of w.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One step of `optimizer` on a scalar loss; gradients of before are dropped first.

    Nothing happens where nothing learns: a stage of training may let a whole network rest.
    """
    optimizer.zero_grad(set_to_none=True)
    if not loss.requires_grad:
        return
    loss.backward()
    optimizer.step()


class Supervised:
    """Trains a net that takes the degraded face and gives the true one, by one loss."""

    def __init__(self, model: nn.Module, settings, guide: Mapping, loss: Callable, name: str):
        self.settings, self.loss, self.name = settings, loss, name
        self.networks = {"model": model}
        rate = getattr(settings, "learning_rate", 1e-4)
        betas = getattr(settings, "betas", (0.9, 0.999))
        self.optimizers = {"model": torch.optim.Adam(model.parameters(), lr=rate, betas=betas)}

    def step(self, batch: Mapping) -> dict[str, torch.Tensor]:
        """One update. `batch`: truth and degraded N x 3 x H x W in [0, 1]: the net sees them so."""
        found = self.networks["model"](batch["degraded"])
        loss = self.loss(found.float(), batch["truth"])
        descend(self.optimizers["model"], loss)
        return {self.name: loss}


def supervised(loss: Callable, name: str | None = None) -> Callable:
    """`make_trainer = supervised(F.mse_loss)`: the trainer of a plain feed-forward net.

    loss(restored, truth) -> scalar, both N x 3 x H x W in [0, 1]; its name stands in the history.
    Adam with `learning_rate` and `betas` of the settings, where they have them.
    """
    said = str(name or getattr(loss, "__name__", "loss"))
    return lambda model, settings, guide: Supervised(model, settings, guide, loss, said)


def perceptual_of(guide: Mapping, weight: float):
    """The perceptual net of a trainer's `guide`, None for weight 0; ValueError if it is missing."""
    if not weight:
        return None
    if guide.get("perceptual") is None:
        raise ValueError("perceptual_weight needs a perceptual net, or must be 0")
    return guide["perceptual"]


def identity_of(guide: Mapping, weight: float) -> Callable | None:
    """The identity loss of a trainer's `guide`, None for weight 0; ValueError without the net.

    It takes restored and true faces N x 3 x S x S in [0, 1] and gives the mean squared distance of
    their descriptors (dlib's: two photographs of one person are closer than 0.6). The frame of the
    faces is `guide["frame"]`: crop_scale and crop_shift.
    """
    if not weight:
        return None
    net, frame = guide.get("identity"), guide.get("frame", (0.7, 0.1))
    if net is None:
        raise ValueError("identity_weight needs the recognition net, or must be 0")

    def distance(restored: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        with torch.autocast(restored.device.type, enabled=False):
            with torch.no_grad():
                true = net.descriptors(truth.float(), *frame)
            return (net.descriptors(restored.float(), *frame) - true).square().sum(1).mean()

    return distance


def logistic_d(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Discriminator's logistic loss on logits: -log sigmoid(D(x)) - log(1 - sigmoid(D(G))).

    Goodfellow et al., "Generative Adversarial Nets", NIPS 2014, Eq. 1, written with softplus.
    """
    return F.softplus(-full(real)).mean() + F.softplus(full(fake)).mean()


def logistic_g(fake: torch.Tensor) -> torch.Tensor:
    """Generator's non-saturating loss on logits: -log sigmoid(D(G)) (the same paper, section 3)."""
    return F.softplus(-full(fake)).mean()


def r1_penalty(real: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Mean over images of || d D(x) / d x ||^2, to be weighted by gamma / 2.

    Mescheder, Geiger, Nowozin, "Which Training Methods for GANs do actually Converge?", ICML 2018,
    Eq. 9. `real` N x 3 x H x W must require gradients and `logits` must come from it; the result
    can be differentiated once more.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return full(gradient).square().sum((1, 2, 3)).mean()


def hinge_d(real: Sequence[torch.Tensor], fake: Sequence[torch.Tensor]) -> torch.Tensor:
    """Discriminators' hinge loss on score maps of several scales: mean of half of each scale's.

    PSFR-GAN (arXiv 2009.08709) Eq. 8.
    """
    terms = [0.5 * (F.relu(1 - r).mean() + F.relu(1 + f).mean()) for r, f in zip(real, fake)]
    return cast(torch.Tensor, sum(terms)) / len(terms)


def hinge_g(fake: Sequence[torch.Tensor]) -> torch.Tensor:
    """Generator's loss beside it: mean over scales of the negative score (Eq. 7)."""
    return cast(torch.Tensor, sum(-f.mean() for f in fake)) / len(fake)


def path_lengths(image: torch.Tensor, ws: torch.Tensor) -> torch.Tensor:
    """|| J_w^T y || of each image, y ~ N(0, I) / sqrt(H W): StyleGAN2 (1912.04958) Eq. 4.

    image N x 3 x H x W made from ws N x L x D (which require gradients) -> N, differentiable.
    Squares are summed over D and averaged over the rows.
    """
    h, w = image.shape[-2:]
    y = torch.randn_like(image) / (h * w) ** 0.5
    (gradient,) = torch.autograd.grad((image * y).sum(), ws, create_graph=True)
    return full(gradient).square().sum(2).mean(1).sqrt()


def full(x: torch.Tensor) -> torch.Tensor:
    """Half precision -> float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def processes() -> int:
    """How many processes share this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    """`value` averaged over the processes of a run, without gradient; itself when there is one."""
    value = value.detach().clone()
    if processes() > 1:
        dist.all_reduce(value)
        value /= processes()
    return value
