"""orl: an archive of 400 photographs, ten of each of 40 people."""

from pathlib import Path
from typing import TYPE_CHECKING

from frcore.faces import sources
from frcore.faces.sources import Photo

if TYPE_CHECKING:
    from frcore.config import Dataset

ASSETS = ("orl",)
FOLDER = "orl/faces"

read = sources.read


def list_photos(dataset: "Dataset", assets: Path, seed: int) -> list[Photo]:
    """The 40 x 10 photographs s1/1.pgm ... s40/10.pgm; the person is the folder's name.

    Raises FileNotFoundError unless all 400 are there.
    """
    folder, photos = assets / FOLDER, []
    for path in folder.glob("s*/*.pgm"):
        person, number = path.parent.name, path.stem
        name = f"s{int(person[1:]):02d}_{int(number):02d}"
        photos.append(Photo(name, f"{person}/{path.name}", person, path))
    if len(photos) != 400:
        raise FileNotFoundError(f"expected 400 photographs s*/*.pgm in {folder}: {len(photos)}")
    return photos
