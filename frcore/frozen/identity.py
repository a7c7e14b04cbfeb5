"""Face recognition: dlib's ResNet (dlib_face_recognition_resnet_model_v1.dat) in PyTorch.

D. King, "dlib_face_recognition_resnet_model_v1", 2017: 29 convolutions, 128 numbers a face, trained
with a metric loss so that two photographs of one person are closer than 0.6. Written from the
file's layout, without dlib's code; agrees with dlib to about 1e-6 (tests/test_frozen.py).
Unlike dlib it runs on any device, in batches, and passes gradients to the images.

Chips are cut with one fixed window for all frames that were aligned the same way: differentiable,
where dlib fits each face to its landmarks in 8 bit.

N batch, C channels, H height, W width, S side of a square frame.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

CHIP_SIDE = 150  # pixels
SAME_PERSON = 0.6  # dlib's threshold on the Euclidean distance

# (channels, blocks, first block halves the size) from the input side on
_LEVELS = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))
_CHIP_PADDING = 0.25
_LARGEST_WINDOW = 299  # pixels; from here on dlib cuts the chip out of a reduced image
# Average places of the landmarks that dlib fits (no jaw, brows or lower lip), in face widths; found
# from dlib itself by moving one landmark at a time and watching the chip that it cuts.
_MEAN_LANDMARKS = [*range(27, 55), *range(60, 65)]
_MEAN_X = (
    "0.490127 0.490127 0.490127 0.490127 0.36688 0.426036 0.490127 0.554217 0.613373 0.121737 "
    "0.187122 0.265825 0.334606 0.260918 0.182743 0.645647 0.714428 0.793132 0.858516 0.79751 "
    "0.719335 0.254149 0.340985 0.428858 0.490127 0.551395 0.639268 0.726104 0.290379 0.428096 "
    "0.490127 0.552157 0.689874"
)
_MEAN_Y = (
    "0.203352 0.307009 0.409805 0.515625 0.587326 0.609345 0.628106 0.609345 0.587326 0.216423 "
    "0.178758 0.179852 0.231733 0.245099 0.244077 0.231733 0.179852 0.178758 0.216423 0.244077 "
    "0.245099 0.780233 0.745405 0.727388 0.742578 0.727388 0.745405 0.780233 0.784792 0.778746 "
    "0.785343 0.778746 0.784792"
)


# ---- the file ----


class _Reader:
    """dlib's serialisation: primitive values one after the other, no index."""

    def __init__(self, data: bytes):
        self.data = data
        self.at = 0

    def take(self, n_bytes: int) -> bytes:
        piece = self.data[self.at : self.at + n_bytes]
        if len(piece) < n_bytes:
            raise ValueError(f"ends at byte {len(self.data)}, within a value of {n_bytes} bytes")
        self.at += n_bytes
        return piece

    def integer(self) -> int:
        control = self.take(1)[0]
        n_bytes = control & 0x0F
        if control & 0x70 or not 1 <= n_bytes <= 8:
            raise ValueError(f"byte {self.at - 1}: no integer starts with {control:#04x}")
        value = int.from_bytes(self.take(n_bytes), "little")
        return -value if control & 0x80 else value

    def integers(self, n: int) -> list[int]:
        return [self.integer() for _ in range(n)]

    def number(self) -> float:
        mantissa, exponent = self.integer(), self.integer()
        return mantissa * 2.0**exponent

    def string(self) -> str:
        return self.take(self.integer()).decode("ascii")

    def expect(self, wanted, found) -> None:
        if wanted != found:
            raise ValueError(f"byte {self.at}: expected {wanted!r}, got {found!r}")

    def shape(self, version: int) -> list[int]:
        self.expect(version, self.integer())
        return self.integers(4)

    def tensor(self) -> torch.Tensor:
        shape = self.shape(2)
        n_values = int(np.prod(shape))
        values = np.frombuffer(self.take(4 * n_values), "<f4").astype(np.float32)
        return torch.from_numpy(values).reshape(shape)


def _read_layers(data: bytes) -> list[tuple[str, dict]]:
    """The computing layers in the order of computation: (tag, parameters)."""
    reader = _Reader(data)
    reader.expect(1, reader.integer())
    reader.expect("loss_metric_2", reader.string())
    reader.number(), reader.number()  # margin and threshold of the training loss
    # one version number a layer, output side first; 3 marks the layer on the input
    versions = [reader.integer()]
    while versions[-1] != 3:
        versions.append(reader.integer())
    reader.expect("input_rgb_image_sized", reader.string())
    mean = [reader.number() for _ in range(3)]
    reader.expect([CHIP_SIDE, CHIP_SIDE], reader.integers(2))
    layers = [("mean", {"mean": torch.tensor(mean)})]
    for version in reversed(versions):  # the bodies follow input side first
        if version == 1:  # tag and skip layers have none
            continue
        layers.append(_read_body(reader))
        reader.take(3)  # booleans of training
        for _ in range(3):  # gradients and cached output, empty
            reader.tensor()
        if version == 3:
            reader.integer()
    if reader.at != len(data):
        raise ValueError(f"{len(data) - reader.at} bytes are left after the last layer")
    return layers


def _read_body(reader: _Reader) -> tuple[str, dict]:
    """One layer's own part of the file."""
    tag = reader.string()
    if tag == "con_4":
        params = reader.tensor().flatten()
        geometry = reader.integers(7)
        weight_shape, bias_shape = reader.shape(1), reader.shape(1)
        for _ in range(4):  # learning rate and decay multipliers
            reader.number()
        n_weights = int(np.prod(weight_shape))
        reader.expect(weight_shape[0], bias_shape[1])
        weight = params[:n_weights].reshape(weight_shape)
        kernel, stride, padding = geometry[1:3], geometry[3:5], geometry[5:7]
        return "conv", {
            "weight": weight,
            "bias": params[n_weights:],
            "geometry": (*kernel, *stride, *padding),
        }
    if tag == "affine_":
        params = reader.tensor().flatten()
        reader.shape(1), reader.shape(1)
        reader.expect(0, reader.integer())  # one factor a channel
        gamma, beta = params.chunk(2)
        return "affine", {"gamma": gamma, "beta": beta}
    if tag in ("relu_", "add_prev_"):
        return tag.strip("_"), {}
    if tag in ("max_pool_2", "avg_pool_2"):
        return tag[:8], {"geometry": tuple(reader.integers(6))}
    if tag == "fc_2":
        reader.expect([128, 256], reader.integers(2))
        weight = reader.tensor().reshape(256, 128)
        reader.shape(1), reader.shape(1)
        reader.expect(1, reader.integer())  # no bias
        for _ in range(4):
            reader.number()
        return "fc", {"weight": weight.T.contiguous()}
    raise ValueError(f"byte {reader.at}: unknown layer {tag!r}")


# ---- the network ----


class _Block(nn.Module):
    """Residual block; a `down` block halves the size of both branches."""

    def __init__(self, c_in: int, c_out: int, down: bool):
        super().__init__()
        self.down = down
        # dlib pads its convolutions only at stride 1
        self.conv1 = nn.Conv2d(c_in, c_out, 3, 2 if down else 1, 0 if down else 1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1)

    def forward(self, x):
        y = self.conv2(torch.relu(self.conv1(x)))
        if self.down:
            x = F.avg_pool2d(x, 2)
        return torch.relu(_add(x, y))


def _add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Sum of two N x C x H x W of different sizes: each is filled with zeros at its end."""
    sizes = [max(pair) for pair in zip(x.shape[1:], y.shape[1:])]

    def fill(z):
        c, h, w = (size - have for size, have in zip(sizes, z.shape[1:]))
        return F.pad(z, (0, w, 0, h, 0, c)) if c or h or w else z

    return fill(x) + fill(y)


class Identity(nn.Module):
    """Frozen face recognition net: `forward` takes chips, `descriptors` aligned frames."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3), persistent=False)
        self.stem = nn.Conv2d(3, 32, 7, 2, 0)
        blocks = []
        c_in = 32
        for channels, n_blocks, down in _LEVELS:
            for index in range(n_blocks):
                blocks.append(_Block(c_in, channels, down and index == 0))
                c_in = channels
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(256, 128, bias=False)
        self.requires_grad_(False)
        self.eval()

    def forward(self, chips: torch.Tensor) -> torch.Tensor:
        """Face chips N x 3 x 150 x 150 in [0, 1] -> descriptors N x 128, not normalised.

        Raises ValueError for another shape.
        """
        if chips.ndim != 4 or chips.shape[1:] != (3, CHIP_SIDE, CHIP_SIDE):
            raise ValueError(
                f"expected N x 3 x {CHIP_SIDE} x {CHIP_SIDE}, got {tuple(chips.shape)}"
            )
        x = (chips * 255 - self.mean[:, None, None]) / 256
        x = x.contiguous(memory_format=torch.channels_last)  # 1.15 times as fast
        x = torch.relu(self.stem(x))
        x = F.max_pool2d(x, 3, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))

    def descriptors(
        self, images: torch.Tensor, crop_scale: float = 0.7, crop_shift: float = 0.1
    ) -> torch.Tensor:
        """Aligned frames N x 3 x S x S in [0, 1] -> descriptors N x 128; differentiable.

        crop_scale, crop_shift: those of the alignment (see `window`).
        Raises ValueError for frames that are not square RGB.
        """
        return self(chips(images, crop_scale, crop_shift))


class Remembering(nn.Module):
    """Descriptors of frames of which each is computed once, though several metrics ask for it.

    Those of the frames that were first seen longest ago are forgotten.
    net: with `descriptors`, as `Identity`.
    """

    KEPT = 10_000  # frames

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.known: dict[tuple, torch.Tensor] = {}

    @torch.no_grad()
    def descriptors(
        self, images: torch.Tensor, crop_scale: float = 0.7, crop_shift: float = 0.1
    ) -> torch.Tensor:
        """As `Identity.descriptors`, without gradients."""
        frame = (crop_scale, crop_shift, *images.shape[1:])
        rows = images.detach().cpu().contiguous().numpy()
        keys = [(*frame, hashlib.sha256(row.tobytes()).digest()) for row in rows]
        new = {key: i for i, key in enumerate(keys) if key not in self.known}
        if new:
            found = self.net.descriptors(images[list(new.values())], crop_scale, crop_shift)
            self.known.update(zip(new, found))
        wanted = torch.stack([self.known[key] for key in keys])
        for key in list(self.known)[: max(0, len(self.known) - self.KEPT)]:
            del self.known[key]
        return wanted


def load(path: str | Path, device: str | torch.device = "cpu") -> Identity:
    """The frozen net from dlib's own file.

    Raises FileNotFoundError, ValueError when the file is not this network's.
    """
    try:
        layers = _read_layers(Path(path).read_bytes())
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not dlib's face recognition ResNet: {error}") from None
    net = Identity()
    convolutions: list = [net.stem]
    kinds = ["mean", "conv", "affine", "relu", "max_pool"]
    for block in net.blocks:
        convolutions += [block.conv1, block.conv2]
        kinds += ["conv", "affine", "relu", "conv", "affine"]
        kinds += ["avg_pool", "add_prev", "relu"] if block.down else ["add_prev", "relu"]
    kinds += ["avg_pool", "fc"]
    found = [kind for kind, _ in layers]
    if found != kinds:
        raise ValueError(f"{path}: another order of layers: expected {kinds}, got {found}")
    net.mean.copy_(layers[0][1]["mean"])
    net.head.weight.copy_(layers[-1][1]["weight"])
    parts = {kind: [params for k, params in layers if k == kind] for kind in ("conv", "affine")}
    for conv, params, affine in zip(convolutions, parts["conv"], parts["affine"], strict=True):
        ours = (*conv.kernel_size, *conv.stride, *conv.padding)
        if ours != params["geometry"] or conv.weight.shape != params["weight"].shape:
            raise ValueError(f"{path}: a convolution is {params['geometry']}, expected {ours}")
        # x * gamma + beta, what is left of a batch normalisation, becomes part of the convolution
        conv.weight.copy_(params["weight"] * affine["gamma"][:, None, None, None])
        conv.bias.copy_(params["bias"] * affine["gamma"] + affine["beta"])
    return net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


# ---- face chips ----


def window(side: int, crop_scale: float = 0.7, crop_shift: float = 0.1) -> tuple[float, ...]:
    """Where dlib's chip lies in a frame of `side` pixels: (left, top, width), pixels, edges at 0.

    Frames follow FFHQ's alignment: with u = max(2 |eyes apart|, 1.8 |eyes to mouth|) the frame is
    2 u crop_scale wide and its centre lies crop_shift |eyes to mouth| below the eyes.
    Measured on 200 aligned faces at side 64, crop_scale 0.7, crop_shift 0.1: the chip is 64 px wide
    (= 1.4 u) and begins 9.1 px below the frame's top, which puts its centre 0.199 u below the
    frame's. |eyes to mouth| was 24.1 px = 0.527 u there. A chip stays where it is on the face, so
    with another shift the frame's centre moves down by (crop_shift - 0.1) * 0.527 u and the chip
    moves up by that in the frame; one u is side / (2 crop_scale) pixels.
    Raises ValueError for sizes that are not positive.
    """
    if side < 1 or crop_scale <= 0:
        raise ValueError(f"side and crop_scale must be positive, got {side} and {crop_scale}")
    unit = side / (2 * crop_scale)
    width = 1.4 * unit
    below = (9.1 / 64 * 1.4 - (crop_shift - 0.1) * (24.1 / 64 * 1.4)) * unit
    return (side - width) / 2, (side - width) / 2 + below, width


def chips(images: torch.Tensor, crop_scale: float = 0.7, crop_shift: float = 0.1) -> torch.Tensor:
    """Aligned frames N x 3 x S x S -> face chips N x 3 x 150 x 150, black outside the frame.

    Bilinear; when a frame is larger than the chip, over an area that keeps it free of aliasing.
    Raises ValueError for frames that are not square RGB.
    """
    left, top, width = window(images.shape[-1], crop_scale, crop_shift)
    return cut(images, left, top, width, CHIP_SIDE)


def cut(
    images: torch.Tensor, left: float, top: float, width: float, chip_side: int
) -> torch.Tensor:
    """A square of `width` pixels of frames N x 3 x S x S -> N x 3 x chip_side x chip_side.

    left, top: pixels, edges at 0; black outside the frame. Sampled as in `chips`.
    Raises ValueError for frames that are not square RGB.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"expected N x 3 x S x S, got {tuple(images.shape)}")
    side = images.shape[-1]
    # an axis-parallel resize is two matrix products: deterministic on every device, unlike
    # grid_sample's gradient
    across = _resize_matrix(side, left, width, chip_side).to(images)
    down = _resize_matrix(side, top, width, chip_side).to(images)
    return down @ images @ across.T


def _resize_matrix(side: int, start: float, width: float, count: int) -> torch.Tensor:
    """Weights, count x S, that sample [start, start + width) of S pixels with a triangle filter."""
    step = width / count
    centres = start + (torch.arange(count, dtype=torch.float64) + 0.5) * step
    reach = max(1.0, step)
    margin = int(np.ceil(abs(start) + width + reach))  # pixels outside count, as black
    pixels = torch.arange(-margin, side + margin, dtype=torch.float64) + 0.5
    weights = (1 - (pixels[None] - centres[:, None]).abs() / reach).clamp(min=0)
    weights = weights / weights.sum(1, keepdim=True)
    return weights[:, margin : margin + side].float()
