"""folder: any tree of photographs, `path` of the entry."""

from pathlib import Path
from typing import TYPE_CHECKING

from frcore.faces import sources
from frcore.faces.sources import Photo

if TYPE_CHECKING:
    from frcore.config import Dataset

ASSETS = ()

read = sources.read


def list_photos(dataset: "Dataset", assets: Path, seed: int) -> list[Photo]:
    """Everything below `dataset.path` that is not hidden; see `sources.list_folder`.

    Each is its own person: `people` is looked up when the shards are joined.
    """
    return sources.list_folder(dataset.path or "")
