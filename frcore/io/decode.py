"""A file of any kind -> an upright 8-bit picture, its colours and its transparency.

The one place that reads photographs: what becomes data, what is compared and what is restored is
read alike. What is not pixels (tags, profiles, comments) may be damaged; that never costs pixels.
"""

import io
import os
import re
import stat
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image

from frcore.io import colours
from frcore.io.strip import stripped

MAX_PIXELS = 200_000_000  # a decompression bomb, not a photograph
# Pillow has a limit of its own, half of ours; above twice its limit it refuses
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
_PROGRAMS = {"EPS"}  # what Pillow hands to another program, which may run for ever
_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# description, maker, model, resolution, software, date, artist, rating, copyright, and the EXIF and
# GPS parts; not orientation, for the pixels are turned
_EXIF_PARTS = {0x8769, 0x8825}
_EXIF_KEPT = {270, 271, 272, 282, 283, 296, 305, 306, 315, 18246, 33432, *_EXIF_PARTS}


class BadImage(ValueError):
    """A file that cannot be used as a photograph.

    reason: why, in short, for a row that names the file. The text names it too, where it is known.
    """

    def __init__(self, reason: str, path: str | Path | None = None):
        super().__init__(reason if path is None else f"{path}: {reason}")
        self.reason = reason


@dataclass
class Picture:
    """A photograph as it was stored, upright, 8 bit.

    image: RGB, in the colours of `profile`; under transparency, the colours that are there.
    profile: None for sRGB. icc: the profile as it was stored, where it fits `image`. alpha: L or
    None. grey: the file has one channel. exif, xmp: what is told of the photograph itself. notes:
    what was done with pixels and tags.
    """

    image: Image.Image
    alpha: Image.Image | None = None
    grey: bool = False
    profile: colours.Profile | None = None
    icc: bytes | None = None
    exif: bytes = b""
    xmp: bytes | None = None
    notes: list[str] = field(default_factory=list)

    def srgb(self) -> Image.Image:
        """RGB in sRGB."""
        return self.image if self.profile is None else self.profile.to_srgb(self.image)


def decode(path: str | Path, tags: bool = False) -> Picture:
    """Read a photograph, whatever its mode, depth or orientation; of several pictures the first.

    tags: fill in exif and xmp. Raises BadImage (empty, truncated, not an image, too large, no
    regular file, unreadable).
    """
    path = Path(path)
    try:
        check_file(path)
        try:
            return _decode(path, tags)
        except (BadImage, MemoryError, PermissionError):
            raise
        except Exception as error:  # Pillow's plugins raise all kinds for damaged files
            for data in stripped(path):
                try:
                    picture = _decode(io.BytesIO(data), tags)
                except Exception:  # the first error is the one that is told
                    continue
                picture.notes.append(f"damaged metadata left out: {_words(error)}")
                return picture
            raise BadImage(_reason(error)) from None
    except BadImage as bad:
        raise BadImage(bad.reason, path) from None
    except MemoryError:
        raise BadImage("too large for this machine's memory", path) from None
    except OSError as error:
        raise BadImage(_reason(error), path) from None


def check_file(path: Path) -> None:
    """Raise BadImage unless `path` is a regular file with something in it.

    Opening a pipe would wait for ever, a device may never end.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise BadImage("broken link" if path.is_symlink() else "No such file", path) from None
    except OSError as error:  # no permission on the folder, link loop, name too long
        raise BadImage(f"unreadable: {error.strerror}", path) from None
    if stat.S_ISDIR(status.st_mode):
        try:
            os.scandir(path).close()
        except OSError as error:
            raise BadImage(f"unreadable folder: {error.strerror}", path) from None
        raise BadImage("a folder, not a photograph", path)
    if not stat.S_ISREG(status.st_mode):
        raise BadImage("not a regular file", path)
    if status.st_size == 0:
        raise BadImage("empty file", path)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: over {MAX_PIXELS // 10**6} megapixels"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, or a format that Pillow cannot read"
    if isinstance(error, OSError):
        text = error.strerror or _words(error)
        return "truncated file" if "truncated" in text.lower() else f"unreadable: {text}"
    return f"damaged: {type(error).__name__}: {_words(error)}"


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _decode(source: Path | IO[bytes], tags: bool) -> Picture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tags, and about sizes that are checked here
        with Image.open(source) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                size = f"{opened.width}x{opened.height} pixels"
                raise BadImage(f"too large: {size}, at most {MAX_PIXELS // 10**6} megapixels")
            if opened.format in _PROGRAMS:
                raise BadImage(f"{opened.format}: not a photograph")
            notes: list[str] = []
            # before anything is loaded, which forgets it
            deep = any(";16" in str(tile[3]) for tile in opened.tile if len(tile) > 3)
            several = tags and _several(opened)
            exif = _exif_of(opened, notes) if tags else b""
            white = _declared_white(opened)
            opened.load()
            image = turned(opened)
            if deep or image.mode.startswith(("I", "F")):
                notes.append("more than 8 bit: written as 8-bit")
            picture = _in_eight_bits(image, white, notes)
            if several:
                picture.notes.append("first picture of several")
            picture.exif, picture.xmp = exif, _xmp_of(opened) if tags else None
            return picture


def _several(opened: Image.Image) -> bool:
    try:
        return getattr(opened, "n_frames", 1) > 1
    except Exception:  # later pictures may be damaged
        return True


def turned(opened: Image.Image) -> Image.Image:
    """The pixels as the orientation tag wants them seen. Other tags are not looked at."""
    try:
        turn = _TURNS.get(opened.getexif().get(0x0112))  # type: ignore[arg-type]
    except Exception:  # damaged tags must not cost the photograph
        turn = None
    return opened if turn is None else opened.transpose(turn)


def _declared_white(opened: Image.Image) -> float | None:
    """White of grey values, where a TIFF says it: bits a sample, or its largest value."""
    told = getattr(opened, "tag_v2", {})
    try:
        [bits] = told.get(258, (1,))
        [largest] = told.get(281) or told.get(341) or (0,)
    except (TypeError, ValueError):
        return None
    if largest and bits == 16:
        return float(largest)
    return 2.0**bits - 1 if 8 < bits < 16 else None


def _in_eight_bits(image: Image.Image, white: float | None, notes: list[str]) -> Picture:
    icc, mode = image.info.get("icc_profile"), image.mode
    alpha = None
    if mode.startswith("I") or mode == "F":
        values = np.asarray(image)
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            alpha = Image.fromarray(np.where(values == clear, np.uint8(0), np.uint8(255)))
        image = _scaled(values, mode, white, notes)
    elif mode in _ALPHA or "transparency" in image.info:
        rgba = _with_alpha(image)
        if rgba is not None:
            image, alpha = rgba.convert("RGB"), rgba.getchannel("A")
    grey = mode in ("1", "L", "LA", "La", "F") or mode.startswith("I")
    if mode == "LAB":
        notes.append("Lab: written as RGB without its colour profile")
        return Picture(image.convert("RGB"), notes=notes)
    if mode == "CMYK":
        notes.append("CMYK: written as RGB without its colour profile")
        return Picture(_from_cmyk(image, icc, notes), notes=notes)
    image = image.convert("RGB") if image.mode != "RGB" else image
    profile, icc = _profile(icc, grey, notes)
    return Picture(image, alpha, grey, profile, icc, notes=notes)


def _with_alpha(image: Image.Image) -> Image.Image | None:
    try:
        whole = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
        return (image.convert(whole) if whole else image).convert("RGBA")
    except (ValueError, TypeError):  # a transparency of a kind that Pillow does not know
        return None


def _profile(icc, grey: bool, notes: list[str]) -> tuple[colours.Profile | None, bytes | None]:
    """The profile of an RGB or grey image, and the bytes to be written with it."""
    if not icc:
        return None, None
    reasons = []
    for mode in ("L", "RGB") if grey else ("RGB",):
        try:
            profile = colours.profile_of(bytes(icc), mode)
        except colours.BadProfile as bad:
            reasons.append(str(bad))
            continue
        return profile, bytes(icc)
    notes.append(f"colour profile left out: it {reasons[-1]}")
    return None, None


def _from_cmyk(image: Image.Image, icc, notes: list[str]) -> Image.Image:
    if icc:
        try:
            profile = colours.profile_of(bytes(icc), "CMYK")
            assert profile is not None  # inks are never sRGB
            return profile.to_srgb(image)
        except colours.BadProfile as bad:
            notes.append(f"colours are approximate: the profile {bad}")
    return image.convert("RGB")


# ----- depths


def _scaled(values: np.ndarray, mode: str, white: float | None, notes: list[str]) -> Image.Image:
    """Grey values of any range -> 8-bit grey."""
    low, high = _range_of(values, mode, white, notes)
    made = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), 256):  # large ones a part at a time
        part = (values[top : top + 256].astype(np.float64) - low) * (255 / (high - low))
        made[top : top + 256] = np.clip(np.nan_to_num(part, nan=0.0) + 0.5, 0, 255)
    return Image.fromarray(made)


def _range_of(
    values: np.ndarray, mode: str, white: float | None, notes: list[str]
) -> tuple[float, float]:
    """(black, white) of grey values: as the file says, by convention, or from the values."""
    sample = values.ravel()[:: max(1, values.size // 10**6)].astype(np.float64)
    bad = values.size - int(np.isfinite(values).sum()) if mode == "F" else 0
    if bad:
        notes.append(f"{bad} values are not finite")
        sample = sample[np.isfinite(sample)]
    if not sample.size:
        raise BadImage("no finite values")
    # one hot or dead pixel must not decide
    least, low, high, most = np.percentile(sample, (0.1, 1, 99, 99.9)).tolist()
    if mode.startswith("I;16"):
        white = white or 65535.0
        if values.max() < white / 4:
            notes.append(f"dark: no value above {values.max()} of {white:g}, perhaps of fewer bits")
        return 0.0, white
    if mode == "I":
        known = next((top for top in (255.0, 65535.0) if values.max() <= top), None)
        known = known if least >= 0 else None
    else:
        known = next((top for top in (1.0, 255.0) if _is_range(low, high, top)), None)
    if known:
        return 0.0, known
    begin = min(0.0, least)
    end = most if most > begin else begin + 1
    notes.append(f"scaled from {begin:g}..{end:g}")
    return begin, end


def _is_range(low: float, high: float, top: float) -> bool:
    """Whether float values are of 0..top: filters overshoot a little on both sides."""
    return -top / 4 <= low and high <= 1.25 * top and (top == 1 or high > top / 16)


# ----- tags


def _exif_of(opened: Image.Image, notes: list[str]) -> bytes:
    """Tags that describe the photograph; not those that describe its file or its orientation."""
    try:
        exif = opened.getexif()
        kept = Image.Exif()
        if len(exif):
            kept.load(exif.tobytes())
        for tag in list(kept):
            if not _is_kept(tag):
                del kept[tag]
        return kept.tobytes() if len(kept) else b""
    except Exception:  # damaged tags must not cost the photograph, nor the other tags
        pass
    kept = Image.Exif()
    lost: list[int] = []
    try:
        found = opened.getexif()
        for tag in filter(_is_kept, list(found)):
            if tag not in _EXIF_PARTS:
                _take(kept, found, tag, tag, lost)
        for part in _EXIF_PARTS & set(found):
            inner = found.get_ifd(part)
            for tag in list(inner):
                _take(kept.get_ifd(part), inner, tag, part, lost)
        data = kept.tobytes() if len(kept) or any(map(kept.get_ifd, _EXIF_PARTS)) else b""
    except Exception as error:
        notes.append(f"EXIF left out: {type(error).__name__}")
        return b""
    if lost:
        named = [str(ExifTags.TAGS.get(tag, tag)) for tag in sorted(lost)]
        notes.append(f"EXIF tags left out: {', '.join(named[:5])}{', ...' * (len(named) > 5)}")
    return data


def _is_kept(tag: int) -> bool:
    return tag in _EXIF_KEPT or 0x9C9B <= tag <= 0x9C9F


def _take(kept, found, tag: int, part: int, lost: list[int]) -> None:
    """Copy a tag from `found` to `kept` if it can be written; `part`: where it belongs."""
    try:
        value, alone = found[tag], Image.Exif()
        (alone.get_ifd(part) if part in _EXIF_PARTS else alone)[tag] = value
        alone.tobytes()
        kept[tag] = value
    except Exception:  # of a wrong type, or pointing nowhere
        lost.append(tag)


def _xmp_of(opened: Image.Image) -> bytes | None:
    """XMP without an orientation: the pixels are turned."""
    told = opened.info.get("xmp")
    if not isinstance(told, bytes):
        return None
    word = rb"tiff:Orientation"
    return re.sub(rb"<%b>[^<]*</%b>|%b=([\"'])[^\"']*\1" % (word, word, word), b"", told)
