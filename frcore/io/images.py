"""Reading, writing and converting images: files, uint8 and the range of [0, 1].

Inside frcore an image batch is RGB, float32, NCHW, in [0, 1]. Files are 8-bit RGB PNG. torch is
imported by what makes tensors alone: jobs that only cut and paste do without.

N batch, C channels, H height, W width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from frcore.io.decode import BadImage, check_file, decode

if TYPE_CHECKING:
    import torch


def read_photo(path: str | Path) -> Image.Image:
    """A photograph as an upright 8-bit sRGB Pillow image, whatever its mode, depth or orientation.

    EXIF rotation is applied, colour profiles are converted; transparency is laid over white;
    16-bit and float are scaled; CMYK, palette and grey are converted; of an animation the first
    frame is taken.
    Raises BadImage with a short reason (empty, truncated, not an image, too large, unreadable).
    """
    picture = decode(path)
    image = picture.srgb()
    if picture.alpha is None:
        return image
    clear = image.convert("RGBA")
    clear.putalpha(picture.alpha)
    white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, clear).convert("RGB")


# signature, and the head of a PNG of 8-bit RGB, not interlaced; what follows is pixels at once, so
# that there is no colour profile and no transparency
_PNG_START, _PNG_SORT = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\x08\x02\0\0\0"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def read_image(path: str | Path) -> np.ndarray:
    """One of our own image files -> uint8 array H x W x 3.

    Any other picture is read as a photograph, and raises what `read_photo` does.
    """
    path = Path(path)
    check_file(path)  # a pipe would be waited for
    try:
        data = path.read_bytes()
    except OSError:
        return np.asarray(read_photo(path))  # which says what is wrong
    plain = data[:16] == _PNG_START and data[24:29] == _PNG_SORT and data[37:41] == b"IDAT"
    if plain and data.endswith(_PNG_END):
        import cv2  # twice as fast as Pillow

        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if found is not None:
            return cv2.cvtColor(found, cv2.COLOR_BGR2RGB)
    return np.asarray(read_photo(path))


def write_image(path: str | Path, pixels: np.ndarray) -> None:
    """uint8 array H x W x 3 (or H x W) -> PNG; same pixels give the same bytes."""
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8, got {pixels.dtype}")
    import cv2

    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    # one filter for all rows: twice as fast as trying all, and as small
    how = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    _, coded = cv2.imencode(".png", np.ascontiguousarray(pixels), how)
    Path(path).write_bytes(coded.tobytes())


def read_images(paths: Sequence[str | Path]) -> "torch.Tensor":
    """Our own image files of one size -> N x 3 x H x W in [0, 1].

    Raises BadImage for one that cannot be read or has another size than the first.
    """
    images = [read_image(path) for path in paths]
    for path, image in zip(paths, images):
        if image.shape != images[0].shape:
            sizes = [f"{shown.shape[1]}x{shown.shape[0]}" for shown in (image, images[0])]
            raise BadImage(f"{sizes[0]} pixels, {paths[0]} has {sizes[1]}", path)
    return to_float(np.stack(images))


def to_float(pixels: "np.ndarray | torch.Tensor") -> "torch.Tensor":
    """uint8 N x H x W x 3 (or H x W x 3) -> float32 N x 3 x H x W in [0, 1]."""
    import torch

    tensor = torch.as_tensor(np.array(pixels) if isinstance(pixels, np.ndarray) else pixels)
    if tensor.dtype != torch.uint8 or tensor.shape[-1] != 3 or tensor.ndim not in (3, 4):
        raise ValueError(f"expected uint8 ...xHxWx3, got {tensor.dtype} {tuple(tensor.shape)}")
    if tensor.ndim == 3:
        tensor = tensor[None]
    return tensor.permute(0, 3, 1, 2).contiguous().float() / 255


def to_uint8(images: "torch.Tensor") -> np.ndarray:
    """float N x 3 x H x W -> uint8 N x H x W x 3; clipped to [0, 1], rounded half to even.

    Raises ValueError for another shape or for values that are not finite.
    """
    import torch

    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"expected N x 3 x H x W, got {tuple(images.shape)}")
    if not torch.isfinite(images).all():
        raise ValueError("images hold values that are not finite")
    scaled = (images.detach().float().clamp(0, 1) * 255).round()
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def check_images(images: "torch.Tensor", name: str = "images") -> None:
    """Raise ValueError unless `images` is float N x 3 x H x W with values in [0, 1]."""

    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(
            f"{name}: expected float N x 3 x H x W, got {images.dtype} {tuple(images.shape)}"
        )
    low, high = map(float, images.detach().aminmax())
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise ValueError(f"{name}: values must be in [0, 1], got [{low:.4g}, {high:.4g}]")
