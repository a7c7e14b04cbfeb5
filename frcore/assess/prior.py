"""How good a face prior is: samples, their distance to real faces, and what it can be made to show.

Everything is measured from weights files, so that a converted public network is measured alike.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from frcore.assess import MEASURED
from frcore.faces.build import face_files
from frcore.faces.detect import find_faces, load_detector
from frcore.frozen import perceptual
from frcore.io.assets import present
from frcore.io.images import read_images, to_uint8, write_image
from frcore.io.tables import ASSESSMENT, text, write_table
from frcore.metrics import score, sets
from frcore.nets import latent_search as search
from frcore.registry import METRICS
from frcore.restore.models import load_model
from frcore.seeds import seed_for, torch_generator
from frcore.train.pictures import CURVES, grid

TRUNCATION = 0.7
DETECTED = 500  # samples in which faces are looked for
SET = 5000  # samples and real faces of the Frechet distance, at most
ENLARGE = 4  # before detection: HOG finds faces from 80 px


def assess(
    name: str,
    weights: Path,
    encoder: Path | None,
    real: Sequence[Path],
    held_out: Mapping[str, Sequence[Path]],
    resources: Path,
    assets: Mapping[str, Path],
    out: Path,
    frame: tuple[float, float] = (0.7, 0.1),
    steps: int = 100,
    seed: int = 0,
    device: torch.device | str = "cpu",
    log=print,
) -> None:
    """Write scores.csv, samples.png and inversion_{dataset}.png of a generative model into `out`.

    weights: of the prior. encoder: of its W+ encoder, or None. real: aligned training faces. held_
    out: {dataset: aligned faces to be inverted}. assets: of score.load_nets and the perceptual net.
    frame: crop_scale, crop_shift of the faces. Raises what reading weights and faces raises.
    """
    loaded = load_model(weights, device)
    method, prior = loaded.module, loaded.model
    rows: list[dict] = []
    out.mkdir(parents=True, exist_ok=True)

    def add(what, dataset, metric, value, n, note="", low=None, high=None):
        line = (name, what, dataset, metric, value, n, low, high, note)
        rows.append(dict(zip(ASSESSMENT, line, strict=True)))

    def draw(n, truncation, *words):
        return method.sample(prior, n, torch_generator(seed, name, *words), truncation)

    # ----- samples
    write_image(out / "samples.png", to_uint8(grid(draw(100, TRUNCATION, "grid"), 10))[0])
    share = detected_share(draw(DETECTED, TRUNCATION, "detected"), resources)
    note = f"dlib HOG on samples at truncation {TRUNCATION:g}, enlarged x{ENLARGE}"
    add("samples", "", "detected_share", share, DETECTED, note)
    log(f"faces found in {share:.1%} of {DETECTED} samples")

    # ----- distance to real faces
    real, nets = list(real)[:SET], score.load_nets(assets, [*MEASURED, *CURVES], device)
    wanted = score.set_features((read_images([path]) for path in real), CURVES, nets)
    found = score.set_features(draw(len(real), 1.0, "set"), CURVES, nets)
    for metric in CURVES:
        (net,) = METRICS[metric].assets
        if net not in nets:
            add("samples", "", metric, None, 0, f"no weights: {net}")
            continue
        value = sets.frechet_distance(found[net], wanted[net])
        note = f"{len(real)} samples without truncation against as many training faces"
        add("samples", "", metric, value, len(real), note)
        log(f"{metric} {value:.1f}")

    # ----- inversion
    judge = perceptual.load("mobilenet_v2", assets["mobilenet_v2"], device)
    invert = None if encoder is None else load_model(encoder, device).model
    mean = prior.to_rows(prior.mapping.w_avg[None])
    for dataset, paths in held_out.items():
        truth = read_images(paths).to(device)
        shown = [truth]
        starts = {"mean latent": mean.expand(len(truth), -1, -1)}
        if invert is not None:
            with torch.no_grad():
                starts["encoder"] = invert(truth * 2 - 1)
        for start, ws in starts.items():
            with torch.no_grad():
                images = (prior.synthesis(ws, "fixed") / 2 + 0.5).clamp(0, 1)
            better = search_all(prior, truth, ws, judge, steps)
            for what, result in ((start, images), (f"{start} + {steps} steps", better)):
                shown.append(result)
                for row in _scores(result, truth, paths, nets, frame, seed):
                    values = [row[k] for k in ("metric", "value", "n", "note", "ci_low", "ci_high")]
                    add(f"inversion: {what}", dataset, *values)
                    log(f"{dataset}: {what}: {row['metric']} {text(row['value'], 6)}")
        picture = grid(torch.cat([part[:10].cpu() for part in shown]), min(10, len(truth)))
        write_image(out / f"inversion_{dataset}.png", to_uint8(picture)[0])

    write_table(out / "scores.csv", ASSESSMENT, rows, 6)


def assess_from_faces(
    name: str,
    weights: Sequence[Path],
    datasets: Sequence[str],
    results: Path,
    resources: Path,
    out: Path,
    frame: tuple[float, float],
    seed: int,
    device,
    held_out: int = 50,
    steps: int = 100,
) -> None:
    """`assess` for a job of the workflow: the first dataset's training faces are the real ones.

    weights: of the prior and, if there is one, of its encoder. The first `held_out` test faces of
    every dataset are inverted.
    """

    def files(dataset, split, limit=0):
        faces = results / "faces"
        found = face_files(faces / f"{dataset}.csv", faces / dataset, split, limit)
        return [path for _, path in found]

    prior, encoder = weights[0], next(iter(weights[1:]), None)
    assess(
        name,
        prior,
        encoder,
        files(datasets[0], "train"),
        {dataset: files(dataset, "test", held_out) for dataset in datasets},
        resources,
        present(resources),
        out,
        frame,
        steps,
        seed,
        device,
        lambda line: print(line, flush=True),
    )


def detected_share(images: torch.Tensor, resources: Path) -> float:
    """Share of faces N x 3 x H x W in [0, 1] in which dlib's HOG detector finds one or more."""
    detector, found = load_detector("hog", resources), 0
    for pixels in to_uint8(images):
        found += bool(find_faces(Image.fromarray(pixels), detector, ENLARGE))
    return found / len(images)


def search_all(prior, truth, ws, net, steps: int, batch: int = 10) -> torch.Tensor:
    """Images of latents found by `steps` steps of optimisation from `ws`, batch by batch."""
    found = []
    for target, start in zip(truth.split(batch), ws.split(batch)):
        loss = search.reconstruction(target, net)
        found.append(search.project(prior, loss, start, steps).images)
    return torch.cat(found)


def _scores(result, truth, paths, nets, frame, seed) -> list[dict]:
    ids = [path.stem for path in paths]
    rows = score.score_images(result.cpu(), truth.cpu(), ids, MEASURED, nets, *frame)
    return score.summarise(rows, seed_for(seed, "inversion"))
