"""Timing, the row of a table, the table, and what every group of rows needs."""

import csv
import math
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

LEAST_SECONDS = 0.1  # of one repeat: quick calls are repeated within it

MOST_SECONDS = 6.0  # of all repeats of one row, once there are three

TOO_LONG = 20.0  # seconds of one call that is not repeated

COLUMNS = (
    "group", "what", "median", "spread", "unit", "repeats", "peer", "peer_median", "ratio", "note",
)  # fmt: skip

NOT_HAD = "-"


@dataclass(frozen=True)
class Row:
    """One measured thing; `seconds` is empty when it could not be measured."""

    group: str
    what: str
    unit: str  # "<items>/s", or "s" or "ms" an item
    items: float  # of one call
    seconds: tuple[float, ...] = ()  # of one call, one value a repeat
    peer: str = ""
    peer_seconds: tuple[float, ...] = ()
    note: str = ""

    def value(self, seconds: float) -> float:
        """Seconds of a call in the row's unit."""
        if self.unit.endswith("/s"):
            return self.items / seconds
        return seconds / self.items * (1000 if self.unit.startswith("ms") else 1)

    def record(self) -> dict[str, str]:
        """The row as text, by column."""
        record = dict.fromkeys(COLUMNS, "") | {
            "group": self.group,
            "what": self.what,
            "unit": self.unit,
            "median": NOT_HAD,
            "peer": self.peer,
            "note": self.note,
        }
        if self.seconds:
            median = statistics.median(self.seconds)
            spread = (max(self.seconds) - min(self.seconds)) / median / 2
            record["median"] = number(self.value(median))
            record["spread"] = f"±{100 * spread:.0f}%"
            record["repeats"] = str(len(self.seconds))
            if self.peer_seconds:
                theirs = statistics.median(self.peer_seconds)
                record["peer_median"] = number(self.value(theirs))
                record["ratio"] = number(theirs / median)
        return record


def number(value: float) -> str:
    """Three significant digits without an exponent: 1234 -> 1230, 0.01234 -> 0.0123."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 2 - math.floor(math.log10(abs(value)))
    text = f"{round(value, digits):.{max(0, digits)}f}"
    return text


def exponent(value: float) -> int:
    """The smallest n with value < 10^n."""
    return math.floor(math.log10(value)) + 1


def measure(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, tuple[float, ...]]:
    """Seconds of one call of each of `calls`, one value a repeat; the calls take turns.

    Each is called once before (warm-up); calls below LEAST_SECONDS are repeated within a repeat.
    After three repeats no more are begun once MOST_SECONDS are spent; where one call takes TOO_LONG
    there is only one.
    """
    times, least = {}, 3  # repeats that are done in any case
    for name, call in calls.items():
        for _ in range(2):
            begin = clock()
            call()
            took = clock() - begin
            if took > LEAST_SECONDS:
                break
        times[name] = max(1, math.ceil(LEAST_SECONDS / max(took, 1e-9)))
        least = 1 if took > TOO_LONG else least
    found: dict[str, list[float]] = {name: [] for name in calls}
    started = clock()
    for repeat in range(repeats):
        if repeat >= least and clock() - started > MOST_SECONDS:
            break
        for name, call in calls.items():
            begin = clock()
            for _ in range(times[name]):
                call()
            found[name].append((clock() - begin) / times[name])
    return {name: tuple(values) for name, values in found.items()}


def table(rows: Iterable[Row]) -> str:
    """The rows as aligned text, a blank line between groups, notes numbered below."""
    shown = COLUMNS[:-1]
    heads = {"peer_median": "peer's"}
    records = [row.record() for row in rows]
    notes = list(dict.fromkeys(record["note"] for record in records if record["note"]))
    for record in records:
        if record["note"]:
            record["what"] += f" [{notes.index(record['note']) + 1}]"
    widths = {
        key: max(len(heads.get(key, key)), *(len(record[key]) for record in records), 0)
        for key in shown
    }
    right = {"median", "spread", "repeats", "peer_median", "ratio"}

    def line(record: Mapping[str, str]) -> str:
        cells = (
            record[k].rjust(widths[k]) if k in right else record[k].ljust(widths[k]) for k in shown
        )
        return "  ".join(cells).rstrip()

    lines = [line({key: heads.get(key, key) for key in shown})]
    lines.append("  ".join("-" * widths[key] for key in shown))
    for before, record in zip([None, *records], records, strict=False):
        if before is not None and before["group"] != record["group"]:
            lines.append("")
        lines.append(line(record))
    if notes:
        lines.append("")
        lines += [f"[{i}] {note}" for i, note in enumerate(notes, 1)]
    return "\n".join(lines)


def machine() -> str:
    """Processor, load and versions: what a number depends on besides the code."""
    import numpy
    import torch

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        name = found[1] if found else name
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{name}, {os.cpu_count()} cores{load}; one thread; Python {platform.python_version()}, "
        f"torch {torch.__version__}, numpy {numpy.__version__}"
    )


class Bench:
    """Images, assets and configuration for the groups."""

    def __init__(self, root: Path, repeats: int):
        from frcore.config import load_config

        self.root, self.repeats = root, repeats
        self.config = load_config(ROOT / "config.yaml")

    def asset(self, name: str) -> Path | None:
        """The file of an asset, fetched when it is missing; None when it cannot be had."""
        from frcore.io import assets, fetch

        try:
            return assets.locate(name, self.root)
        except assets.AssetMissing:
            try:
                return fetch.fetch(name, self.root)
            except assets.AssetError as error:
                print(f"{error}", file=sys.stderr)
                return None

    def faces(self, n: int, side: int):
        """n real samples as uint8 n x side x side x 3: faces of the default data set, enlarged."""
        import numpy as np
        from PIL import Image

        from frcore.faces.kinds import digiface

        weights = self.asset("digiface_generator")
        if weights is None:
            raise SystemExit("the faces of the benchmark cannot be had: digiface_generator")
        samples = [digiface.sample(weights, 0, i % 64) for i in range(n)]
        if side == 64:
            return np.stack(samples)
        big = [Image.fromarray(x).resize((side, side), Image.Resampling.BICUBIC) for x in samples]
        return np.stack([np.asarray(x) for x in big])

    def row(self, group: str, what: str, unit: str, items: float, call, **more) -> Row:
        """Measure `call` of `items` items, and with peer=(name, call) that beside it."""
        peer, peer_call = more.pop("peer", ("", None))
        calls = {"ours": call} | ({"peer": peer_call} if peer_call else {})
        found = measure(calls, self.repeats)
        return Row(group, what, unit, items, found["ours"], peer, found.get("peer", ()), **more)


SLOWER = 0.8  # of the last table: below it is said; machines that are shared vary by less


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """Records of a table that `write_csv` wrote; none where there is no file."""
    if not Path(path).is_file():
        return []
    with Path(path).open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def slower(rows: Iterable[Row], before: Iterable[Mapping[str, str]], about: str) -> list[str]:
    """A line for each row that is slower than in the last table.

    Against the peer where there is one: that ratio holds on any machine. Other rows count only on
    the processor of the last table, whose name is the start of `machine`.
    """
    last = {(record["group"], record["what"]): record for record in before}
    found = []
    for row in rows:
        now, old = row.record(), last.get((row.group, row.what))
        if old is None or not row.seconds or old["median"] == NOT_HAD:
            continue
        if now["ratio"] and old["ratio"]:
            share = float(now["ratio"]) / float(old["ratio"])
            words = f"{now['ratio']} of {row.peer}, was {old['ratio']}"
        elif old["machine"].split(",")[0] == about.split(",")[0] and now["unit"] == old["unit"]:
            share = float(now["median"]) / float(old["median"])
            share = share if row.unit.endswith("/s") else 1 / share
            words = f"{now['median']} {row.unit}, was {old['median']}"
        else:
            continue
        if share < SLOWER:
            found.append(f"slower than in the last table: {row.group}, {row.what}: {words}")
    return found


def write_page(path: str | Path, rows: Iterable[Row], about: str, date: str) -> None:
    """Put the rows between the two marks of a Markdown page, as one table a group."""
    start, end = "<!-- table -->", "<!-- end of the table -->"
    head, _, rest = Path(path).read_text(encoding="utf-8").partition(start)
    tail = rest.partition(end)[2]
    lines, group, notes = [f"{date}. {about}."], "", []
    for record in (row.record() for row in rows):
        if record["group"] != group:
            group = record["group"]
            lines += ["", f"### {group}", "", "| what | ours | | peer | theirs | ratio |"]
            lines.append("| --- | ---: | --- | --- | ---: | ---: |")
        if record["note"] and record["note"] not in notes:
            notes.append(record["note"])
        mark = f" ({notes.index(record['note']) + 1})" if record["note"] else ""
        cells = [record["what"] + mark, record["median"], record["unit"], record["peer"]]
        cells += [record["peer_median"], record["ratio"]]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"({i}) {note}  " for i, note in enumerate(notes, 1))]
    text = "\n".join([head + start, "", *lines, "", end + tail])
    Path(path).write_text(text, encoding="utf-8")


def write_csv(path: str | Path, rows: Iterable[Row], about: str) -> None:
    """The table as CSV, with the machine in the last column of every row."""
    with Path(path).open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, [*COLUMNS, "machine"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.record() | {"machine": about} for row in rows)


def one_thread() -> None:
    """One thread for everything that is imported later, and for programs that are started."""
    names = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB_MAXIMUM", "BLIS")
    os.environ |= {f"{name}_NUM_THREADS": "1" for name in names}
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the network for its newest version
    import torch

    torch.set_num_threads(1)
