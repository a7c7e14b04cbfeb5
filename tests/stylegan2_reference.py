"""StyleGAN2 a second time, slow and literal: what tests hold frcore's networks against.

Pure functions of a state dict in the layout of github.com/rosinality/stylegan2-pytorch (its key
names and shapes; `random_generator` and `random_discriminator` list them all). Every sample has its
own kernel (Eq. 1 and 3 of 1912.04958), zeros are inserted and padded by hand, the filter is a sum
over its 16 taps, and all scaling happens at run time. Imports nothing from frcore.

N batch, C channels, H W image, L rows of W+, D length of w.
"""

import itertools
import math

import torch
from torch.nn import functional as F

KERNEL = [[a * b / 64 for b in (1, 3, 3, 1)] for a in (1, 3, 3, 1)]


# ----- resampling


def fir(x, before, after, gain):
    """Zero padding on both axes, then the 4x4 filter times `gain`."""
    x = F.pad(x, (before, after, before, after))
    h, w = x.shape[2] - 3, x.shape[3] - 3
    y = torch.zeros_like(x[:, :, :h, :w])
    for i in range(4):
        for j in range(4):
            y = y + gain * KERNEL[i][j] * x[:, :, i : i + h, j : j + w]
    return y


def insert_zeros(x):
    """A zero behind every pixel, on both axes."""
    n, c, h, w = x.shape
    y = x.new_zeros(n, c, 2 * h, 2 * w)
    y[:, :, ::2, ::2] = x
    return y


def up2(x):
    return fir(insert_zeros(x), 2, 1, gain=4)


def down2(x):
    return fir(x, 1, 1, gain=1)[:, :, ::2, ::2]


# ----- layers


def lrelu(x):
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def linear(state, name, x, lr_mul=1.0):
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return x @ (weight * lr_mul / math.sqrt(weight.shape[1])).T + bias * lr_mul


def conv(x, weight, stride=1, padding=0):
    """Convolution with a weight that is scaled by its fan-in here."""
    c_in, k = weight.shape[1], weight.shape[2]
    return F.conv2d(x, weight / math.sqrt(c_in * k * k), stride=stride, padding=padding)


def channels(bias):
    return bias.reshape(1, -1, 1, 1)


def modulated(x, weight, s, demodulate=True, up=False):
    """x N x C_in x H x W, weight C_out x C_in x k x k (scaled), s N x C_in -> N x C_out x ..."""
    n, c_in, h, w = x.shape
    c_out, _, k, _ = weight.shape
    kernels = weight[None] * s[:, None, :, None, None]  # Eq. 1
    if demodulate:
        kernels = kernels / torch.sqrt(kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8)  # 3
    if up:  # a transposed convolution is one with the turned kernel between inserted zeros
        kernels = kernels.flip(3, 4)
        x = F.pad(insert_zeros(x)[:, :, :-1, :-1], (k - 1,) * 4)
    else:
        x = F.pad(x, (k // 2,) * 4)
    h, w = x.shape[2:]
    y = F.conv2d(x.reshape(1, n * c_in, h, w), kernels.reshape(n * c_out, c_in, k, k), groups=n)
    y = y.reshape(n, c_out, *y.shape[2:])
    return fir(y, 1, 1, gain=4) if up else y


def styled(state, name, x, w, noise, up=False):
    weight = state[f"{name}.conv.weight"][0]
    weight = weight / math.sqrt(weight.shape[1] * weight.shape[2] ** 2)
    x = modulated(x, weight, linear(state, f"{name}.conv.modulation", w), up=up)
    if noise is not None:
        x = x + state[f"{name}.noise.weight"] * noise
    return lrelu(x + channels(state[f"{name}.activate.bias"]))


def to_rgb(state, name, x, w):
    weight = state[f"{name}.conv.weight"][0]
    s = linear(state, f"{name}.conv.modulation", w)
    y = modulated(x, weight / math.sqrt(weight.shape[1]), s, demodulate=False)
    return y + state[f"{name}.bias"]


# ----- networks


def mapping(state, z):
    """z N x D -> w N x D."""
    x = z / torch.sqrt(z.square().mean(1, keepdim=True) + 1e-8)
    layer = 1
    while f"style.{layer}.weight" in state:
        x = lrelu(linear(state, f"style.{layer}", x, lr_mul=0.01))
        layer += 1
    return x


def generator(state, ws, noise=None):
    """ws N x L x D -> image N x 3 x R x R. `noise`: maps or Nones; default: those of the state."""
    if noise is None:
        noise = [state[f"noises.noise_{i}"] for i in range(ws.shape[1] - 1)]
    x = torch.cat([state["input.input"]] * len(ws))
    x = styled(state, "conv1", x, ws[:, 0], noise[0])
    image = to_rgb(state, "to_rgb1", x, ws[:, 1])
    for b in range(1, ws.shape[1] // 2):
        x = styled(state, f"convs.{2 * b - 2}", x, ws[:, 2 * b - 1], noise[2 * b - 1], up=True)
        x = styled(state, f"convs.{2 * b - 1}", x, ws[:, 2 * b], noise[2 * b])
        image = up2(image) + to_rgb(state, f"to_rgbs.{b - 1}", x, ws[:, 2 * b + 1])
    return image


def stddev_channel(x, group):
    """The value of the extra channel for every image: N x C x H x W -> list of N scalars."""
    n = len(x)
    groups = n // min(group, n)
    values = []
    for i in range(n):
        members = [x[j] for j in range(n) if j % groups == i % groups]
        mean = sum(members) / len(members)
        variance = sum((member - mean) ** 2 for member in members) / len(members)
        values.append(torch.sqrt(variance + 1e-8).mean())
    return values


def discriminator(state, image, group=4):
    """image N x 3 x R x R -> logits N x 1."""
    x = lrelu(conv(image, state["convs.0.0.weight"]) + channels(state["convs.0.1.bias"]))
    block = 1
    while f"convs.{block}.conv1.0.weight" in state:
        name = f"convs.{block}"
        y = conv(x, state[f"{name}.conv1.0.weight"], padding=1)
        y = lrelu(y + channels(state[f"{name}.conv1.1.bias"]))
        y = conv(fir(y, 2, 2, gain=1), state[f"{name}.conv2.1.weight"], stride=2)
        y = lrelu(y + channels(state[f"{name}.conv2.2.bias"]))
        skip = conv(fir(x, 1, 1, gain=1), state[f"{name}.skip.1.weight"], stride=2)
        x = (y + skip) / math.sqrt(2)
        block += 1
    extra = torch.stack(stddev_channel(x, group)).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    x = conv(torch.cat([x, extra], 1), state["final_conv.0.weight"], padding=1)
    x = lrelu(x + channels(state["final_conv.1.bias"]))
    x = lrelu(linear(state, "final_linear.0", x.reshape(len(x), -1)))
    return linear(state, "final_linear.1", x)


# ----- states with random values everywhere


def _filled(shapes, seed, dtype):
    """Values of a trained network's order; biases, strengths and noise are not zero."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        value = torch.randn(shape, generator=draw, dtype=dtype)
        if key.startswith("style."):  # scaled by 0.01 at run time
            value = value * (100 if key.endswith("weight") else 30)
        elif key.endswith("modulation.bias"):
            value = 1 + 0.3 * value
        elif key.endswith("noise.weight"):
            value = 0.2 + 0.3 * value.abs()
        elif key.endswith("bias"):
            value = 0.3 * value
        if key.endswith("kernel"):
            up = "blur" in key or "upsample" in key
            value = torch.tensor(KERNEL, dtype=dtype) * (4 if up else 1)
        state[key] = value
    return state


def random_generator(widths, w_dim, layers, seed=0, dtype=torch.float64, noises=True):
    """State of a generator with `widths` channels at the sides 4, 8, ..."""
    shapes = {}
    for i in range(1, layers + 1):
        shapes[f"style.{i}.weight"], shapes[f"style.{i}.bias"] = (w_dim, w_dim), (w_dim,)
    shapes["input.input"] = (1, widths[0], 4, 4)

    def modulated_conv(name, c_in, c_out, k):
        shapes[f"{name}.conv.weight"] = (1, c_out, c_in, k, k)
        shapes[f"{name}.conv.modulation.weight"] = (c_in, w_dim)
        shapes[f"{name}.conv.modulation.bias"] = (c_in,)

    def styled_conv(name, c_in, c_out):
        modulated_conv(name, c_in, c_out, 3)
        shapes[f"{name}.noise.weight"], shapes[f"{name}.activate.bias"] = (1,), (c_out,)

    def rgb(name, c_in):
        modulated_conv(name, c_in, 3, 1)
        shapes[f"{name}.bias"] = (1, 3, 1, 1)

    styled_conv("conv1", widths[0], widths[0])
    rgb("to_rgb1", widths[0])
    for b in range(1, len(widths)):
        styled_conv(f"convs.{2 * b - 2}", widths[b - 1], widths[b])
        shapes[f"convs.{2 * b - 2}.conv.blur.kernel"] = (4, 4)
        styled_conv(f"convs.{2 * b - 1}", widths[b], widths[b])
        rgb(f"to_rgbs.{b - 1}", widths[b])
        shapes[f"to_rgbs.{b - 1}.upsample.kernel"] = (4, 4)
    for i in range(2 * len(widths) - 1 if noises else 0):
        side = 4 * 2 ** ((i + 1) // 2)
        shapes[f"noises.noise_{i}"] = (1, 1, side, side)
    return _filled(shapes, seed, dtype)


def random_discriminator(widths, seed=1, dtype=torch.float64):
    """State of a discriminator with `widths` channels at the sides 4, 8, ..."""
    shapes = {"convs.0.0.weight": (widths[-1], 3, 1, 1), "convs.0.1.bias": (widths[-1],)}
    narrow_to_wide = list(reversed(widths))
    for i, (a, b) in enumerate(itertools.pairwise(narrow_to_wide), 1):
        shapes[f"convs.{i}.conv1.0.weight"] = (a, a, 3, 3)
        shapes[f"convs.{i}.conv1.1.bias"] = (a,)
        shapes[f"convs.{i}.conv2.0.kernel"] = (4, 4)
        shapes[f"convs.{i}.conv2.1.weight"] = (b, a, 3, 3)
        shapes[f"convs.{i}.conv2.2.bias"] = (b,)
        shapes[f"convs.{i}.skip.0.kernel"] = (4, 4)
        shapes[f"convs.{i}.skip.1.weight"] = (b, a, 1, 1)
    c = widths[0]
    shapes["final_conv.0.weight"], shapes["final_conv.1.bias"] = (c, c + 1, 3, 3), (c,)
    shapes["final_linear.0.weight"], shapes["final_linear.0.bias"] = (c, 16 * c), (c,)
    shapes["final_linear.1.weight"], shapes["final_linear.1.bias"] = (1, c), (1,)
    return _filled(shapes, seed, dtype)
