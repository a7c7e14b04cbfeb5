"""digiface: samples of a packaged generator of faces, 64 x 64 px; each is its own person."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from frcore.faces.sources import Photo
from frcore.seeds import torch_generator

if TYPE_CHECKING:
    from frcore.config import Dataset

ASSETS = ("digiface_generator",)
GENERATOR_FILE = "digiface_generator/weights.tar"
LATENT = 100  # length of the generator's input
BLOCK = 8  # generated at once


def list_photos(dataset: "Dataset", assets: Path, seed: int) -> list[Photo]:
    """`dataset.samples` faces of the generator. Raises FileNotFoundError without its weights."""
    return list_samples(assets / GENERATOR_FILE, dataset.samples, seed)


def read(photo: Photo) -> Image.Image:
    """The sample as an RGB image."""
    assert photo.seed is not None and photo.index is not None  # of a sample
    return Image.fromarray(sample(photo.path, photo.seed, photo.index))


def list_samples(weights: Path, samples: int, seed: int) -> list[Photo]:
    """`samples` faces of the generator in the file `weights`; more leave the first as they are."""
    if not weights.is_file():
        raise FileNotFoundError(f"no generator weights: {weights}")
    names = [f"digiface{index:06d}" for index in range(samples)]
    return [Photo(name, name, name, weights, index, seed) for index, name in enumerate(names)]


def sample(weights: str | Path, seed: int, index: int) -> np.ndarray:
    """Sample `index` as read-only uint8 array 64 x 64 x 3; it depends on (seed, index) alone.

    Runs in float64: float32 convolutions differ between processors by enough to change a byte,
    and recorded hashes of the faces would hold on one machine only.
    """
    return _block(str(weights), seed, index // BLOCK)[index % BLOCK]


@functools.lru_cache(maxsize=2)
def _block(weights, seed, block):
    """BLOCK neighbours at once, which is several times faster than one by one."""
    import torch
    from torch.nn import functional

    images = torch.stack(
        [
            torch.randn(
                LATENT, 1, 1, dtype=torch.float64, generator=torch_generator(seed, "digiface", i)
            )
            for i in range(block * BLOCK, (block + 1) * BLOCK)
        ]
    )
    layers = _load_generator(weights)
    for number, (matrix, shift) in enumerate(layers):
        n, channels, height, _ = images.shape
        # A transposed convolution as one product and a sum of overlapping tiles: torch's own runs
        # at a fifth of the speed in float64
        tiles = matrix @ images.transpose(0, 1).reshape(channels, -1)
        tiles = tiles.view(-1, n, height * height).transpose(0, 1)
        side, stride, padding = (4, 1, 0) if number == 0 else (2 * height, 2, 1)
        images = functional.fold(tiles, side, 4, padding=padding, stride=stride) + shift
        images = images.tanh() if number == len(layers) - 1 else images.relu()
    shown = ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    pixels = shown.contiguous().numpy()
    pixels.setflags(write=False)  # kept for the next call
    return pixels


@functools.lru_cache(maxsize=1)
def _load_generator(weights):
    """The DCGAN of gan_face_generate 1.1.1 (MIT): float64 (matrix, shift) of its five layers.

    Each is a transposed convolution (kernel 4) with its batch normalisation multiplied in; 1 px of
    LATENT channels -> 4 -> 8 -> 16 -> 32 -> 64 px.
    """
    import torch

    state = torch.load(weights, map_location="cpu", weights_only=True)["netG_state_dict"]
    state = {key: value.double() for key, value in state.items()}
    layers = []
    for i in (0, 3, 6, 9, 12):
        kernel = state[f"main.{i}.weight"]  # C x O x 4 x 4
        shift = torch.zeros(kernel.shape[1], dtype=torch.float64)
        if i < 12:
            norm = f"main.{i + 1}."
            factor = state[norm + "weight"] / (state[norm + "running_var"] + 1e-5).sqrt()
            kernel = kernel * factor[:, None, None]
            shift = state[norm + "bias"] - state[norm + "running_mean"] * factor
        layers.append((kernel.flatten(1).T.contiguous(), shift[:, None, None]))
    return layers
