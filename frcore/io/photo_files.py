"""Photographs as people have them: EXIF, colour profile, alpha and grey survive restoring."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from frcore.io.colours import Profile
from frcore.io.decode import decode
from frcore.io.files import atomic_output

# formats that are written as they came; others become PNG
WRITTEN = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
# become PNG as well, and lose nothing by it
PLAIN = (".ppm", ".pgm", ".pbm", ".pnm")
_BAND = 256  # rows that are looked at at once
_XMP_TAG = 700  # of a TIFF
# what is left out in turn where a format's place for it is too small
_LEFT_OUT = ((), ("XMP",), ("EXIF",), ("XMP", "EXIF"))


class CannotHold(ValueError):
    """A format that has no room for a photograph; the text says for what."""


@dataclass
class Opened:
    """A photograph and what must survive its restoration.

    image: upright RGB in the photograph's own colours, those of `profile` (None: sRGB). alpha: L or
    None. grey: 1 (one channel), 3 (three equal ones) or 0.
    """

    image: Image.Image
    alpha: Image.Image | None
    grey: int
    exif: bytes
    icc: bytes | None
    xmp: bytes | None
    note: str = ""
    profile: Profile | None = None

    def to_srgb(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 H x W x 3 in the photograph's colours -> sRGB."""
        if self.profile is None:
            return pixels
        return np.asarray(self.profile.to_srgb(Image.fromarray(pixels)))

    def from_srgb(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 H x W x 3 in sRGB -> the photograph's colours."""
        if self.profile is None:
            return pixels
        return np.asarray(self.profile.from_srgb(Image.fromarray(pixels)))


def open_photo(path: str | Path) -> Opened:
    """Read a photograph for restoration. Raises BadImage with a short reason."""
    found = decode(path, tags=True)
    image, profile, icc, notes = found.image, found.profile, found.icc, list(found.notes)
    if profile is not None and profile.back is None:
        image, profile, icc = profile.to_srgb(image), None, None
        notes.append("colours converted to sRGB: the profile cannot be written to")
    grey = 1 if found.grey else 3 if _is_grey(image) else 0
    told = "; ".join(notes)
    return Opened(image, found.alpha, grey, found.exif, icc, found.xmp, told, profile)


def _is_grey(image: Image.Image) -> bool:
    for top in range(0, image.height, _BAND):
        part = image.crop((0, top, image.width, min(top + _BAND, image.height)))
        pixels = np.asarray(part)
        if not (pixels == pixels[..., :1]).all():
            return False
    return True


def write_photo(
    path: str | Path,
    pixels: np.ndarray,
    photo: Opened,
    strip: bool = False,
    instead: str | Path | None = None,
) -> tuple[Path, str]:
    """Write uint8 H x W x 3 with the alpha, greyness and metadata of `photo`, atomically.

    The format follows the suffix of `path`. JPEG in quality 95 without chroma subsampling; the
    others lossless. `strip` leaves out EXIF and XMP; the colour profile stays. What that format
    cannot hold becomes a PNG at `instead` (default: NAME.SUFFIX.png). Returns where it was written,
    and a note on what was left out or why it is a PNG.
    """
    path = Path(path)
    image = Image.fromarray(pixels)
    if photo.grey == 1:
        image = image.convert("L")
    if photo.alpha is not None:
        alpha = photo.alpha
        if alpha.size != image.size:
            alpha = alpha.resize(image.size, Image.Resampling.BICUBIC)
        image.putalpha(alpha)
    form = WRITTEN[path.suffix.lower()]
    try:
        data, note = _encode(image, form, photo, strip)
    except CannotHold as error:
        if form == "PNG":
            raise
        data, note = _encode(image, "PNG", photo, strip)
        path = path.with_name(f"{path.name}.png") if instead is None else Path(instead)
        note = "; ".join(text for text in (f"{error}: written as PNG", note) if text)
    with atomic_output(path) as part:
        part.write_bytes(data)
    return path, note


def _encode(image: Image.Image, form: str, photo: Opened, strip: bool) -> tuple[bytes, str]:
    """The file's bytes, and a note on metadata for which the format is too small."""
    told = {
        "ICC": photo.icc,
        "EXIF": None if strip else photo.exif,
        "XMP": None if strip else photo.xmp,
    }
    if form == "JPEG" and photo.alpha is not None:
        raise CannotHold("JPEG holds no transparency")
    if form == "BMP" and (photo.alpha is not None or any(told.values())):
        raise CannotHold("BMP holds neither transparency nor metadata")
    first: Exception | None = None
    for left_out in _LEFT_OUT:
        if not all(told[name] for name in left_out):
            continue
        kept = {name: value for name, value in told.items() if value and name not in left_out}
        buffer = io.BytesIO()
        try:
            image.save(buffer, **_options(form, kept, image.size))
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # plugins raise all kinds for what does not fit
            first = first or error
            continue
        words = " ".join(str(first).split())
        return buffer.getvalue(), f"{' and '.join(left_out)} left out: {words}" if left_out else ""
    raise CannotHold(f"{form} cannot hold it ({' '.join(str(first).split())[:100]})")


def _options(form: str, kept: dict, size: tuple[int, int]) -> dict:
    """Words for Pillow's `save`."""
    options: dict = {"format": form}
    if form == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
    elif form == "WEBP":
        options |= {"lossless": True}
    elif form == "TIFF":
        options |= {"compression": "tiff_lzw"}
    if "ICC" in kept:
        options["icc_profile"] = kept["ICC"]
    exif = _exif_for(kept.get("EXIF", b""), size)
    xmp = kept.get("XMP")
    if xmp and form in ("JPEG", "WEBP"):
        options["xmp"] = xmp
    elif xmp and form == "PNG":
        told = PngImagePlugin.PngInfo()
        told.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8"))
        options["pnginfo"] = told
    elif xmp and form == "TIFF":
        exif[_XMP_TAG] = xmp
    if len(exif):
        options["exif"] = exif if form == "TIFF" else exif.tobytes()
    return options


def _exif_for(exif: bytes, size: tuple[int, int]) -> Image.Exif:
    """The tags for a photograph of `size` pixels."""
    kept = Image.Exif()
    if exif:
        kept.load(exif)
        inner = kept.get_ifd(0x8769)
        for tag, side in ((0xA002, size[0]), (0xA003, size[1])):
            if tag in inner:
                inner[tag] = side
    return kept
