"""The photographs of a dataset: one function per kind of source, one common form.

A listing names everything that is there, also what cannot be used: an unusable file fails when it
is read, with the reason for the quarantine table, and so nothing is dropped silently.
"""

import csv
import functools
import hashlib
import itertools
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from frcore.images import PHOTO_SUFFIXES, BadImage, read_photo
from frcore.seeds import torch_generator

if TYPE_CHECKING:
    from frcore.config import Dataset

GENERATOR_FILE = "digiface_generator/weights.tar"
ORL_FOLDER = "orl/faces"
LATENT = 100  # length of the generator's input
BLOCK = 8  # generated at once


@dataclass(frozen=True)
class Photo:
    """One photograph before it is opened.

    id: unique in its dataset, safe as a file name on any system, stable when others are added.
    photo: how people name it (path relative to the dataset's folder).
    person: identity; photographs of one person never part in a split.
    path: the file, or the generator's weights for a generated one.
    index, seed: which sample of the generator; None for a file.
    """

    id: str
    photo: str
    person: str
    path: Path
    index: int | None = None
    seed: int | None = None


def list_photos(dataset: "Dataset", assets: str | Path, seed: int) -> list[Photo]:
    """Every photograph of `dataset`, sorted by id; `dataset.limit` keeps the first in that order.

    `assets` is the cache root that holds {asset}/{file}; `seed` is the run's and only matters for
    generated photographs. Raises FileNotFoundError / NotADirectoryError when the source is not
    there, ValueError when it holds nothing or the people table is wrong.
    """
    if dataset.source == "digiface":
        photos = list_digiface(Path(assets) / GENERATOR_FILE, dataset.samples, seed)
    elif dataset.source == "orl":
        photos = list_orl(Path(assets) / ORL_FOLDER)
    else:
        photos = list_folder(dataset.path, dataset.people)
    if not photos:
        raise ValueError(f"no photographs in {dataset.path or dataset.source}")
    photos = sorted(photos, key=lambda photo: photo.id)
    for first, second in itertools.pairwise(photos):
        if first.id == second.id:
            raise ValueError(f"two photographs share the id {first.id}: {first.path} {second.path}")
    return photos[: dataset.limit]


def read(photo: Photo) -> Image.Image:
    """The photograph as an upright 8-bit RGB Pillow image; raises BadImage with a short reason."""
    if photo.index is not None:
        return Image.fromarray(sample_digiface(photo.path, photo.seed, photo.index))
    try:
        mode = photo.path.stat().st_mode
    except FileNotFoundError:
        reason = "broken link" if photo.path.is_symlink() else "no such file"
        raise BadImage(reason) from None
    except OSError as error:  # no permission on the folder, link loop, name too long
        raise BadImage(f"unreadable: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        raise BadImage("a folder, not a photograph")
    if not stat.S_ISREG(mode):
        raise BadImage("not a regular file")  # opening a pipe would wait for ever
    if photo.path.suffix.lower() not in PHOTO_SUFFIXES:
        raise BadImage(f"not a photograph: suffix {photo.path.suffix or 'missing'}")
    return read_photo(photo.path)


def digest(photo: Photo) -> str:
    """SHA-256 of the file's bytes; empty for a generated photograph."""
    if photo.index is not None:
        return ""
    with photo.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shard(photos: Sequence[Photo], k: int, n: int) -> Sequence[Photo]:
    """Part `k` (from 0) of `n` contiguous parts whose lengths differ by one at most."""
    if not 0 <= k < n:
        raise ValueError(f"shard must be in 0..{n - 1}, got {k}")
    return photos[k * len(photos) // n : (k + 1) * len(photos) // n]


# digiface: samples of a packaged generator


def list_digiface(weights: Path, samples: int, seed: int) -> list[Photo]:
    """`samples` faces of the generator in `weights`; each is its own person."""
    if not weights.is_file():
        raise FileNotFoundError(f"no generator weights: {weights}")
    names = [f"digiface{index:06d}" for index in range(samples)]
    return [Photo(name, name, name, weights, index, seed) for index, name in enumerate(names)]


def sample_digiface(weights: str | Path, seed: int, index: int) -> np.ndarray:
    """Sample `index` as read-only uint8 array 64 x 64 x 3; it depends on (seed, index) alone.

    Runs in float64: float32 convolutions differ between processors by enough to change a byte,
    and recorded hashes of the faces would hold on one machine only.
    """
    return _digiface_block(str(weights), seed, index // BLOCK)[index % BLOCK]


@functools.lru_cache(maxsize=2)
def _digiface_block(weights, seed, block):
    """BLOCK neighbours at once, which is several times faster than one by one."""
    import torch
    from torch.nn import functional

    images = torch.stack(
        [
            torch.randn(
                LATENT, 1, 1, dtype=torch.float64, generator=torch_generator(seed, "digiface", i)
            )
            for i in range(block * BLOCK, (block + 1) * BLOCK)
        ]
    )
    layers = _load_generator(weights)
    for number, (matrix, shift) in enumerate(layers):
        n, channels, height, _ = images.shape
        # A transposed convolution as one product and a sum of overlapping tiles: torch's own runs
        # at a fifth of the speed in float64
        tiles = matrix @ images.transpose(0, 1).reshape(channels, -1)
        tiles = tiles.view(-1, n, height * height).transpose(0, 1)
        side, stride, padding = (4, 1, 0) if number == 0 else (2 * height, 2, 1)
        images = functional.fold(tiles, side, 4, padding=padding, stride=stride) + shift
        images = images.tanh() if number == len(layers) - 1 else images.relu()
    pixels = ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    pixels = pixels.contiguous().numpy()
    pixels.setflags(write=False)  # kept for the next call
    return pixels


@functools.lru_cache(maxsize=1)
def _load_generator(weights):
    """The DCGAN of gan_face_generate 1.1.1 (MIT): float64 (matrix, shift) of its five layers.

    Each is a transposed convolution (kernel 4) with its batch normalisation multiplied in; 1 px of
    LATENT channels -> 4 -> 8 -> 16 -> 32 -> 64 px.
    """
    import torch

    state = torch.load(weights, map_location="cpu", weights_only=True)["netG_state_dict"]
    state = {key: value.double() for key, value in state.items()}
    layers = []
    for i in (0, 3, 6, 9, 12):
        kernel = state[f"main.{i}.weight"]  # C x O x 4 x 4
        shift = torch.zeros(kernel.shape[1], dtype=torch.float64)
        if i < 12:
            norm = f"main.{i + 1}."
            factor = state[norm + "weight"] / (state[norm + "running_var"] + 1e-5).sqrt()
            kernel = kernel * factor[:, None, None]
            shift = state[norm + "bias"] - state[norm + "running_mean"] * factor
        layers.append((kernel.flatten(1).T.contiguous(), shift[:, None, None]))
    return layers


# orl: an archive of 400 photographs


def list_orl(folder: Path) -> list[Photo]:
    """The 40 x 10 photographs s1/1.pgm ... s40/10.pgm; the person is the folder's name."""
    photos = []
    for path in folder.glob("s*/*.pgm"):
        person, number = path.parent.name, path.stem
        name = f"s{int(person[1:]):02d}_{int(number):02d}"
        photos.append(Photo(name, f"{person}/{path.name}", person, path))
    if len(photos) != 400:
        raise FileNotFoundError(f"expected 400 photographs s*/*.pgm in {folder}: {len(photos)}")
    return photos


# folder: any tree of photographs


def list_folder(folder: str | Path, people: str = "none") -> list[Photo]:
    """Everything below `folder` that is not hidden, as photographs.

    people: `subfolder` - the first folder of the relative path (a file beside the folders is its
    own person); `file` - the stem up to its last underscore (Anna_Lee_0001.jpg -> Anna_Lee); `none`
    - each photograph its own; else the path of a CSV with the columns photo,person, photo being
    relative to `folder`. With a CSV, photographs that it does not name are their own person.
    Raises NotADirectoryError, and ValueError for a wrong CSV.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"no such folder: {folder}")
    table = None if people in ("subfolder", "file", "none") else _read_people(Path(people), folder)
    photos = []
    for path in _walk(folder, ()):
        relative = path.relative_to(folder)
        name = photo_id(relative)
        person = name
        if people == "subfolder" and len(relative.parts) > 1:
            person = _printable(relative.parts[0])
        elif people == "file":
            person = _printable(relative.stem.rpartition("_")[0] or relative.stem)
        elif table:
            person = table.get(relative.as_posix(), name)
        photos.append(Photo(name, _printable(relative.as_posix()), person, path))
    return photos


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
        plain = unicodedata.normalize("NFKD", _printable(part)).encode("ascii", "ignore").decode()
        words.append(re.sub(r"[^a-z0-9]+", "-", plain.lower().replace("_", "-")).strip("-"))
    slug = "_".join(word for word in words if word)[-60:].strip("-_") or "photo"
    hashed = hashlib.sha256(os.fsencode(relative.as_posix())).hexdigest()[:8]
    return f"{slug}-{hashed}"


def _printable(text: str) -> str:
    """A file name as text that UTF-8 can hold: undecodable bytes are written as escapes."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def _walk(folder: Path, above: tuple) -> Iterator[Path]:
    """Files, links that lead nowhere, and folders that look like photographs or cannot be read.

    Links to folders are followed (collections are often linked together), except into themselves.
    """
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError:
        yield folder
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if not entry.is_dir():
            yield path
            continue
        if path.suffix.lower() in PHOTO_SUFFIXES:
            yield path  # somebody may count it as a photograph
        yield from _walk(path, (*above, here))


def _read_people(path: Path, folder: Path) -> dict[str, str]:
    """CSV photo,person -> {relative path: person}; every photo must exist, to catch wrong roots."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"people: cannot read {path}: {error}") from None
    if not rows or not {"photo", "person"} <= set(rows[0]):
        raise ValueError(f"people: {path} needs the columns photo,person and at least one row")
    if any(not row["photo"] or not row["person"] for row in rows):
        raise ValueError(f"people: {path} has a row without photo or person")
    table = {Path(row["photo"]).as_posix(): row["person"] for row in rows}
    missing = [photo for photo in table if not os.path.lexists(folder / photo)]
    if missing:
        raise ValueError(f"people: {len(missing)} of {path} are not in {folder}: {missing[:5]}")
    return table
