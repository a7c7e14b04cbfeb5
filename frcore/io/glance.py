"""A look at a large photograph without holding all of it: most large files show no face.

A photograph of 200 megapixels takes 800 MB. Whether there is a face in it can be seen in a smaller
one, which is made while the file is read.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from frcore.io.decode import MAX_PIXELS, turned

LARGE = 40_000_000  # pixels, from which on it is worth it
_ROWS = 64  # of a band; a multiple of all factors
_FACTORS = (2, 4, 8, 16)
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# (bits, kind of colour) -> Pillow's mode, where its bytes are the file's, and bits a pixel
_PLAIN = {
    (1, 0): ("1", 1),
    (8, 0): ("L", 8),
    (8, 2): ("RGB", 24),
    (8, 3): ("P", 8),
    (8, 4): ("LA", 16),
    (8, 6): ("RGBA", 32),
}


def glance(path: str | Path, side: int) -> Image.Image | None:
    """A large photograph as a small upright RGB picture, its longer side `side` or more pixels.

    None for a photograph that is not LARGE, or of a kind that has to be read as a whole, or that
    cannot be read: `read_photo` says why. Colours are as stored, for faces to be looked for.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as opened:
                pixels = opened.width * opened.height
                factor = max((f for f in _FACTORS if f * side <= max(opened.size)), default=1)
                if not LARGE <= pixels <= MAX_PIXELS or factor == 1:
                    return None
                if opened.format == "JPEG":
                    opened.draft("RGB", (opened.width // factor, opened.height // factor))
                    return turned(opened).convert("RGB")
                if opened.format == "PNG":
                    return _reduced(Path(path), factor, opened)
    except Exception:  # whatever is wrong with it
        return None
    return None


def _reduced(path: Path, factor: int, opened: Image.Image) -> Image.Image | None:
    with open(path, "rb") as file:
        head = _head_of(file)
        if head is None:
            return None
        width, height = head.width // factor, head.height // factor
        small = Image.new("RGB", (width, height))
        top = rows = 0
        for band in _bands(file, head):
            rows += band.height
            part = _over_white(band).reduce(factor)
            small.paste(part, (0, top))
            top += part.height
        if rows != head.height:  # cut off
            return None
    small.info = dict(opened.info)  # the orientation is in there
    return turned(small)


def _over_white(band: Image.Image) -> Image.Image:
    if band.mode not in ("LA", "RGBA") and "transparency" not in band.info:
        return band.convert("RGB")
    clear = band.convert("RGBA")
    white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, clear).convert("RGB")


# ----- PNG


@dataclass
class _Head:
    width: int
    height: int
    mode: str
    bits: int  # of a pixel
    sort: bytes  # the end of IHDR
    before: bytes  # chunks of palette and transparency


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        if kind not in (b"IHDR", b"PLTE", b"tRNS", b"IDAT"):
            file.seek(length + 4, 1)
            continue
        data = file.read(length)
        file.seek(4, 1)
        yield kind, data


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _head_of(file: BinaryIO) -> _Head | None:
    """What comes before the pixels, `file` left at them; None for a PNG of an unusual kind."""
    if file.read(8) != _SIGNATURE:
        return None
    head, before, at = None, b"", file.tell()
    for kind, data in _chunks(file):
        if kind == b"IHDR":
            width, height, bits, colour, _, _, laced = struct.unpack(">IIBBBBB", data)
            if laced or (bits, colour) not in _PLAIN:
                return None
            mode, size = _PLAIN[bits, colour]
            head = _Head(width, height, mode, size, data[8:], b"")
        elif kind == b"IDAT":
            file.seek(at)
            break
        else:
            before += _chunk(kind, data)
        at = file.tell()
    if head is not None:
        head.before = before
    return head


def _bands(file: BinaryIO, head: _Head) -> Iterator[Image.Image]:
    """The picture from top to bottom, _ROWS rows at a time; the last band has the rest.

    Rows are stored as differences from the row above. So each band becomes a PNG of its own that
    begins with the last row of the band before.
    """
    length = 1 + (head.width * head.bits + 7) // 8  # of a row, its kind of difference in front
    above = bytes(length)
    for rows in _inflated(file, length * _ROWS):
        n = len(rows) // length
        size = struct.pack(">II", head.width, n + 1)
        whole = _chunk(b"IDAT", zlib.compress(above + rows, 0))
        data = _SIGNATURE + _chunk(b"IHDR", size + head.sort) + head.before + whole
        with Image.open(io.BytesIO(data + _chunk(b"IEND", b""))) as band:
            band.load()
            shown = band.crop((0, 1, head.width, n + 1))
        last = shown.crop((0, n - 1, head.width, n))
        above = b"\0" + last.tobytes()
        yield shown


def _inflated(file: BinaryIO, most: int) -> Iterator[bytes]:
    """The pixels' bytes in parts of `most`; the last has the rest. Raises at a damaged place."""
    inflate, waiting = zlib.decompressobj(), b""
    for kind, data in _chunks(file):
        if kind != b"IDAT":
            continue
        while data:
            waiting += inflate.decompress(data, most - len(waiting))
            data = inflate.unconsumed_tail
            if len(waiting) == most:
                yield waiting
                waiting = b""
    if waiting:
        yield waiting
