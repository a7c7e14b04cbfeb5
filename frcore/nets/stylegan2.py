"""StyleGAN2: mapping, synthesis ("skip" generator) and residual discriminator, in plain PyTorch.

Paper: Karras, Laine, Aittala, Hellsten, Lehtinen, Aila, "Analyzing and Improving the Image Quality
of StyleGAN", CVPR 2020, arXiv 1912.04958 (section, figure and equation numbers below are its own).
The resampling filter, equalised learning rate and mapping are those of StyleGAN (1812.04948) and
Progressive GAN (1710.10196). Differs from the published code: convolutions are modulated by scaling
their input and output (equal to scaling the kernel, Eq. 1 and 3) in training and inference alike.

N batch, C channels, H W image, R side of the image, L rows of W+ (2 log2 R - 2), D length of w.
Images are in [-1, 1], though the network does not bound them.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

TAPS = (1.0, 3.0, 3.0, 1.0)  # the binomial resampling filter, before normalisation
SLOPE, GAIN = 0.2, math.sqrt(2)  # leaky ReLU, and what keeps the variance behind it


def channels_at(side: int, c_base: int, c_max: int) -> int:
    """Channels of the feature maps of `side` x `side`: min(c_base / side, c_max)."""
    return min(c_base // side, c_max)


def full_precision(device: torch.device) -> AbstractContextManager:
    """Context in which nothing is computed in half precision."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # such as "meta", on which shapes are tested


def rows_of(size: int) -> int:
    """Rows of W+ for an image of `size`: 10 at 64, 18 at 1024."""
    return 2 * int(math.log2(size)) - 2


def check_size(size: int) -> None:
    """Raise ValueError unless `size` is a power of two from 8 to 1024."""
    if size not in (8, 16, 32, 64, 128, 256, 512, 1024):
        raise ValueError(f"expected a side of 8, 16, 32, ... 1024, got {size}")


# ----- resampling


def blur(x: torch.Tensor, pad: tuple[int, int], gain: float = 1.0) -> torch.Tensor:
    """Convolve N x C x H x W with the 4x4 filter, after zero padding (before, after) on both axes.

    -> N x C x (H + sum(pad) - 3) x (W + sum(pad) - 3). `gain` multiplies the filter.
    """
    return _filter(F.pad(x, (pad[0], pad[1], pad[0], pad[1])), 1, gain)


def _filter(x, stride, gain=1.0):
    taps = x.new_tensor(TAPS) / sum(TAPS)
    kernel = (torch.outer(taps, taps) * gain).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(x, kernel, stride=stride, groups=x.shape[1])


def upsample2(x: torch.Tensor) -> torch.Tensor:
    """N x C x H x W -> N x C x 2H x 2W: zeros between the pixels, then the filter times 4.

    Away from the border that is bilinear interpolation; zero padding makes it so at the border.
    """
    y = F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="bilinear", align_corners=False)
    return y[:, :, 2:-2, 2:-2]


def downsample2(x: torch.Tensor) -> torch.Tensor:
    """N x C x H x W -> N x C x H/2 x W/2: the filter, then every second pixel."""
    return _filter(F.pad(x, (1, 1, 1, 1)), 2)


# ----- layers with equalised learning rate


class EqualLinear(nn.Module):
    """Fully connected layer whose weight is scaled at run time by lr_mul / sqrt(fan in).

    `activate`: leaky ReLU times sqrt(2) behind it.
    """

    def __init__(self, c_in, c_out, lr_mul=1.0, bias_init=0.0, activate=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in) / lr_mul)
        self.bias = nn.Parameter(torch.full((c_out,), float(bias_init)))
        self.scale, self.lr_mul, self.activate = lr_mul / math.sqrt(c_in), lr_mul, activate

    def forward(self, x):
        """... x C_in -> ... x C_out; never in half precision, for w and the styles hang on it."""
        with full_precision(x.device):
            x = x.to(self.weight.dtype)
            y = F.linear(x, self.weight * self.scale, self.bias * self.lr_mul)
        return F.leaky_relu(y, SLOPE) * GAIN if self.activate else y


class EqualConv(nn.Module):
    """Convolution with equalised learning rate; `down` filters and strides by 2.

    The activation, if any, is leaky ReLU times sqrt(2).
    """

    def __init__(self, c_in, c_out, kernel, down=False, bias=True, activate=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None
        self.scale, self.down, self.activate = 1 / math.sqrt(c_in * kernel**2), down, activate

    def forward(self, x):
        """N x C_in x H x W -> N x C_out x H x W, or half of H and W."""
        # the gain behind the activation is put on the weights before it: lrelu(g x) = g lrelu(x)
        gain = GAIN if self.activate else 1.0
        weight, kernel = self.weight * (self.scale * gain), self.weight.shape[-1]
        bias = None if self.bias is None else self.bias * gain
        if not self.down:
            y = F.conv2d(x, weight, bias, padding=kernel // 2)
        elif kernel == 1:
            y = F.conv2d(downsample2(x), weight, bias)
        else:
            y = F.conv2d(blur(x, (2, 2)), weight, bias, stride=2)
        return F.leaky_relu(y, SLOPE) if self.activate else y


# ----- modulated convolution


def modulated_conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    s: torch.Tensor,
    demodulate: bool = True,
    up: bool = False,
    gain: float = 1.0,
) -> torch.Tensor:
    """Eq. 1 and 3: y = W'' * x with W' = s_i W_oik, W'' = W' / sqrt(sum_ik W'^2 + 1e-8).

    x N x C_in x H x W, weight C_out x C_in x k x k (already scaled by the equalised rate), s N x
    C_in -> N x C_out x H x W, or twice the side with `up`. `gain` multiplies the result. Computed
    as d_o (W * (s_i x_i)): one kernel for the whole batch, where scaling the kernel needs one each.
    """
    x = x * s[:, :, None, None].to(x.dtype)
    if up:
        y = F.conv_transpose2d(x, weight.transpose(0, 1).to(x.dtype), stride=2)
        y = blur(y, (1, 1), gain=4.0)
    else:
        y = F.conv2d(x, weight.to(x.dtype), padding=weight.shape[-1] // 2)
    if demodulate:
        # sum_ik (s_i W_oik)^2 = sum_i s_i^2 sum_k W_oik^2
        with full_precision(x.device):
            d = torch.rsqrt(s.square() @ weight.square().sum((2, 3)).T + 1e-8)
        return y * (d * gain)[:, :, None, None].to(y.dtype)
    return y * gain if gain != 1 else y


class ModulatedConv(nn.Module):
    """`modulated_conv` with its weight and the affine A that reads the styles s from w."""

    def __init__(self, c_in, c_out, kernel, w_dim, demodulate=True, up=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel))
        self.affine = EqualLinear(w_dim, c_in, bias_init=1.0)
        self.scale, self.demodulate, self.up = 1 / math.sqrt(c_in * kernel**2), demodulate, up

    def forward(self, x, w, gain=1.0):
        """x N x C_in x H x W, w N x D -> N x C_out x H x W (or 2H x 2W)."""
        weight = self.weight * self.scale
        return modulated_conv(x, weight, self.affine(w), self.demodulate, self.up, gain)


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise (unless `side` is None), bias, leaky ReLU (figure 2c)."""

    noise: torch.Tensor

    def __init__(self, c_in, c_out, w_dim, side=None, up=False):
        super().__init__()
        self.conv = ModulatedConv(c_in, c_out, 3, w_dim, up=up)
        if side is not None:
            self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(c_out))
        if side is not None:
            self.register_buffer("noise", torch.randn(side, side))  # the fixed one

    def forward(self, x, w, noise=None):
        """x N x C_in x H x W, w N x D, noise N or 1 x 1 x side x side or None -> N x C_out x ..."""
        y = self.conv(x, w, gain=GAIN)
        if noise is not None:
            y = y + (noise * (self.noise_strength * GAIN)).to(y.dtype)
        return F.leaky_relu(y + (self.bias * GAIN)[:, None, None].to(y.dtype), SLOPE)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to the image, without demodulation."""

    def __init__(self, c_in, w_dim):
        super().__init__()
        self.conv = ModulatedConv(c_in, 3, 1, w_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x, w):
        """x N x C x H x W, w N x D -> N x 3 x H x W in the type of the weights."""
        return self.conv(x, w).to(self.bias.dtype) + self.bias[:, None, None]


# ----- generator


class Mapping(nn.Module):
    """f: Z -> W. z is normalised, then `layers` fully connected layers; keeps the mean of w."""

    w_avg: torch.Tensor

    def __init__(self, w_dim, layers, lr_mul=0.01):
        super().__init__()
        self.layers = nn.ModuleList(
            EqualLinear(w_dim, w_dim, lr_mul, activate=True) for _ in range(layers)
        )
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z):
        """z N x D from N(0, I) -> w N x D."""
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            x = layer(x)
        return x

    @torch.no_grad()
    def track(self, w: torch.Tensor, decay: float = 0.995) -> None:
        """w_avg <- decay w_avg + (1 - decay) mean of w (N x D)."""
        self.w_avg.lerp_(w.detach().to(self.w_avg.dtype).mean(0), 1 - decay)


class SynthesisBlock(nn.Module):
    """One side r: up-convolution (the constant's convolution at 4), convolution, image."""

    def __init__(self, c_in, c_out, w_dim, side, noise=True):
        super().__init__()
        first, where = side == 4, side if noise else None
        self.up = None if first else StyledConv(c_in, c_out, w_dim, where, up=True)
        self.conv = StyledConv(c_out, c_out, w_dim, where)
        self.to_rgb = ToRGB(c_out, w_dim)

    def convs(self) -> list[StyledConv]:
        """The styled convolutions in order."""
        return [layer for layer in (self.up, self.conv) if layer is not None]


class Synthesis(nn.Module):
    """g: W+ -> image, with the learned constant and skip connections of images (figure 7b)."""

    def __init__(self, size, w_dim, c_base, c_max):
        super().__init__()
        check_size(size)
        self.sides = [2**i for i in range(2, int(math.log2(size)) + 1)]
        widths = [channels_at(side, c_base, c_max) for side in self.sides]
        self.constant = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.blocks = nn.ModuleList(
            SynthesisBlock(widths[max(i - 1, 0)], widths[i], w_dim, side)
            for i, side in enumerate(self.sides)
        )

    def convs(self) -> list[StyledConv]:
        """All 2 log2 R - 3 styled convolutions, from coarse to fine."""
        return [layer for block in self.blocks for layer in block.convs()]

    def draw_noise(self, n: int, generator: torch.Generator | None = None) -> list[torch.Tensor]:
        """Fresh noise for `n` images: a list of n x 1 x side x side, one a styled convolution."""
        return [
            torch.randn(n, 1, *layer.noise.shape, generator=generator, device=layer.noise.device)
            for layer in self.convs()
        ]

    def _noise(self, noise, n) -> list:
        if isinstance(noise, str):
            if noise == "random":
                return self.draw_noise(n)
            if noise == "fixed":
                return [layer.noise[None, None] for layer in self.convs()]
            if noise == "none":
                return [None] * len(self.convs())
            raise ValueError(f"noise: expected random, fixed, none or a list of maps, got {noise}")
        if len(noise) != len(self.convs()):
            raise ValueError(f"expected {len(self.convs())} noise maps, got {len(noise)}")
        return list(noise)

    def forward(
        self,
        ws: torch.Tensor,
        noise: str | Sequence[torch.Tensor | None] = "random",
        edit: Callable[[int, torch.Tensor], torch.Tensor] | None = None,
        features: dict[int, torch.Tensor] | None = None,
        leave: Callable[[int, torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """ws N x L x D -> image N x 3 x R x R.

        noise: "random" (fresh), "fixed" (the buffers), "none", or the maps themselves, so that two
        generators can share them. edit(side, x): what becomes of the features behind the up-
        convolution of each side (behind the constant's at 4). features: a dict that is filled with
        {side: features behind the last convolution of that side}. leave(side, x): what becomes of
        those on their way to the next side; the image of this side does not see it.
        Raises ValueError for a wrong shape or number of noise maps.
        """
        if ws.ndim != 3 or ws.shape[1] != 2 * len(self.blocks):
            raise ValueError(f"expected N x {2 * len(self.blocks)} x D, got {tuple(ws.shape)}")
        maps = iter(self._noise(noise, len(ws)))
        x = self.constant.expand(len(ws), -1, -1, -1)
        image: torch.Tensor | None = None
        row = 0
        for side, block in zip(self.sides, self.blocks):
            if block.up is not None:
                x = block.up(x, ws[:, row], next(maps))
                row += 1
            if edit is not None:
                x = edit(side, x)
            x = block.conv(x, ws[:, row], next(maps))
            row += 1
            # the image layer shares its row with the next up-convolution
            rgb = block.to_rgb(x, ws[:, row])
            image = rgb if image is None else upsample2(image) + rgb
            if features is not None:
                features[side] = x
            if leave is not None:
                x = leave(side, x)
        assert image is not None  # there is a side of 4 at least
        return image


class Generator(nn.Module):
    """z -> w -> W+ -> image."""

    def __init__(self, size, w_dim=512, mapping_layers=8, c_base=32768, c_max=512):
        super().__init__()
        self.size, self.w_dim = size, w_dim
        self.rows = rows_of(size)
        self.mapping = Mapping(w_dim, mapping_layers)
        self.synthesis = Synthesis(size, w_dim, c_base, c_max)

    def draw(self, n: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """z n x D from N(0, I) on the network's device, the same on every device."""
        where = self.mapping.w_avg.device
        # a generator's own device draws the same numbers for a network on any device
        device = where if generator is None else generator.device
        return torch.randn(n, self.w_dim, generator=generator, device=device).to(where)

    def to_rows(self, w: torch.Tensor) -> torch.Tensor:
        """w N x D -> W+ N x L x D with equal rows."""
        return w[:, None].expand(-1, self.rows, -1)

    def truncate(self, w: torch.Tensor, psi: float) -> torch.Tensor:
        """w_avg + psi (w - w_avg), for w N x D or N x L x D."""
        return w if psi == 1 else self.mapping.w_avg.lerp(w, psi)

    def mix(self, z1: torch.Tensor, z2: torch.Tensor, crossover: torch.Tensor) -> torch.Tensor:
        """W+ of z1 whose rows from `crossover` (N integers in 1..L; L keeps z1 alone) are z2's."""
        w1, w2 = self.mapping(torch.cat([z1, z2])).chunk(2)
        rows = torch.arange(self.rows, device=w1.device)[None, :, None]
        return torch.where(rows < crossover[:, None, None], w1[:, None], w2[:, None])

    def forward(self, z, truncation=1.0, noise="random"):
        """z N x D -> image N x 3 x R x R."""
        return self.synthesis(self.to_rows(self.truncate(self.mapping(z), truncation)), noise)


# ----- discriminator


def minibatch_stddev(x: torch.Tensor, group: int = 4) -> torch.Tensor:
    """Append the mean standard deviation within groups of images as a constant channel.

    x N x C x H x W -> N x (C + 1) x H x W. Groups hold every (N / G)-th image, G = min(group, N).
    Raises ValueError when N is not divisible by G.
    """
    n, c, h, w = x.shape
    g = min(group, n)
    if n % g:
        raise ValueError(f"a batch of {n} cannot be cut into groups of {g}")
    y = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(g, n // g, c, h, w)
    y = (y.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))  # N / G
    y = y.to(x.dtype).repeat(g)[:, None, None, None].expand(-1, 1, h, w)
    return torch.cat([x, y], 1)


class DiscriminatorBlock(nn.Module):
    """Two convolutions and a shortcut, halving the side (figure 7c)."""

    def __init__(self, c_in, c_out):
        super().__init__()
        self.conv1 = EqualConv(c_in, c_in, 3)
        self.conv2 = EqualConv(c_in, c_out, 3, down=True)
        self.skip = EqualConv(c_in, c_out, 1, down=True, bias=False, activate=False)

    def forward(self, x):
        return (self.conv2(self.conv1(x)) + self.skip(x)) / GAIN


class Discriminator(nn.Module):
    """Image -> logit; residual, with the standard deviation of the minibatch at 4x4."""

    def __init__(self, size, c_base=32768, c_max=512, group=4):
        super().__init__()
        check_size(size)
        sides = [2**i for i in range(int(math.log2(size)), 1, -1)]
        widths = [channels_at(side, c_base, c_max) for side in sides]
        self.group = group
        self.from_rgb = EqualConv(3, widths[0], 1)
        self.blocks = nn.ModuleList(DiscriminatorBlock(a, b) for a, b in pairwise(widths))
        self.conv = EqualConv(widths[-1] + 1, widths[-1], 3)
        self.fc = EqualLinear(16 * widths[-1], widths[-1], activate=True)
        self.out = EqualLinear(widths[-1], 1)

    def forward(self, image):
        """image N x 3 x R x R in [-1, 1] -> logits N x 1."""
        x = self.from_rgb(image)
        for block in self.blocks:
            x = block(x)
        x = self.conv(minibatch_stddev(x, self.group))
        return self.out(self.fc(x.flatten(1)))


# ----- training


def begin_at_prior(model: nn.Module, guide: dict, what: str) -> Discriminator:
    """`model.start` with the trained prior of `guide` -> a copy of its discriminator to be trained.

    guide: prior and prior_discriminator, as the trainer loads them. Raises ValueError, in the name
    of `what`, where they are missing or of other sizes than the model.
    """
    prior, critic = guide.get("prior"), guide.get("prior_discriminator")
    if not isinstance(prior, Generator) or critic is None:
        raise ValueError(
            f"{what} needs settings.prior: a trained StyleGAN2 entry whose file holds its "
            "discriminator"
        )
    try:
        model.start(prior)
    except RuntimeError as error:
        raise ValueError(
            f"size, w_dim, mapping_layers, c_base or c_max differ from the prior's: {error}"
        ) from None
    return deepcopy(critic).requires_grad_(True)


def lazy_adam(parameters, learning_rate: float, betas, every: int) -> torch.optim.Adam:
    """Adam for a network that takes one more step for its regulariser every `every` steps.

    Learning rate and decay rates are those that give the same pace (StyleGAN2, appendix B, lazy
    regularisation): with c = every / (every + 1), lr c and beta^c. `every` 0: no such steps.
    """
    c = every / (every + 1) if every else 1.0
    return torch.optim.Adam(
        parameters, lr=learning_rate * c, betas=tuple(beta**c for beta in betas), eps=1e-8
    )
