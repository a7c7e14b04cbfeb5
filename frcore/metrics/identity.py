"""Does the restored face still show the same person: a value an image, and shares of a set.

The net computes in float32: a value may differ by about 1e-6 between batch sizes and machines.

iPrecision and iRecall are of section 4 of Zhao et al., "Rethinking Deep Face Restoration", CVPR
2022. The paper takes FaceNet's vectors, the workflow dlib's: the metric's name says which net.
Where the paper leaves a choice: a face is no neighbour of itself (else every radius for k = 1 would
be 0), one and the same ball must hold the face and have its identity, and identity is the index of
the pair unless labels are given.

N batch or set, M centres, S side of a square frame, D length of a vector.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import cast

import numpy as np
import torch
from scipy.spatial.distance import cdist

from frcore.frozen.faceres import FaceRes
from frcore.frozen.identity import Identity
from frcore.io.images import check_images
from frcore.metrics import metric, set_metric
from frcore.metrics.parts import in_parts
from frcore.metrics.sets import NoValue, Restored, SetScore, Truth, mean_interval

TOGETHER = 16  # faces that a net sees at a time
BLOCK = 256  # rows of a matrix of distances that are in memory at a time


@metric(
    "id_dlib",
    title="Identity (dlib)",
    higher_is_better=True,
    assets=["dlib_resnet"],
    min_side=16,
    square=True,
    what="cosine of dlib ResNet descriptors, fixed chip window of the aligned frame",
)
def id_dlib(
    restored: torch.Tensor,
    truth: torch.Tensor,
    net: Identity | FaceRes,
    crop_scale: float = 0.7,
    crop_shift: float = 0.1,
) -> np.ndarray:
    """Cosine of the two descriptors -> N values in [-1, 1]; 1 for equal images.

    Both are aligned frames N x 3 x S x S in [0, 1]; crop_scale and crop_shift are those of the
    alignment (frcore.frozen.identity.window).
    Raises ValueError for other or unequal shapes and ranges.
    """
    a, b = _descriptors(restored, truth, net, crop_scale, crop_shift)
    return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


@metric(
    "id_faceres",
    title="Identity (faceres)",
    higher_is_better=True,
    assets=["faceres"],
    min_side=16,
    square=True,
    what="cosine of faceres descriptors, which no method trains with; fixed window of the frame",
)
def id_faceres(
    restored: torch.Tensor,
    truth: torch.Tensor,
    net: Identity | FaceRes,
    crop_scale: float = 0.7,
    crop_shift: float = 0.1,
) -> np.ndarray:
    """Cosine of the two descriptors -> N values in [0, 1]; 1 for equal images.

    Of 140 photographs of 70 people, aligned to 256 px, one person's two were above 0.73, different
    people's below 0.78. It falls faster with blur than dlib's: a 64 px face of one of them against
    itself blurred by 1 px (standard deviation) 0.85, by 2 px 0.51.
    Arguments and errors as `id_dlib`.
    """
    return id_dlib(restored, truth, net, crop_scale, crop_shift)


@metric(
    "id_dlib_distance",
    title="Identity distance (dlib)",
    higher_is_better=False,
    assets=["dlib_resnet"],
    min_side=16,
    square=True,
    what="Euclidean distance of the same descriptors; dlib calls it one person below 0.6",
)
def id_dlib_distance(
    restored: torch.Tensor,
    truth: torch.Tensor,
    net: Identity,
    crop_scale: float = 0.7,
    crop_shift: float = 0.1,
) -> np.ndarray:
    """Euclidean distance of the two descriptors -> N values; dlib says one person below 0.6.

    Arguments and errors as `id_dlib`.
    """
    a, b = _descriptors(restored, truth, net, crop_scale, crop_shift)
    return np.sqrt(np.square(a - b).sum(1))


@torch.inference_mode()
def _descriptors(restored, truth, net, crop_scale, crop_shift) -> tuple[np.ndarray, np.ndarray]:
    check_images(restored, "restored")
    check_images(truth, "truth")
    if restored.shape != truth.shape:
        raise ValueError(
            f"restored and truth differ in shape: {tuple(restored.shape)}, {tuple(truth.shape)}"
        )

    def found(images: torch.Tensor) -> np.ndarray:
        limit = TOGETHER * images.shape[2] * images.shape[3]  # a net's chips are of one size
        parts = in_parts(lambda x: net.descriptors(x, crop_scale, crop_shift), limit, images)
        return parts.double().cpu().numpy()

    return found(restored), found(truth)


# ---- iPrecision and iRecall ----
#
# Distances come from differences in float64, never from |x|^2 + |y|^2 - 2 xy: a face on the edge of
# a ball is in it, so a pair must have one and the same distance wherever it is computed.


def iprecision(
    restored: np.ndarray,
    real: np.ndarray,
    k: int = 4,
    labels: Sequence[Hashable] | None = None,
    nearest: bool = False,
) -> float:
    """Share of restored faces in the ball of a real face of the same identity -> [0, 1] (eq. 11).

    restored, real: vectors N x D, pair for pair. The ball of a real face reaches to its k-th
    nearest other real face, its edge included. labels: N identities; None: each pair is its own.
    nearest: count only where the identity is that of the nearest real face of those whose balls
    hold the restored one, a stricter reading of the paper.
    Restored faces that are drawn like the real ones but know nothing of their pairs score k / N,
    and values fall with N: compare at equal N. Collapse to one face in the middle can be above
    chance here; `irecall` of it is 0.
    Raises ValueError unless 1 <= k < N, for other or unequal shapes and values not finite.
    """
    if len(restored) != len(real):
        raise ValueError(f"vectors do not pair: {len(restored)} and {len(real)}")
    labels = range(len(real)) if labels is None else labels
    radii = neighbour_radii(real, k)[:, -1]
    return float(hits(restored, real, radii, labels, labels, nearest).mean())


def irecall(
    restored: np.ndarray,
    real: np.ndarray,
    k: int = 4,
    labels: Sequence[Hashable] | None = None,
    nearest: bool = False,
) -> float:
    """Share of real faces in the ball of a restored face of the same identity (eq. 12).

    As `iprecision` with the sets exchanged: the balls are those of the restored faces among
    themselves.
    """
    return iprecision(real, restored, k, labels, nearest)


def neighbour_radii(vectors: np.ndarray, k: int) -> np.ndarray:
    """Distances to the k nearest others, ascending -> N x k: column j - 1 is the radius for k = j.

    vectors: N x D. Memory grows with N, not with its square.
    Raises ValueError unless 1 <= k < N and all values are finite.
    """
    x = _vectors(vectors)
    if not 1 <= k < len(x):
        raise ValueError(f"k = {k} needs k >= 1 and more than k vectors, got {len(x)}")
    radii = np.empty((len(x), k))
    for start in range(0, len(x), BLOCK):
        distance = cdist(x[start : start + BLOCK], x)
        rows = np.arange(len(distance))
        distance[rows, start + rows] = np.inf  # the face itself
        radii[start : start + BLOCK] = np.partition(distance, k - 1, axis=1)[:, :k]
    return np.sort(radii, axis=1)


def hits(
    points: np.ndarray,
    centres: np.ndarray,
    radii: np.ndarray,
    point_labels: Sequence[Hashable],
    centre_labels: Sequence[Hashable],
    nearest: bool = False,
) -> np.ndarray:
    """Which points lie in the ball of a centre with their label -> N booleans (section 4's iPred).

    points: N x D with N labels; centres: M x D with M labels and M radii. A point whose label no
    centre has is no hit. nearest: as in `iprecision`; needs all N x M distances, else only those of
    equal labels are computed. Memory grows with N + M.
    Raises ValueError for lengths that do not fit and values that are not finite.
    """
    x, y, radii = _vectors(points), _vectors(centres), np.asarray(radii)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"vectors differ in length: {x.shape[1]} and {y.shape[1]}")
    if (len(point_labels), len(centre_labels), len(radii)) != (len(x), len(y), len(y)):
        raise ValueError(
            f"{len(point_labels)} labels for {len(x)} points; {len(centre_labels)} labels and "
            f"{len(radii)} radii for {len(y)} centres"
        )
    found = np.zeros(len(x), dtype=bool)
    if nearest:
        for rows in _blocks(range(len(x))):
            distance = cdist(x[rows], y)
            distance[distance > radii] = np.inf
            pairs = zip(rows, distance.argmin(1))
            same = [point_labels[row] == centre_labels[column] for row, column in pairs]
            found[rows] = np.isfinite(distance.min(1)) & same
        return found
    rows_of, columns_of = _places(point_labels), _places(centre_labels)
    for label in rows_of.keys() & columns_of.keys():
        columns = columns_of[label]
        for rows in _blocks(rows_of[label]):
            found[rows] = (cdist(x[rows], y[columns]) <= radii[columns]).any(1)
    return found


def _vectors(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"vectors: expected N x D, got {values.shape}")
    if not np.isfinite(values).all():
        bad = (~np.isfinite(values)).any(1).sum()
        raise ValueError(f"vectors: {bad} of {len(values)} have values that are not finite")
    return values


def _places(labels: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """label -> places where it stands."""
    places: dict[Hashable, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    return places


def _blocks(places: Sequence[int]) -> Iterable[Sequence[int]]:
    return (places[start : start + BLOCK] for start in range(0, len(places), BLOCK))


# ---- the same of a measured set, as rows of a table ----


@set_metric(
    "iprecision_dlib_k{k}",
    features="dlib_resnet",
    title="iPrecision k={k} (dlib, pair)",
    higher_is_better=True,
    pairs=True,
    what="share of restored faces no farther from their own true face than its {k_word} "
    "other one; RDFR's, with dlib's net for FaceNet",
    each={"k": {1: "nearest", 4: "4th nearest", 10: "10th nearest"}},
    arguments={"person": False},
)
@set_metric(
    "iprecision_person_dlib_k{k}",
    features="dlib_resnet",
    title="iPrecision k={k} (dlib, person)",
    higher_is_better=True,
    pairs=True,
    what="share of restored faces no farther from a true face of their person than its {k_word} "
    "other one; RDFR's, with dlib's net for FaceNet",
    each={"k": {1: "nearest", 4: "4th nearest", 10: "10th nearest"}},
    arguments={"person": True},
)
def iprecision_of_set(restored: Restored, truth: Truth, k: int, person: bool, seed, n_draws):
    """iPrecision of a measured set: a true face that was not restored is a miss.

    person: identity is that of the person and not of the pair. The interval redraws faces and
    leaves the radii alone. Raises NoValue where it cannot be had.
    """
    _check_identities(restored, truth, k, person, len(truth.ids))
    own, labels = _own(restored, truth, person)
    radius = _radii(truth, k)
    found = np.zeros(len(truth.ids), dtype=bool)
    found[own] = hits(
        restored.features, cast(np.ndarray, truth.features), radius, list(labels[own]), list(labels)
    )
    return _share(found, labels, k, person, restored, radius, seed, n_draws)


@set_metric(
    "irecall_dlib_k{k}",
    features="dlib_resnet",
    title="iRecall k={k} (dlib, pair)",
    higher_is_better=True,
    pairs=True,
    what="share of true faces no farther from their own restored face than its {k_word} "
    "other one; RDFR's, with dlib's net for FaceNet",
    each={"k": {1: "nearest", 4: "4th nearest", 10: "10th nearest"}},
    arguments={"person": False},
)
@set_metric(
    "irecall_person_dlib_k{k}",
    features="dlib_resnet",
    title="iRecall k={k} (dlib, person)",
    higher_is_better=True,
    pairs=True,
    what="share of true faces no farther from a restored face of their person than its {k_word} "
    "other one; RDFR's, with dlib's net for FaceNet",
    each={"k": {1: "nearest", 4: "4th nearest", 10: "10th nearest"}},
    arguments={"person": True},
)
def irecall_of_set(restored: Restored, truth: Truth, k: int, person: bool, seed, n_draws):
    """iRecall of a measured set; as `iprecision_of_set` with the balls of the restored faces."""
    _check_identities(restored, truth, k, person, len(restored.ids))
    own, labels = _own(restored, truth, person)
    radius = _radii(restored, k)
    found = np.zeros(len(truth.ids), dtype=bool)
    real = truth.features[own]
    found[own] = hits(real, restored.features, radius, labels[own], labels[own])
    return _share(found, labels, k, person, restored, radius, seed, n_draws)


def _own(restored: Restored, truth: Truth, person: bool) -> tuple[np.ndarray, np.ndarray]:
    """Row of the truth of each restored face, and the identities of all true faces."""
    place = {name: row for row, name in enumerate(truth.ids)}
    own = np.array([place[name] for name in restored.ids])
    return own, np.array(truth.people) if person else np.arange(len(truth.ids))


def _radii(of: Restored | Truth, k: int) -> np.ndarray:
    """Distance of each vector to its k-th nearest other; kept, for they take the time."""
    known = of.memo.get("radii")
    if known is None or known.shape[1] < k:
        known = of.memo["radii"] = neighbour_radii(cast(np.ndarray, of.features), k)
    return known[:, k - 1]


def _share(found, labels, k, person, restored, radius, seed, n_draws) -> SetScore:
    note = _identity_note(labels, k, person, len(found) - len(restored.ids), radius)
    low, high = mean_interval(found, seed, n_draws)
    return SetScore(float(found.mean()), len(found), low, high, note)


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


def _check_identities(restored: Restored, truth: Truth, k: int, person: bool, balls: int) -> None:
    """Raise NoValue where a metric of identities cannot be had. balls: how many faces have one."""
    if balls <= k:
        raise NoValue(f"{balls} images: k = {k} needs more than {k}")
    foreign = len(set(restored.ids) - set(truth.ids))
    if foreign:
        raise NoValue(f"{foreign} of {len(restored.ids)} images are not among the truth")
    if person and not truth.people:
        raise NoValue("no person labels")
    if person and len(set(truth.people)) == len(truth.people):
        raise NoValue("every person has one face: see the metric by pair")
