"""RDFR: stochastic U-Net with few, quantised and gated skip connections.

Paper: Zhao, Su, Chu, Li, Renn, Zhu, Chen, Jia, "Rethinking Deep Face Restoration", CVPR 2022.
Sections and equations below are its own. No code was published and its appendices are not to be
had: what the paper leaves open is filled with StyleGAN2's parts (frcore/nets/stylegan2.py).
Own choices: encoder of StyleGAN2's discriminator blocks, latent z from its 4x4 map, one vector eps
an image for all layers and no per-pixel noise (the paper has one source of noise), up-convolution -
fusion - convolution in a decoder block, discriminator with R1 through the augmentation, gates that
begin half open, codes taken from features after a warm-up and revived when they starve. Eq. 4 is
computed as q* = q + s p, which it equals.

Nothing in Eq. 7 asks for the noise: Eq. 10 is least for one answer to every face, and the gate of
Eq. 6 closes until draws differ by less than one of 255 levels. `spread_weight` (0: the paper's)
pays for the distance between two draws; at 1 Eq. 10 becomes the energy score (Gneiting and Raftery
2007), which is least when restorations are spread as the true faces behind one input are.

N batch, C channels, H W image, K codes, D length of eps, r side of a feature map. Images of the
network are in [-1, 1].
"""

import math
from itertools import pairwise
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from pydantic import model_validator
from torch import nn
from torch.nn import functional as F

from frcore.config import Strict
from frcore.config.types import (
    Betas,
    Count,
    Decay,
    Different,
    Rate,
    Side,
    Weight,
    Whole,
    Width,
    at_least_one_channel,
)
from frcore.faces.batch import Faces
from frcore.nets.adversary import Adversary
from frcore.nets.augment import colour_and_translation
from frcore.nets.losses import descend, identity_of, perceptual_of, processes
from frcore.nets.stylegan2 import (
    Discriminator,
    DiscriminatorBlock,
    EqualConv,
    EqualLinear,
    StyledConv,
    SynthesisBlock,
    channels_at,
    check_size,
    full_precision,
    lazy_adam,
    upsample2,
)

METHOD = {
    "title": "RDFR",
    "paper": "Zhao et al., Rethinking Deep Face Restoration, CVPR 2022",
    "data": "paired",
    "training_assets": ["perceptual", "identity"],
    "stochastic": True,
}

# layers of L_percep and their weights: GFP-GAN's for VGG19 (no package ships it), the last of the
# same blocks for VGG16, all of MobileNetV2's alike
PERCEPTUAL = {
    "vgg19": {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0},
    "vgg16": {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_3": 1.0, "conv4_3": 1.0, "conv5_3": 1.0},
    "mobilenet_v2": {f"features{i}": 1.0 for i in (1, 3, 6, 10, 13)},
}
TAPS = {net: tuple(weights) for net, weights in PERCEPTUAL.items()}
GRID = 32  # largest side of the gate's grid (section 3.1.3)


class Settings(Strict):
    """Defaults are the recommended 64 px version; PAPER is the published size."""

    size: Side = 64
    c_base: Width = 16384  # channels at side r: min(c_base / r, c_max)
    c_max: Width = 512
    noise_dim: Width = 512  # length of eps and z
    # sides whose features pass from encoder to decoder
    skips: Different[tuple[int, ...]] = (8, 16)
    fusion: Literal["lgf", "add", "concat"] = "lgf"  # Table 3: concat is the baseline's
    quantise: bool = True
    stochastic: bool = True  # False: eps = 0
    codes: Width = 1024
    code_decay: Decay = 0.99
    warmup_images: Whole = 16_000  # before codes are taken from features and used
    adversarial_weight: Weight = 0.1  # alpha
    pixel_weight: Weight = 1.0
    perceptual_weight: Weight = 1.0
    perceptual: Literal["vgg16", "vgg19", "mobilenet_v2"] = "vgg16"
    commitment_weight: Weight = 1.0
    identity_weight: Weight = 0.0  # own addition: squared distance of dlib's descriptors
    spread_weight: Weight = 0.0  # of two draws' distance in L_REC; needs `stochastic`
    r1_gamma_weight: Weight = 0.05
    r1_every: Count = 16  # steps
    group: Width = 4  # images whose standard deviation the discriminator sees
    learning_rate: Rate = 0.002
    betas: Betas = (0.0, 0.99)
    # images seen at which the learning rate is halved
    halve_at: Different[tuple[Whole, ...]] = ()

    @model_validator(mode="after")
    def _fits(self):
        known = [2**i for i in range(self.size.bit_length() - 2, 2, -1)]  # R/2 ... 8
        wrong = [side for side in self.skips if side not in known]
        if wrong:
            raise ValueError(f"skips: no features of side {wrong}, expected some of {known}")
        if self.spread_weight and not self.stochastic:
            raise ValueError("spread_weight needs stochastic: true, or must be 0")
        return at_least_one_channel(self, "c_base")


PAPER = {"size": 512, "skips": (8, 16, 32), "perceptual": "vgg19", "r1_gamma_weight": 10.0}
TINY = {
    "size": 32,
    "c_base": 256,
    "c_max": 16,
    "noise_dim": 16,
    "codes": 8,
    "warmup_images": 4,
    "r1_every": 2,
}


class Codebook(nn.Module):
    """K code words of one skip: features of good faces, learnt as a moving average (Eq. 2, 3)."""

    codes: torch.Tensor
    counts: torch.Tensor
    sums: torch.Tensor
    use_true: torch.Tensor
    use_degraded: torch.Tensor

    def __init__(self, codes, channels, decay):
        super().__init__()
        self.decay = decay
        self.register_buffer("codes", torch.randn(codes, channels))
        # counts of 1: from counts of 0 an unused code would jump to 1e5 times its size
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("sums", self.codes.clone())
        # for the log, moving averages of how many vectors chose each code. `counts` would flatter:
        # a code that is revived is given a count that no vector earned
        self.register_buffer("use_true", torch.zeros(codes))
        self.register_buffer("use_degraded", torch.zeros(codes))

    def nearest(self, p: torch.Tensor) -> torch.Tensor:
        """p N x C x H x W -> index of the closest code, N x H x W; in float32."""
        with full_precision(p.device):
            flat = p.permute(0, 2, 3, 1).reshape(-1, p.shape[1]).to(self.codes.dtype)
            distance = self.codes.square().sum(1) - 2 * flat @ self.codes.T
        return distance.argmin(1).view(p.shape[0], *p.shape[2:])

    def forward(self, p):
        """p N x C x H x W -> p^q (Eq. 2) with the gradient of p, and mean || p - sg(p^q) ||^2."""
        index = self.nearest(p)
        if self.training:
            chosen = torch.bincount(index.flatten(), minlength=len(self.codes)).float()
            self.use_degraded.lerp_(chosen, 1 - self.decay)
        quantised = self.codes[index].permute(0, 3, 1, 2).to(p.dtype)
        # p - p is exactly 0 where p + (p^q - p) would be p^q up to rounding only
        return quantised + (p - p.detach()), F.mse_loss(p.float(), quantised.float())

    @torch.no_grad()
    def start(self, h: torch.Tensor) -> None:
        """Take the codes from features h N x C x H x W of true faces, with repetition if few."""
        flat = h.permute(0, 2, 3, 1).reshape(-1, h.shape[1]).float()
        order = torch.randperm(len(flat), device=flat.device)
        codes = flat[order.repeat(math.ceil(len(self.codes) / len(flat)))[: len(self.codes)]]
        if processes() > 1:
            dist.broadcast(codes, 0)
        self.codes.copy_(codes)
        self.sums.copy_(codes)
        self.counts.fill_(1)

    @torch.no_grad()
    def update(self, h: torch.Tensor) -> torch.Tensor:
        """Average over features h N x C x H x W of true faces; -> mean || h - h^q ||^2 before.

        N_k <- g N_k + (1 - g) n_k, M_k <- g M_k + (1 - g) sum of h in k, c_k = M_k / N~_k with
        Laplace smoothing of the counts. A code whose count falls below a tenth of the mean starts
        anew at a feature of this batch.
        """
        flat = h.permute(0, 2, 3, 1).reshape(-1, h.shape[1]).float()
        index = self.nearest(h).flatten()
        distance = F.mse_loss(flat, self.codes[index])
        chosen = F.one_hot(index, len(self.codes)).float()
        with full_precision(h.device):  # sums of half precision lose most of it
            seen, sums = chosen.sum(0), chosen.T @ flat
        fresh = flat[torch.randint(len(flat), (len(self.codes),), device=flat.device)]
        if processes() > 1:
            for tensor in (seen, sums):
                dist.all_reduce(tensor)
            dist.broadcast(fresh, 0)
        self.use_true.lerp_(seen, 1 - self.decay)
        self.counts.lerp_(seen, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        starved = self.counts < 0.1 * self.counts.mean()
        self.counts.copy_(torch.where(starved, self.counts.mean(), self.counts))
        restart = fresh * self.counts[:, None]
        self.sums.copy_(torch.where(starved[:, None], restart, self.sums))
        total = self.counts.sum()
        smooth = (self.counts + 1e-5) / (total + len(self.codes) * 1e-5) * total
        self.codes.copy_(self.sums / smooth[:, None])
        return distance

    def health(self) -> dict[str, torch.Tensor]:
        """For the log: share of the codes in use, and perplexity, by what chose them."""
        found = {}
        for kind, use in (("true", self.use_true), ("degraded", self.use_degraded)):
            if use.sum() > 0:
                share = use / use.sum()
                found[f"used_{kind}"] = (share > 0.1 / len(share)).float().mean()
                found[f"perplexity_{kind}"] = torch.exp(-torch.xlogy(share, share).sum())
        return found


class LinearGatedFusion(nn.Module):
    """Eq. 4: a gate per position and channel, from a linear map over all positions."""

    def __init__(self, side):
        super().__init__()
        self.window = max(1, side // GRID)  # r
        n = (side // self.window) ** 2
        self.weight = nn.Parameter(torch.zeros(n, n))  # 0: gates begin half open
        self.scale = 1 / math.sqrt(n)

    def gate(self, p, q):
        """s: N x C x H x W in (0, 1)."""
        u = F.avg_pool2d(p + q, self.window) if self.window > 1 else p + q
        with full_precision(p.device):
            u = u.to(self.weight.dtype)
            o = (u.flatten(2) @ (self.weight * self.scale)).view_as(u)
        s = torch.sigmoid(o)
        if self.window > 1:
            s = F.interpolate(s, size=p.shape[2:], mode="bilinear", align_corners=False)
        return s.to(p.dtype)

    def forward(self, p, q):
        """p encoder's, q decoder's N x C x H x W -> q* = s (p + q) + (1 - s) q = q + s p."""
        return q + self.gate(p, q) * p


class Skip(nn.Module):
    """One skip connection: quantise, inject noise, fuse (figure 2)."""

    def __init__(self, s: Settings, side: int):
        super().__init__()
        channels = channels_at(side, s.c_base, s.c_max)
        self.codebook = Codebook(s.codes, channels, s.code_decay) if s.quantise else None
        self.conv = StyledConv(channels, channels, s.noise_dim) if s.stochastic else None
        self.lgf = LinearGatedFusion(side) if s.fusion == "lgf" else None
        self.join = EqualConv(2 * channels, channels, 1) if s.fusion == "concat" else None

    def forward(self, p, q, eps, quantise: bool):
        """p, q N x C x H x W, eps N x D -> q* N x C x H x W, commitment loss or None."""
        commitment = None
        if self.codebook is not None and quantise:
            p, commitment = self.codebook(p)
        if self.conv is not None:
            p = self.conv(p, eps)
        if self.lgf is not None:
            return self.lgf(p, q), commitment
        if self.join is not None:
            return self.join(torch.cat([p, q], 1)), commitment
        return q + p, commitment


class RDFR(nn.Module):
    """x -> restored face; another one for every eps."""

    def __init__(self, s: Settings):
        super().__init__()
        check_size(s.size)
        self.settings = s
        self.sides = [s.size // 2**i for i in range(int(math.log2(s.size)) - 1)]  # R ... 4
        wrong = [side for side in s.skips if side not in self.sides[1:-1]]
        if wrong:
            raise ValueError(f"skips: no features of side {wrong}, expected some of "
                             f"{self.sides[1:-1]}")  # fmt: skip
        widths = [channels_at(side, s.c_base, s.c_max) for side in self.sides]
        self.from_rgb = EqualConv(3, widths[0], 1)
        self.downs = nn.ModuleList(DiscriminatorBlock(a, b) for a, b in pairwise(widths))
        self.bottom = EqualConv(widths[-1], widths[-1], 3)  # f_4'
        self.to_z = EqualLinear(16 * widths[-1], s.noise_dim) if s.stochastic else None
        up = list(zip(self.sides, widths))[::-1]
        before = [up[0][1], *(width for _, width in up)]
        self.blocks = nn.ModuleList(
            SynthesisBlock(c_in, c_out, s.noise_dim, side, noise=False)
            for c_in, (side, c_out) in zip(before, up)
        )
        self.skips = nn.ModuleDict({str(side): Skip(s, side) for side in sorted(s.skips)})
        self.register_buffer("quantising", torch.tensor(False))  # after the warm-up

    def encode(self, x):
        """x N x 3 x R x R in [-1, 1] -> {side: features}, the smallest (4) last."""
        f, features = self.from_rgb(x), {}
        for side, down in zip(self.sides[1:], self.downs):
            f = features[side] = down(f)
        return features

    def forward(self, x, eps):
        """x N x 3 x R x R in [-1, 1], eps kN x D -> kN images, commitment loss, sigmoid(z).

        k draws of every face: eps of all faces' first draws, then of their second ones. Images are
        in the same order and not bounded; the loss is the sum over skips, 0 without quantisation.
        """
        features = self.encode(x)
        f = self.bottom(features[4])
        gate, k = None, len(eps) // len(x)
        if self.to_z is None:
            eps = torch.zeros_like(eps)
        else:
            gate = torch.sigmoid(self.to_z(f.flatten(1)))
            eps = gate.repeat(k, 1) * eps  # Eq. 6
        if k > 1:
            f = f.repeat(k, 1, 1, 1)
            features = {int(side): features[int(side)].repeat(k, 1, 1, 1) for side in self.skips}
        image, commitment, quantise = None, f.new_zeros(()), bool(self.quantising)
        for side, block in zip(self.sides[::-1], self.blocks):
            if block.up is not None:
                f = block.up(f, eps)
            if str(side) in self.skips:
                f, loss = self.skips[str(side)](features[side], f, eps, quantise)
                commitment = commitment if loss is None else commitment + loss
            f = block.conv(f, eps)
            rgb = block.to_rgb(f, eps)
            image = rgb if image is None else upsample2(image) + rgb
        return image, commitment, gate


def build(settings: Settings) -> RDFR:
    """The network. Raises ValueError for a side that is no power of two, or skips it has not."""
    return RDFR(settings)


def restore(model: RDFR, faces: Faces, guide):
    """Faces N x 3 x R x R in [0, 1] -> restored, one draw of eps each; 0 without `stochastic`."""
    eps = faces.images.new_zeros(len(faces), model.settings.noise_dim)
    if model.settings.stochastic:
        eps = faces.randn(model.settings.noise_dim)
    return (model(faces.images * 2 - 1, eps)[0] / 2 + 0.5).clamp(0, 1)


class Trainer:
    """One step of Eq. 7 for the restorer, of Eq. 8 for the discriminator, and of the codes."""

    def __init__(self, model: RDFR, settings: Settings, guide: dict):
        s = self.settings = settings
        self.perceptual = perceptual_of(guide, s.perceptual_weight)
        self.identity = identity_of(guide, s.identity_weight)
        if s.spread_weight and not s.stochastic:
            raise ValueError("spread_weight needs stochastic: true, or must be 0")
        device = next(model.parameters()).device
        d = Discriminator(s.size, s.c_base, s.c_max, s.group)
        self.networks = {
            "model": model,
            # torch does not annotate memory_format
            "discriminator": d.to(device, memory_format=torch.channels_last),  # type: ignore
        }
        self.optimizers = {
            "model": lazy_adam(model.parameters(), s.learning_rate, s.betas, 0),
            "discriminator": lazy_adam(d.parameters(), s.learning_rate, s.betas, s.r1_every),
        }
        self.adversary = Adversary(
            d, self.optimizers["discriminator"], augment=colour_and_translation
        )
        self.rates = {name: o.param_groups[0]["lr"] for name, o in self.optimizers.items()}

    def step(self, batch: dict) -> dict[str, torch.Tensor]:
        """One update of all. `batch`: truth, degraded in [0, 1], images_seen, step."""
        s, model, adversary = self.settings, self.networks["model"], self.adversary
        y, x, seen = batch["truth"] * 2 - 1, batch["degraded"] * 2 - 1, batch["images_seen"]
        for name, optimizer in self.optimizers.items():
            halvings = sum(seen >= at for at in s.halve_at)
            optimizer.param_groups[0]["lr"] = self.rates[name] / 2**halvings

        # ----- restorer, Eq. 7
        draws = 2 if s.spread_weight else 1
        eps = torch.randn(draws * len(x), s.noise_dim, device=x.device)
        restored, commitment, gate = model(x, eps)
        losses, total = self._reconstruction(restored, y)
        restored = restored[: len(x)]
        if s.adversarial_weight:
            losses["adversarial"] = adversary.fool(restored)  # Eq. 9
            total = total + s.adversarial_weight * losses["adversarial"]
        if self.identity:
            losses["identity"] = self.identity(restored / 2 + 0.5, batch["truth"])
            total = total + s.identity_weight * losses["identity"]
        if commitment.requires_grad:
            losses["commitment"] = commitment
            total = total + s.commitment_weight * commitment
        descend(self.optimizers["model"], total)
        if gate is not None:
            losses["gate"] = gate.detach().mean()

        # ----- discriminator, Eq. 8
        if s.adversarial_weight:
            losses["discriminator"], _ = adversary.learn(y, restored)
            losses |= adversary.penalise(y, s.r1_gamma_weight, s.r1_every, batch["step"])

        # weights that were trained before have their warm-up behind them
        if s.quantise and (seen >= s.warmup_images or model.quantising):
            losses |= self._learn_codes(y)
        return losses

    @torch.no_grad()
    def _learn_codes(self, y) -> dict[str, torch.Tensor]:
        """Moving averages over features of the truth (section 3.1.2); the codebooks' health."""
        model, health = self.networks["model"], {"commitment_true": y.new_zeros(())}
        features = model.encode(y)
        for side, skip in model.skips.items():
            book, h = skip.codebook, features[int(side)]
            if not model.quantising:
                book.start(h)
            health["commitment_true"] = health["commitment_true"] + book.update(h)
            health |= {f"{name}_{side}": value for name, value in book.health().items()}
        model.quantising.fill_(True)
        return health

    def _reconstruction(self, restored, y):
        """Terms of Eq. 10 by name, and their weighted sum less the distance between two draws.

        restored N or 2N x 3 x R x R as forward() returns them, y N x 3 x R x R, in [-1, 1].
        """
        s, true = self.settings, self._layers(y)
        weights = {"pixel": s.pixel_weight, "perceptual": s.perceptual_weight}
        made = {name: layer.split(len(y)) for name, layer in self._layers(restored).items()}
        first = {name: layer[0] for name, layer in made.items()}
        losses = self._distances(first, true)
        if not s.spread_weight:
            return losses, sum(weights[name] * value for name, value in losses.items())
        second = {name: layer[1] for name, layer in made.items()}
        losses = {n: (losses[n] + value) / 2 for n, value in self._distances(second, true).items()}
        spread = self._distances(first, second)
        total = sum(weights[n] * (losses[n] - s.spread_weight / 2 * spread[n]) for n in losses)
        return losses | {f"{name}_spread": value for name, value in spread.items()}, total

    def _layers(self, images):
        layers = {"image": images}
        return layers | self.perceptual(images / 2 + 0.5) if self.perceptual else layers

    def _distances(self, a, b):
        taps = PERCEPTUAL[self.settings.perceptual]
        found = {"pixel": F.l1_loss(a["image"], b["image"])}
        if self.perceptual:
            terms = (w * F.l1_loss(a[tap], b[tap]) for tap, w in taps.items())
            found["perceptual"] = cast(torch.Tensor, sum(terms))
        return found


def make_trainer(model: RDFR, settings: Settings, guide: dict) -> Trainer:
    """Trainer of the workflow's loop. `guide`: perceptual (with TAPS)."""
    return Trainer(model, settings, guide)


@torch.no_grad()
def pictures(model: RDFR, truth: torch.Tensor) -> dict[str, torch.Tensor]:
    """truth N x 3 x R x R in [0, 1] -> {"codes_8": 1 x 3 x H x W in [0, 1], ...}: what codes mean.

    A tile is the mean of the patches of `truth` at the positions that chose a code (a position of
    side r stands for R / r pixels, though its feature has seen more around them). Codes are in the
    order of their use, row by row; those that none chose are black. Nothing before the end of the
    warm-up.
    """
    if not model.quantising:
        return {}
    books: dict[int, Any] = {
        int(side): skip.codebook for side, skip in model.skips.items() if skip.codebook
    }
    use: dict[int, Any] = dict.fromkeys(books, 0.0)
    sums: dict[int, Any] = dict.fromkeys(books, 0.0)
    for part in truth.split(16):
        features = model.encode(part * 2 - 1)
        for side, book in books.items():
            chosen = F.one_hot(book.nearest(features[side]).flatten(), len(book.codes)).float()
            patches = F.pixel_unshuffle(part, part.shape[-1] // side).permute(0, 2, 3, 1)
            use[side] = use[side] + chosen.sum(0)
            sums[side] = sums[side] + chosen.T @ patches.flatten(0, 2)
    found = {}
    for side in books:
        pixels = truth.shape[-1] // side
        order = use[side].argsort(descending=True, stable=True)
        means = (sums[side] / use[side].clamp(min=1)[:, None])[order].view(-1, 3, pixels, pixels)
        tiles = F.pad(means, (1, 1, 1, 1))  # a black line between them
        across = math.ceil(math.sqrt(len(tiles)))
        tiles = torch.cat([tiles, tiles.new_zeros(-len(tiles) % across, *tiles.shape[1:])])
        rows = [torch.cat(list(row), 2) for row in tiles.split(across)]
        found[f"codes_{side}"] = torch.cat(rows, 1)[None]
    return found
