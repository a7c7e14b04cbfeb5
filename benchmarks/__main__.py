"""The performance table: `make bench`, or python -m benchmarks [--only faces,metrics].

One thread. Every number is a median over repeats; where a package from PyPI does the same work it
is timed beside ours: same images, same dtype, turn by turn in the same process. `ratio` is ours by
theirs in speed: above 1 ours is faster. What is compared with what stands in the notes below the
table, with the largest difference of the two results where there is one. Rows that are slower than
in the last table (benchmarks/last.csv) are named below it.

Third-party imports are inside the functions: the number of threads must be set before them.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

from benchmarks.degradation import bench_degrade
from benchmarks.images import bench_faces
from benchmarks.measuring import (
    ROOT,
    Bench,
    Row,
    machine,
    one_thread,
    read_csv,
    slower,
    table,
    write_csv,
    write_page,
)
from benchmarks.metrics import bench_metrics
from benchmarks.training import bench_operators, bench_psfrgan, bench_stylegan2
from benchmarks.workflow import bench_workflow

LAST = ROOT / "benchmarks" / "last.csv"  # the table of docs/speed.md

GROUPS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "faces": bench_faces,
    "degrade": bench_degrade,
    "operators": bench_operators,
    "psfr_gan": bench_psfrgan,
    "stylegan2": bench_stylegan2,
    "metrics": bench_metrics,
    "workflow": bench_workflow,
}


def main(words: list[str] | None = None) -> None:
    """Run the groups and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Performance table")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"some of {','.join(GROUPS)}")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write the table as CSV")
    parser.add_argument("--last", type=Path, default=LAST, help="what a row is slower than")
    parser.add_argument("--page", type=Path, help="also put the table into this Markdown page")
    a = parser.parse_args(words)
    chosen = a.only.split(",")
    unknown = [name for name in chosen if name not in GROUPS]
    if unknown or a.repeats < 1:
        parser.error(f"--only: unknown {unknown}" if unknown else "--repeats must be 1 or more")
    one_thread()
    from frcore.io import assets

    bench = Bench(Path(assets.resources_root()), a.repeats)
    about, begin, rows = machine(), time.monotonic(), []
    for name in chosen:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += GROUPS[name](bench)
    print(about)
    print(f"ratio: speed of ours by that of the peer. {time.monotonic() - begin:.0f} s in all\n")
    print(table(rows))
    for line in slower(rows, read_csv(a.last), about):
        print(line)
    if a.out:
        write_csv(a.out, rows, about)
    if a.page:
        write_page(a.page, rows, about, date.today().isoformat())


if __name__ == "__main__":
    main()
