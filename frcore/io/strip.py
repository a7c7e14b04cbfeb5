"""A picture's file without what is no picture: comments, profiles, tags.

Readers stop at a damaged or overlong tag. The pixels behind it are as good as ever: what is left
here can be read. JPEG, PNG and TIFF.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

MOST = 1 << 30  # bytes; a larger file is no photograph that somebody wants to be saved
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"}
# sizes, layout, compression, colours and turn of the pixels
_TIFF_KEPT = {
    *(254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 280, 281, 284, 317, 320),
    *(322, 323, 324, 325, 332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532),
}
_TIFF_UNKNOWN = 65000  # a number for the others that no reader knows


def stripped(path: str | Path) -> Iterator[bytes]:
    """Copies of a file to be tried in turn: with the tags of the camera, then without any.

    Nothing for other kinds of files.
    """
    path = Path(path)
    with open(path, "rb") as opened:
        start = opened.read(8)
        if path.stat().st_size > MOST:
            return
        data = start + opened.read(MOST)
    try:
        if start == _PNG:
            yield _png(data, _PNG_KEPT | {b"eXIf"})
            yield _png(data, _PNG_KEPT)
        elif start[:2] == b"\xff\xd8":
            yield _jpeg(data, exif=True)
            yield _jpeg(data, exif=False)
        elif start[:4] in (b"II*\0", b"MM\0*"):
            yield _tiff(data)
    except (struct.error, IndexError):  # it ends within its head
        return


def _png(data: bytes, kept: set[bytes]) -> bytes:
    parts, at = [_PNG], 8
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind in kept:
            parts.append(data[at : at + 12 + length])
        at += 12 + length
    return b"".join(parts)


def _jpeg(data: bytes, exif: bool) -> bytes:
    """Segments up to the scan without comments and application data; the rest as it is."""
    parts, at = [data[:2]], 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker == 0xDA:
            break
        end = at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
        tags = marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0"
        # Adobe's (14) says how colours are stored, JFIF's (0) too
        told = 0xE0 <= marker <= 0xEF and marker not in (0xE0, 0xEE)
        if not (told or marker == 0xFE) or (exif and tags):
            parts.append(data[at:end])
        at = end
    return b"".join([*parts, data[at:]])


def _tiff(data: bytes) -> bytes:
    """Tags of the first picture that say nothing about its pixels get a number nobody knows."""
    order = "<" if data[:2] == b"II" else ">"
    changed = bytearray(data)
    (at,) = struct.unpack(f"{order}I", data[4:8])
    (count,) = struct.unpack(f"{order}H", data[at : at + 2])
    for place in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack(f"{order}HH", data[place : place + 4])
        if tag not in _TIFF_KEPT or (tag == 274 and kind != 3):
            struct.pack_into(f"{order}H", changed, place, _TIFF_UNKNOWN)
    return bytes(changed)
