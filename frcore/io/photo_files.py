"""Photographs as people have them: EXIF, colour profile, alpha and grey survive restoring."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from frcore.io.files import atomic_output
from frcore.io.images import read_photo

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


# description, maker, model, resolution, software, date, artist, rating, copyright, and the EXIF and
# GPS parts; not orientation, for the pixels are turned
_EXIF_KEPT = {270, 271, 272, 282, 283, 296, 305, 306, 315, 18246, 33432, 0x8769, 0x8825}


@dataclass
class Opened:
    """A photograph and what must survive its restoration.

    image: upright RGB. alpha: L or None. grey: 1 (one channel), 3 (three equal ones) or 0.
    """

    image: Image.Image
    alpha: Image.Image | None
    grey: int
    exif: bytes
    icc: bytes | None
    xmp: bytes | None
    note: str = ""


def open_photo(path: str | Path) -> Opened:
    """Read a photograph for restoration. Raises BadImage with a short reason."""
    notes: list[str] = []
    path = Path(path)
    image = read_photo(path)
    with Image.open(path) as opened:
        exif = _exif_of(opened, notes)  # before load: a TIFF is closed by it
        n_frames = getattr(opened, "n_frames", 1)
        deep = any(";16" in str(tile[3]) for tile in opened.tile if len(tile) > 3)
        opened.load()
        turned = ImageOps.exif_transpose(opened)
    if deep or turned.mode.startswith(("I", "F")):
        notes.append("more than 8 bit: written as 8-bit")
    alpha = None
    if turned.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in turned.info:
        rgba = turned.convert("RGBA")
        # colours as they are under the transparency: over white they would be blended twice
        image, alpha = rgba.convert("RGB"), rgba.getchannel("A")
    if n_frames > 1:
        notes.append("first picture of several")
    icc = turned.info.get("icc_profile")
    if turned.mode == "CMYK":
        notes.append("CMYK: written as RGB without its colour profile")
        icc = None
    if turned.mode in ("1", "L", "LA", "La", "F") or turned.mode.startswith("I"):
        grey = 1
    else:
        pixels = np.asarray(image)
        grey = 3 if (pixels == pixels[..., :1]).all() else 0
    return Opened(image, alpha, grey, exif, icc, turned.info.get("xmp"), "; ".join(notes))


def _exif_of(opened: Image.Image, notes: list[str]) -> bytes:
    """Tags that describe the photograph; not those that describe its file or its orientation."""
    try:
        exif = opened.getexif()
        kept = Image.Exif()
        if len(exif):
            kept.load(exif.tobytes())
        for tag in list(kept):
            if tag not in _EXIF_KEPT and not 0x9C9B <= tag <= 0x9C9F:
                del kept[tag]
        return kept.tobytes() if len(kept) else b""
    except Exception as error:  # damaged tags must not cost the photograph
        notes.append(f"EXIF left out: {type(error).__name__}")
        return b""


def write_photo(path: str | Path, pixels: np.ndarray, photo: Opened, strip: bool = False) -> None:
    """Write uint8 H x W x 3 with the alpha, greyness and metadata of `photo`, atomically.

    The format follows the suffix of `path`. JPEG in quality 95 without chroma subsampling; the
    others lossless. `strip` leaves out EXIF and XMP; the colour profile stays.
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
    options: dict = {"format": form}
    if form == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
    elif form == "WEBP":
        options |= {"lossless": True}
    elif form == "TIFF":
        options |= {"compression": "tiff_lzw"}
    if photo.icc:
        options["icc_profile"] = photo.icc
    if not strip and photo.exif:
        options["exif"] = _exif_for(photo.exif, image.size, form)
    if not strip and photo.xmp and form in ("JPEG", "WEBP"):
        options["xmp"] = photo.xmp
    buffer = io.BytesIO()
    image.save(buffer, **options)
    with atomic_output(path) as part:
        part.write_bytes(buffer.getvalue())


def _exif_for(exif: bytes, size: tuple[int, int], form: str):
    """The tags for a photograph of `size` pixels."""
    kept = Image.Exif()
    kept.load(exif)
    inner = kept.get_ifd(0x8769)
    for tag, side in ((0xA002, size[0]), (0xA003, size[1])):
        if tag in inner:
            inner[tag] = side
    return kept if form == "TIFF" else kept.tobytes()
