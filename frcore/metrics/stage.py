"""The metrics stage: folders of restored and true faces -> tables of scores.

Images are read in parts, so that memory does not grow with the size of a set. What was measured is
kept beside the tables by what it was made of (code, parts, settings, the bytes of the images): a
new metric is measured alone.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from frcore.config import Protocol
from frcore.io.files import atomic_output
from frcore.io.images import read_image, to_float
from frcore.io.tables import write_table
from frcore.metrics import score
from frcore.registry import METRICS

PART_PIXELS = 64 * 64 * 64  # of the images in memory at a time: features of nets grow with them
NIQE_FACES = 1000  # training faces that the refitted NIQE model is fitted on
_KINDS = ("image", "set")
SET_COLUMNS = ("metric", "value", "n", "ci_low", "ci_high", "note")


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
    kept: Path | None = None,
    digests: Mapping[str, str] | None = None,
) -> None:
    """Features of a dataset's truth as npz: test images, or training ones (protocol).

    test, train: (id, PNG). assets: {asset: file}; missing files leave their metrics empty later.
    crop_scale, crop_shift: of the alignment, for descriptors of identity. people: {id: person};
    None leaves the metrics of persons empty. kept: folder in which features are kept by what makes
    them; digests: {features: digest of their code and parts}. Raises KeyError for an id that
    `people` lacks.
    """
    names = _of_kind(protocol, "set")
    reference = test if protocol.reference == "truth" else train
    few = train[:NIQE_FACES]
    settings = [protocol.size, protocol.crop, crop_scale, crop_shift]
    content = _content([reference, few]) if kept and digests else ""
    features: dict[str, np.ndarray] = {}
    models: dict[str, tuple] = {}
    for feature in score.features_of(names):
        key = _key(digests.get(feature), content, settings) if kept and digests else ""
        found = _read_features(kept, feature, key) if kept and key else None
        if found is None:
            own = [name for name in names if METRICS[name].features == feature]
            found = score.truth_features(
                _parts([path for _, path in reference], protocol),
                [name for name, _ in reference],
                own,
                score.load_nets(assets, own, device),
                _parts([path for _, path in few], protocol) if few else None,
                crop_scale,
                crop_shift,
            )
            if kept and key:
                _keep_features(kept, feature, key, found)
        features |= found.features
        models |= found.models
    score.TruthFeatures(
        tuple(name for name, _ in reference),
        features,
        score.statistics_of(features),
        models,
        tuple(people[name] for name, _ in reference) if people else (),
    ).save(out)


@dataclass(frozen=True)
class RestoredSet:
    """One restored test set and where its scores go.

    status: rows id, status, reason of the restore stage. images: folder of {id}.png. kept: folder
    in which rows are kept by what makes them.
    """

    status: Sequence[Mapping[str, str]]
    images: Path
    out_images: Path
    out_sets: Path
    seed: int
    kept: Path | None = None

    @property
    def done(self) -> list[str]:
        """Ids of the faces that were restored."""
        return [row["id"] for row in self.status if row["status"] == "restored"]


@dataclass
class _Progress:
    """What is still to be measured of a set, and what was measured."""

    keys: dict[str, str]
    had: dict[str, list]
    image_metrics: list[str]
    set_metrics: list[str]
    ids: list[str] = field(default_factory=list)
    rows: list[dict] = field(default_factory=list)
    features: dict[str, list] = field(default_factory=dict)

    @property
    def todo(self) -> list[str]:
        return [*self.image_metrics, *self.set_metrics]


def write_scores(
    sets: Sequence[RestoredSet],
    truth: Mapping[str, Path] | None,
    features: Path | None,
    protocol: Protocol,
    assets: Mapping[str, Path],
    crop_scale: float,
    crop_shift: float,
    device: str | torch.device = "cpu",
    reference: str = "",
    digests: Mapping[str, str] | None = None,
) -> None:
    """Scores of some restored sets of one dataset: of each a table of images, and one of the set.

    A face that failed has rows without a value and its reason. truth: {id: PNG}; raises KeyError
    for an id without truth; None where nobody knows the true faces. features: of `write_truth`;
    without a truth those of the dataset `reference`, or None. digests: {metric: digest of its code
    and parts}. A metric whose rows are kept is not computed; of the true faces everything is read
    and computed once for all sets.
    """
    known = None if features is None else score.TruthFeatures.load(features)
    settings = [protocol.size, protocol.crop, crop_scale, crop_shift, protocol.bootstrap]
    progress = [_begin(one, truth, known, protocol, settings, reference, digests) for one in sets]
    nets: dict = {}
    for state in progress:
        wanted = {asset for metric in state.todo for asset in METRICS[metric].assets}
        if not wanted <= set(nets):
            nets |= score.load_nets(assets, state.todo, device)
    every = dict.fromkeys(n for one, state in zip(sets, progress) if state.todo for n in one.done)
    names, step = list(every), _part(protocol)
    for start in range(0, len(names), step):
        part = names[start : start + step]
        good = None if truth is None else _read([truth[name] for name in part], protocol)
        for one, state in zip(sets, progress):
            if state.todo:
                _measure(one, state, part, good, protocol, nets, crop_scale, crop_shift)
    for one, state in zip(sets, progress):
        draws = min(protocol.bootstrap, 100)
        found = {key: np.concatenate(parts) for key, parts in state.features.items()}
        rows = score.score_set(
            state.ids, found, known, state.set_metrics, one.seed, draws, reference
        )
        _finish(one, state, [*state.rows, *_failed(one, state.image_metrics), *rows], protocol)


def _begin(one, truth, known, protocol, settings, reference, digests) -> _Progress:
    keys: dict[str, str] = {}
    if one.kept and digests:
        done = one.done
        made = _content([[(name, one.images / f"{name}.png") for name in done]])
        made += json.dumps([[row[c] for c in ("id", "status", "reason")] for row in one.status])
        true = _content([[(name, truth[name]) for name in done]]) if truth is not None else ""
        for metric in protocol.metrics:
            asked = METRICS[metric]
            other = [true if asked.needs_truth else ""]
            if asked.kind == "set":
                other = [_content_of(known, asked.features), reference]
            keys[metric] = _key(digests.get(metric), made, [*settings, one.seed], *other)
    had = _rows_there(one.kept, keys)
    todo = {kind: [m for m in _of_kind(protocol, kind) if m not in had] for kind in _KINDS}
    return _Progress(keys, had, todo["image"], todo["set"])


def _measure(one, state, part, good, protocol, nets, crop_scale, crop_shift) -> None:
    """Some faces of one set; good: the true ones of `part`, or None."""
    there = set(one.done)
    places = [i for i, name in enumerate(part) if name in there]
    if not places:
        return
    ids = [part[i] for i in places]
    images = _read([one.images / f"{name}.png" for name in ids], protocol)
    true = good if good is None or len(ids) == len(part) else good[places]
    metrics = state.image_metrics
    state.ids += ids
    state.rows += score.score_images(images, true, ids, metrics, nets, crop_scale, crop_shift)
    found = score.set_features(images, state.set_metrics, nets, crop_scale, crop_shift)
    for key, values in found.items():
        state.features.setdefault(key, []).append(values)


def _failed(one: RestoredSet, metrics: Sequence[str]) -> list[dict]:
    return [
        {"id": row["id"], "metric": m, "value": None, "note": f"not restored: {row['reason']}"}
        for row in one.status
        if row["status"] != "restored"
        for m in metrics
    ]


def _finish(one: RestoredSet, state: _Progress, rows: Sequence[dict], protocol: Protocol) -> None:
    """Keep what is new, write the set's two tables."""
    measured: dict[str, list] = {metric: [] for metric in state.todo}
    for row in rows:
        measured[row["metric"]].append(row)
    for metric, key in state.keys.items():
        if one.kept and metric in measured:
            _keep_rows(one.kept, metric, key, measured[metric])
    measured |= state.had
    images, sets = (_of_kind(protocol, kind) for kind in _KINDS)
    each = [row for metric in images for row in _by_id(measured[metric])]
    write_table(one.out_images, ("id", "metric", "value", "note"), each)
    write_table(one.out_sets, SET_COLUMNS, [row for metric in sets for row in measured[metric]])


def _rows_there(kept: Path | None, keys: Mapping[str, str]) -> dict[str, list]:
    """{metric: rows} of what was measured before with the same key."""
    found = {name: _read_rows(kept, name, key) for name, key in keys.items()} if kept else {}
    return {name: rows for name, rows in found.items() if rows}


def _by_id(rows: Sequence[Mapping]) -> list[Mapping]:
    return sorted(rows, key=lambda row: row["id"])


def _of_kind(protocol: Protocol, kind: str) -> list[str]:
    return [name for name in protocol.metrics if METRICS[name].kind == kind]


# ---- what was measured before


def _key(*parts) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _content(groups: Iterable[Sequence[tuple[str, Path]]]) -> str:
    """SHA-256 of names and bytes of some files."""
    digest = hashlib.sha256()
    for group in groups:
        for name, path in group:
            digest.update(f"{name}\0".encode())
            digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
        digest.update(b"\n")
    return digest.hexdigest()


def _content_of(truth: score.TruthFeatures | None, feature: str) -> str:
    """SHA-256 of what a set metric reads of the truth."""
    if truth is None:
        return ""
    digest = hashlib.sha256(json.dumps([truth.ids, truth.people]).encode())
    for part in (truth.features, truth.statistics, truth.models):
        arrays = part.get(feature, ())
        for array in [arrays] if isinstance(arrays, np.ndarray) else arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(b"\n")
    return digest.hexdigest()


def _read_rows(kept: Path, metric: str, key: str) -> list[dict] | None:
    """Rows of a metric that were made of the same; None where there are none, or no sound ones."""
    try:
        stored = json.loads((kept / f"{metric}.json").read_text(encoding="utf-8"))
        rows = stored["rows"] if stored["key"] == key else None
        sound = rows and all(row["metric"] == metric for row in rows)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return rows if sound and stored["sum"] == _key(rows) else None


def _keep_rows(kept: Path, metric: str, key: str, rows: list[dict]) -> None:
    kept.mkdir(parents=True, exist_ok=True)
    with atomic_output(kept / f"{metric}.json") as part:
        text = json.dumps({"key": key, "sum": _key(rows), "rows": rows})
        part.write_text(text, encoding="utf-8")


def _read_features(kept: Path, feature: str, key: str) -> score.TruthFeatures | None:
    try:
        found = score.TruthFeatures.load(kept / f"{feature}.npz")
        stored = json.loads((kept / f"{feature}.json").read_text(encoding="utf-8"))
    except Exception:  # damaged files fail in many ways: then they are made again
        return None
    sound = stored.get("key") == key and stored.get("sum") == _content_of(found, feature)
    return found if sound else None


def _keep_features(kept: Path, feature: str, key: str, found: score.TruthFeatures) -> None:
    kept.mkdir(parents=True, exist_ok=True)
    found.save(kept / f"{feature}.npz")
    with atomic_output(kept / f"{feature}.json") as part:
        text = json.dumps({"key": key, "sum": _content_of(found, feature)})
        part.write_text(text, encoding="utf-8")


# ---- reading


def _parts(paths: Sequence[Path], protocol: Protocol) -> Iterable[torch.Tensor]:
    step = _part(protocol)
    for start in range(0, len(paths), step):
        yield _read(paths[start : start + step], protocol)


def _part(protocol: Protocol) -> int:
    """How many images are in memory at a time."""
    return max(1, PART_PIXELS // protocol.size**2)


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
