"""Reading, writing and converting images; the only file that knows uint8, EXIF and colour modes.

Inside frcore an image batch is RGB, float32, NCHW, in [0, 1]. Files are 8-bit RGB PNG. torch is
imported by what makes tensors alone: jobs that only cut and paste do without.

N batch, C channels, H height, W width.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 200_000_000  # a decompression bomb, not a photograph


class BadImage(ValueError):
    """A file that cannot be used as a photograph; its text is the reason for the quarantine."""


def read_photo(path: str | Path) -> Image.Image:
    """A photograph as an upright 8-bit RGB Pillow image, whatever its mode, depth or orientation.

    EXIF rotation is applied; transparency is laid over white; 16-bit is scaled; CMYK, palette and
    grey are converted; of an animation the first frame is taken.
    Raises BadImage with a short reason (empty, truncated, not an image, too large, unreadable).
    """
    path = Path(path)
    try:
        if path.stat().st_size == 0:
            raise BadImage("empty file")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise BadImage(f"too large: {opened.width}x{opened.height} pixels")
                opened.load()
                return _to_rgb(ImageOps.exif_transpose(opened))
    except BadImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(f"too large: over {MAX_PIXELS} pixels") from None
    except Image.UnidentifiedImageError:
        raise BadImage("not an image, or a format that Pillow cannot read") from None
    except OSError as error:
        text = str(error).split("\n")[0]
        reason = "truncated file" if "truncated" in text.lower() else f"unreadable: {text}"
        raise BadImage(reason) from None
    except (SyntaxError, ValueError, EOFError, IndexError, MemoryError) as error:
        # Pillow's plugins raise these for damaged headers
        raise BadImage(f"damaged: {type(error).__name__}: {str(error).splitlines()[:1]}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode -> 8-bit RGB."""
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        values = np.asarray(image).astype(np.float64)
        if image.mode == "F":
            # float TIFFs are in [0, 1] or in [0, 255]; 16-bit ones are scaled by their type
            top = 1.0 if values.max(initial=0.0) <= 1.0 else 255.0
        else:
            top = 65535.0 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 255.0
        return Image.fromarray(np.uint8(np.clip(values / top * 255 + 0.5, 0, 255))).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


# signature, and the head of a PNG of 8-bit RGB, not interlaced; what follows is pixels at once, so
# that there is no colour profile and no transparency
_PNG_START, _PNG_SORT = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\x08\x02\0\0\0"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def read_image(path: str | Path) -> np.ndarray:
    """One of our own image files -> uint8 array H x W x 3.

    Any other picture is read as a photograph, and raises what `read_photo` does.
    """
    try:
        data = Path(path).read_bytes()
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
    """Our own image files of one size -> N x 3 x H x W in [0, 1]."""
    return to_float(np.stack([read_image(path) for path in paths]))


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
