"""Files that appear complete or not at all. Imports no torch."""

import contextlib
import errno
import fcntl
import functools
import os
import secrets
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SCRATCH = ".frcore-"  # begins the names of scratch folders; hidden, so that no listing sees them
# in a scratch folder: held by who writes there, names the host; the folder that is replaced
_LOCK, _BEFORE = ".frcore-lock", ".frcore-before"
FOREIGN_DAYS = 2  # a lock may not hold across hosts: another's scratch is left alone this long
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def atomic_output(path: str | Path, folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path; on success it replaces `path`, on failure it is removed.

    So a file or folder that exists under its final name is always complete. Modes follow the umask;
    a folder's link is followed, a file's is replaced. What killed processes left beside `path` is
    removed. A full disk raises OSError with `path`.
    """
    path = Path(path)
    if folder and path.is_symlink():
        path = Path(os.path.realpath(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(path.parent) as scratch:
            part = scratch / path.name
            if folder:
                part.mkdir()
            yield part
            if folder and path.is_dir():
                _swap(part, path, scratch / _BEFORE)
            else:
                os.replace(part, path)
    except Exception as error:
        number = full_disk(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from None


def _swap(part: Path, path: Path, before: Path) -> None:
    """Put folder `part` in the place of folder `path`, which goes to `before`."""
    os.replace(path, before)
    try:
        os.replace(part, path)
    except OSError:
        os.replace(before, path)
        raise


@contextlib.contextmanager
def scratch_folder(parent: str | Path) -> Iterator[Path]:
    """A new folder in `parent`, removed at the end; those of killed processes are removed first."""
    parent = Path(parent)
    _clear_once(os.path.abspath(parent))
    while True:
        scratch = parent / f"{SCRATCH}{secrets.token_hex(4)}"
        try:
            scratch.mkdir()  # not mkdtemp, which does not ask the umask
            break
        except FileExistsError:
            continue
    try:
        with _locked(scratch / _LOCK):
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "wb", buffering=0) as opened:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(opened, fcntl.LOCK_EX)  # a clearing process may look at it just now
        with contextlib.suppress(OSError):  # a full disk: the host's name is not worth the result
            opened.write(socket.gethostname().encode())
        yield


@functools.cache  # a folder of 70,000 faces is not listed for each of them
def _clear_once(parent: str) -> None:
    clear_scratch(parent)


def clear_scratch(parent: str | Path) -> list[str]:
    """Remove scratch folders in `parent` whose processes were killed; their names."""
    removed = []
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in [e for e in entries if e.name.startswith(SCRATCH)]:
            if entry.is_dir(follow_symlinks=False) and _is_left(Path(entry.path)):
                shutil.rmtree(entry.path, ignore_errors=True)
                removed.append(entry.name)
    return removed


def _is_left(scratch: Path) -> bool:
    """Whether nobody writes there any more."""
    try:
        with open(scratch / _LOCK, "r+", encoding="utf-8") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            host = opened.read()
            newest = max(item.lstat().st_mtime for item in (scratch, *scratch.rglob("*")))
    except FileNotFoundError:  # killed before it had its lock, or about to have it
        with contextlib.suppress(OSError):
            return time.time() - scratch.stat().st_mtime > 3600
        return False
    except OSError:  # in use, of another user, or no locks there
        return False
    return host == socket.gethostname() or time.time() - newest > FOREIGN_DAYS * 86400


def full_disk(error: BaseException) -> int | None:
    """The number of the error where a disk or quota is full, else None.

    Libraries wrap it: torch in what it raised before, safetensors in words.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return seen.errno
        for number in _FULL:
            if f"(os error {number})" in str(seen):
                return number
        seen = seen.__cause__ or seen.__context__
    return None


def mode_of_new_file(folder: Path) -> int:
    """Permission bits that a new file in `folder` gets: what umask and folder allow."""
    probe = folder / ".mode"
    with open(probe, "wb"):
        mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    return mode


@contextlib.contextmanager
def linked_folder(files: dict[str, Path]) -> Iterator[Path]:
    """A temporary folder in which {name}.png leads to each of `files`."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, path in files.items():
            os.symlink(Path(path).resolve(), Path(scratch) / f"{name}.png")
        yield Path(scratch)
