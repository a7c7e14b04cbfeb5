"""What a training leaves on its way: history.csv, TensorBoard, a line in the log, pictures."""

import csv
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import torch

from frcore.io.files import atomic_output
from frcore.io.images import to_uint8, write_image
from frcore.io.tables import table_writer

REPORT_SECONDS = 30  # between two lines of the log


class Records:
    """The losses of every step: in history.csv, for TensorBoard if it is there, in the log."""

    def __init__(self, state: Path, images: int, seen: int, rank: int, log: Callable[[str], None]):
        self.history = _History(state / "history.csv", seen, rank)
        self.board = _tensorboard(state / "tensorboard", seen) if rank == 0 else None
        self.images, self.log = images, log
        self.began_at, self.began = seen, time.monotonic()
        self.reported = self.began

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.board is not None:
            self.board.close()

    def add(self, seen: int, values: dict[str, float]) -> None:
        """The step that ended at `seen` images."""
        self.history.add(seen, values)
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, seen)
        if time.monotonic() - self.reported > REPORT_SECONDS:
            self.reported = time.monotonic()
            speed = (seen - self.began_at) / (self.reported - self.began)
            rest = (self.images - seen) / speed / 60
            terms = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            self.log(f"{seen}/{self.images} images, {speed:.1f}/s, {rest:.0f} min left: {terms}")

    def flush(self) -> None:
        """Write history.csv."""
        self.history.flush()


def write_picture(path: Path, images: torch.Tensor) -> None:
    """The first of N x 3 x H x W in [0, 1] as a PNG, complete or not at all."""
    with atomic_output(path) as part:
        write_image(part, to_uint8(images)[0])


def _tensorboard(folder: Path, seen: int):
    """A TensorBoard writer that drops what it logged after `seen`, or None when not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=seen)


class _History:
    """history.csv: one row a step; rows after a resumed state are dropped and written again."""

    def __init__(self, path: Path, seen: int, rank: int):
        self.path, self.rank, self.rows = path, rank, []
        if rank == 0 and path.is_file():
            with open(path, newline="") as opened:
                self.rows = [row for row in csv.DictReader(opened) if int(row["images"]) <= seen]
        if seen == 0:
            self.rows = []

    def add(self, seen: int, values: dict) -> None:
        self.rows.append({"images": seen, **{k: f"{v:.6g}" for k, v in values.items()}})

    def flush(self) -> None:
        if self.rank or not self.rows:
            return
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with atomic_output(self.path) as part, open(part, "w", newline="") as opened:
            table_writer(opened, names).writerows(self.rows)
