"""Aligned faces -> restored faces, in batches, and folders of them.

A face that could not be restored has a row with the reason and no image: nothing is passed off as
restored.

N batch, C channels, S side of an aligned face.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from frcore.device import pick_device
from frcore.faces.batch import Faces, resized, sides_note
from frcore.faces.build import face_files
from frcore.frozen.guide import frozen
from frcore.io import checkpoint
from frcore.io.files import atomic_output
from frcore.io.images import BadImage, read_image, to_float, to_uint8, write_image
from frcore.io.tables import table_writer
from frcore.restore.models import RestoreError, Restorer
from frcore.seeds import torch_generator

STATUS_COLUMNS = ("id", "status", "reason")


def predict_parsing(
    weights: str | Path, table: str | Path, faces: str | Path, out: str | Path, device="auto"
) -> None:
    """Parsing maps {id}.png of the faces in `table`, predicted by the trained parser `weights`."""
    from frcore.frozen.parsing import predict_labels

    networks, card = checkpoint.load_weights(weights)
    device = pick_device(device)
    parser = frozen(networks, card, "model", weights, device)
    with atomic_output(out, folder=True) as part:
        for name, path in face_files(table, faces):
            image = to_float(read_image(path)).to(device)
            labels = predict_labels(parser, image)[0].to(torch.uint8).cpu().numpy()
            write_image(part / f"{name}.png", labels)


def try_faces(
    restorer: Restorer,
    images: torch.Tensor,
    ids: Sequence[str],
    seed: int = 0,
    batch: int = 16,
    sample: int = 0,
    references: torch.Tensor | None = None,
    told: dict[str, dict] | None = None,
) -> list[torch.Tensor | str]:
    """Restore N x 3 x S x S in [0, 1]: per face C x S x S in [0, 1] on the CPU, or why it failed.

    A face depends on (seed, model, id, sample) and its pixels, not on the faces beside it: each has
    random numbers of its own, and what fails in a batch is tried again alone. `sample` counts its
    restorations; 0 is the one that is measured, -1 is the one without noise. references: good
    photographs of the same people, for methods that want them. told: filled with {id: {column:
    number}} of what a method says about its work.
    """
    if len(images) != len(ids):
        raise ValueError(f"{len(images)} images but {len(ids)} ids")
    results: list[torch.Tensor | str] = []
    for start in range(0, len(ids), batch):
        part, names = images[start : start + batch], ids[start : start + batch]
        known = None if references is None else references[start : start + batch]
        try:
            results += _restore(restorer, part, names, seed, sample, known, told)
        except Exception as error:  # a model may fail in any way; the face's row says how
            if len(names) == 1:
                results.append(reason_of(error))
                continue
            for i, name in enumerate(names):
                one = None if known is None else known[i : i + 1]
                results += try_faces(restorer, part[i : i + 1], [name], seed, 1, sample, one, told)
    return results


def restore_faces(
    restorer: Restorer,
    images: torch.Tensor,
    ids: Sequence[str],
    seed: int = 0,
    batch: int = 16,
    sample: int = 0,
    references: torch.Tensor | None = None,
) -> torch.Tensor:
    """N x 3 x S x S in [0, 1] -> the same, restored, on the CPU; as `try_faces`.

    Raises RestoreError naming the faces that failed and why.
    """
    results = try_faces(restorer, images, ids, seed, batch, sample, references)
    failed = [f"{name}: {item}" for name, item in zip(ids, results) if isinstance(item, str)]
    if failed:
        words = f"{len(failed)} of {len(ids)} faces: {'; '.join(failed[:3])}"
        raise RestoreError(f"{restorer.name} failed on {words}")
    return torch.stack([item for item in results if isinstance(item, torch.Tensor)])


def _restore(restorer, images, names, seed, sample, references, told) -> list[torch.Tensor | str]:
    which = (sample,) if sample else ()
    generators = [torch_generator(seed, restorer.name, "restore", n, *which) for n in names]
    sides, size = restorer.sides, images.shape[-1]
    given = images if sides is None else resized(images, sides[0])
    faces = Faces(
        given.to(restorer.device),
        None if references is None else references.to(restorer.device),
        generators if sample >= 0 else (),
        restorer.recipe,
    )
    started = time.perf_counter()
    with torch.no_grad():
        restored = restorer.module.restore(restorer.model, faces, restorer.guide)
    restored = restored.detach().float().cpu()
    seconds = (time.perf_counter() - started) / len(names)
    wanted = images.shape if sides is None else (*images.shape[:2], sides[1], sides[1])
    if restored.shape != wanted:
        raise RestoreError(f"result is {tuple(restored.shape)}, expected {tuple(wanted)}")
    finite = torch.isfinite(restored).flatten(1).all(1).tolist()
    if told is not None and faces.told:
        for i, name in enumerate(names):
            numbers = {column: values[i] for column, values in faces.told.items()}
            told[name] = {**numbers, "seconds": seconds}
    if sides is not None:
        restored = resized(restored.nan_to_num().clamp(0, 1), size)
    return [
        image.clamp(0, 1) if good else "the model's output is not finite"
        for image, good in zip(restored, finite)
    ]


def reason_of(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, RestoreError) else f"{type(error).__name__}: {text}"


def restore_folder(
    ids: Sequence[str],
    in_dir: str | Path,
    out_dir: str | Path,
    out_csv: str | Path,
    restorer: Restorer,
    seed: int = 0,
    batch: int = 16,
    progress: bool | None = False,
    references: Mapping[str, Path | None] | None = None,
) -> Counter:
    """Restore {id}.png of `in_dir` into `out_dir`; a row id, status, reason per face in `out_csv`.

    Status is restored or failed; a failed face has no image. Both outputs appear complete or not at
    all. A method that tells about its work adds columns (iterations, seconds), a net with sides of
    its own adds `note`. references: {id: a good photograph of the same person, or None}, aligned;
    a face without one fails. `progress`: True, False, or None for only on a terminal. Returns the
    statuses' counts.
    """
    from tqdm import tqdm

    counts: Counter = Counter()
    in_dir, rows = Path(in_dir), []
    hidden = None if progress is None else not progress
    bar = tqdm(total=len(ids), desc=restorer.name, disable=hidden)
    note = sides_note(restorer.size, restorer.sides) if restorer.sides else ""
    with (
        bar,
        atomic_output(out_csv) as part_csv,
        atomic_output(out_dir, folder=True) as part_dir,
    ):
        for start in range(0, len(ids), batch):
            names = ids[start : start + batch]
            told: dict[str, dict] = {}
            results = restore_files(restorer, in_dir, names, seed, batch, references, told)
            for name in names:
                result = results[name]
                failed = isinstance(result, str)
                if not isinstance(result, str):
                    write_image(part_dir / f"{name}.png", to_uint8(result[None])[0])
                status = "failed" if failed else "restored"
                row = {"id": name, "status": status, "reason": result if failed else ""}
                numbers = {column: f"{v:.6g}" for column, v in told.get(name, {}).items()}
                rows.append(row | numbers | ({"note": note} if note and not failed else {}))
                counts[status] += 1
            bar.update(len(names))
        more = dict.fromkeys(column for row in rows for column in row)
        columns = [*STATUS_COLUMNS, *(column for column in more if column not in STATUS_COLUMNS)]
        with part_csv.open("w", encoding="utf-8", newline="") as opened:
            table_writer(opened, columns).writerows(rows)
    return counts


def restore_files(
    restorer, in_dir, names, seed, batch, references, told
) -> dict[str, torch.Tensor | str]:
    results: dict[str, torch.Tensor | str] = {}
    by_size: dict[tuple, dict[str, np.ndarray]] = {}
    known: dict[str, np.ndarray] = {}
    for name in names:
        try:
            pixels = read_image(in_dir / f"{name}.png")
            if references is not None:
                if references.get(name) is None:
                    raise BadImage("no other photograph of this person")
                known[name] = read_image(references[name])
            by_size.setdefault(pixels.shape, {})[name] = pixels
        except BadImage as bad:
            results[name] = bad.reason
    for faces in by_size.values():
        images, good = to_float(np.stack(list(faces.values()))), None
        if references is not None:
            good = to_float(np.stack([known[name] for name in faces]))
        found = try_faces(restorer, images, list(faces), seed, batch, 0, good, told)
        results |= zip(faces, found)
    return results


def sample_distance(samples: Sequence[np.ndarray]) -> float:
    """Mean over pairs of the root mean square difference of uint8 images H x W x 3, 0..255."""
    pairs = combinations([image.astype(np.float64) for image in samples], 2)
    return float(np.mean([np.sqrt(np.mean((a - b) ** 2)) for a, b in pairs]))


def sample_deviation(samples: Sequence[np.ndarray]) -> np.ndarray:
    """Standard deviation of each pixel over uint8 images H x W x 3 -> H x W, scale 0..255.

    Root mean square over channels; n - 1 in the denominator.
    """
    return np.sqrt(np.var(np.stack(samples).astype(np.float64), axis=0, ddof=1).mean(-1))
