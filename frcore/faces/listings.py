"""Which files the faces stage reads, and digests of them. No torch, nothing is opened but a CSV.

The digests are for the workflow: what changes one of them makes a stage's result another.

    photos_digest   photographs below `path`          aligning
    people_digest   `people`: how, or the table       joining the shards
    labels_digest   label files below `labels.path`   parsing maps

They hold names relative to the folder, sizes and times, so that a project may be moved. Listings
and digests walk the same way: hidden names are left out, links are followed.
"""

import hashlib
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from frcore.faces import people

if TYPE_CHECKING:
    from frcore.config import Dataset

# what Pillow reads of photographs; HEIC/AVIF need the user's Pillow to have the codec
PHOTO_SUFFIXES = frozenset(
    [
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp"),
        *(".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".heic", ".avif"),
    ]
)

MOST_TIMES = 200  # that one folder is read


def walk(folder: Path) -> Iterator[Path]:
    """Files, links that lead nowhere, and folders that look like photographs or cannot be read.

    Hidden names are left out. Links to folders are followed (collections are often linked
    together), except into themselves; a folder that links lead to more than MOST_TIMES is then
    named instead of read, for folders that all link to each other never end.
    """
    # a list of what is still to be seen, not a call a level: folders may be nested deeply. With
    # each folder, (device, inode) of those on the way to it
    waiting: list[tuple[Path, tuple | None]] = [(folder, ())]
    times: Counter = Counter()
    while waiting:
        path, way = waiting.pop()
        if way is None:
            yield path
            continue
        try:
            status = path.stat()
            here = (status.st_dev, status.st_ino)
            times[here] += 1
            if here in way:
                continue
            if times[here] > MOST_TIMES:
                raise OSError
            entries = sorted(os.scandir(path), key=lambda entry: os.fsencode(entry.name))
        except OSError:
            if not way or not _looks_like_photo(path):  # else it is listed already
                yield path
            continue
        found: list[tuple[Path, tuple | None]] = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            inner = path / entry.name
            is_folder = _is_folder(entry)
            if not is_folder or _looks_like_photo(inner):
                found.append((inner, None))  # somebody may count such a folder as a photograph
            if is_folder:
                found.append((inner, (*way, here)))
        waiting += reversed(found)


def _looks_like_photo(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_SUFFIXES


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def photo_id(relative: Path) -> str:
    """Identifier of a photograph from its relative path: readable ASCII and a short hash.

    The hash is always there: left out where names happen to be plain and unique, an identifier
    would change when another photograph is added, and with it the photograph's split and seeds.

    >>> photo_id(Path("Été 2019/plage.jpg"))
    'ete-2019_plage-2a9925e7'
    """
    parts = [*relative.parts[:-1], relative.stem]
    words = []
    for part in parts:
        plain = unicodedata.normalize("NFKD", printable(part)).encode("ascii", "ignore").decode()
        words.append(re.sub(r"[^a-z0-9]+", "-", plain.lower().replace("_", "-")).strip("-"))
    slug = "_".join(word for word in words if word)[-60:].strip("-_") or "photo"
    hashed = hashlib.sha256(os.fsencode(relative.as_posix())).hexdigest()[:8]
    return f"{slug}-{hashed}"


def printable(text: str) -> str:
    """A file name as text that UTF-8 can hold: undecodable bytes are written as escapes."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def photos_digest(dataset: "Dataset") -> str:
    """16 hex digits for the photographs below `dataset.path`, the first `dataset.limit` by id.

    "" for a kind without a folder of its own, whose photographs are assets.
    """
    if not dataset.path:
        return ""
    folder = Path(dataset.path)
    found = walk(folder)
    if dataset.limit:  # without, the order does not matter and 70,000 identifiers take a second
        by_id = sorted((photo_id(path.relative_to(folder)), path) for path in found)
        found = (path for _, path in by_id[: dataset.limit])
    return _digest(folder, found)


def people_digest(dataset: "Dataset") -> str:
    """How people are told apart: SHA-256 of the table's bytes, or `subfolder` or `file`.

    "" where each photograph is its own person or the kind knows the people.
    """
    how = people.rule(dataset)
    if how in people.RULES:
        return "" if how == "none" else how
    try:
        return hashlib.sha256(Path(how).read_bytes()).hexdigest()
    except OSError:  # the stage says what is wrong
        return "unreadable"


def labels_digest(dataset: "Dataset") -> str:
    """16 hex digits for the label files (PNG) below `labels.path`; "" for other kinds of labels."""
    if dataset.labels.kind != "folder":
        return ""
    folder = Path(dataset.labels.path or "")
    return _digest(folder, (path for path in walk(folder) if path.suffix == ".png"))


def _digest(folder: Path, paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = os.stat(path)
            facts = f"{status.st_size} {status.st_mtime_ns}"
            if stat.S_ISDIR(status.st_mode):  # what is in it is listed itself
                facts = "folder"
        except OSError:
            facts = "gone"
        digest.update(os.fsencode(path.relative_to(folder)) + f"\0{facts}\0".encode())
    return digest.hexdigest()[:16]
