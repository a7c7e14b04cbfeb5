"""What a learned degradation did: its pairs beside the low-quality photographs that it learnt from.

Everything is measured from a weights file. "Learned" are the degraded faces of pairs, "clean" their
other halves, "real" the low-quality training faces, and a recipe's name stands for that recipe on
the clean ones: what a written degradation would have made of the same faces.

N images, R side. Images are in [0, 1].
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from frcore.config import Model
from frcore.degrade.apply import degrade_batch
from frcore.degrade.colour import luma
from frcore.degrade.draw import draw
from frcore.degrade.recipes import Recipe
from frcore.faces.build import face_files
from frcore.io.assets import present
from frcore.io.images import to_uint8, write_image
from frcore.io.tables import ASSESSMENT, text, write_table
from frcore.metrics import score
from frcore.metrics.sets import frechet_distance
from frcore.report.figures import plot_degradation
from frcore.restore.models import load_model
from frcore.seeds import numpy_generator, seed_for
from frcore.train.data import Sample, TrainingFaces
from frcore.train.pictures import pairs_picture

TRUNCATION = 0.8
PAIRS = 500  # at most; as many as there are real faces
FID, IDENTITY = "fid_mobilenetv2", "id_dlib"


def assess(
    name: str,
    weights: Path,
    real: torch.Tensor,
    dataset: str,
    recipes: Mapping[str, Recipe],
    assets: Mapping[str, Path],
    out: Path,
    frame: tuple[float, float] = (0.7, 0.1),
    seed: int = 0,
    device: torch.device | str = "cpu",
    log=print,
) -> None:
    """Write scores.csv, pairs.png and degradation.png of a degradation model into `out`.

    real: low-quality faces N x 3 x R x R of `dataset`. recipes: written degradations to compare
    with. assets: of score.load_nets. frame: crop_scale, crop_shift of the faces.
    Raises what reading weights raises.
    """
    loaded, rows = load_model(weights, device), []
    real, n = real[:PAIRS], min(PAIRS, len(real))
    pairs = partial(loaded.module.pairs, loaded.model)
    seeds = [seed_for(seed, name, "pair", i) for i in range(n)]
    clean, degraded = (part.cpu() for part in pairs(seeds, TRUNCATION))
    sets = {"real": real, "clean": clean, "learned": degraded}
    for key, recipe in recipes.items():
        params = [draw(recipe, numpy_generator(seed, name, key, i), True) for i in range(n)]
        sets[key] = degrade_batch(clean, recipe, params)[0]
    out.mkdir(parents=True, exist_ok=True)

    def add(what, metric, value, note="", low=None, high=None):
        line = (name, what, dataset, metric, value, n, low, high, note)
        rows.append(dict(zip(ASSESSMENT, line, strict=True)))
        log(f"{what}: {metric} {text(value, 6) or note}")

    # ----- closeness to the real faces
    nets = score.load_nets(assets, [FID, IDENTITY], device)
    if "mobilenet_v2" in nets:
        found = {k: score.set_features(x, [FID], nets)["mobilenet_v2"] for k, x in sets.items()}
        for key in list(sets)[1:]:
            note = f"{n} pairs at truncation {TRUNCATION:g} against as many faces"
            add(f"{key} to real", FID, frechet_distance(found[key], found["real"]), note)
    else:
        add("learned to real", FID, None, "no weights: mobilenet_v2")

    # ----- what became of the clean faces
    ids = [str(i) for i in range(n)]
    for what, other in (("a pair", clean), ("faces of two pairs", clean.roll(1, 0))):
        per_face = score.score_images(degraded, other, ids, [IDENTITY], nets, *frame)
        for row in score.summarise(per_face, seed_for(seed, what)):
            add(what, IDENTITY, row["value"], row["note"], row["ci_low"], row["ci_high"])
    for key in [key for key in sets if key != "clean"]:
        ratio = fine_energy(sets[key]) / fine_energy(clean)
        note = "energy of luma above a quarter of the Nyquist frequency, of that of clean faces"
        add(key, "fine_energy", ratio, note)
    note = "mean correlation of 16 x 16 averages of the two, over colours and places"
    add("a pair", "layout_correlation", layout_correlation(degraded, clean), note)
    grey = luma(clean).expand_as(clean)
    note = "as far as one gets by taking the colour alone"
    add("clean and its grey", "layout_correlation", layout_correlation(grey, clean), note)
    of_luma = layout_correlation(luma(degraded), luma(clean))
    add("a pair", "layout_correlation_luma", of_luma, "of luma, not of colours")

    # ----- pictures
    picture = pairs_picture(loaded.module, truncation=TRUNCATION)(loaded.model)
    write_image(out / "pairs.png", to_uint8(picture)[0])
    shown = {key: statistics(images) for key, images in sets.items()}
    plot_degradation(shown, out / "degradation.png")
    write_table(out / "scores.csv", ASSESSMENT, rows, 6)


def assess_from_faces(
    name: str,
    weights: Path,
    entry: Model,
    trained_on: Mapping[str, Recipe],
    frames: Mapping[str, Mapping],
    recipes: Mapping[str, Recipe],
    results: Path,
    resources: Path,
    out: Path,
    seed: int,
    device,
) -> None:
    """`assess` for a job of the workflow, on the low-quality faces that the model was trained on.

    entry: of the model. trained_on: recipes of its training. frames: {dataset: crop_scale and
    crop_shift}. recipes: written degradations to compare with.
    """
    samples = []
    for dataset in entry.training.datasets:
        faces = results / "faces"
        files = face_files(faces / f"{dataset}.csv", faces / dataset, "train")
        samples += [Sample(f"{dataset}/{i}", path) for i, path in files]
    own = [trained_on[name] for name in entry.training.degradations]
    seen = TrainingFaces(samples, entry.seed, own)
    batch = seen.fixed_batch(PAIRS, torch.device("cpu"))
    frame = frames[entry.training.datasets[0]]
    assess(
        name,
        weights,
        batch.get("degraded", batch["truth"]),
        "+".join(entry.training.datasets),
        recipes,
        present(resources),
        out,
        (frame["crop_scale"], frame["crop_shift"]),
        seed,
        device,
        lambda line: print(line, flush=True),
    )


# ---- statistics of a set of faces


def spectrum(images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Radially averaged power of luma, N x 3 x R x R -> cycles per image 1 ... R/2, mean power.

    A Hann window hides the border. Power is that of a mean over pixels: sizes compare.
    """
    side = images.shape[-1]
    window = torch.hann_window(side, periodic=False, dtype=torch.float64)
    gray = luma(images.double())[:, 0]
    gray = (gray - gray.mean((1, 2), keepdim=True)) * window[:, None] * window
    power = torch.fft.fft2(gray).abs().square().mean(0) / side**4
    f = torch.fft.fftfreq(side, 1 / side, dtype=torch.float64)
    radius = torch.hypot(f[:, None], f[None]).round().long().flatten()
    sums = torch.zeros(int(radius.max()) + 1, dtype=torch.float64)
    counts = torch.bincount(radius)
    mean = sums.index_add(0, radius, power.flatten()) / counts
    return np.arange(1, side // 2 + 1), mean[1 : side // 2 + 1].numpy()


def fine_energy(images: torch.Tensor) -> float:
    """Mean power of luma above a quarter of the Nyquist frequency, i.e. R/8 cycles per image."""
    frequencies, power = spectrum(images)
    above = frequencies > images.shape[-1] / 8
    # a ring of radius f holds about 2 pi f frequencies
    return float((power * 2 * np.pi * frequencies)[above].sum())


def layout_correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over images of the correlation of two sets' 16 x 16 averages, N x 3 x R x R each."""
    small = [torch.nn.functional.adaptive_avg_pool2d(x, 16).flatten(1) for x in (a, b)]
    one, other = (x - x.mean(1, keepdim=True) for x in small)
    return float(torch.nn.functional.cosine_similarity(one, other, dim=1).mean())


def statistics(images: torch.Tensor) -> dict[str, np.ndarray]:
    """What the figure shows of a set N x 3 x R x R: spectrum, histograms of luma and of colour.

    -> frequency, power (one a whole number of cycles), luma, colour (shares of the pixels in 32
    equal bins of [0, 1]); colour is the largest channel less the smallest, 0 for grey.
    """
    frequency, power = spectrum(images)
    colour = images.amax(1) - images.amin(1)

    def shares(values):
        return torch.histc(values.float(), 32, 0, 1).numpy() / values.numel()

    return {
        "frequency": frequency,
        "power": power,
        "luma": shares(luma(images)),
        "colour": shares(colour),
    }


def _short(value) -> str:
    return "" if value is None else f"{value:.6g}"
