"""The faces stage: photographs -> aligned faces, their table, the quarantine, and parsing maps.

Every photograph ends in faces.csv or in quarantine.csv (with `faces: all` perhaps in both); no
photograph stops a batch.
"""

import contextlib
import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from frcore.faces import align, detect, kinds, parsing_maps, people, sources
from frcore.io.files import atomic_output
from frcore.io.images import BadImage, write_image
from frcore.io.tables import table_writer
from frcore.seeds import seed_for

if TYPE_CHECKING:
    from frcore.config import Dataset, Split

FACE_COLUMNS = (
    "id", "shard", "photo", "person", "split", "n_faces", "score", "x0", "y0", "x1", "y1",
    "landmarks", "transform", "width", "height", "size", "yaw", "outside", "photo_sha256",
    "face_sha256",
)  # fmt: skip
QUARANTINE_COLUMNS = ("id", "photo", "person", "reason", "value")


@dataclass(frozen=True)
class Rejected:
    """Why a face was left out, and the measured value that decided it."""

    reason: str
    value: str = ""


def build_shard(
    name: str,
    dataset: "Dataset",
    shard: int,
    assets: Path,
    seed: int,
    out_dir: Path,
    out_csv: Path,
    out_quarantine: Path,
) -> None:
    """Detect, align and write the faces of one shard of `dataset`.

    `assets` is the cache root {asset}/{file}, `seed` the run's. Writes {id}.png (uint8 RGB of
    dataset.size) into `out_dir` and the rows of both tables; all three appear complete or not at
    all. Memory does not grow with the number of photographs. Raises what list_photos and
    load_detector raise; a fault of one photograph is a row of `out_quarantine`.
    """
    kind = kinds.load(dataset.source)
    photos = sources.shard(sources.list_photos(dataset, assets, seed), shard, dataset.shards)
    detector = None
    if not dataset.aligned or dataset.labels.kind == "landmarks":
        detector = detect.load_detector(dataset.detector, assets)

    with (
        atomic_output(out_csv) as part_csv,
        atomic_output(out_quarantine) as part_quarantine,
        atomic_output(out_dir, folder=True) as part_dir,
        _table(part_csv, FACE_COLUMNS) as faces,
        _table(part_quarantine, QUARANTINE_COLUMNS) as quarantine,
    ):
        for photo in photos:
            about = {"photo": photo.photo, "person": photo.person}
            try:
                results = _read_faces(kind, photo, dataset, detector)
                checksum = sources.digest(photo)
            except BadImage as bad:
                results = [Rejected(bad.reason)]
            except MemoryError:
                results = [Rejected("too large for this machine's memory")]
            except Exception as error:  # one strange photograph must not cost the others
                text = " ".join(str(error).split())[:200]
                results = [Rejected(f"failed: {type(error).__name__}: {text}")]
            for number, result in enumerate(results):
                # the number follows the place in the photograph, so it is there for one face too
                key = f"{photo.id}_{number}" if dataset.faces == "all" else photo.id
                if isinstance(result, Rejected):
                    row = {"id": key, **about, "reason": result.reason, "value": result.value}
                    quarantine.writerow(row)
                    continue
                pixels, row = result
                write_image(part_dir / f"{key}.png", pixels)
                about_face = {"id": key, "shard": f"{shard:04d}", **about, **row}
                sums = {
                    "photo_sha256": checksum,
                    "face_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
                }
                faces.writerow(about_face | sums)


def _read_faces(kind, photo, dataset, detector) -> list[tuple[np.ndarray, dict] | Rejected]:
    """Faces of a photograph, which is gone from memory before the next is read."""
    if not dataset.aligned and detect.shows_no_face(photo, detector, dataset.enlarge):
        return [Rejected("no face found")]
    return extract_faces(kind.read(photo), dataset, detector)


def extract_faces(
    image: Image.Image, dataset: "Dataset", detector: detect.Detector | None
) -> list[tuple[np.ndarray, dict] | Rejected]:
    """One RGB photograph -> per face (pixels uint8 size x size x 3, row of faces.csv) or Rejected.

    Never empty. With `faces: largest` it holds one entry, else one per face from left to right.
    """
    if dataset.aligned:
        return [_resize_aligned(image, dataset, detector)]
    assert detector is not None  # photographs that are not aligned need one
    found = detect.find_faces(image, detector, dataset.enlarge)
    if not found:
        return [Rejected("no face found")]
    chosen = found
    if dataset.faces == "largest":
        chosen = [max(found, key=lambda face: face.area)]
    return [_align_face(image, face, len(found), dataset) for face in chosen]


def _align_face(image, face, n_faces, dataset):
    if face.width < dataset.min_face:
        return Rejected(f"face smaller than {dataset.min_face} px", f"{face.width:.0f}")
    turned = align.yaw(face.landmarks)
    if dataset.max_yaw is not None and abs(turned) > dataset.max_yaw:
        return Rejected(f"face turned aside by more than {dataset.max_yaw:g}", f"{turned:.3f}")
    square = align.crop_square(face.landmarks, dataset.crop_scale, dataset.crop_shift)
    outside = align.outside_share(square, image.width, image.height)
    if outside > dataset.max_outside:
        return Rejected(
            f"crop outside the photograph by more than {dataset.max_outside:g}", f"{outside:.3f}"
        )
    pixels = align.warp(image, square, dataset.size)
    transform = align.square_transform(square, dataset.size)
    return pixels, _row(image, dataset, transform, n_faces, face, turned, outside)


def _resize_aligned(image, dataset, detector):
    """A photograph that is already aligned: only its size changes."""
    if image.width != image.height:
        return Rejected("aligned photograph is not square", f"{image.width}x{image.height}")
    face, turned, n_faces = None, None, 1
    if detector is not None:
        found = detect.find_faces(image, detector, dataset.enlarge)
        if not found:
            return Rejected("no face found")
        n_faces = len(found)
        face = max(found, key=lambda face: face.area)
        turned = align.yaw(face.landmarks)
        if dataset.max_yaw is not None and abs(turned) > dataset.max_yaw:
            return Rejected(f"face turned aside by more than {dataset.max_yaw:g}", f"{turned:.3f}")
    size = dataset.size
    pixels = np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))
    scale = size / image.width
    shift = (scale - 1) / 2  # whole numbers are pixel centres
    transform = np.array([[scale, 0, shift], [0, scale, shift]])
    return pixels, _row(image, dataset, transform, n_faces, face, turned, 0.0)


def _row(image, dataset, transform, n_faces, face, turned, outside):
    row = {
        "n_faces": n_faces,
        "transform": " ".join(f"{value:.8g}" for value in transform.ravel()),
        "width": image.width,
        "height": image.height,
        "size": dataset.size,
        "outside": f"{outside:.4f}",
    }
    if face is not None:
        row |= {key: f"{v:.2f}" for key, v in zip(("x0", "y0", "x1", "y1"), face.box, strict=True)}
        row["score"] = f"{face.score:.4f}"
        row["landmarks"] = " ".join(f"{value:.2f}" for value in face.landmarks.ravel())
        row["yaw"] = f"{turned:.4f}"
    return row


@contextlib.contextmanager
def _table(path, columns):
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        yield table_writer(file, columns)


def join_shards(
    name: str,
    dataset: "Dataset",
    seed: int,
    csvs: Sequence[Path],
    quarantines: Sequence[Path],
    out_csv: Path,
    out_quarantine: Path,
) -> str:
    """Join the shards' tables, sorted by id, and fill `person` and `split`; gives a line about it.

    `csvs` and `quarantines` are the tables of `build_shard`, in any order. `seed` is the run's. Who
    is who is looked up here, by `dataset.people`; raises ValueError for a wrong table of people.
    People who share a face, pixel by pixel, are in one split: copies of a photograph are.
    """
    person = people.finder(dataset)
    faces = sorted(_read_tables(csvs), key=lambda row: row["id"])
    quarantine = sorted(_read_tables(quarantines), key=lambda row: row["id"])
    for row in (*faces, *quarantine):
        row["person"] = person(row["photo"], row["person"])
    first = people.first_of_kin(faces)
    for row in faces:
        drawn = first[row["person"]]
        row["split"] = split_of(dataset.split.like or name, drawn, dataset.split, seed)
    with atomic_output(out_csv) as part, _table(part, FACE_COLUMNS) as table:
        table.writerows(faces)
    with atomic_output(out_quarantine) as part, _table(part, QUARANTINE_COLUMNS) as table:
        table.writerows(quarantine)

    n_photos = len({row["photo"] for row in (*faces, *quarantine)})
    summary = f"{len(faces)} faces of {n_photos} photographs"
    if quarantine:
        counts = Counter(row["reason"].split(":")[0] for row in quarantine)
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        summary += f", {len(quarantine)} quarantined: {reasons}"
    sums = [row["face_sha256"] for row in faces if row.get("face_sha256")]
    if copies := len(sums) - len({*sums}):
        summary += f"; {copies} faces are copies of others"
    return summary


def split_of(name: str, person: str, split: "Split", seed: int) -> str:
    """Part of the data set `name` that `person` belongs to: train, val or test.

    A threshold on a number drawn from (seed, name, person) alone: all photographs of a person stay
    together, and adding photographs or people moves nobody. The price is that the shares are met
    on average, not exactly: with few people they can be far off.
    """
    draw = seed_for(seed, name, person) / 2**63
    if draw < split.train:
        return "train"
    # shares sum to 1 up to rounding; a share of 0 must stay empty all the same
    return "val" if draw < split.train + split.val or split.test == 0 else "test"


def read_table(path: str | Path) -> list[dict[str, str]]:
    """A table of this stage -> its rows as text."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def face_files(
    table: str | Path,
    folder: str | Path,
    split: str | None = None,
    limit: int = 0,
    allow_none: bool = False,
) -> list[tuple[str, Path]]:
    """(id, path of the PNG) of the faces in `table`, in the order of their ids.

    `folder` holds one sub-folder a shard. `split`: train, val or test alone. `limit`: only the
    first so many (0 = all). `allow_none`: an empty split is an answer, else ValueError.
    """
    rows = [row for row in read_table(table) if split in (None, row["split"])]
    if not rows and not allow_none:
        raise ValueError(f"{table}: no faces" + (f" in the {split} split" if split else ""))
    chosen = rows[:limit] if limit else rows
    return [(row["id"], Path(folder) / row["shard"] / f"{row['id']}.png") for row in chosen]


def landmarks_of(row: dict[str, str]) -> np.ndarray:
    """`landmarks` of a row of faces.csv -> 68 x 2 photograph pixels; ValueError when empty."""
    values = np.array(row["landmarks"].split(), dtype=np.float64)
    if values.size != 136:
        raise ValueError(f"{row['id']}: no landmarks in the table of faces")
    return values.reshape(68, 2)


def transform_of(row: dict[str, str]) -> np.ndarray:
    """`transform` of a row of faces.csv -> 2 x 3, photograph -> aligned face."""
    return np.array(row["transform"].split(), dtype=np.float64).reshape(2, 3)


def _read_tables(paths):
    return [row for path in paths for row in read_table(path)]


def parse_faces(
    dataset: "Dataset",
    faces_csv: Path,
    out_dir: Path,
) -> None:
    """Write the parsing map {id}.png (8-bit grey, channel numbers) of every face in `faces_csv`.

    From landmarks (10 classes) or CelebAMask-HQ's files (19 classes, turned and cut like the
    photograph; the photograph's number is its file name). `labels.kind: model` is not made here.
    Raises ValueError for that kind or for a photograph without a number, FileNotFoundError for one
    without part files.
    """
    if dataset.labels.kind == "model":
        raise ValueError("labels of kind model are predicted by the trained parser")
    with atomic_output(out_dir, folder=True) as part:
        for row in read_table(faces_csv):
            transform = transform_of(row)
            if dataset.labels.kind == "landmarks":
                points = align.apply_transform(transform, landmarks_of(row))
                labels = parsing_maps.parse_landmarks(points, int(row["size"]))
            else:
                labels = _warp_labels(row, transform, dataset.labels.path)
            write_image(part / f"{row['id']}.png", labels)


def _warp_labels(row, transform, folder):
    """CelebAMask-HQ map of a photograph -> map of its aligned face (nearest; else background)."""
    stem = Path(row["photo"]).stem
    if not stem.isdecimal():
        raise ValueError(f"{row['photo']}: CelebAMask-HQ's photographs are named by their number")
    whole = parsing_maps.compose_celebamask(folder, int(stem))
    size, side = int(row["size"]), whole.shape[0]
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1)
    points = align.apply_transform(align.invert_transform(transform), grid.astype(np.float64))
    # from photograph pixels to the map's own, usually half as large
    scale = np.array([side / int(row["width"]), side / int(row["height"])])
    x, y = np.moveaxis(np.floor((points + 0.5) * scale).astype(int), -1, 0)
    inside = (x >= 0) & (x < side) & (y >= 0) & (y < side)
    labels = np.zeros((size, size), np.uint8)
    labels[inside] = whole[y[inside], x[inside]]
    return labels
