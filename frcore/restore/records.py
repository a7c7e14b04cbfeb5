"""What `frcore restore` has written for which photograph, so that a second call goes on."""

import csv
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from frcore.faces import sources
from frcore.io.decode import BadImage
from frcore.io.files import atomic_output
from frcore.io.outputs import check_table
from frcore.io.photo_files import WRITTEN
from frcore.restore.aligned import sample_deviation

LONGEST = 255  # bytes of a file's name
CUT_OFF = "cut off while it was written"  # reason in the record of an unfinished photograph


def face_pictures(before: np.ndarray, after: list[np.ndarray]) -> dict[str, np.ndarray]:
    if len(after) == 1:
        return {"before": before, "after": after[0]}
    samples = {f"after_{sample}": pixels for sample, pixels in enumerate(after)}
    deviation = sample_deviation(after)
    # deviations are small: the largest is white, and its value is in the table
    grey = np.rint(255 * deviation / max(deviation.max(), 1e-9)).astype(np.uint8)
    return {"before": before, **samples, "std": grey}


@dataclass(frozen=True)
class Target:
    """Where a restored photograph goes: `path`, or `instead` where its format cannot hold it."""

    path: Path
    instead: Path


def plan_targets(
    listing: Sequence[sources.Photo], out_dir: Path, samples: int
) -> tuple[dict[str, list[Target]], dict[str, str]]:
    """{id: where the restored photographs go, one a sample}, {id: why a photograph is refused}.

    Refused are two photographs that would be one file, and those in the place of other results.
    """
    fold = _folding(out_dir)
    named = {item.id: _names_of(item, samples) for item in listing}
    photos = {item.id: item.photo for item in listing}
    whose: dict[str, str] = {}
    refused: dict[str, str] = {}
    readable = [item.id for item in listing if _may_be_read(item)]
    for own in readable:
        for name in named[own]:
            other = whose.setdefault(fold(name.as_posix()), own)
            if other != own:
                both = f"{photos[other]} and {photos[own]} would both be written to {name}"
                refused |= dict.fromkeys((own, other), f"{both}: rename one, or choose two folders")
            face = _FACE.fullmatch(name.as_posix())
            if (face and face[1] in named) or name.parts[0] == "restored.csv":
                refused[own] = f"{name} is the name of another result: rename the photograph"
    for own in readable:
        for folder in (folder for name in named[own] for folder in name.parents):
            other = whose.get(fold(folder.as_posix()), own)
            if other != own:
                both = f"{photos[other]} would be written to {folder}, the folder of {photos[own]}"
                refused |= dict.fromkeys((own, other), f"{both}: rename one, or choose two folders")
    found: dict[str, list[Target]] = {}
    for item in listing:
        found[item.id] = []
        for k, name in enumerate(named[item.id]):
            instead = name.with_name(f"{name.name}.png")
            if fold(instead.as_posix()) in whose or _is_long(instead):
                instead = name.with_name(f"{item.id}_{k}.png")
            found[item.id].append(Target(out_dir / name, out_dir / instead))
    return found, refused


def _may_be_read(item: sources.Photo) -> bool:
    """Whether it is a photograph, and not what will have a row with a reason."""
    try:
        sources.check(item)
    except BadImage:
        return False
    return True


_FACE = re.compile(r"faces/(.+)_\d+_(before|after|after_\d+|std)\.png")


def _names_of(item: sources.Photo, samples: int) -> list[Path]:
    """Names in the folder of results, one a sample."""
    name = Path(item.photo)
    # a name that is not valid text cannot be written to a table and found again
    if not item.path.as_posix().endswith(item.photo):
        name = Path(f"{item.id}{item.path.suffix}")
    if item.path.suffix.lower() not in WRITTEN:
        name = name.with_name(name.name + ".png")
    names = [name]
    if samples > 1:
        names = [name.with_name(f"{name.stem}_{k}{name.suffix}") for k in range(samples)]
    if any(map(_is_long, names)):
        short = name.with_name(f"{item.id}{name.suffix}")
        names = [short]
        if samples > 1:
            names = [short.with_name(f"{short.stem}_{k}{short.suffix}") for k in range(samples)]
    return names


def _is_long(name: Path) -> bool:
    return len(os.fsencode(name.name)) > LONGEST


def _folding(out_dir: Path) -> Callable[[str], str]:
    """What makes two names one on the file system of `out_dir`, which need not be there yet."""
    place = Path(os.path.realpath(out_dir))
    while not place.exists():
        place = place.parent
    other = place.with_name(place.name.swapcase()) if place.name else place
    if other != place and other.exists() and other.samefile(place):  # as macOS and Windows do
        return lambda name: unicodedata.normalize("NFC", name).casefold()
    return lambda name: name


def result_key(digest: str, restorer, options, recognise) -> str:
    """What a photograph's result depends on. digest: of its bytes."""
    facts = [digest, restorer.digest, asdict(options), recognise is not None]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def digest_of(item: sources.Photo) -> str:
    """SHA-256 of a photograph's bytes, or a word where they cannot be read."""
    try:
        return sources.digest(item)
    except OSError:
        return "unreadable"


def record_path(out_dir: Path, item) -> Path:
    return out_dir / ".done" / f"{item.id}.json"


def load_record(out_dir: Path, item) -> dict | None:
    return _load(record_path(out_dir, item))


def recorded_files(out_dir: Path) -> set[str]:
    """What any call wrote into `out_dir`: names in it."""
    records = map(_load, (out_dir / ".done").glob("*.json"))
    return {str(name) for record in records if record for name in record["files"]}


def _load(path: Path) -> dict | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(found, dict) and {"key", "rows", "files"} <= found.keys()
    known = known and isinstance(found["files"], list)
    return found if known else None  # else of an earlier version: made again


def our_files(record: dict | None, item: sources.Photo, digest: str) -> list[str]:
    """What an earlier call wrote for this very photograph: names in the folder of results.

    Another photograph of the same name, from another folder, has other bytes and another place.
    """
    if record is None:
        return []
    same = record.get("source") == _source(item) or record.get("digest") == digest
    return [str(name) for name in record["files"]] if same else []


def _source(item: sources.Photo) -> str:
    return os.fsencode(os.path.realpath(item.path)).decode("utf-8", "backslashreplace")


def read_record(out_dir: Path, item, key: str) -> list[dict] | None:
    """Rows of a photograph that was finished with the same key, if its results are all there."""
    record = load_record(out_dir, item)
    if record is None or record.get("key") != key:
        return None
    if any(row["status"] == "failed" for row in record["rows"]):
        return None  # to be tried again
    if not all((out_dir / name).is_file() for name in record["files"]):
        return None
    return record["rows"]


def write_record(
    out_dir: Path, item, key: str, digest: str, rows: list[dict], files: Sequence[Path] = ()
) -> None:
    """files: what was, or is about to be, written for the photograph."""
    names = [path.relative_to(out_dir).as_posix() for path in files]
    about = {"source": _source(item), "digest": digest, "files": names}
    with atomic_output(record_path(out_dir, item)) as part:
        part.write_text(json.dumps({"key": key, "rows": rows, **about}), encoding="utf-8")


def earlier_rows(table: Path, columns: Sequence[str], given: Iterable[str]) -> list[dict]:
    """Rows of an earlier table for photographs that are not in `given` and whose results are there.

    Raises FileExistsError where `table` is another kind of table.
    """
    check_table(table, columns)
    if not table.exists():
        return []
    names = set(given)
    with table.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    there = {
        row["photo"] for row in rows if row["output"] and (table.parent / row["output"]).is_file()
    }
    return [row for row in rows if row["photo"] in there - names]
