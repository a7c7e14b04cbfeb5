"""Files that appear complete or not at all. Imports no torch."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_output(path: str | Path, folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path; on success it replaces `path`, on failure it is removed.

    So a file or folder that exists under its final name is always complete.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    scratch.chmod(0o755)
    part = scratch if folder else scratch / path.name
    try:
        yield part
        if folder and path.is_dir():
            shutil.rmtree(path)
        os.replace(part, path)
    finally:
        if scratch.exists():
            shutil.rmtree(scratch)


@contextlib.contextmanager
def linked_folder(files: dict[str, Path]) -> Iterator[Path]:
    """A temporary folder in which {name}.png leads to each of `files`."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, path in files.items():
            os.symlink(Path(path).resolve(), Path(scratch) / f"{name}.png")
        yield Path(scratch)
