"""Folders that a command makes as a whole: never in the place of what it did not make.

A hidden mark beside the folder names what was made, with sizes and times. Only what it names, and
what is as it was, is ever replaced. No torch.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from frcore.io.files import SCRATCH, atomic_output, scratch_folder

MARK = ".frcore.json"
# what file managers and Snakemake leave in any folder
_STRAY = {".DS_Store", "Thumbs.db", "desktop.ini", ".directory", ".snakemake_timestamp", MARK}


def keep_apart(given: Path, outputs: Iterable[Path], read: Iterable[Path] = ()) -> None:
    """Raise ValueError where an output and the input `given` are one or lie in each other.

    read: folders that `given` leads to by links. Links, `..` and case do not matter: what counts is
    which folders are met on the way up.
    """
    for out in outputs:
        if given.is_dir() and _lies_in(out, given):
            same = _lies_in(given, out)
            where = "is the input itself" if same else f"lies in {given}"
            raise ValueError(f"{out} {where}: results would be taken for photographs")
        if _lies_in(given, out):
            raise ValueError(f"{out} holds the input {given} itself: choose another folder")
        for folder in read:
            if _lies_in(out, folder) or _lies_in(folder, out):
                raise ValueError(f"{given} leads to {folder} by a link, which {out} touches: "
                                 "choose another folder")  # fmt: skip


def folders_on_the_way(given: Path, paths: Iterable[Path]) -> set[Path]:
    """Folders below `given` that hold `paths`; each may be a link to elsewhere."""
    found: set[Path] = set()
    for path in paths:
        for folder in path.parents:
            if folder == given or folder in found:
                break
            found.add(folder)
    return found


def _lies_in(inner: Path, outer: Path) -> bool:
    """Whether `outer` is `inner` or one of the folders above it; neither need exist."""
    try:
        wanted = outer.stat()
    except OSError:
        return False
    place = Path(os.path.realpath(inner))
    for folder in (place, *place.parents):
        with contextlib.suppress(OSError):
            if os.path.samestat(folder.stat(), wanted):
                return True
    return False


def beside(folder: Path, suffix: str) -> Path:
    """The path of a file beside a folder, NAME and `suffix`: also for `.` and `..`."""
    place = Path(os.path.realpath(folder)) if folder.name in ("", "..") else folder
    return place.parent / f"{place.name}{suffix}"


@contextlib.contextmanager
def made(
    root: str | Path,
    by: str,
    overwrite: bool,
    tree: str = "",
    files: Sequence[Path] = (),
) -> Iterator[tuple[Path, list[Path]]]:
    """Yield temporary paths of a folder and of files beside it; on success they get their places.

    The folder is `root`/`tree` (its temporary path is not there yet), `files` lie elsewhere; the
    mark names `by`. A `root` that is a link is followed. Without `overwrite` nothing may be there,
    with it only what the mark names: else FileExistsError, before any work.
    """
    root = _real(Path(root))
    target = _real(root / tree) if tree else root
    place = _place_of_mark(root, tree)
    mark = _read_mark(place)
    _check(target, mark, files, overwrite)
    filled = target.is_dir()  # kept as it is: it may be a mount, or where somebody works
    home = target if filled else target.parent
    with contextlib.ExitStack() as stack:
        home.mkdir(parents=True, exist_ok=True)
        part = stack.enter_context(scratch_folder(home)) / (target.name or "new")
        parts = [
            stack.enter_context(scratch_folder(path.parent)) / path.name for path in files
        ]  # a folder that cannot be written to is told now
        yield part, parts
        sums = {path.name: [_sum(new)] for path, new in zip(files, parts)}
        new = {name: [_state(part / name)] for name in sorted(_files(part))}
        # while it is put in place the mark names the old and the new
        old = {name: states + new.get(name, []) for name, states in mark["files"].items()}
        both = {name: sums[name] + mark["beside"].get(name, []) for name in sums}
        inside = place.parent == root and not root.exists()
        _write_mark(part / MARK if inside else place, by, {**new, **old}, both)
        if filled:
            _refill(part, target, mark["files"])
        else:
            os.replace(part, target)
        for path, made_file in zip(files, parts):
            os.replace(made_file, path)
        _write_mark(place, by, new, sums)


def _place_of_mark(root: Path, tree: str) -> Path:
    """Beside the folder that is made, so that it holds nothing else; else in it."""
    name = f".{root.name}{MARK}"
    if tree or os.path.ismount(root) or len(os.fsencode(name)) > 255:
        return root / MARK
    above = root.parent
    return above / name if not above.exists() or os.access(above, os.W_OK) else root / MARK


def _real(path: Path) -> Path:
    real = Path(os.path.realpath(path))
    if real.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return real


def _check(target: Path, mark: dict, files: Sequence[Path], overwrite: bool) -> None:
    there = [path for path in (target, *files) if os.path.lexists(path)]
    for path in there:
        if path == target:
            if not path.is_dir():
                raise FileExistsError(f"{path} is no folder: choose another name")
            known = mark["files"]
            foreign = [n for n in sorted(_files(path)) if _state(path / n) not in known.get(n, [])]
            if foreign:
                shown = f"{len(foreign)} files that frcore did not make or that were changed since"
                shown += f", as {foreign[0]}"
                raise FileExistsError(f"{path} holds {shown}: choose another folder")
        elif (
            path.is_symlink()
            or not path.is_file()
            or _sum(path) not in mark["beside"].get(path.name, [])
        ):
            raise FileExistsError(f"{path} exists and is not what frcore made: move it away")
    if there and not overwrite:
        raise FileExistsError(f"{there[0]} exists: use --overwrite")


def _files(folder: Path) -> set[str]:
    """Names below `folder` of everything but folders."""
    found = set()
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(SCRATCH)]
        links = [name for name in folders if os.path.islink(os.path.join(here, name))]
        for name in (*names, *links):
            if name not in _STRAY:
                found.add(os.path.relpath(os.path.join(here, name), folder))
    return found


def _state(path: Path) -> list[int]:
    """Size and time of change: another file under a known name is no file of ours."""
    status = path.lstat()
    return [status.st_size, status.st_mtime_ns]


def _refill(part: Path, target: Path, old: Iterable[str]) -> None:
    """Replace the files `old` of `target` by what is in `part`."""
    for name in _files(target) & set(old):  # nothing behind a link
        (target / name).unlink(missing_ok=True)
    for here, _, _ in os.walk(target, topdown=False):
        if Path(here) != target and not any(p.startswith(SCRATCH) for p in Path(here).parts):
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(here)
    for item in sorted(part.iterdir()):
        os.replace(item, target / item.name)


def _read_mark(place: Path) -> dict:
    nothing: dict = {"files": {}, "beside": {}}
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
        plain = {name: list(v) for name, v in found["files"].items() if _is_plain(name)}
        return {"files": plain, "beside": {k: list(v) for k, v in found["beside"].items()}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return nothing


def _is_plain(name: str) -> bool:
    """A mark may come from anywhere: what it names must lie in its folder."""
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts


def _write_mark(place: Path, by: str, files: dict[str, list], beside: dict[str, list]) -> None:
    # as JSON's ASCII, which also holds names that are no text
    text = json.dumps({"made_by": by, "files": files, "beside": beside})
    with atomic_output(place) as part:
        part.write_text(text, encoding="utf-8")


def _sum(path: Path) -> str:
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def check_table(path: Path, columns: Sequence[str]) -> None:
    """Raise FileExistsError where a table is to replace a file that is not one of its kind.

    columns: the first ones of the table's head. For commands that may be repeated.
    """
    if not os.path.lexists(path):
        return
    if not path.is_file():
        raise FileExistsError(f"{path} is no table: choose another name")
    wanted = ",".join(columns).encode()
    with open(path, "rb") as opened:
        start = opened.read(len(wanted))
    if start != wanted:
        raise FileExistsError(f"{path} exists and is not such a table: choose another name")


def check_writable(folder: Path) -> None:
    """Make `folder` if need be; raises OSError, before any work, where nothing can be written."""
    folder.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder):
        pass
