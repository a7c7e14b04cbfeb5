"""Training batches as a function of the position in the run, so that nothing has to be remembered.

Batch at position p (images seen so far) is made from (seed, p) alone: the order of the images, the
degradation drawn for each and its noise. A resumed run continues at p and sees the same batches.

N batch, H W image.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from frcore.degrade.apply import degrade_batch
from frcore.degrade.draw import Pairs, draw
from frcore.degrade.recipes import Recipe
from frcore.io.images import read_image
from frcore.seeds import numpy_generator, seed_for

IN_MEMORY_BYTES = 2_000_000_000  # larger sets are decoded while training
ON_DEVICE_SHARE = 0.25  # of a GPU's free memory: a set that needs less lives there as bytes


@dataclass(frozen=True)
class Sample:
    """One training face: where its image and (if needed) its label map are, and whose it is."""

    id: str
    image: Path
    labels: Path | None = None
    person: str = ""


class TrainingFaces:
    """Faces of the training split, as bytes in memory or decoded ahead by threads."""

    def __init__(
        self,
        samples: Sequence[Sample],
        seed: int,
        recipes: Sequence[Recipe],
        learned: Mapping[str, Pairs] | None = None,
        parse: Callable[[torch.Tensor], torch.Tensor] | None = None,
        sets: Sequence[int] = (),
        mirror: np.ndarray | None = None,
    ):
        """learned: what the recipes' `learned` steps call, {entry: Pairs}. parse: what makes label
        maps N x H x W of the clean faces N x 3 x H x W of those pairs, where a method reads maps.
        sets: how many of the samples belong to each data set, in their order; the sets take turns,
        so that each has an equal part of a batch. mirror: half of the faces are mirrored, and what
        a label becomes in the mirror (of no use without maps).

        Raises ValueError when there is no face, or no `parse` where it is needed, FileNotFoundError
        naming a missing file.
        """
        if not samples:
            raise ValueError("no faces to train on: the training split is empty")
        for sample in samples:
            for path in (sample.image, sample.labels):
                if path is not None and not Path(path).is_file():
                    raise FileNotFoundError(f"training file is missing: {path}")
        self.samples = list(samples)
        self.seed = seed
        self.recipes = list(recipes)
        self.learned = dict(learned or {})
        self.parse = parse
        self.mirror = None if mirror is None else torch.as_tensor(mirror).long()
        self.sets = [size for size in sets if size] or [len(self.samples)]
        if sum(self.sets) != len(self.samples):
            raise ValueError(
                f"sets of {sum(self.sets)} faces in all, {len(self.samples)} are given"
            )
        self._orders: dict[int, tuple[int, np.ndarray]] = {}
        self.with_labels = samples[0].labels is not None
        if self.with_labels and parse is None and any(recipe.learned for recipe in recipes):
            raise ValueError("generated faces have no parsing maps: a parser is needed")
        first = read_image(samples[0].image)
        self._cache: list[torch.Tensor] | None = None  # images, and label maps if there are some
        self._pool = ThreadPoolExecutor(4)
        if first.nbytes * len(samples) <= IN_MEMORY_BYTES:
            self._cache = _stacked(self._pool.map(self._decode, range(len(samples))))
        self._ahead: tuple[tuple[int, int], list] | None = None

    def __len__(self):
        return len(self.samples)

    def _decode(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        sample = self.samples[index]
        labels = None
        if sample.labels is not None:
            labels = np.asarray(Image.open(sample.labels))
        return read_image(sample.image), labels

    def indices(self, position: int, n: int) -> list[int]:
        """Indices of images position .. position + n - 1: sets in turn, each in a new shuffle in
        every pass through it."""
        chosen = []
        starts = [sum(self.sets[:k]) for k in range(len(self.sets))]
        for q in range(position, position + n):
            q, k = divmod(q, len(self.sets))
            turn, place = divmod(q, self.sets[k])
            chosen.append(starts[k] + int(self._order(k, turn)[place]))
        return chosen

    def _order(self, k: int, turn: int) -> np.ndarray:
        known = self._orders.get(k)
        if known is None or known[0] != turn:
            which = (k,) if len(self.sets) > 1 else ()
            rng = numpy_generator(self.seed, "order", turn, *which)
            known = self._orders[k] = (turn, rng.permutation(self.sets[k]))
        return known[1]

    def batch(self, position: int, n: int, device: torch.device, rank: int = 0, ranks: int = 1):
        """Images position .. position + n - 1 of the run, this rank's share of them.

        -> truth, degraded (n / ranks x 3 x H x W in [0, 1]), labels (n / ranks x H x W int64).
        """
        if n % ranks:
            raise ValueError(f"a batch of {n} cannot be shared by {ranks} processes")
        share = n // ranks
        position += rank * share
        places = range(position, position + share)
        parts = self._take(position, share, device)
        self._read_ahead(position + n, share)
        return self._made(parts, places)

    def _made(self, parts: Sequence[torch.Tensor], places: Sequence[int]) -> dict:
        """A batch of images, and label maps if there are some, at places of the run."""
        pixels, *labels = parts
        turned = self._mirrored(places)
        if turned:
            pixels = pixels.clone()
            pixels[turned] = pixels[turned].flip(2)
            labels = [part.clone() for part in labels]
            for part in labels:
                table = self.mirror.to(part.device)
                part[turned] = table[part[turned].flip(-1).long()].to(part.dtype)
        if not self.recipes:
            batch = {"truth": _floats(pixels)}
        elif pixels.device.type == "cpu" and not self.learned:
            clean, degraded = self._degraded_bytes(pixels, places)
            batch = {"truth": _floats(clean), "degraded": _floats(degraded)}
        else:
            clean, degraded = self.degrade(_floats(pixels), places)
            batch = {"truth": clean, "degraded": degraded}
        if labels:
            batch["labels"] = labels[0].long()
            generated = self._generated(places) if self.learned else []
            if generated:
                assert self.parse is not None  # checked when the recipes were
                batch["labels"][generated] = self.parse(batch["truth"][generated])
        return batch

    def once(self, n: int, device: torch.device):
        """Every face once, in batches of n as `batch` gives them: for a fit that is no descent."""
        rest = list(range(len(self)))
        order = self.indices(0, len(self)) if len(self.sets) == 1 else rest
        for start in range(0, len(self), n):
            chosen = order[start : start + n]
            parts = _stacked(self._decode(i) for i in chosen)
            yield self._made([part.to(device) for part in parts], range(start, start + len(chosen)))

    def fixed_batch(self, n: int, device: torch.device) -> dict[str, torch.Tensor]:
        """The first faces with one fixed degradation each, for pictures of the progress."""
        truth = self.truth(range(min(n, len(self.samples))), device)
        if not self.recipes:
            return {"truth": truth}
        # positions before the run's first image, so that training never draws the same
        truth, degraded = self.degrade(truth, range(-len(truth), 0))
        return {"truth": truth, "degraded": degraded}

    def degrade(self, truth: torch.Tensor, positions: Sequence[int]):
        """truth N x 3 x H x W -> (truth, degraded), both in [0, 1]; drawn per position of the run.

        Grey augmentation of some presets changes the truth too; generated pairs replace it.
        """
        chosen: dict[int, list[int]] = {}
        params = []
        for i, position in enumerate(positions):
            recipe, rng = self._recipe_at(position)
            chosen.setdefault(recipe, []).append(i)
            params.append(draw(self.recipes[recipe], rng))
        degraded, clean = torch.empty_like(truth), torch.empty_like(truth)
        for recipe, rows in chosen.items():
            degraded[rows], clean[rows] = degrade_batch(
                truth[rows],
                self.recipes[recipe],
                [params[i] for i in rows],
                learned=self.learned,
            )
        return clean, degraded

    def _degraded_bytes(self, pixels: torch.Tensor, positions: Sequence[int]):
        """`degrade` of bytes N x H x W x 3 on the CPU, without a way through floats."""
        from frcore.degrade.cpu import degrade_face

        pairs = []
        for face, position in zip(pixels.numpy(), positions):
            recipe, rng = self._recipe_at(position)
            chosen = self.recipes[recipe]
            pairs.append(degrade_face(face, chosen, draw(chosen, rng))[::-1])
        return [torch.from_numpy(np.stack(part)) for part in zip(*pairs)]

    def _mirrored(self, positions: Sequence[int]) -> list[int]:
        """Which of these images of the run are mirrored."""
        if self.mirror is None:
            return []
        drawn = [numpy_generator(self.seed, "mirror", p).random() for p in positions]
        return [i for i, value in enumerate(drawn) if value < 0.5]

    def _recipe_at(self, position: int) -> tuple[int, np.random.Generator]:
        """Which recipe an image of the run gets, and what its parameters are drawn from."""
        rng = numpy_generator(self.seed, "train", position)
        return int(rng.integers(len(self.recipes))), rng

    def _generated(self, positions: Sequence[int]) -> list[int]:
        """Which of these images of the run are pairs of a degradation model."""
        recipes = [self.recipes[self._recipe_at(position)[0]] for position in positions]
        return [i for i, recipe in enumerate(recipes) if recipe.learned]

    def truth(self, indices: Sequence[int], device: torch.device) -> torch.Tensor:
        """Faces by their place in the list: n x 3 x H x W in [0, 1]."""
        images = torch.from_numpy(np.stack([self._decode(i)[0] for i in indices]))
        return _floats(images.to(device))

    def _take(self, position: int, n: int, device: torch.device) -> list[torch.Tensor]:
        """Bytes on `device`: images n x H x W x 3, and label maps n x H x W if there are some."""
        if self._cache is not None:
            self._move(device)
            where = torch.tensor(self.indices(position, n), device=self._cache[0].device)
            return [part[where].to(device) for part in self._cache]
        if self._ahead is not None and self._ahead[0] == (position, n):
            arrays = [future.result() for future in self._ahead[1]]
        else:
            arrays = list(self._pool.map(self._decode, self.indices(position, n)))
        return [part.to(device) for part in _stacked(arrays)]

    def _move(self, device: torch.device) -> None:
        """Bring the bytes to a GPU once, if they take a small part of its memory."""
        if device.type != "cuda" or self._cache[0].device.type == "cuda":
            return
        free, _ = torch.cuda.mem_get_info(device)
        sizes: list[int] = [part.nbytes for part in self._cache]
        if sum(sizes) <= ON_DEVICE_SHARE * free:
            self._cache = [part.to(device) for part in self._cache]

    def _read_ahead(self, position: int, n: int) -> None:
        if self._cache is None:
            futures = [self._pool.submit(self._decode, i) for i in self.indices(position, n)]
            self._ahead = ((position, n), futures)


class TwoSets:
    """Good faces of some people beside degraded faces of others, each in an order of its own.

    The same interface as TrainingFaces: `truth` is of the first set and `degraded` of the second;
    the truth of the second is never given away.
    """

    def __init__(self, good: TrainingFaces, bad: TrainingFaces):
        self.good, self.bad = good, bad
        self.recipes, self.samples = bad.recipes, good.samples

    def __len__(self):
        return len(self.good)

    def batch(self, position: int, n: int, device: torch.device, rank: int = 0, ranks: int = 1):
        """As TrainingFaces.batch: truth and degraded n / ranks x 3 x H x W in [0, 1], no pairs."""
        bad = self.bad.batch(position, n, device, rank, ranks)
        return {
            **self.good.batch(position, n, device, rank, ranks),
            "degraded": bad.get("degraded", bad["truth"]),
        }

    def once(self, n: int, device: torch.device):
        """Every good face once, each batch beside as many degraded ones."""
        for start in range(0, len(self), n):
            yield self.batch(start, min(n, len(self) - start), device)

    def fixed_batch(self, n: int, device: torch.device) -> dict[str, torch.Tensor]:
        """Degraded faces for pictures of the progress; there is no truth to show beside them."""
        fixed = self.bad.fixed_batch(n, device)
        return {"degraded": fixed.get("degraded", fixed["truth"])}

    def truth(self, indices: Sequence[int], device: torch.device) -> torch.Tensor:
        """Good faces by their place in the list: n x 3 x H x W in [0, 1]."""
        return self.good.truth(indices, device)

    def degrade(self, truth: torch.Tensor, positions: Sequence[int]):
        """As TrainingFaces.degrade, by the recipes of the second set."""
        return self.bad.degrade(truth, positions)


def disjoint(
    good: Sequence[Sample], bad: Sequence[Sample], seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Two sets of faces without a person in common.

    People of one set alone stay; those of both are shared out, half to each, by a number drawn from
    (seed, person). Faces whose person is not known ("") stay. Raises ValueError where nobody is
    left in a set.
    """
    both = {s.person for s in good} & {s.person for s in bad} - {""}
    first = {person for person in both if seed_for(seed, "two sets", person) % 2}
    good = [sample for sample in good if sample.person not in both - first]
    bad = [sample for sample in bad if sample.person not in first]
    if not good or not bad:
        raise ValueError("the two sets share so few people that one of them has no face left")
    return good, bad


def _floats(pixels: torch.Tensor) -> torch.Tensor:
    """Bytes N x H x W x 3 -> N x 3 x H x W in [0, 1]."""
    return pixels.permute(0, 3, 1, 2).float().div_(255)


def _stacked(arrays) -> list[torch.Tensor]:
    """(image, label map or None) of every face -> images, and label maps where there are some."""
    images, labels = zip(*arrays)
    stacks = [images] if labels[0] is None else [images, labels]
    return [torch.from_numpy(np.stack(stack)) for stack in stacks]
