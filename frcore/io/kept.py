"""What a job made before, kept beside its outputs: Snakemake deletes those before it runs a job.

One job makes many cells (a dataset under all degradations of a run). Whatever starts it again, a
cell that is made of the same is taken from here, and a killed job goes on behind its last cell.
What is kept shares its bytes with the outputs where the file system has hard links. No torch.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from frcore.io.files import atomic_output


def content(paths: Iterable[str | Path]) -> str:
    """SHA-256 of the bytes of some files and, with their names, of the files in some folders."""
    digest = hashlib.sha256()
    for path in map(Path, paths):
        for file in sorted(path.glob("*.*")) if path.is_dir() else [path]:
            if file.name.startswith("."):  # Snakemake's time stamp
                continue
            digest.update(f"{file.name if path.is_dir() else ''}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        digest.update(b"\n")
    return digest.hexdigest()


def key_of(*parts) -> str:
    """One text for everything that a result depends on; JSON-able parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def take(store: Path, key: str, images: Path, table: Path) -> bool:
    """Put what is kept under `key` in place; False where there is nothing, or nothing sound."""
    try:
        stored = json.loads((store / "key.json").read_text(encoding="utf-8"))
        sound = stored["key"] == key and stored["sum"] == _sum(store / "images", store / "table")
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if not sound:
        return False
    with atomic_output(table) as part_table, atomic_output(images, folder=True) as part:
        _link_all(store / "images", part)
        _link(store / "table", part_table)
    return True


def keep(store: Path, key: str, images: Path, table: Path) -> None:
    """Keep a folder of images and its table; what was kept in this place before is replaced."""
    with atomic_output(store, folder=True) as part:
        (part / "images").mkdir()
        _link_all(images, part / "images")
        _link(table, part / "table")
        text = json.dumps({"key": key, "sum": _sum(images, table)})
        (part / "key.json").write_text(text, encoding="utf-8")


def _sum(images: Path, table: Path) -> str:
    return content([images, table])


def _link_all(folder: Path, target: Path) -> None:
    for file in folder.iterdir():
        if not file.name.startswith("."):
            _link(file, target / file.name)


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # no hard links there, or too many of one file
        shutil.copyfile(file, target)
