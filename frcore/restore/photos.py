"""Photographs -> restored photographs: detect, align, restore, paste back.

H height, W width, S side of an aligned face.
"""

import contextlib
import functools
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image

from frcore.faces import align, detect, listings, paste, sources
from frcore.frozen.identity import SAME_PERSON
from frcore.io.files import atomic_output
from frcore.io.images import BadImage, to_float, to_uint8, write_image
from frcore.io.outputs import folders_on_the_way, keep_apart
from frcore.io.photo_files import PLAIN, WRITTEN, Opened, open_photo, write_photo
from frcore.io.tables import write_table
from frcore.restore.aligned import reason_of, sample_deviation, sample_distance, try_faces
from frcore.restore.models import RestoreError, Restorer
from frcore.restore.records import (
    CUT_OFF,
    Target,
    digest_of,
    earlier_rows,
    face_pictures,
    load_record,
    our_files,
    plan_targets,
    read_record,
    recorded_files,
    result_key,
    write_record,
)

PHOTO_COLUMNS = (
    "photo", "face", "status", "reason", "box", "id_distance", "output", "note",
)  # fmt: skip
# besides, where a face is restored more than once
SAMPLE_COLUMNS = ("samples", "sample_rms_255", "sample_std_max_255")


@dataclass(frozen=True)
class PhotoOptions:
    """What `frcore restore` does with a photograph; every field changes the result.

    faces: all, largest, or numbers from left to right such as "0,2". strength: share of the
    restored face in the blend. scale: enlargement of the whole photograph. aligned: photographs are
    aligned faces already, the result has the model's size. min_face: pixels of the photograph.
    samples: restorations of each photograph, for models that draw random numbers.
    """

    faces: str = "all"
    scale: int = 1
    aligned: bool = False
    strength: float = 1.0
    strip_metadata: bool = False
    min_face: int = 0
    detector: str = "hog"
    enlarge: int = 2
    seed: int = 0
    samples: int = 1

    def __post_init__(self):
        if self.faces not in ("all", "largest"):
            self.chosen()
        if self.scale not in (1, 2, 4):
            raise ValueError(f"scale must be 1, 2 or 4, got {self.scale}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must be in 0..1, got {self.strength}")
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if self.aligned and self.scale != 1:
            raise ValueError("aligned faces keep the model's size: no scale")

    def chosen(self) -> list[int]:
        """Numbers of the wanted faces; ValueError when `faces` is none."""
        parts = self.faces.split(",")
        if not all(part.strip().isdecimal() for part in parts):
            raise ValueError(f"faces must be all, largest or numbers like 0,2, got {self.faces!r}")
        return [int(part) for part in parts]


@dataclass
class _Job:
    """One face on its way: `pixels` uint8 S x S x 3 unless `status` is decided already.

    restored, distances: one entry a sample; empty unless all of them were restored.
    """

    number: int
    box: tuple = ()
    status: str = ""
    reason: str = ""
    pixels: np.ndarray | None = None
    transform: np.ndarray | None = None
    restored: list[np.ndarray] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)


def _check_samples(restorer: Restorer, options: PhotoOptions) -> None:
    if options.samples > 1 and not restorer.stochastic:
        raise RestoreError(
            f"{restorer.name} draws nothing and restores a face in one way: samples must be 1"
        )


def restore_photos(
    photos: str | Path,
    out_dir: str | Path,
    restorer: Restorer,
    options: PhotoOptions,
    assets: str | Path,
    batch: int = 16,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Counter:
    """Restore a photograph or a folder of them into `out_dir`.

    Faces are batched across photographs. Writes each photograph under its own name (formats that
    cannot be written: NAME.SUFFIX.png), restored.csv (PHOTO_COLUMNS; a row per face, or one for a
    photograph without any), and the aligned faces before and after in faces/. What an earlier call
    finished with the same file, model and options is kept.
    With options.samples > 1 a photograph becomes NAME_0.SUFFIX, NAME_1.SUFFIX ... (`output` names
    the first), id_distance is the mean over samples, and restored.csv has SAMPLE_COLUMNS too:
    `sample_rms_255` is the mean over pairs of samples of the root mean square difference of the
    face, scale 0..255. faces/*_std.png shows the standard deviation of each of its pixels (root
    mean square over channels); its white is `sample_std_max_255`, on the same scale.
    Returns counts: photos, restored, unrestored, faces, failed, kept.
    Raises ValueError when `out_dir` lies in `photos`, AssetMissing without the landmark model,
    RestoreError for samples of a model that draws nothing.
    """
    from tqdm import tqdm

    _check_samples(restorer, options)
    photos, out_dir = Path(photos), Path(out_dir)
    listing = _listing(photos)
    table = out_dir / "restored.csv"
    places = _places(photos, out_dir, listing, options.samples, overwrite)
    earlier = earlier_rows(table, PHOTO_COLUMNS, (item.photo for item in listing))
    detector = None if options.aligned else _detector(options.detector, assets)
    recognise = _recogniser(assets, restorer.device)
    for folder in (out_dir / "faces", out_dir / ".done"):  # also where a link leads nowhere yet
        os.makedirs(os.path.realpath(folder), exist_ok=True)

    rows: dict[str, list[dict]] = {}
    kept, todo = 0, []
    for item in listing:
        digest = digest_of(item)
        key = result_key(digest, restorer, options, recognise)
        record = None if overwrite else read_record(out_dir, item, key)
        if record is None:
            todo.append((item, (key, digest)))
        else:
            rows[item.id] = record
            kept += 1
    with tqdm(
        total=len(todo), unit="photo", disable=None if progress is None else not progress
    ) as bar:
        for start in range(0, len(todo), batch):
            chunk = todo[start : start + batch]
            found = {
                item.id: _prepare(item, places, restorer, options, detector) for item, _ in chunk
            }
            jobs = [
                (name, job)
                for name, made in found.items()
                if not isinstance(made, str)
                for job in made
            ]
            _restore_jobs(jobs, restorer, options, recognise, batch)
            for item, keys in chunk:
                rows[item.id] = _finish(item, found[item.id], places, options, keys)
                bar.update()
    flat = [{"photo": item.photo, **row} for item in listing for row in rows[item.id]]
    several = options.samples > 1 or any("samples" in row for row in earlier)
    whole = sorted((*flat, *earlier), key=lambda row: str(row["photo"]))
    write_table(table, PHOTO_COLUMNS + SAMPLE_COLUMNS * several, whole)
    good = sum(any(row["status"] == "restored" for row in rows[item.id]) for item in listing)
    return Counter(
        photos=len(listing),
        restored=good,
        unrestored=len(listing) - good,
        faces=sum(row["status"] == "restored" for row in flat),
        failed=sum(row["status"] == "failed" for row in flat),
        kept=kept,
    )


def _listing(photos: Path) -> list[sources.Photo]:
    if photos.is_dir():
        listing = sorted(sources.list_folder(photos), key=lambda photo: photo.photo)
        if not listing:
            raise ValueError(f"no photographs in {photos}")
        return listing
    if not os.path.lexists(photos):
        raise FileNotFoundError(f"no such file or folder: {photos}")
    name = sources.photo_id(Path(photos.name))
    return [sources.Photo(name, listings.printable(photos.name), name, photos, chosen=True)]


@dataclass
class _Places:
    """Where results go, and which files must stay: `inputs` are (device, inode)."""

    out_dir: Path
    targets: dict[str, list[Target]]
    refused: dict[str, str]  # {id: why a photograph has no place}
    inputs: set[tuple[int, int]]
    overwrite: bool

    @functools.cached_property
    def recorded(self) -> set[str]:
        """What earlier calls wrote there, for any photograph."""
        return recorded_files(self.out_dir)


def _places(photos: Path, out_dir: Path, listing, samples: int, overwrite: bool) -> _Places:
    """Raises ValueError where results and photographs would be in each other's way."""
    paths = [item.path for item in listing] if photos.is_dir() else []
    outputs = (out_dir, out_dir / "faces", out_dir / ".done")
    keep_apart(photos, outputs, folders_on_the_way(photos, paths))
    targets, refused = plan_targets(listing, out_dir, samples)
    inputs = set()
    for item in listing:
        with contextlib.suppress(OSError):
            status = item.path.stat()
            inputs.add((status.st_dev, status.st_ino))
    return _Places(out_dir, targets, refused, inputs, overwrite)


def _detector(kind: str, assets):
    from frcore.io.assets import locate

    for name in ("dlib_68", *(["dlib_mmod"] if kind == "mmod" else [])):
        locate(name, assets)
    return detect.load_detector(kind, Path(assets))


def _recogniser(assets, device):
    """dlib's face recognition when its file is there: identity is a check, not a need."""
    from frcore.frozen import identity
    from frcore.io.assets import AssetMissing, locate

    try:
        return identity.load(locate("dlib_resnet", assets), device)
    except AssetMissing:
        return None


def _find(photo: Opened, restorer, options, detector) -> list[_Job]:
    """The faces of a photograph, from left to right, aligned unless they are skipped."""
    image, size = photo.image, restorer.size
    if options.aligned:
        if image.width != image.height:
            text = f"an aligned face must be square, got {image.width}x{image.height}"
            return [_Job(0, (), "failed", text)]
        pixels = np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))
        box = (0, 0, image.width - 1, image.height - 1)
        return [_Job(0, box, pixels=photo.to_srgb(pixels))]
    faces = detect.find_faces(image, detector, options.enlarge)
    wanted = set(range(len(faces)))
    if options.faces == "largest" and faces:
        wanted = {max(range(len(faces)), key=lambda i: faces[i].area)}
    elif options.faces != "all":
        wanted = set(options.chosen())
    jobs = []
    for number, face in enumerate(faces):
        job = _Job(number, face.box)
        jobs.append(job)
        if number not in wanted:
            job.status, job.reason = "skipped", "not chosen"
        elif face.width < options.min_face:
            job.status, job.reason = "skipped", f"smaller than {options.min_face} px"
        else:
            square = align.crop_square(face.landmarks, *restorer.crop)
            job.pixels = photo.to_srgb(align.warp(image, square, size))
            job.transform = align.square_transform(square, size)
    return jobs


def _prepare(item, places: _Places, restorer, options, detector) -> list[_Job] | str:
    """Faces of a file, or why it cannot be used. The photograph itself is read again for pasting,
    so that a batch holds faces only."""
    if item.id in places.refused:
        return places.refused[item.id]
    try:
        sources.check(item)
        if detector is not None and detect.shows_no_face(item, detector, options.enlarge):
            return "no face found"
        jobs = _find(open_photo(item.path), restorer, options, detector)
    except BadImage as bad:
        return bad.reason
    except MemoryError:
        return "too large for this machine's memory"
    except Exception as error:  # one strange photograph must not cost the others
        return reason_of(error)
    return jobs or "no face found"


def _restore_jobs(jobs: list[tuple[str, _Job]], restorer, options, recognise, batch) -> None:
    jobs = [(name, job) for name, job in jobs if job.pixels is not None]
    if not jobs:
        return
    images = to_float(np.stack([cast(np.ndarray, job.pixels) for _, job in jobs]))
    ids = [f"{name}_{job.number}" for name, job in jobs]
    for sample in range(options.samples):
        results = try_faces(restorer, images, ids, options.seed, batch, sample)
        for (_, job), before, result in zip(jobs, images, results):
            if job.status == "failed":
                continue
            if isinstance(result, str):  # one face, one status: all samples or none
                job.status, job.reason, job.restored = "failed", result, []
                continue
            job.status = "restored"
            blended = before + (result - before) * options.strength
            job.restored.append(to_uint8(blended[None])[0])
    done = [
        (before, after, job) for (_, job), before in zip(jobs, images) for after in job.restored
    ]
    if recognise is None or not done:
        return
    crop = (restorer.crop[0], restorer.crop[1])
    for start in range(0, len(done), batch):
        part = done[start : start + batch]
        before = torch.stack([image for image, _, _ in part])
        after = to_float(np.stack([pixels for _, pixels, _ in part]))
        with torch.no_grad():
            both = recognise.descriptors(
                torch.cat([before, after]).to(restorer.device), *crop
            ).cpu()
        distances = (both[: len(part)] - both[len(part) :]).norm(dim=1)
        for (_, _, job), distance in zip(part, distances.tolist()):
            job.distances.append(distance)


def _paste(photo: Opened, jobs: list[_Job], options: PhotoOptions, sample=0) -> np.ndarray | None:
    """The photograph with its restored faces, or None when there is none."""
    done = [job for job in jobs if job.restored]
    if not done:
        return None
    faces = [job.restored[sample] for job in done]
    if photo.grey:
        faces = [_grey(face) for face in faces]
    faces = [photo.from_srgb(face) for face in faces]
    if options.aligned:
        return faces[0]
    patches = [paste.Patch(face, cast(np.ndarray, job.transform)) for face, job in zip(faces, done)]
    background = paste.enlarge_photo(photo.image, options.scale)
    pasted = paste.paste_faces(background, patches, options.scale)
    # resampling treats channels alike, so a grey photograph is grey here
    return pasted


def _grey(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(Image.fromarray(pixels).convert("L"))[..., None], 3, axis=2)


def _rows(jobs: list[_Job]) -> list[dict]:
    rows = []
    for job in jobs:
        row: dict = {
            "face": job.number,
            "status": job.status,
            "reason": job.reason,
            "box": " ".join(f"{value:.1f}" for value in job.box),
            "before": job.pixels,
            "after": job.restored,
        }
        notes, n = [], len(job.restored)
        if job.distances:
            row["id_distance"] = f"{np.mean(job.distances):.4f}"
            others = sum(distance > SAME_PERSON for distance in job.distances)
            if others:
                which = f"{others} of {n} samples " if n > 1 else ""
                notes.append(f"{which}may look like another person")
        if n > 1:
            row["samples"] = n
            row["sample_rms_255"] = f"{sample_distance(job.restored):.4f}"
            row["sample_std_max_255"] = f"{sample_deviation(job.restored).max():.4f}"
        if job.restored and job.transform is not None:
            size = len(job.restored[0])
            side = size / np.hypot(*job.transform[:, 0])
            if side > 1.5 * size:
                notes.append(f"the face has {side:.0f} px, the model has {size}: detail is lost")
        row["note"] = "; ".join(notes)
        rows.append(row)
    return rows


def _finish(item, found, places: _Places, options, keys: tuple[str, str]) -> list[dict]:
    """Paste, write and record one photograph; its rows for the table. keys: its key and digest."""
    out_dir = places.out_dir
    if isinstance(found, str):
        status = "skipped" if found == "no face found" else "failed"
        rows: list[dict] = [{"face": "", "status": status, "reason": found}]
        if status == "skipped":
            write_record(out_dir, item, *keys, rows)
        return rows
    targets = places.targets[item.id]
    try:
        _check_targets(item, places, keys[1])
        photo = open_photo(item.path)
        # should writing be cut off, the next call knows whose these files are
        cut_off = {"status": "failed", "reason": CUT_OFF}
        planned = [path for target in targets for path in (target.path, target.instead)]
        write_record(out_dir, item, *keys, [cut_off], planned)
        written, notes = [], [photo.note]
        for sample, target in enumerate(targets):
            pixels = _paste(photo, found, options, sample)
            if pixels is not None:
                words = (photo, options.strip_metadata, target.instead)
                path, note = write_photo(target.path, pixels, *words)
                written.append(path)
                notes.append(note)
        if written and item.path.suffix.lower() not in (*WRITTEN, *PLAIN):
            notes.append(f"{item.path.suffix or 'no suffix'}: written as PNG")
        rows = _rows(found)
        for row in rows:
            before, after = row.pop("before"), row.pop("after")
            if row["status"] == "restored":
                for what, crop in face_pictures(before, after).items():
                    face = f"{item.id}_{row['face']}_{what}.png"
                    with atomic_output(out_dir / "faces" / face) as part:
                        write_image(part, crop)
                row["output"] = written[0].relative_to(out_dir).as_posix()
                texts = dict.fromkeys(text for text in (row.get("note"), *notes) if text)
                row["note"] = "; ".join(texts)
    except BadImage as bad:
        return [{"face": "", "status": "failed", "reason": bad.reason}]
    except Exception as error:  # writing may fail for one format or one full disk
        return [{"face": "", "status": "failed", "reason": reason_of(error)}]
    write_record(out_dir, item, *keys, rows, written)
    return rows


def _check_targets(item, places: _Places, digest: str) -> None:
    """Raise RestoreError where a result would replace what is not the photograph's own."""
    ours = our_files(load_record(places.out_dir, item), item, digest)
    for target in places.targets[item.id]:
        for path in (target.path, target.instead):
            if not os.path.lexists(path):
                continue
            with contextlib.suppress(OSError):
                status = path.stat()
                if (status.st_dev, status.st_ino) in places.inputs:
                    raise RestoreError(f"{path} is one of the photographs: choose another folder")
            name = path.relative_to(places.out_dir).as_posix()
            if name in ours:
                continue
            if name not in places.recorded:
                more = "choose another folder, --overwrite replaces what frcore made alone"
                raise RestoreError(f"{path} is there already and is not ours: {more}")
            if not places.overwrite:
                more = "of another photograph: use --overwrite, or choose another folder"
                raise RestoreError(f"{path} is there already, {more}")
