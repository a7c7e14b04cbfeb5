"""CSV tables, as the stages leave them."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

from frcore.io.files import atomic_output

# of the tables that tell what a trained network can do (frcore/assess)
ASSESSMENT = ("model", "what", "dataset", "metric", "value", "n", "ci_low", "ci_high", "note")


def text(value: object, digits: int = 9) -> str:
    """A cell: floats with `digits` significant digits, nothing for None."""
    # 9 by default: what float64 sums of another thread count may change lies below
    if value is None:
        return ""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def table_writer(opened: IO[str], columns: Sequence[str]) -> csv.DictWriter:
    """A writer of rows {column: text} to an open file, its head line written.

    A column that a row lacks is empty; a key that is no column raises ValueError.
    """
    writer = csv.DictWriter(opened, columns, restval="", lineterminator="\n")
    writer.writeheader()
    return writer


def write_table(
    path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]], digits: int = 9
) -> None:
    """Rows {column: value} as a CSV that appears complete or not at all; cells are of `text`.

    A column that a row lacks is empty. Raises ValueError for a key that is no column.
    """
    with atomic_output(path) as part, part.open("w", encoding="utf-8", newline="") as opened:
        writer = table_writer(opened, columns)
        writer.writerows({key: text(value, digits) for key, value in row.items()} for row in rows)
