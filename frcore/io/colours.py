"""Colour profiles: what a photograph's numbers mean, and the same colours as sRGB.

Inside frcore all colours are sRGB. A photograph that is restored keeps its own: faces are brought
to sRGB, and back.
"""

import functools
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_HOW = ImageCms.Flags.BLACKPOINTCOMPENSATION
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
NEAR = 2  # levels of 255 by which a profile may differ from sRGB and still be taken for it
BAND = 1 << 24  # pixels that are converted at once


class BadProfile(ValueError):
    """A profile that does not say what the numbers mean; the text says why."""


@dataclass(frozen=True)
class Profile:
    """Colours that are not sRGB. mode: Pillow's, of images in these colours."""

    mode: str
    forward: ImageCms.ImageCmsTransform
    back: ImageCms.ImageCmsTransform | None  # None: it can only be read

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """An image of this mode (or RGB of equal channels for L) -> RGB in sRGB."""
        return _banded(image if image.mode == self.mode else image.convert(self.mode), self.forward)

    def from_srgb(self, image: Image.Image) -> Image.Image:
        """RGB in sRGB -> RGB with this profile's numbers."""
        assert self.back is not None
        return _banded(image, self.back).convert("RGB")


def _banded(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    """`image` converted a part at a time: a large one is there twice, not three times."""
    rows = max(1, BAND // image.width)
    if rows >= image.height:
        return transform.apply(image)
    whole = Image.new(transform.output_mode, image.size)
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(top + rows, image.height)))
        whole.paste(transform.apply(part), (0, top))
    return whole


@functools.lru_cache(maxsize=8)  # photographs of one camera have one profile
def profile_of(icc: bytes, mode: str) -> Profile | None:
    """The profile of an image of `mode` (L, RGB, CMYK); None where its colours are sRGB's.

    Raises BadProfile for one that is damaged or of another kind of image.
    """
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        space = own.profile.xcolor_space
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise BadProfile(f"cannot be read: {error}") from None
    if _SPACES.get(space) != mode:
        raise BadProfile(f"is of {space.strip()} colours, the picture has {mode}")
    try:
        forward = _transform(own, _srgb(), mode, "RGB")
        if mode != "CMYK" and _is_near(forward, mode):
            return None
    except (ImageCms.PyCMSError, ValueError) as error:
        raise BadProfile(f"cannot be used: {error}") from None
    try:
        back = None if mode == "CMYK" else _transform(_srgb(), own, "RGB", mode)
    except (ImageCms.PyCMSError, ValueError):
        back = None
    return Profile(mode, forward, back)


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _transform(source, target, given: str, made: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(source, target, given, made, _INTENT, _HOW)


def _is_near(forward: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether `forward` changes no colour of a grid by more than NEAR."""
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    if mode == "L":
        grid = levels[None]
    else:
        grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    image = Image.fromarray(grid)
    made = forward.apply(image)
    before, after = (np.asarray(picture.convert("RGB"), np.int16) for picture in (image, made))
    return int(np.abs(before - after).max()) <= NEAR
