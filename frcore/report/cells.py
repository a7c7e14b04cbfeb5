"""A table for print before it is written: rows, cells, marks and footnotes."""

import math
from dataclasses import dataclass, field


@dataclass
class Cell:
    text: str  # value as printed
    spread: str = ""  # half of the interval
    mark: str = ""  # best | second
    notes: tuple[int, ...] = ()  # numbers of footnotes


@dataclass
class Row:
    title: str
    tag: str  # official weights, dagger or nothing
    cells: list[Cell]
    notes: tuple[int, ...] = ()


@dataclass
class Table:
    heading: str
    groups: list[tuple[str, int]]  # spanning titles and how many columns each; [] for none
    columns: list[tuple[str, str, tuple[int, ...]]]  # title, arrow, footnotes
    rows: list[Row]
    published: bool


@dataclass
class Tables:
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)  # metrics without any value, and why
    captions: list[str] = field(default_factory=list)  # of measured, of published tables

    def note(self, *texts: str) -> tuple[int, ...]:
        """Numbers of the footnotes with `texts`; each is added once, empty ones are left out."""
        self.notes += [text for text in dict.fromkeys(texts) if text and text not in self.notes]
        return tuple(self.notes.index(text) + 1 for text in texts if text)


def split_columns(table: Table, most: int) -> list[slice]:
    """Few parts of like width, at most `most` columns each; published tables stay as they are."""
    n = max(1, len(table.columns))
    width = n if table.published else math.ceil(n / math.ceil(n / most))
    return [slice(start, start + width) for start in range(0, n, width)]
