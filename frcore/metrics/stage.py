"""The metrics stage: folders of restored and true faces -> tables of scores.

Images are read in parts, so that memory does not grow with the size of a set.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from frcore.config import Protocol
from frcore.images import read_image, to_float
from frcore.metrics import score
from frcore.registry import METRICS
from frcore.tables import write_table

PART = 64  # images in memory at a time
NIQE_FACES = 1000  # training faces that the refitted NIQE model is fitted on


def write_truth(
    test: Sequence[tuple[str, Path]],
    train: Sequence[tuple[str, Path]],
    protocol: Protocol,
    assets: Mapping[str, Path],
    out: Path,
    crop_scale: float = 0.7,
    crop_shift: float = 0.1,
    people: Mapping[str, str] | None = None,
    device: str | torch.device = "cpu",
) -> None:
    """Features of a dataset's truth as npz: test images, or training ones (protocol).

    test, train: (id, PNG). assets: {asset: file}; missing files leave their metrics empty later.
    crop_scale, crop_shift: of the alignment, for descriptors of identity. people: {id: person};
    None leaves the metrics of persons empty. Raises KeyError for an id that it lacks.
    """
    names = _of_kind(protocol, "set")
    nets = score.load_nets(assets, names, device)
    reference = test if protocol.reference == "truth" else train
    features = score.truth_features(
        _parts([path for _, path in reference], protocol),
        [name for name, _ in reference],
        names,
        nets,
        _parts([path for _, path in train[:NIQE_FACES]], protocol) if train else None,
        crop_scale,
        crop_shift,
        [people[name] for name, _ in reference] if people else (),
    )
    features.save(out)


def write_scores(
    status: Sequence[Mapping[str, str]],
    restored: Path,
    truth: Mapping[str, Path] | None,
    features: Path | None,
    protocol: Protocol,
    assets: Mapping[str, Path],
    crop_scale: float,
    crop_shift: float,
    seed: int,
    out_images: Path,
    out_sets: Path,
    device: str | torch.device = "cpu",
    reference: str = "",
) -> None:
    """Scores of one restored set: `out_images` (a row an image and metric), `out_sets`.

    status: rows id, status, reason of the restore stage; a face that failed has rows without a
    value and its reason. truth: {id: PNG}; raises KeyError for an id without truth; None where
    nobody knows the true faces. features: of `write_truth`; without a truth those of the dataset
    `reference`, or None.
    """
    image_metrics, set_metrics = _of_kind(protocol, "image"), _of_kind(protocol, "set")
    nets = score.load_nets(assets, protocol.metrics, device)
    done = [row["id"] for row in status if row["status"] == "restored"]
    rows, found = [], {}
    for start in range(0, len(done), PART):
        ids = done[start : start + PART]
        images = _read([restored / f"{name}.png" for name in ids], protocol)
        true = None if truth is None else _read([truth[name] for name in ids], protocol)
        rows += score.score_images(images, true, ids, image_metrics, nets, crop_scale, crop_shift)
        features_of = score.set_features(images, set_metrics, nets, crop_scale, crop_shift)
        for key, values in features_of.items():
            found.setdefault(key, []).append(values)
    for row in status:
        if row["status"] != "restored":
            note = f"not restored: {row['reason']}"
            rows += [
                {"id": row["id"], "metric": m, "value": None, "note": note} for m in image_metrics
            ]
    rows.sort(key=lambda row: (image_metrics.index(row["metric"]), row["id"]))
    write_table(out_images, ("id", "metric", "value", "note"), rows)
    sets = score.score_set(
        done,
        {key: np.concatenate(parts) for key, parts in found.items()},
        None if features is None else score.TruthFeatures.load(features),
        set_metrics,
        seed,
        min(protocol.bootstrap, 100),
        reference,
    )
    write_table(out_sets, ("metric", "value", "n", "ci_low", "ci_high", "note"), sets)


def _of_kind(protocol: Protocol, kind: str) -> list[str]:
    return [name for name in protocol.metrics if METRICS[name].kind == kind]


def _parts(paths: Sequence[Path], protocol: Protocol) -> Iterable[torch.Tensor]:
    for start in range(0, len(paths), PART):
        yield _read(paths[start : start + PART], protocol)


def _read(paths: Sequence[Path], protocol: Protocol) -> torch.Tensor:
    """PNGs -> N x 3 x S x S in [0, 1], the protocol's border left out.

    Raises ValueError for a face of another size than the protocol's: scores at two sizes are not
    the same metric, and resizing silently would make another one.
    """
    arrays = [read_image(path) for path in paths]
    for path, array in zip(paths, arrays):
        if array.shape[:2] != (protocol.size, protocol.size):
            raise ValueError(
                f"{path} is {array.shape[1]}x{array.shape[0]}, the protocol measures "
                f"{protocol.size}x{protocol.size}"
            )
    c = protocol.crop
    return to_float(np.stack(arrays)[:, c : protocol.size - c, c : protocol.size - c])
