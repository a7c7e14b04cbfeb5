"""From images to rows of scores, through the table frcore.registry_metrics.METRICS.

A metric that cannot be had (no weights, no ground truth, image too small) gives a row with an empty
value and the reason in its note: never 0, never another metric under its name.

N images, H height, W width, S side, D length of a feature vector, B blocks of an image.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from frcore.helpers import features as feature_nets
from frcore.helpers import identity, stlpips
from frcore.images import atomic_output, check_images, to_float, to_uint8
from frcore.metrics import fidelity, noreference, perception, semantics, sets
from frcore.registry_metrics import METRICS

FEW_IMAGES = 2048  # below, a Frechet distance is far too high: pytorch-fid's own advice
NO_TRUTH = "no ground truth"
NIQE_BLOCKS = "niqe_refit32"  # key of NIQE's block features among those of the nets
IDENTITY = "dlib_resnet"  # the net whose features of a set are its descriptors of aligned frames

# asset -> loader(path, device)
_LOADERS: dict[str, Callable] = {
    "dlib_resnet": lambda path, device: identity.Remembering(identity.load(path, device)),
    "stlpips_vgg": lambda path, device: stlpips.load("vgg", path, device),
    "stlpips_alex": lambda path, device: stlpips.load("alex", path, device),
    "alexnet": lambda path, device: perception.load_lpips("alex", path, device),
    "vgg16": lambda path, device: perception.load_lpips("vgg", path, device),
    "mobilenet_v2": lambda path, device: feature_nets.load("mobilenet_v2", path, device),
    "inception": lambda path, device: feature_nets.load("inception", path, device),
    "niqe": lambda path, device: noreference.load_niqe(path),
}

# metric -> measure(restored, truth, net, frame); `net` is that of the metric's asset
_IMAGE_METRICS: dict[str, Callable] = {
    "psnr_rgb": lambda x, y, net, frame: fidelity.psnr_rgb(x, y),
    "psnr_y": lambda x, y, net, frame: fidelity.psnr_y(x, y),
    "ssim_rgb": lambda x, y, net, frame: fidelity.ssim_rgb(x, y),
    "ssim_y": lambda x, y, net, frame: fidelity.ssim_y(x, y),
    "ms_ssim_rgb": lambda x, y, net, frame: fidelity.ms_ssim_rgb(x, y),
    "ms_ssim3_rgb": lambda x, y, net, frame: fidelity.ms_ssim3_rgb(x, y),
    "lpips_alex_v0.1": lambda x, y, net, frame: perception.lpips_distance(x, y, net),
    "lpips_vgg_v0.1": lambda x, y, net, frame: perception.lpips_distance(x, y, net),
    "stlpips_vgg": lambda x, y, net, frame: perception.stlpips_distance(x, y, net),
    "stlpips_alex": lambda x, y, net, frame: perception.stlpips_distance(x, y, net),
    "id_dlib": lambda x, y, net, frame: semantics.id_dlib(x, y, net, *frame),
    "id_dlib_distance": lambda x, y, net, frame: semantics.id_dlib_distance(x, y, net, *frame),
    "niqe": lambda x, y, net, frame: noreference.niqe(x, net),
}

# iPrecision and iRecall -> (measure, identity is the person's and not the pair's, k)
_IDENTITY_SETS: dict[str, tuple[str, bool, int]] = {
    f"i{measure}_{whose}dlib_k{k}": (measure, bool(whose), k)
    for measure in ("precision", "recall")
    for whose in ("", "person_")
    for k in (1, 4, 10)
}


def load_nets(
    paths: Mapping[str, str | Path],
    metrics: Sequence[str],
    device: str | torch.device = "cpu",
) -> dict[str, object]:
    """The pretrained parts that `metrics` need -> {asset: frozen net}.

    paths: asset name -> file; assets without an entry, or whose file is not there, are left out and
    their metrics come out empty. Raises ValueError for an unknown metric, or a damaged file.
    """
    needed = {asset for metric in _known(metrics) for asset in METRICS[metric].assets}
    return {
        asset: _LOADERS[asset](paths[asset], device)
        for asset in sorted(needed)
        if asset in paths and Path(paths[asset]).is_file()
    }


# ---- one value an image ----


def score_images(
    restored: torch.Tensor,
    truth: torch.Tensor | None,
    ids: Sequence[str],
    metrics: Sequence[str],
    nets: Mapping[str, object],
    crop_scale: float = 0.7,
    crop_shift: float = 0.1,
    batch: int = 16,
) -> list[dict]:
    """Rows {id, metric, value, note}, metric after metric, ids in their order within each.

    restored, truth: N x 3 x H x W in [0, 1], image for image; truth None where there is none. Both
    are rounded to 8 bits first. value is a float (inf for the PSNR of equal images) or None.
    nets: of `load_nets`. crop_scale, crop_shift: of the alignment, for identity metrics.
    Raises ValueError for unknown or set metrics, other or unequal shapes, ranges or counts.
    """
    for metric in _known(metrics):
        if METRICS[metric].kind != "image":
            raise ValueError(f"{metric} is a metric of a set: score_set measures it")
    check_images(restored, "restored")
    if len(ids) != len(restored):
        raise ValueError(f"{len(ids)} ids for {len(restored)} images")
    if truth is not None:
        check_images(truth, "truth")
        if truth.shape != restored.shape:
            raise ValueError(
                f"restored and truth differ in shape: {tuple(restored.shape)}, {tuple(truth.shape)}"
            )
    rows = []
    for metric in metrics:
        reason = _missing(metric, tuple(restored.shape[2:]), truth is not None, nets)
        values = [None] * len(ids)
        if not reason:
            net = nets[METRICS[metric].assets[0]] if METRICS[metric].assets else None
            values = []
            for start in range(0, len(ids), batch):
                x = _stored(restored[start : start + batch], net)
                y = None if truth is None else _stored(truth[start : start + batch], net)
                values += _IMAGE_METRICS[metric](x, y, net, (crop_scale, crop_shift)).tolist()
        rows += [
            {"id": name, "metric": metric, "value": value, "note": reason}
            for name, value in zip(ids, values, strict=True)
        ]
    return rows


def summarise(rows: Sequence[Mapping], seed: int = 0, n_draws: int = 1000) -> list[dict]:
    """Rows of `score_images` -> one row {metric, value, n, ci_low, ci_high, note} a metric.

    value is the mean over images that have one, with a 95 % bootstrap interval; n counts them.
    Images without a value are counted by reason in the note.
    """
    by_metric: dict[str, list] = {}
    for row in rows:
        by_metric.setdefault(row["metric"], []).append(row)
    return [_mean_row(metric, group, seed, n_draws) for metric, group in by_metric.items()]


def _mean_row(metric: str, rows: list, seed: int, n_draws: int) -> dict:
    values = [row["value"] for row in rows if row["value"] is not None]
    reasons: dict[str, int] = {}
    for row in rows:
        if row["value"] is None:
            reasons[row["note"]] = reasons.get(row["note"], 0) + 1
    if not values:
        return _set_row(metric, None, 0, (None, None), "; ".join(reasons))
    note = "; ".join(f"{n} images without value: {reason}" for reason, n in reasons.items())
    interval = sets.mean_interval(np.array(values), seed, n_draws)
    return _set_row(metric, float(np.mean(values)), len(values), interval, note)


# ---- one value a set ----


@dataclass(frozen=True)
class TruthFeatures:
    """What the set metrics compare with; computed once for a dataset and stored."""

    ids: tuple[str, ...]
    features: Mapping[str, np.ndarray] = field(default_factory=dict)  # net -> N x D float32
    statistics: Mapping[str, tuple] = field(default_factory=dict)  # net -> (mean D, cov D x D)
    niqe: noreference.Model | None = None  # of training faces
    people: tuple[str, ...] = ()  # the person of each of `ids`; empty where nobody is known

    def save(self, path: str | Path) -> None:
        """Write as npz; same content gives the same arrays, and the file appears complete."""
        arrays = {name: np.array(getattr(self, name), dtype=str) for name in ("ids", "people")}
        for net, values in self.features.items():
            arrays[f"features/{net}"] = values
        for net, (mean, cov) in self.statistics.items():
            arrays[f"mu/{net}"], arrays[f"sigma/{net}"] = mean, cov
        if self.niqe is not None:
            arrays["niqe/mean"], arrays["niqe/cov"] = self.niqe
        with atomic_output(path) as part, open(part, "wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> "TruthFeatures":
        """Read what `save` wrote. Raises FileNotFoundError, KeyError for another npz."""
        with np.load(path) as stored:
            nets = [name.split("/")[1] for name in stored if name.startswith("mu/")]
            return cls(
                ids=tuple(stored["ids"].tolist()),
                features={
                    name.split("/")[1]: stored[name]
                    for name in stored
                    if name.startswith("features/")
                },
                statistics={net: (stored[f"mu/{net}"], stored[f"sigma/{net}"]) for net in nets},
                niqe=(stored["niqe/mean"], stored["niqe/cov"]) if "niqe/mean" in stored else None,
                people=tuple(stored["people"].tolist()),
            )


@torch.no_grad()
def set_features(
    images: torch.Tensor | Iterable[torch.Tensor],
    metrics: Sequence[str],
    nets: Mapping[str, object],
    crop_scale: float = 0.7,
    crop_shift: float = 0.1,
    batch: int = 16,
) -> dict[str, np.ndarray]:
    """Features that the set metrics among `metrics` need -> {net: N x D float32}.

    images: N x 3 x H x W in [0, 1], or batches of them (a large set need not fit into memory), all
    of one size. NIQE's are under "niqe_refit32", N x B x 36, unless the images are too small, and
    dlib's descriptors under "dlib_resnet", N x 128, unless they are too small or not square.
    crop_scale, crop_shift: of the alignment, for the descriptors alone.
    Nets that are not in `nets` are left out. Raises ValueError for other shapes and ranges.
    """
    wanted = [metric for metric in _known(metrics) if METRICS[metric].kind == "set"]
    keys = [
        asset
        for asset in dict.fromkeys(a for metric in wanted for a in METRICS[metric].assets)
        if asset in nets
    ]
    found: dict[str, list] = {}
    for part in [images] if isinstance(images, torch.Tensor) else images:
        check_images(part)
        for key in keys:
            if key == IDENTITY and not _is_frame(part):
                continue
            for start in range(0, len(part), batch):
                x = _stored(part[start : start + batch], nets[key])
                if key == IDENTITY:
                    vectors = nets[key].descriptors(x, crop_scale, crop_shift)
                else:
                    vectors = nets[key](x)
                found.setdefault(key, []).append(vectors.float().cpu().numpy())
        if NIQE_BLOCKS in wanted and min(part.shape[2:]) >= METRICS[NIQE_BLOCKS].min_side:
            found.setdefault(NIQE_BLOCKS, []).append(noreference.block_features(part))
    return {key: np.concatenate(parts) for key, parts in found.items()}


def truth_features(
    images: torch.Tensor | Iterable[torch.Tensor],
    ids: Sequence[str],
    metrics: Sequence[str],
    nets: Mapping[str, object],
    train: torch.Tensor | Iterable[torch.Tensor] | None = None,
    crop_scale: float = 0.7,
    crop_shift: float = 0.1,
    people: Sequence[str] = (),
    batch: int = 16,
) -> TruthFeatures:
    """Features and statistics of a dataset's truth, and the NIQE model of its training faces.

    images, ids: the truth of the test images. train: training faces for niqe_refit32; None leaves
    that metric empty. people: the person of each id; empty leaves the metrics of persons empty.
    Arguments else and errors as `set_features`; also ValueError for other counts or too few blocks
    in the training faces.
    """
    if people and len(people) != len(ids):
        raise ValueError(f"{len(people)} people for {len(ids)} ids")
    names = [name for name in metrics if name != NIQE_BLOCKS]
    found = set_features(images, names, nets, crop_scale, crop_shift, batch)
    for net, values in found.items():
        if len(values) != len(ids):
            raise ValueError(f"{len(ids)} ids for {len(values)} features of {net}")
    model = None
    if train is not None and NIQE_BLOCKS in metrics:
        blocks = set_features(train, [NIQE_BLOCKS], nets).get(NIQE_BLOCKS)
        model = None if blocks is None else noreference.fit_niqe_blocks(blocks)
    return TruthFeatures(tuple(ids), found, statistics_of(found), model, tuple(people))


def statistics_of(features: Mapping[str, np.ndarray]) -> dict[str, tuple]:
    """{net: N x D} -> {net: (mean, covariance)}, of the nets whose distributions are compared.

    One image has no covariance and is left out. Raises ValueError for values that are not finite.
    """
    compared = {net: x for net, x in features.items() if net != IDENTITY and len(x) > 1}
    return {net: sets.statistics(x) for net, x in compared.items()}


def score_set(
    ids: Sequence[str],
    features: Mapping[str, np.ndarray],
    truth: TruthFeatures | None,
    metrics: Sequence[str],
    seed: int = 0,
    n_draws: int = 100,
    reference: str = "",
) -> list[dict]:
    """Rows {metric, value, n, ci_low, ci_high, note}, one for each of `metrics`.

    ids, features: of the restored images, from `set_features`. truth: of `truth_features`, or with
    only `statistics` (a published file). reference: name of `truth` where it is not the truth of
    these images, but good faces of others; metrics of identities are then empty. The 95 % intervals
    come from `n_draws` new samples of the restored images.
    Raises ValueError for unknown or image metrics, or counts that differ.
    """
    for metric in _known(metrics):
        if METRICS[metric].kind != "set":
            raise ValueError(f"{metric} is a metric of single images: score_images measures it")
    for net, values in features.items():
        if len(values) != len(ids):
            raise ValueError(f"{len(ids)} ids for {len(values)} features of {net}")
    by_identity = [metric for metric in metrics if metric in _IDENTITY_SETS]
    if reference:
        rows = {m: _set_row(m, None, 0, (None, None), NO_TRUTH) for m in by_identity}
    else:
        rows = _score_identities(by_identity, ids, features, truth, seed, n_draws)
    name = reference or "truth"
    return [
        rows.get(metric) or _score_one_set(metric, ids, features, truth, seed, n_draws, name)
        for metric in metrics
    ]


def _score_identities(metrics, ids, features, truth, seed, n_draws) -> dict[str, dict]:
    """{metric: row} of iPrecision and iRecall; their radii take the time and serve several rows.

    n counts the true faces. One that was not restored is a miss in either metric: leaving it out
    would reward a method for giving up. The interval redraws pairs and leaves the radii alone.
    """
    reasons = {metric: _no_identity(metric, ids, features, truth) for metric in metrics}
    wanted = [metric for metric in metrics if not reasons[metric]]
    rows = {m: _set_row(m, None, 0, (None, None), why) for m, why in reasons.items() if why}
    if not wanted:
        return rows
    real, restored = truth.features[IDENTITY], features[IDENTITY]
    place = {name: row for row, name in enumerate(truth.ids)}
    own = np.array([place[name] for name in ids])  # row of the truth of each restored face
    largest: dict[str, int] = {}  # k of each measure: the radii of the smaller ones come with it
    for metric in wanted:
        measure, _, k = _IDENTITY_SETS[metric]
        largest[measure] = max(k, largest.get(measure, 0))
    balls = {"precision": real, "recall": restored}
    radii = {of: semantics.neighbour_radii(balls[of], k) for of, k in largest.items()}
    for metric in wanted:
        measure, by_person, k = _IDENTITY_SETS[metric]
        radius = radii[measure][:, k - 1]
        labels = np.array(truth.people) if by_person else np.arange(len(real))
        found = np.zeros(len(real), dtype=bool)
        if measure == "precision":
            found[own] = semantics.hits(restored, real, radius, labels[own], labels)
        else:
            found[own] = semantics.hits(real[own], restored, radius, labels[own], labels[own])
        note = _identity_note(labels, k, by_person, len(real) - len(ids), radius)
        interval = sets.mean_interval(found, seed, n_draws)
        rows[metric] = _set_row(metric, float(found.mean()), len(found), interval, note)
    return rows


def _identity_note(labels, k: int, by_person: bool, n_missed: int, radius) -> str:
    """What is to be read beside iPrecision or iRecall, its chance level first.

    A face that is drawn like the others lies in k / N of the balls, so in at least one of its
    person's m balls with a chance of at most m k / N.
    """
    sizes = np.unique(labels, return_counts=True)[1]
    chance = min(1.0, k * np.square(sizes).sum() / sizes.sum() ** 2)
    notes = [f"chance {chance:.3g}"]
    if by_person:
        notes = [f"chance at most {chance:.3g}", f"{len(sizes)} people"]
    if n_missed:
        notes.append(f"{n_missed} of {len(labels)} not restored, counted as missed")
    if not radius.all():
        notes.append(f"{(radius == 0).sum()} of {len(radius)} radii are 0")
    return "; ".join(notes)


def _no_identity(metric, ids, features, truth) -> str:
    """Why a metric of `_IDENTITY_SETS` cannot be had; "" when it can."""
    measure, by_person, k = _IDENTITY_SETS[metric]
    if not ids:
        return "no face was restored"
    if IDENTITY not in features:
        side = METRICS[metric].min_side
        return f"no weights: {IDENTITY}, or the images are no square frames of {side} px or more"
    if truth is None or IDENTITY not in truth.features:
        return f"no truth features of {IDENTITY}"
    n = len(truth.ids if measure == "precision" else ids)  # of the set that has the balls
    if n <= k:
        return f"{n} images: k = {k} needs more than {k}"
    foreign = len(set(ids) - set(truth.ids))
    if foreign:
        return f"{foreign} of {len(ids)} images are not among the truth"
    if by_person and not truth.people:
        return "no person labels"
    if by_person and len(set(truth.people)) == len(truth.people):
        return "every person has one face: see the metric by pair"
    return ""


def _score_one_set(metric, ids, features, truth, seed, n_draws, name) -> dict:
    def empty(reason: str) -> dict:
        return _set_row(metric, None, 0, (None, None), reason)

    if len(ids) < 2:
        return empty(f"a set metric needs 2 images or more, got {len(ids)}")
    if metric == NIQE_BLOCKS:
        if truth is None or truth.niqe is None:
            return empty("no model of training faces")
        if metric not in features:
            return empty(f"images are smaller than {METRICS[metric].min_side} px")
        value = noreference.niqe_refit32(features[metric], truth.niqe)
        interval = noreference.niqe_refit32_interval(features[metric], truth.niqe, seed, n_draws)
        return _set_row(metric, value, len(ids), interval, "")
    net = METRICS[metric].assets[0]
    if net not in features:
        return empty(f"no weights: {net}")
    if truth is None or net not in truth.statistics:
        return empty(f"no truth features of {net}")
    if metric == "kid_mobilenetv2":
        if net not in truth.features:
            return empty(f"truth has statistics of {net} only, no features")
        value = sets.kernel_distance(features[net], truth.features[net])
        interval = sets.kernel_interval(features[net], truth.features[net], seed, n_draws)
        return _set_row(metric, value, len(ids), interval, f"{name} n = {len(truth.ids)}")
    if net in truth.features:
        reference = sets.factor(truth.features[net])
    else:
        reference = sets.factor_from_statistics(*truth.statistics[net])
    value = sets.frechet_from_factors(*sets.factor(features[net]), *reference)
    interval = sets.frechet_interval(features[net], *reference, seed, n_draws)
    note = f"{name} n = {len(truth.ids)}" if truth.ids else f"{name}: statistics file"
    if len(ids) < FEW_IMAGES:
        note += f"; n < {FEW_IMAGES}: too high, compare only at equal n and equal {name}"
    return _set_row(metric, value, len(ids), interval, note)


def _set_row(metric: str, value, n: int, interval: tuple, note: str) -> dict:
    low, high = interval
    row = {"metric": metric, "value": value, "n": n, "ci_low": low, "ci_high": high}
    return row | {"note": note}


# ---- shared ----


def _known(metrics: Sequence[str]) -> Sequence[str]:
    for metric in metrics:
        if metric not in METRICS:
            raise ValueError(f"unknown metric {metric!r}, expected some of {list(METRICS)}")
    return metrics


def _missing(metric: str, size: tuple[int, int], has_truth: bool, nets: Mapping) -> str:
    """Why `metric` cannot be had; "" when it can."""
    row = METRICS[metric]
    absent = [asset for asset in row.assets if asset not in nets]
    if row.needs_truth and not has_truth:
        return NO_TRUTH
    if min(size) < row.min_side:
        return f"image {size[1]}x{size[0]} is smaller than {row.min_side} px"
    if absent:
        return f"no weights: {', '.join(absent)}"
    if metric in ("id_dlib", "id_dlib_distance") and size[0] != size[1]:
        return f"image {size[1]}x{size[0]} is not a square aligned frame"
    return ""


def _is_frame(images: torch.Tensor) -> bool:
    """Whether a batch can be aligned frames for the identity net."""
    height, width = images.shape[2:]
    return height == width >= METRICS["iprecision_dlib_k1"].min_side


def _stored(images: torch.Tensor, net: object) -> torch.Tensor:
    """The images as a PNG of them would be read again, on the net's device."""
    device = "cpu"
    if isinstance(net, torch.nn.Module):
        device = next(net.parameters()).device
    return to_float(to_uint8(images)).to(device)
