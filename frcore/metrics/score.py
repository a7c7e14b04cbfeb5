"""From images to rows of scores, by the rows that stand above the metrics' functions.

A metric that cannot be had (no weights, no ground truth, image too small) gives a row with an empty
value and the reason in its note: never 0, never another metric under its name.

N images, H height, W width, S side, D length of a feature vector, B blocks of an image.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from frcore.io.files import atomic_output
from frcore.io.images import check_images
from frcore.metrics import intervals, sets
from frcore.metrics.fidelity import to_bytes
from frcore.metrics.parts import slices
from frcore.metrics.sets import NoValue, Restored, SetScore, Truth
from frcore.registry.metrics import FEATURES, METRICS, load_features, load_metric, load_train

NO_TRUTH = "no ground truth"
PIXELS = 16 * 256 * 256  # of images together at most; a net that needs less takes them in parts


def load_nets(
    paths: Mapping[str, str | Path],
    metrics: Sequence[str],
    device: str | torch.device = "cpu",
) -> dict[str, object]:
    """The pretrained parts that `metrics` need -> {asset: frozen net}.

    paths: asset name -> file; assets without an entry, or whose file is not there, are left out and
    their metrics come out empty. Raises ValueError for an unknown metric, or a damaged file.
    """
    from frcore.metrics import nets

    needed = {asset for metric in _known(metrics) for asset in METRICS[metric].assets}
    return {
        asset: nets.load(asset, paths[asset], device)
        for asset in sorted(needed)
        if asset in paths and Path(paths[asset]).is_file()
    }


def _called(function: Callable, offered: Mapping[str, object]):
    """`function` with what the names of its parameters ask for. TypeError names what it may ask."""
    wanted = inspect.signature(function).parameters
    unknown = [
        name
        for name, parameter in wanted.items()
        if name not in offered and parameter.default is parameter.empty
    ]
    if unknown:
        known = ", ".join(offered)
        raise TypeError(f"{function.__name__} asks for {unknown[0]!r} (known: {known})")
    return function(**{name: offered[name] for name in wanted if name in offered})


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
    batch: images together at most; fewer where they are large, and all metrics see the same ones.
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
    size = restored.shape[2], restored.shape[3]
    reasons = {m: _missing(METRICS[m], size, truth is not None, nets) for m in metrics}
    values: dict[str, list] = {m: [None] * len(ids) if reasons[m] else [] for m in reasons}
    words = {"nets": nets, "crop_scale": crop_scale, "crop_shift": crop_shift}
    for part in _batches(restored, batch):
        given, true = _Stored(restored[part]), None if truth is None else _Stored(truth[part])
        for metric, reason in reasons.items():
            if not reason:
                values[metric] += _measured(metric, given, true, words)
    return [
        {"id": name, "metric": metric, "value": value, "note": reasons[metric]}
        for metric in metrics
        for name, value in zip(ids, values[metric], strict=True)
    ]


def _measured(metric: str, given: "_Stored", true: "_Stored | None", words: Mapping) -> list[float]:
    """Values of a batch."""
    row = METRICS[metric]
    net = words["nets"][row.assets[0]] if row.assets else None
    offered = {
        "restored": given.on(net),
        "truth": None if true is None else true.on(net),
        "stored": None if true is None else (given.pixels, true.pixels),
        "net": net,
        **words,
        **row.arguments,
    }
    found = np.asarray(_called(load_metric(metric), offered), dtype=np.float64)
    if found.shape != (len(given.pixels),):
        raise ValueError(f"{metric}: expected {len(given.pixels)} values, got shape {found.shape}")
    return found.tolist()


def summarise(
    rows: Sequence[Mapping], seed: int = 0, n_draws: int = 1000, words: Sequence[str] = ()
) -> list[dict]:
    """Rows of `score_images` -> one row {metric, value, n, ci_low, ci_high, note} a metric.

    value is the mean over images that have one, with a 95 % bootstrap interval; n counts them.
    Images without a value are counted by reason in the note; infinite ones are left out and
    counted. words: dataset and degradation; with those of a workflow's cell, and its seed, the
    interval is that of its long table.
    """
    by_metric: dict[str, list] = {}
    for row in rows:
        by_metric.setdefault(row["metric"], []).append(row)
    summary = []
    for metric, group in by_metric.items():
        order = sorted({row["id"] for row in group})
        counts = intervals.resample_counts(len(order), n_draws, seed, *words, metric)
        found = intervals.mean_of_images(group, order, counts)
        summary.append({"metric": metric, **{k: _none(v) for k, v in found.items()}})
    return summary


def _none(value):
    return None if isinstance(value, str) and value == "" else value


# ---- one value a set ----


@dataclass(frozen=True)
class TruthFeatures:
    """What the set metrics compare with; computed once for a dataset and stored."""

    ids: tuple[str, ...]
    features: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> N x D float32
    statistics: Mapping[str, tuple] = field(default_factory=dict)  # name -> (mean D, cov D x D)
    models: Mapping[str, tuple] = field(default_factory=dict)  # name -> of training faces
    people: tuple[str, ...] = ()  # the person of each of `ids`; empty where nobody is known

    def save(self, path: str | Path) -> None:
        """Write as npz; same content gives the same arrays, and the file appears complete."""
        arrays = {name: np.array(getattr(self, name), dtype=str) for name in ("ids", "people")}
        for name, values in self.features.items():
            arrays[f"features/{name}"] = values
        for name, (mean, cov) in self.statistics.items():
            arrays[f"mu/{name}"], arrays[f"sigma/{name}"] = mean, cov
        for name, parts in self.models.items():
            arrays |= {f"model/{name}/{place}": part for place, part in enumerate(parts)}
        with atomic_output(path) as part, open(part, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # takes any name

    @classmethod
    def load(cls, path: str | Path) -> "TruthFeatures":
        """Read what `save` wrote. Raises FileNotFoundError, KeyError for another npz."""
        with np.load(path) as stored:
            names: dict[str, list[str]] = {kind: [] for kind in ("features", "mu", "model")}
            for entry in stored:
                kind, _, rest = entry.partition("/")
                if kind in names:
                    names[kind].append(rest)
            models: dict[str, list] = {}
            for rest in sorted(names["model"]):
                models.setdefault(rest.rpartition("/")[0], []).append(stored[f"model/{rest}"])
            return cls(
                ids=tuple(stored["ids"].tolist()),
                features={name: stored[f"features/{name}"] for name in names["features"]},
                statistics={n: (stored[f"mu/{n}"], stored[f"sigma/{n}"]) for n in names["mu"]},
                models={name: tuple(parts) for name, parts in models.items()},
                people=tuple(stored["people"].tolist()),
            )


def features_of(metrics: Sequence[str]) -> list[str]:
    """Names of the features that the set metrics among `metrics` compare."""
    rows = [METRICS[metric] for metric in _known(metrics)]
    return list(dict.fromkeys(row.features for row in rows if row.kind == "set"))


@torch.no_grad()
def set_features(
    images: torch.Tensor | Iterable[torch.Tensor],
    metrics: Sequence[str],
    nets: Mapping[str, object],
    crop_scale: float = 0.7,
    crop_shift: float = 0.1,
    batch: int = 16,
) -> dict[str, np.ndarray]:
    """Features that the set metrics among `metrics` compare -> {name: N x ...}.

    images: N x 3 x H x W in [0, 1], or batches of them (a large set need not fit into memory), all
    of one size. crop_scale, crop_shift: of the alignment, for descriptors of identity.
    Features whose net is not in `nets`, or for which the images are too small or not square, are
    left out. Raises ValueError for other shapes and ranges.
    """
    wanted = features_of(metrics)
    found: dict[str, list] = {}
    for part in [images] if isinstance(images, torch.Tensor) else images:
        check_images(part)
        height, width = part.shape[2:]
        words = {"nets": nets, "crop_scale": crop_scale, "crop_shift": crop_shift}
        there = []
        for name in wanted:
            row = FEATURES[name]
            small = min(height, width) < row.min_side or (row.square and height != width)
            if not small and all(asset in nets for asset in row.assets):
                there.append((name, nets[row.assets[0]] if row.assets else None))
        for places in _batches(part, batch) if there else ():
            stored = _Stored(part[places])
            for name, net in there:
                offered = {"images": stored.on(net), "net": net, **words}
                values = np.asarray(_called(load_features(name), offered))
                found.setdefault(name, []).append(values)
    return {name: np.concatenate(parts) for name, parts in found.items()}


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
    """Features and statistics of a dataset's truth, and models of its training faces.

    images, ids: the truth of the test images. train: training faces for metrics that want a model
    of them (niqe_refit32); None leaves those empty. people: the person of each id; empty leaves the
    metrics of persons empty. Arguments else and errors as `set_features`; also ValueError for other
    counts or too few blocks in the training faces.
    """
    if people and len(people) != len(ids):
        raise ValueError(f"{len(people)} people for {len(ids)} ids")
    of_truth = [m for m in _known(metrics) if not _of_training(m)]
    found = set_features(images, of_truth, nets, crop_scale, crop_shift, batch)
    for name, values in found.items():
        if len(values) != len(ids):
            raise ValueError(f"{len(ids)} ids for {len(values)} features of {name}")
    models = {}
    of_train = [m for m in metrics if _of_training(m)]
    if train is not None and of_train:
        features = set_features(train, of_train, nets, crop_scale, crop_shift, batch)
        for name, values in features.items():
            fit = load_train(name)
            assert fit is not None  # those of training faces have one
            models[name] = tuple(fit(values))
    return TruthFeatures(tuple(ids), found, statistics_of(found), models, tuple(people))


def _of_training(metric: str) -> bool:
    """Whether a set metric compares with training faces and not with the truth."""
    row = METRICS[metric]
    return row.kind == "set" and FEATURES[row.features].train is not None


def statistics_of(features: Mapping[str, np.ndarray]) -> dict[str, tuple]:
    """{name: N x D} -> {name: (mean, covariance)}, of those whose distributions are compared.

    One image has no covariance and is left out. Raises ValueError for values that are not finite.
    """
    compared = {n: x for n, x in features.items() if FEATURES[n].statistics and len(x) > 1}
    return {name: sets.statistics(x) for name, x in compared.items()}


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
    these images, but good faces of others; metrics of pairs are then empty. The 95 % intervals
    come from `n_draws` new samples of the restored images.
    Raises ValueError for unknown or image metrics, or counts that differ.
    """
    for metric in _known(metrics):
        if METRICS[metric].kind != "set":
            raise ValueError(f"{metric} is a metric of single images: score_images measures it")
    for name, values in features.items():
        if len(values) != len(ids):
            raise ValueError(f"{len(ids)} ids for {len(values)} features of {name}")
    both: dict[str, tuple[Restored, Truth]] = {}
    for name in features_of(metrics):
        if name in features:
            restored = Restored(tuple(ids), features[name])
            both[name] = restored, _truth_of(name, truth, reference or "truth")
    return [_score_one_set(m, len(ids), both, truth, seed, n_draws, reference) for m in metrics]


def _truth_of(name: str, truth: TruthFeatures | None, called: str) -> Truth:
    net = (*FEATURES[name].assets, name)[0]
    if truth is None:
        return Truth(name=called, net=net)
    return Truth(
        ids=truth.ids,
        features=truth.features.get(name),
        statistics=truth.statistics.get(name),
        model=truth.models.get(name),
        people=truth.people,
        name=called,
        net=net,
    )


def _score_one_set(metric, n, both, truth, seed, n_draws, reference) -> dict:
    row = METRICS[metric]
    reason = _no_set(row, n, both, reference)
    if reason:
        return _set_row(metric, None, 0, (None, None), reason)
    restored, known = both[row.features]
    words = {"seed": seed, "n_draws": n_draws, **row.arguments}
    measure = load_metric(metric)
    try:
        if row.needs_truth and known.features is None and known.statistics is None:
            raise NoValue(f"no truth features of {known.net}")
        found = _called(measure, {"restored": restored, "truth": known, **words})
    except NoValue as error:
        return _set_row(metric, None, 0, (None, None), str(error))
    if not isinstance(found, SetScore):
        value = float(found)

        def again(rows: np.ndarray) -> float:
            return float(
                _called(measure, {**words, "restored": restored.take(rows), "truth": known})
            )

        interval = sets.around(value, sets.redraw(again, n, seed, n_draws))
        return _set_row(metric, value, n, interval, "")
    return _set_row(metric, found.value, found.n, (found.low, found.high), found.note)


def _no_set(row, n: int, both: Mapping, reference: str) -> str:
    """Why a set metric cannot be had before it looks at anything; "" when it can."""
    if row.pairs and reference:
        return NO_TRUTH
    if row.pairs and not n:
        return "no face was restored"
    if not row.pairs and n < 2:
        return f"a set metric needs 2 images or more, got {n}"
    if row.features in both:
        return ""
    if not row.assets:
        return f"images are smaller than {row.min_side} px"
    if row.square:
        frames = f"the images are no square frames of {row.min_side} px or more"
        return f"no weights: {row.assets[0]}, or {frames}"
    return f"no weights: {row.assets[0]}"


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


def _missing(row, size: tuple[int, int], has_truth: bool, nets: Mapping) -> str:
    """Why an image metric cannot be had; "" when it can."""
    absent = [asset for asset in row.assets if asset not in nets]
    if row.needs_truth and not has_truth:
        return NO_TRUTH
    if min(size) < row.min_side:
        return f"image {size[1]}x{size[0]} is smaller than {row.min_side} px"
    if absent:
        return f"no weights: {', '.join(absent)}"
    if row.square and size[0] != size[1]:
        return f"image {size[1]}x{size[0]} is not a square aligned frame"
    return ""


def _batches(images: torch.Tensor, most: int) -> Iterable[slice]:
    """Places of images that are measured together: `most` at most, fewer where they are large."""
    pixels = images.shape[2] * images.shape[3]
    return slices(len(images), pixels, min(most * pixels, PIXELS))


class _Stored:
    """Images as a PNG of them would be read again, on each device that a net is on; made once.

    pixels: uint8 N x 3 x H x W.
    """

    def __init__(self, images: torch.Tensor):
        self.pixels = to_bytes(images)
        self.images = torch.from_numpy(self.pixels).float().div_(255)
        self.placed: dict = {}

    def on(self, net: object) -> torch.Tensor:
        """On the net's device; on the CPU for anything that is none."""
        own = next(net.parameters(), None) if isinstance(net, torch.nn.Module) else None
        where = torch.device("cpu") if own is None else own.device
        if where not in self.placed:
            self.placed[where] = self.images.to(where)
        return self.placed[where]
