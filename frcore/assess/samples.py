"""How far restorations of one face differ, and how far each of them is still the person.

For models that draw random numbers. K draws of N faces.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from frcore.assess import MEASURED
from frcore.faces.build import face_files, read_table
from frcore.io.images import read_image, read_images, to_uint8, write_image
from frcore.io.tables import write_table
from frcore.metrics import score, sets
from frcore.report.panels import panel
from frcore.restore.aligned import restore_faces, sample_deviation, sample_distance
from frcore.restore.models import RestoreError, Restorer
from frcore.seeds import seed_for

COLUMNS = (
    "model", "dataset", "degradation", "what", "metric", "value", "n", "ci_low", "ci_high", "note",
)  # fmt: skip
FACES, DRAWS, SHOWN = 50, 8, 6  # SHOWN: faces and draws in the picture


def assess(
    restorer: Restorer,
    degraded: torch.Tensor,
    truth: torch.Tensor,
    ids: Sequence[str],
    people: Sequence[str],
    nets: Mapping[str, object],
    seed: int = 0,
    draws: int = DRAWS,
) -> tuple[list[dict], np.ndarray]:
    """Restore every face `draws` times -> rows (COLUMNS from `what` on), images K x N x S x S x 3.

    degraded, truth: N x 3 x S x S in [0, 1]; ids and people of the faces. nets: of load_nets.
    Images are uint8. A value is a mean over faces with a bootstrap interval; of images rounded to 8
    bits, as everywhere.

    `between draws` is a mean over all pairs for rms_255 (root mean square difference, 0 to 255) and
    over K // 2 separate pairs for ST-LPIPS. `another person` is the next face in the list that
    shows one. `no noise` is the restoration with every random number 0.
    Raises RestoreError for a model that draws nothing, less than two draws, or a face that fails.
    """
    if not restorer.stochastic:
        raise RestoreError(f"{restorer.name} draws nothing and restores a face in one way")
    if draws < 2:
        raise RestoreError(f"draws must be at least 2, got {draws}")
    samples = [restore_faces(restorer, degraded, ids, seed, sample=k) for k in range(draws)]
    still = restore_faces(restorer, degraded, ids, seed, sample=-1)
    other, apart = _others(truth, people)

    def values(a, b, metric):
        rows = score.score_images(a, b, ids, [metric], nets, *restorer.crop)
        return np.array([np.nan if row["value"] is None else row["value"] for row in rows])

    rows: list[dict] = []

    def add(what, metric, faces, *notes):
        """faces: a value for each face, NaN where there is none."""
        faces = faces[~np.isnan(faces)]
        mean: float | None = None
        interval: tuple = (None, None)
        if len(faces):
            mean, interval = float(faces.mean()), sets.mean_interval(faces, seed_for(seed, "draws"))
        else:
            notes = ("no weights, image too small, or one person alone",)
        line = (what, metric, mean, len(faces), *interval, "; ".join(notes))
        rows.append(dict(zip(COLUMNS[3:], line, strict=True)))

    images = np.stack([to_uint8(part) for part in samples])
    distances = [sample_distance(list(face)) for face in images.swapaxes(0, 1)]
    add("between draws", "rms_255", np.array(distances))
    pairs = list(zip(samples[::2], samples[1::2]))
    between = np.mean([values(a, b, "stlpips_vgg") for a, b in pairs], 0)
    add("between draws", "stlpips_vgg", between, f"{len(pairs)} pairs a face")
    own = {m: np.stack([values(part, truth, m) for part in samples]) for m in MEASURED}
    for metric, found in own.items():
        means = found.mean(1)  # a table that measures one draw a face shows one of these
        notes = []
        if np.isfinite(means).all():
            notes = [f"std over draws of the set's mean {means.std(ddof=1):.2g}"]
        add("own truth", metric, found.mean(0), *notes)
        add("own truth, no noise", metric, values(still, truth, metric))
    theirs = np.stack([values(part, other, "id_dlib") for part in samples])
    theirs[:, ~apart] = np.nan
    add("another person", "id_dlib", theirs.mean(0))
    same = own["id_dlib"]
    closer = np.where(np.isnan(theirs + same), np.nan, same > theirs).mean(0)
    add("own truth above another person", "id_dlib_share", closer, f"{draws} draws a face")
    return rows, images


def assess_cell(
    restorer: Restorer,
    cell: tuple[str, str],
    results: Path,
    nets: Mapping[str, object],
    out: Path,
    seed: int,
    faces: int = FACES,
    draws: int = DRAWS,
) -> None:
    """`assess` for a job of the workflow, on the first test faces of (dataset, degradation).

    results: holds faces/ and degraded/. Writes `out`, a table of COLUMNS, and a picture beside it:
    degraded, draws, standard deviation of each pixel (its white is in the title), truth.
    """
    dataset, degradation = cell
    table = results / "faces" / f"{dataset}.csv"
    people = {row["id"]: row["person"] for row in read_table(table)}
    truth = dict(face_files(table, results / "faces" / dataset, "test"))
    folder = results / "degraded" / dataset / degradation
    ids = [row["id"] for row in read_table(folder.with_suffix(".csv"))][:faces]
    degraded = read_images([folder / f"{name}.png" for name in ids])
    real = read_images([truth[name] for name in ids])
    owners = [people[name] for name in ids]
    rows, images = assess(restorer, degraded, real, ids, owners, nets, seed, draws)
    _picture(ids[:SHOWN], images[:, :SHOWN], folder, truth, out.with_suffix(".png"))
    start = dict(zip(COLUMNS, (restorer.name, dataset, degradation)))
    write_table(out, COLUMNS, (start | row for row in rows))


def _picture(ids, images, degraded: Path, truth: Mapping[str, Path], out: Path) -> None:
    deviations = [sample_deviation(list(face)) for face in images.swapaxes(0, 1)]
    white = max(float(np.max(deviations)), 1e-6)
    grey = [np.rint(255 * part / white).astype(np.uint8) for part in deviations]
    with tempfile.TemporaryDirectory() as scratch:
        shown = {f"draw {k}": images[k] for k in range(min(SHOWN, len(images)))}
        shown[f"std (white: {white:.0f} of 255)"] = grey
        shown["Truth"] = [read_image(truth[name]) for name in ids]
        columns = [("Degraded", degraded)]
        for title, pictures in shown.items():
            folder = Path(scratch) / str(len(columns))
            folder.mkdir()
            columns.append((title, folder))
            for name, picture in zip(ids, pictures, strict=True):
                write_image(folder / f"{name}.png", picture)
        panel(ids, columns, out)


def _others(truth, people) -> tuple[torch.Tensor, np.ndarray]:
    """For each face the next one of another person, and whether there is one."""
    n = len(people)
    steps = [
        next((d for d in range(1, n) if people[(i + d) % n] != people[i]), 0) for i in range(n)
    ]
    return truth[[(i + step) % n for i, step in enumerate(steps)]], np.array(steps) > 0
