"""The photographs of a dataset in one common form; the kinds of datasets are files of kinds/.

A listing names everything that is there, also what cannot be used: an unusable file fails when it
is read, with the reason for the quarantine table, and so nothing is dropped silently.
"""

import hashlib
import itertools
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from frcore.faces import kinds
from frcore.faces.listings import PHOTO_SUFFIXES, photo_id, printable, walk
from frcore.io import decode
from frcore.io.images import BadImage, read_photo

if TYPE_CHECKING:
    from frcore.config import Dataset


@dataclass(frozen=True)
class Photo:
    """One photograph before it is opened.

    id: unique in its dataset, safe as a file name on any system, stable when others are added.
    photo: how people name it (path relative to the dataset's folder).
    person: identity; photographs of one person never part in a split.
    path: the file, or the generator's weights for a generated one.
    index, seed: which sample of the generator; None for a file.
    chosen: by name, not found in a folder: whatever its suffix, it is meant as a photograph.
    """

    id: str
    photo: str
    person: str
    path: Path
    index: int | None = None
    seed: int | None = None
    chosen: bool = False


def list_photos(dataset: "Dataset", assets: str | Path, seed: int) -> list[Photo]:
    """Every photograph of `dataset`, sorted by id; `dataset.limit` keeps the first in that order.

    `assets` is the cache root that holds {asset}/{file}; `seed` is the run's and only matters for
    generated photographs. Raises FileNotFoundError / NotADirectoryError when the source is not
    there, ValueError when it holds nothing.
    """
    photos = kinds.load(dataset.source).list_photos(dataset, Path(assets), seed)
    if not photos:
        raise ValueError(f"no photographs in {dataset.path or dataset.source}")
    photos = sorted(photos, key=lambda photo: photo.id)
    for first, second in itertools.pairwise(photos):
        if first.id == second.id:
            raise ValueError(f"two photographs share the id {first.id}: {first.path} {second.path}")
    return photos[: dataset.limit]


def list_folder(folder: str | Path) -> list[Photo]:
    """Everything below `folder` that is not hidden, as photographs, each its own person.

    In the order of `listings.walk`. Raises NotADirectoryError.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"no such folder: {folder}")
    photos = []
    for path in walk(folder):
        relative = path.relative_to(folder)
        name = photo_id(relative)
        photos.append(Photo(name, printable(relative.as_posix()), name, path))
    return photos


def check(photo: Photo) -> None:
    """Raise BadImage with a short reason for what is no file of a photograph; it is not opened."""
    decode.check_file(photo.path)
    if photo.path.suffix.lower() not in PHOTO_SUFFIXES and not photo.chosen:
        suffix = photo.path.suffix or "missing"
        raise BadImage(f"not a photograph: suffix {suffix}", photo.path)


def read(photo: Photo) -> Image.Image:
    """The file of a photograph as an upright 8-bit RGB Pillow image.

    Raises BadImage with a short reason.
    """
    check(photo)
    return read_photo(photo.path)


def digest(photo: Photo) -> str:
    """SHA-256 of the file's bytes; empty for a generated photograph.

    Raises OSError for what cannot be read or is not a file: a pipe, a device.
    """
    if photo.index is not None:
        return ""
    if not stat.S_ISREG(photo.path.stat().st_mode):
        raise OSError(f"not a regular file: {photo.path}")
    with photo.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shard(photos: Sequence[Photo], k: int, n: int) -> Sequence[Photo]:
    """Part `k` (from 0) of `n` contiguous parts whose lengths differ by one at most."""
    if not 0 <= k < n:
        raise ValueError(f"shard must be in 0..{n - 1}, got {k}")
    return photos[k * len(photos) // n : (k + 1) * len(photos) // n]
