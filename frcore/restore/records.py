"""What `frcore restore` has written for which photograph, so that a second call goes on."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from frcore.faces import sources
from frcore.io.files import atomic_output
from frcore.io.photo_files import WRITTEN
from frcore.restore.aligned import sample_deviation

CUT_OFF = "cut off while it was written"  # reason in the record of an unfinished photograph


def face_pictures(before: np.ndarray, after: list[np.ndarray]) -> dict[str, np.ndarray]:
    if len(after) == 1:
        return {"before": before, "after": after[0]}
    samples = {f"after_{sample}": pixels for sample, pixels in enumerate(after)}
    deviation = sample_deviation(after)
    # deviations are small: the largest is white, and its value is in the table
    grey = np.rint(255 * deviation / max(deviation.max(), 1e-9)).astype(np.uint8)
    return {"before": before, **samples, "std": grey}


def targets_of(item: sources.Photo, out_dir: Path, samples: int) -> list[Path]:
    """Where the restored photographs go, one a sample."""
    name = Path(item.photo)
    # a name that is not valid text cannot be written to a table and found again
    if not item.path.as_posix().endswith(item.photo):
        name = Path(f"{item.id}{item.path.suffix}")
    suffix = item.path.suffix.lower()
    name = name if suffix in WRITTEN else name.with_name(name.name + ".png")
    if samples > 1:
        return [out_dir / name.with_name(f"{name.stem}_{k}{name.suffix}") for k in range(samples)]
    return [out_dir / name]


def result_key(item, restorer, options, recognise) -> str:
    """What a photograph's result depends on."""
    try:
        digest = sources.digest(item)
    except OSError:
        digest = "unreadable"
    facts = [digest, restorer.digest, asdict(options), recognise is not None]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def record_path(out_dir: Path, item) -> Path:
    return out_dir / ".done" / f"{item.id}.json"


def load_record(out_dir: Path, item) -> dict | None:
    try:
        return json.loads(record_path(out_dir, item).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def recorded_targets(item, out_dir: Path) -> list[Path]:
    """The photographs that an earlier call wrote for this file."""
    record = load_record(out_dir, item) or {"rows": []}
    written = [row for row in record["rows"] if "output" in row or row.get("reason") == CUT_OFF]
    if not written:
        return []
    return targets_of(item, out_dir, max(row.get("samples", 1) for row in written))


def read_record(out_dir: Path, item, key: str) -> list[dict] | None:
    """Rows of a photograph that was finished with the same key, if its results are all there."""
    record = load_record(out_dir, item)
    if record is None or record["key"] != key:
        return None
    if any(row["status"] == "failed" for row in record["rows"]):
        return None  # to be tried again
    written = any("output" in row for row in record["rows"])
    if written and not all(path.is_file() for path in recorded_targets(item, out_dir)):
        return None
    return record["rows"]


def write_record(out_dir: Path, item, key: str, rows: list[dict]) -> None:
    with atomic_output(record_path(out_dir, item)) as part:
        part.write_text(json.dumps({"key": key, "rows": rows}), encoding="utf-8")
