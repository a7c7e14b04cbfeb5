"""StyleGAN2 weights that users own, in the layouts of two public projects -> files of frcore.

- rosinality: github.com/rosinality/stylegan2-pytorch, a checkpoint with `g_ema` or `g`, perhaps `d`
  and `latent_avg`;
- basicsr: StyleGAN2Generator and StyleGAN2Discriminator of github.com/XPixelGroup/BasicSR, which
  GFP-GAN's training starts from: one file each, with `params_ema` or `params`.

Nothing is guessed: every tensor of the file has its row in a table below or is a resampling kernel
that must be ours, and every tensor of frcore/nets/stylegan2.py is filled. The "clean" generator of
GFP-GAN (bilinear enlargement before the convolution) is another network and is refused.
"""

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from frcore.config import ConfigError, load_settings
from frcore.io import checkpoint
from frcore.io.checkpoint import WeightsError
from frcore.methods import stylegan2 as generator
from frcore.nets import stylegan2
from frcore.seeds import torch_generator

State = Mapping[str, torch.Tensor]


# ----- tables


@dataclass(frozen=True)
class Layout:
    """Key names of one project. Its first styled convolution and image layer end in 1, the others
    are lists without them; lists count from 0, the mapping's layers from 1."""

    name: str
    mapping: str
    constant: str
    conv: str  # the first styled convolution
    convs: str  # the others
    modulated: str  # of a styled convolution or image layer
    strength: str  # of the noise
    noise: str
    discriminator: str  # all before the 4x4 layers

    def generator(self, blocks: int, mapping_layers: int) -> dict[str, str]:
        """{key of the file: key of frcore} for all but `mapping.w_avg`; blocks: log2 R - 1."""
        table = {self.constant: "synthesis.constant"}
        for i in range(mapping_layers):
            for part in ("weight", "bias"):
                table[f"{self.mapping}.{i + 1}.{part}"] = f"mapping.layers.{i}.{part}"

        def modulated(foreign, own):
            table[f"{foreign}.{self.modulated}.weight"] = f"{own}.conv.weight"
            for part in ("weight", "bias"):
                name = f"{foreign}.{self.modulated}.modulation.{part}"
                table[name] = f"{own}.conv.affine.{part}"

        for i in range(2 * blocks - 1):  # the styled convolutions: 4, 8 up, 8, 16 up, 16, ...
            foreign = f"{self.convs}.{i - 1}" if i else self.conv
            own = f"synthesis.blocks.{(i + 1) // 2}.{'up' if i % 2 else 'conv'}"
            modulated(foreign, own)
            table[f"{foreign}.{self.strength}"] = f"{own}.noise_strength"
            table[f"{foreign}.activate.bias"] = f"{own}.bias"
            table[self.noise.format(i)] = f"{own}.noise"
        for b in range(blocks):
            foreign = f"to_rgbs.{b - 1}" if b else "to_rgb1"
            own = f"synthesis.blocks.{b}.to_rgb"
            modulated(foreign, own)
            table[f"{foreign}.bias"] = f"{own}.bias"
        return table

    def critic(self, blocks: int) -> dict[str, str]:
        """{key of the file: key of frcore} of the discriminator."""
        body = self.discriminator
        table = {f"{body}.0.0.weight": "from_rgb.weight", f"{body}.0.1.bias": "from_rgb.bias"}
        for b in range(blocks - 1):
            foreign, own = f"{body}.{b + 1}", f"blocks.{b}"
            table[f"{foreign}.conv1.0.weight"] = f"{own}.conv1.weight"
            table[f"{foreign}.conv1.1.bias"] = f"{own}.conv1.bias"
            table[f"{foreign}.conv2.1.weight"] = f"{own}.conv2.weight"
            table[f"{foreign}.conv2.2.bias"] = f"{own}.conv2.bias"
            table[f"{foreign}.skip.1.weight"] = f"{own}.skip.weight"
        table["final_conv.0.weight"], table["final_conv.1.bias"] = "conv.weight", "conv.bias"
        for i, own in enumerate(("fc", "out")):
            for part in ("weight", "bias"):
                table[f"final_linear.{i}.{part}"] = f"{own}.{part}"
        return table


ROSINALITY = Layout(
    name="rosinality",
    mapping="style",
    constant="input.input",
    conv="conv1",
    convs="convs",
    modulated="conv",
    strength="noise.weight",
    noise="noises.noise_{}",
    discriminator="convs",
)
BASICSR = Layout(
    name="basicsr",
    mapping="style_mlp",
    constant="constant_input.weight",
    conv="style_conv1",
    convs="style_convs",
    modulated="modulated_conv",
    strength="weight",
    noise="noises.noise{}",
    discriminator="conv_body",
)
# resampling kernels that rosinality's states hold, with their gain
_KERNELS = (
    (re.compile(r"convs\.\d+\.conv\.blur\.kernel|to_rgbs\.\d+\.upsample\.kernel"), 4.0),
    (re.compile(r"convs\.\d+\.(conv2|skip)\.0\.kernel"), 1.0),
)


# ----- reading


def read_foreign(
    path: str | Path, discriminator: str | Path | None = None
) -> tuple[dict, dict[str, dict[str, torch.Tensor]]]:
    """A file of either layout -> (settings of frcore.methods.stylegan2, {network: state dict}).

    Networks are `model` and, where the file or the other file `discriminator` has one,
    `discriminator`. The mean of w is the file's `latent_avg`, or else taken over 10,000 z with a
    fixed seed; noise that the file lacks is drawn with a fixed seed.
    Raises FileNotFoundError, WeightsError (no such file, other keys, other shapes or kernels) or
    ValueError (channels or sizes that `Settings` cannot say).
    """
    return _read(path, discriminator)[:2]


def _read(path, discriminator=None):
    """What `read_foreign` returns, and {layout, network: its name in the file}."""
    found = _networks(path)
    if "model" not in found:
        raise WeightsError(f"{path} holds a discriminator alone: give the generator's file")
    layout, key, foreign = found["model"]
    about = {"layout": layout.name, "network": key}
    settings, blocks = _settings(layout, foreign, str(path))
    table = layout.generator(blocks, settings["mapping_layers"])
    own = _shapes(generator.build, settings, str(path))
    foreign = _with_noise(foreign, table, own)
    model = _renamed(foreign, table, own, f"{path}: {key or 'generator'}")
    model["mapping.w_avg"] = _mean_w(found.get("latent_avg"), model, settings, str(path))
    networks = {"model": model}

    if discriminator is not None:
        found = _networks(discriminator)
        if "discriminator" not in found:
            raise WeightsError(f"{discriminator} holds no discriminator")
    if "discriminator" in found:
        layout, key, foreign = found["discriminator"]
        own = _shapes(generator.build_discriminator, settings, str(path))
        name = f"{discriminator or path}: {key or 'discriminator'}"
        networks["discriminator"] = _renamed(foreign, layout.critic(blocks), own, name)
    return settings, networks, about


def _with_noise(state: State, table: Mapping[str, str], own: Mapping) -> State:
    """`state`, with noise drawn where it has none at all (rosinality's first files)."""
    noises = {theirs: ours for theirs, ours in table.items() if ours.endswith(".noise")}
    if noises.keys() & state.keys():
        return state
    drawn = {
        theirs: torch.randn(own[ours], generator=torch_generator("convert", ours))
        for theirs, ours in noises.items()
    }
    return {**state, **drawn}


def _networks(path) -> dict:
    """{model or discriminator: (layout, key in the file, state)}, and latent_avg if it is there."""
    content = _load(path)
    found: dict = {}
    states: dict = {}
    if all(map(torch.is_tensor, content.values())):
        states[""] = content
    for key in ("g_ema", "g", "params_ema", "params", "d"):  # averages first
        if isinstance(content.get(key), Mapping):
            states[key] = content[key]
    for key, state in states.items():
        named = all(isinstance(name, str) for name in state)
        if not state or not named or not all(map(torch.is_tensor, state.values())):
            raise WeightsError(f"{path}: {key or 'its content'} is no state dict")
        part, layout = _recognise(state, path)
        if not part:
            raise _foreign(path, state)
        found.setdefault(part, (layout, key, state))
    if not found:
        raise _foreign(path, content)
    if isinstance(content.get("latent_avg"), torch.Tensor):
        found["latent_avg"] = content["latent_avg"]
    return found


def _load(path) -> Mapping:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        # later checkpoints of rosinality's training hold its arguments: plain values
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for foreign and damaged files
        raise WeightsError(
            f"{path} cannot be read as a PyTorch file that holds tensors and plain values alone "
            f"({type(error).__name__}); nothing else is loaded"
        ) from None
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not networks")
    return content


def _recognise(state: State, path) -> tuple[str, Layout | None]:
    """("model" or "discriminator", layout), or ("", None)."""
    keys = state.keys()
    if any(key.startswith("stylegan_decoder.") for key in keys):
        raise WeightsError(f"{path} is a whole GFP-GAN; only StyleGAN2 itself is converted")
    if any(re.fullmatch(r"style_conv(1|s\.\d+)\.bias", key) for key in keys):
        raise WeightsError(
            f"{path} is GFP-GAN's clean generator (StyleGAN2GeneratorClean): it enlarges "
            "bilinearly before the convolution, so it is another network than StyleGAN2"
        )
    for layout in (ROSINALITY, BASICSR):
        if any(key.startswith(f"{layout.conv}.{layout.modulated}.") for key in keys):
            return "model", layout
    if any(key.startswith("final_conv.") for key in keys):
        for layout in (ROSINALITY, BASICSR):
            if any(key.startswith(f"{layout.discriminator}.0.") for key in keys):
                return "discriminator", layout
    return "", None


def _foreign(path, content: Mapping) -> WeightsError:
    shown = ", ".join(sorted(map(str, content))[:5])
    return WeightsError(
        f"{path} is neither in rosinality's nor in BasicSR's StyleGAN2 layout (keys: {shown})"
    )


def _settings(layout: Layout, state: State, name: str) -> tuple[dict, int]:
    """Settings that the shapes tell, and the number of blocks."""

    def axis(key, i, ndim):
        if key not in state or state[key].ndim != ndim:
            shape = tuple(state[key].shape) if key in state else "nothing"
            raise WeightsError(f"{name} does not fit: expected {ndim} axes at {key}, got {shape}")
        return state[key].shape[i]

    def highest(pattern):
        found = (re.fullmatch(pattern, key) for key in state)
        return max((int(match[1]) for match in found if match), default=None)

    last = highest(r"to_rgbs\.(\d+)\..*")
    blocks = 1 if last is None else last + 2
    widths = [axis(layout.constant, 1, 4)]
    for b in range(blocks - 1):
        widths.append(axis(f"to_rgbs.{b}.{layout.modulated}.weight", 2, 5))
    sides = [4 * 2**b for b in range(blocks)]
    settings = {
        "size": sides[-1],
        "w_dim": axis(f"{layout.conv}.{layout.modulated}.modulation.weight", 1, 2),
        "mapping_layers": highest(rf"{layout.mapping}\.(\d+)\.weight") or 0,
        "c_base": widths[-1] * sides[-1],
        "c_max": widths[0],
    }
    for side, width in zip(sides, widths):
        expected = stylegan2.channels_at(side, settings["c_base"], settings["c_max"])
        if width != expected:
            raise ValueError(
                f"{name}: {width} channels at side {side}, but min({settings['c_base']} / side, "
                f"{settings['c_max']}), which fits sides {sides[-1]} and 4, is {expected} there"
            )
    return settings, blocks


def _shapes(build, settings: dict, name: str) -> dict[str, torch.Size]:
    """Shapes of a network's state, without its memory."""
    try:
        with torch.device("meta"):
            network = build(load_settings(generator.Settings, settings, f"{name}: "))
    except ConfigError:
        raise
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return {key: tensor.shape for key, tensor in network.state_dict().items()}


def _renamed(state: State, table: Mapping[str, str], own: Mapping, name: str) -> dict:
    """`state` under frcore's names and shapes; WeightsError names all that differs.

    The files have axes of length 1 that frcore's shapes leave out.
    """
    gains = {key: _gain(key) for key in state.keys() - table.keys()}
    kernels = {key: gain for key, gain in gains.items() if gain}
    missing = sorted(table.keys() - state.keys())
    unexpected = sorted(gains.keys() - kernels.keys())
    shapes = [
        f"{key}: file {tuple(state[key].shape)}, network {tuple(own[table[key]])}"
        for key in sorted(table.keys() & state.keys())
        if [n for n in state[key].shape if n > 1] != [n for n in own[table[key]] if n > 1]
    ]
    if missing or unexpected or shapes:
        raise WeightsError(
            f"{name} does not fit: missing {missing[:5]} ({len(missing)}), unexpected "
            f"{unexpected[:5]} ({len(unexpected)}), shapes {shapes[:5]} ({len(shapes)})"
        )
    for key, gain in sorted(kernels.items()):
        taps = torch.tensor(stylegan2.TAPS, dtype=torch.float64)
        filtered = torch.outer(taps, taps) / taps.sum() ** 2 * gain
        if state[key].shape != (4, 4) or not torch.allclose(state[key].double(), filtered):
            raise WeightsError(f"{name}: {key} is not the filter [1, 3, 3, 1] that frcore has")
    return {ours: _full(state[theirs]).reshape(own[ours]).clone() for theirs, ours in table.items()}


def _gain(key: str) -> float | None:
    return next((gain for pattern, gain in _KERNELS if pattern.fullmatch(key)), None)


def _full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


@torch.no_grad()
def _mean_w(given, state: State, settings: dict, name: str) -> torch.Tensor:
    w_dim = settings["w_dim"]
    if given is not None:
        if given.numel() != w_dim:
            raise WeightsError(f"{name}: latent_avg {tuple(given.shape)}, expected {w_dim} values")
        return _full(given).reshape(w_dim).clone()
    mapping = stylegan2.Mapping(w_dim, settings["mapping_layers"])
    own = mapping.state_dict().keys() - {"w_avg"}
    layers = {key: state[f"mapping.{key}"] for key in own}
    mapping.to(next(iter(state.values())).dtype).load_state_dict(layers, strict=False)
    z = torch.randn(10_000, w_dim, generator=torch_generator("convert", "mapping.w_avg"))
    return mapping(z.to(mapping.w_avg.dtype)).mean(0)


# ----- writing


def convert_file(
    source: str | Path, out: str | Path, discriminator: str | Path | None = None
) -> dict:
    """Write `source` (and its `discriminator`, if that is a file of its own) to `out`.

    `out` is a weights file of the method stylegan2; returns its card. Raises what `read_foreign`
    raises.
    """
    settings, networks, about = _read(source, discriminator)
    with torch.device("meta"):
        model = generator.build(generator.Settings(**settings))
    card = {
        "name": Path(out).stem,
        "method": "stylegan2",
        "settings": settings,
        "helpers": {},
        "size": settings["size"],
        "parameters": sum(item.numel() for item in model.parameters()),
        "datasets": [],
        "degradations": [],
        "networks": list(networks),
        "images_seen": None,  # the files do not say
        "init": "converted",
        "source": Path(source).name,
        "source_sha256": checkpoint.file_digest(source),
        "source_layout": about["layout"],
        "source_network": about["network"],
        "commit": checkpoint.commit(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "licence": "of the source",
    }
    if discriminator is not None:
        card["source_discriminator_sha256"] = checkpoint.file_digest(discriminator)
    checkpoint.save_weights(out, networks, card)
    return card
