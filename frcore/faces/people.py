"""Who is on a photograph of a folder: `people` of a dataset. Looked up when shards are joined.

Not when faces are aligned: a corrected table of people then aligns nothing again. No torch.
"""

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from frcore.config import project_file

if TYPE_CHECKING:
    from frcore.config import Dataset

RULES = ("none", "subfolder", "file")  # anything else is the path of a table


def rule(dataset: "Dataset") -> str:
    """One of RULES or the path of a table; "none" for kinds without a folder of photographs."""
    how = dataset.people if dataset.path else "none"
    return how if how in RULES else project_file(how)


def finder(dataset: "Dataset") -> Callable[[str, str], str]:
    """A function (photo, own) -> person; `photo` and `own` are columns photo and person of a shard.

    none: each photograph is its `own`. subfolder: the first folder of `photo` (a photograph beside
    the folders is its own person). file: its stem up to the last underscore (Anna_Lee_0001.jpg ->
    Anna_Lee). Else a CSV with the columns photo,person, photo being relative to `dataset.path`;
    photographs that it does not name are their own person.
    Raises ValueError for a CSV that cannot be read, lacks a column or a value, or names photographs
    that are not there.
    """
    how = rule(dataset)
    if how == "none":
        return lambda photo, own: own
    if how == "subfolder":
        return lambda photo, own: photo.partition("/")[0] if "/" in photo else own
    if how == "file":
        return lambda photo, own: _before_number(PurePosixPath(photo).stem)
    table = _read(Path(how), Path(dataset.path or ""))
    return lambda photo, own: table.get(photo, own)


def first_of_kin(rows: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """{person: the first, by name, of those who share faces}, of rows with person and face_sha256.

    Copies of one photograph under two names are two people where nobody says who is who, but one
    face: they must not lie on both sides of a split.
    """
    first = {row["person"]: row["person"] for row in rows}

    def end(person: str) -> str:
        while first[person] != person:
            first[person] = person = first[first[person]]
        return person

    seen: dict[str, str] = {}
    for row in rows:
        face = row.get("face_sha256") or ""
        if not face:
            continue
        one, other = end(row["person"]), end(seen.setdefault(face, row["person"]))
        first[max(one, other)] = min(one, other)
    return {person: end(person) for person in first}


def _before_number(stem: str) -> str:
    return stem.rpartition("_")[0] or stem


def _read(path: Path, folder: Path) -> dict[str, str]:
    """CSV photo,person -> {relative path: person}; every photo must exist, to catch wrong roots."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"people: cannot read {path}: {error}") from None
    if not rows or not {"photo", "person"} <= set(rows[0]):
        raise ValueError(f"people: {path} needs the columns photo,person and at least one row")
    if any(not row["photo"] or not row["person"] for row in rows):
        raise ValueError(f"people: {path} has a row without photo or person")
    table: dict[str, str] = {}
    for row in rows:
        photo, person = Path(row["photo"]).as_posix(), row["person"]
        if table.setdefault(photo, person) != person:
            raise ValueError(f"people: {path} says of {photo}: {table[photo]} and {person}")
    missing = [photo for photo in table if not os.path.lexists(folder / photo)]
    if missing:
        raise ValueError(f"people: {len(missing)} of {path} are not in {folder}: {missing[:5]}")
    return table
