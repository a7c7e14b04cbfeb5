"""The performance table: `make bench`, or python -m frcore.bench [--only faces,metrics].

One thread. Every number is a median over repeats; where a package from PyPI does the same work it
is timed beside ours: same images, same dtype, turn by turn in the same process. `ratio` is ours by
theirs in speed: above 1 ours is faster. What is compared with what stands in the notes below the
table, with the largest difference of the two results where there is one.

Third-party imports are inside the functions: the number of threads must be set before them.
"""

import argparse
import csv
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEAST_SECONDS = 0.1  # of one repeat: quick calls are repeated within it
MOST_SECONDS = 6.0  # of all repeats of one row, once there are three
TOO_LONG = 20.0  # seconds of one call that is not repeated
COLUMNS = (
    "group", "what", "median", "spread", "unit", "repeats", "peer", "peer_median", "ratio", "note",
)  # fmt: skip
NOT_HAD = "-"


@dataclass(frozen=True)
class Row:
    """One measured thing; `seconds` is empty when it could not be measured."""

    group: str
    what: str
    unit: str  # "<items>/s", or "s" or "ms" an item
    items: float  # of one call
    seconds: tuple[float, ...] = ()  # of one call, one value a repeat
    peer: str = ""
    peer_seconds: tuple[float, ...] = ()
    note: str = ""

    def value(self, seconds: float) -> float:
        """Seconds of a call in the row's unit."""
        if self.unit.endswith("/s"):
            return self.items / seconds
        return seconds / self.items * (1000 if self.unit.startswith("ms") else 1)

    def record(self) -> dict[str, str]:
        """The row as text, by column."""
        record = dict.fromkeys(COLUMNS, "") | {
            "group": self.group,
            "what": self.what,
            "unit": self.unit,
            "median": NOT_HAD,
            "peer": self.peer,
            "note": self.note,
        }
        if self.seconds:
            median = statistics.median(self.seconds)
            spread = (max(self.seconds) - min(self.seconds)) / median / 2
            record["median"] = number(self.value(median))
            record["spread"] = f"±{100 * spread:.0f}%"
            record["repeats"] = str(len(self.seconds))
            if self.peer_seconds:
                theirs = statistics.median(self.peer_seconds)
                record["peer_median"] = number(self.value(theirs))
                record["ratio"] = number(theirs / median)
        return record


def number(value: float) -> str:
    """Three significant digits without an exponent: 1234 -> 1230, 0.01234 -> 0.0123."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 2 - math.floor(math.log10(abs(value)))
    text = f"{round(value, digits):.{max(0, digits)}f}"
    return text


def exponent(value: float) -> int:
    """The smallest n with value < 10^n."""
    return math.floor(math.log10(value)) + 1


def measure(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, tuple[float, ...]]:
    """Seconds of one call of each of `calls`, one value a repeat; the calls take turns.

    Each is called once before (warm-up); calls below LEAST_SECONDS are repeated within a repeat.
    After three repeats no more are begun once MOST_SECONDS are spent; where one call takes TOO_LONG
    there is only one.
    """
    times, least = {}, 3  # repeats that are done in any case
    for name, call in calls.items():
        for _ in range(2):
            begin = clock()
            call()
            took = clock() - begin
            if took > LEAST_SECONDS:
                break
        times[name] = max(1, math.ceil(LEAST_SECONDS / max(took, 1e-9)))
        least = 1 if took > TOO_LONG else least
    found: dict[str, list[float]] = {name: [] for name in calls}
    started = clock()
    for repeat in range(repeats):
        if repeat >= least and clock() - started > MOST_SECONDS:
            break
        for name, call in calls.items():
            begin = clock()
            for _ in range(times[name]):
                call()
            found[name].append((clock() - begin) / times[name])
    return {name: tuple(values) for name, values in found.items()}


def table(rows: Iterable[Row]) -> str:
    """The rows as aligned text, a blank line between groups, notes numbered below."""
    shown = COLUMNS[:-1]
    heads = {"peer_median": "peer's"}
    records = [row.record() for row in rows]
    notes = list(dict.fromkeys(record["note"] for record in records if record["note"]))
    for record in records:
        if record["note"]:
            record["what"] += f" [{notes.index(record['note']) + 1}]"
    widths = {
        key: max(len(heads.get(key, key)), *(len(record[key]) for record in records), 0)
        for key in shown
    }
    right = {"median", "spread", "repeats", "peer_median", "ratio"}

    def line(record: Mapping[str, str]) -> str:
        cells = (
            record[k].rjust(widths[k]) if k in right else record[k].ljust(widths[k]) for k in shown
        )
        return "  ".join(cells).rstrip()

    lines = [line({key: heads.get(key, key) for key in shown})]
    lines.append("  ".join("-" * widths[key] for key in shown))
    for before, record in zip([None, *records], records, strict=False):
        if before is not None and before["group"] != record["group"]:
            lines.append("")
        lines.append(line(record))
    if notes:
        lines.append("")
        lines += [f"[{i}] {note}" for i, note in enumerate(notes, 1)]
    return "\n".join(lines)


def machine() -> str:
    """Processor, load and versions: what a number depends on besides the code."""
    import numpy
    import torch

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        name = found[1] if found else name
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{name}, {os.cpu_count()} cores{load}; one thread; Python {platform.python_version()}, "
        f"torch {torch.__version__}, numpy {numpy.__version__}"
    )


# ---- what the groups share


class Bench:
    """Images, assets and configuration for the groups."""

    def __init__(self, root: Path, repeats: int):
        from frcore.config import load_config

        self.root, self.repeats = root, repeats
        self.config = load_config(ROOT / "config.yaml")

    def asset(self, name: str) -> Path | None:
        """The file of an asset, fetched when it is missing; None when it cannot be had."""
        from frcore import assets

        try:
            return assets.locate(name, self.root)
        except assets.AssetMissing:
            try:
                return assets.fetch(name, self.root)
            except assets.AssetError as error:
                print(f"{error}", file=sys.stderr)
                return None

    def faces(self, n: int, side: int):
        """n real samples as uint8 n x side x side x 3: faces of the default data set, enlarged."""
        import numpy as np
        from PIL import Image

        from frcore.faces.kinds import digiface

        weights = self.asset("digiface_generator")
        if weights is None:
            raise SystemExit("the faces of the benchmark cannot be had: digiface_generator")
        samples = [digiface.sample(weights, 0, i % 64) for i in range(n)]
        if side == 64:
            return np.stack(samples)
        big = [Image.fromarray(x).resize((side, side), Image.Resampling.BICUBIC) for x in samples]
        return np.stack([np.asarray(x) for x in big])

    def row(self, group: str, what: str, unit: str, items: float, call, **more) -> Row:
        """Measure `call` of `items` items, and with peer=(name, call) that beside it."""
        peer, peer_call = more.pop("peer", ("", None))
        calls = {"ours": call} | ({"peer": peer_call} if peer_call else {})
        found = measure(calls, self.repeats)
        return Row(group, what, unit, items, found["ours"], peer, found.get("peer", ()), **more)


# ---- groups


def bench_faces(b: Bench) -> Iterator[Row]:
    """Detection, landmarks, alignment; one photograph at a time, as the faces stage works."""
    from PIL import Image

    from frcore.faces import detect, sources
    from frcore.faces.build import Rejected, extract_faces
    from frcore.faces.kinds import digiface as generator

    for name in ("dlib_68", "dlib_mmod"):
        b.asset(name)
    detector = detect.load_detector("hog", b.root)
    # nothing is left out for its pose or frame: the count is of faces that were aligned
    every = {"max_yaw": None, "max_outside": 1.0}
    digiface = b.config.datasets["digiface"].model_copy(update=every)
    orl = b.config.datasets["orl"].model_copy(update=every)
    large = orl.model_copy(update={"size": 512, "enlarge": 1})
    small = [Image.fromarray(x) for x in b.faces(12, 64)]
    photos = []
    if b.asset("orl") is not None:
        photos = [sources.read(photo) for photo in sources.list_photos(orl, b.root, 0)[:12]]
    sides = [(photo.width * 9, photo.height * 9) for photo in photos[:3]]
    enlarged = [p.resize(s, Image.Resampling.BICUBIC) for p, s in zip(photos, sides, strict=False)]
    sets = {
        "digiface 64 px, enlarged x4 -> 64 px": (small, digiface),
        "orl 92 x 112 px, enlarged x4 -> 64 px": (photos, orl),
        "photographs 828 x 1008 px -> 512 px": (enlarged, large),
    }
    for what, (images, dataset) in sets.items():
        results = [r for image in images for r in extract_faces(image, dataset, detector)]
        found = sum(not isinstance(result, Rejected) for result in results)
        if not found:
            yield Row("faces", what, "faces/s", 0, note="the photographs could not be had")
            continue

        def run(images=images, dataset=dataset):
            for image in images:
                extract_faces(image, dataset, detector)

        yield b.row("faces", what, "faces/s", found, run)
    weights = b.asset("digiface_generator")

    def sample():
        generator._block.cache_clear()
        generator.sample(weights, 0, 0)

    yield b.row("faces", "digiface: sampling", "photos/s", generator.BLOCK, sample)


def bench_degrade(b: Bench) -> Iterator[Row]:
    """Every preset at its own size, batched (training) and with the real codec (test sets)."""
    import torch

    from frcore.degrade import degrade_batch, draw
    from frcore.images import to_float
    from frcore.seeds import numpy_generator

    counts = {64: 32, 256: 8, 512: 8, 1024: 2}  # images of a training batch; half for a test set
    tensors = {}
    for name, recipe in b.config.degradations.items():
        if recipe.learned:  # needs a trained model
            continue
        side = recipe.size
        n = counts.get(side, 2)
        if side not in tensors:
            tensors[side] = to_float(b.faces(n, side))
        images = tensors[side]
        drawn = [draw(recipe, numpy_generator("bench", name, i)) for i in range(n)]

        def batched(images=images, recipe=recipe, drawn=drawn):
            with torch.no_grad():
                degrade_batch(images, recipe, drawn)

        def alone(images=images, recipe=recipe, drawn=drawn):
            for i in range(len(images) // 2):
                degrade_batch(images[i : i + 1], recipe, drawn[i : i + 1], codec="real")

        label = f"{name} ({side} px)"
        yield b.row("degrade", f"{label}, training batch of {n}", "images/s", n, batched)
        yield b.row("degrade", f"{label}, test set", "images/s", n // 2, alone)


def bench_operators(b: Bench) -> Iterator[Row]:
    """Single operators beside albumentations, on the same images."""
    import albumentations as A
    import cv2
    import torch

    from frcore.degrade import degrade_batch, draw
    from frcore.images import to_float
    from frcore.recipes import Recipe
    from frcore.seeds import numpy_generator

    cv2.setNumThreads(0)
    bilinear = {"downscale": cv2.INTER_LINEAR, "upscale": cv2.INTER_LINEAR}
    note = (
        "ours: float32 batch on the training device's operators, with per-image parameters. "
        "albumentations: the same float32 images, one by one (its JPEG goes through "
        "uint8 inside); its chain adds noise and JPEG at full size, after enlarging"
    )
    note_real = (
        "ours: one image at a time in float64 with libjpeg, as test sets are written (the same "
        "bytes on every machine). albumentations: the same images as uint8, its fastest dtype"
    )
    for side, kernel, sigma, n in ((64, 7, 1.0, 32), (512, 41, 6.0, 4)):
        pixels = b.faces(n, side)
        floats = [(x / 255).astype("float32") for x in pixels]
        images = to_float(pixels)
        blur = {"kind": "blur", "choices": [{"shape": "gaussian", "kernel_px": kernel}]}
        blur["choices"][0]["sigma_px"] = [sigma, sigma]
        down = {"kind": "down", "factor": [4, 4], "filters": ["bilinear"]}
        up = {"kind": "up", "filter": "bilinear"}
        noise = {"kind": "noise", "std_255": [10, 10]}
        jpeg = {"kind": "jpeg", "quality": [75, 75]}
        std = (10 / 255, 10 / 255)
        theirs = {
            "blur": A.GaussianBlur(blur_limit=(kernel, kernel), sigma_limit=(sigma, sigma), p=1),
            "down": A.Downscale(scale_range=(0.25, 0.25), interpolation_pair=bilinear, p=1),
            "noise": A.GaussNoise(std_range=std, p=1),
            "jpeg": A.ImageCompression(quality_range=(75, 75), p=1),
        }
        pairs = {
            f"Gaussian blur {kernel} px": ([blur], [theirs["blur"]]),
            "bilinear x4 down and up": ([down, up], [theirs["down"]]),
            "noise": ([noise], [theirs["noise"]]),
            "JPEG 75": ([jpeg], [theirs["jpeg"]]),
            "chain of the four": ([blur, down, noise, jpeg, up], list(theirs.values())),
        }
        for what, (steps, transforms) in pairs.items():
            recipe = Recipe.model_validate({"size": side, "steps": steps})
            drawn = [draw(recipe, numpy_generator("bench", what, i)) for i in range(n)]
            chain = A.Compose(transforms, seed=0)

            def ours(images=images, recipe=recipe, drawn=drawn):
                with torch.no_grad():
                    degrade_batch(images, recipe, drawn)

            def alone(images=images, recipe=recipe, drawn=drawn):
                for i in range(len(images)):
                    degrade_batch(images[i : i + 1], recipe, drawn[i : i + 1], codec="real")

            def peer(chain=chain, arrays=floats):
                for image in arrays:
                    chain(image=image)

            def peer_bytes(chain=chain, arrays=pixels):
                for image in arrays:
                    chain(image=image)

            label = f"{what}, {side} px"
            yield b.row(
                "operators", f"{label}, batch of {n}", "images/s", n, ours,
                peer=("albumentations float32", peer), note=note,
            )  # fmt: skip
            yield b.row(
                "operators", f"{label}, one by one", "images/s", n, alone,
                peer=("albumentations uint8", peer_bytes), note=note_real,
            )  # fmt: skip


def bench_psfrgan(b: Bench) -> Iterator[Row]:
    """Training steps and restoring of PSFR-GAN and its parser; untrained weights cost the same."""
    import torch

    from frcore.degrade import degrade_batch, draw
    from frcore.facebatch import Faces
    from frcore.helpers import parsing, perceptual
    from frcore.images import to_float
    from frcore.methods import psfr_gan
    from frcore.seeds import numpy_generator

    entries = b.config.models
    helper = parsing.Settings(**entries["fpn_64"].settings)
    small = psfr_gan.Settings(**entries["psfrgan_64"].settings)
    default = psfr_gan.Settings(parser="fpn_64")
    recipe = b.config.degradations["psfr_64"]
    n = entries["psfrgan_64"].train.batch
    drawn = [draw(recipe, numpy_generator("bench", i)) for i in range(n)]
    degraded, truth = degrade_batch(to_float(b.faces(n, 64)), recipe, drawn)
    torch.manual_seed(0)
    labels = torch.randint(helper.labels, (n, 8, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    batch = {"truth": truth, "degraded": degraded, "labels": labels, "images_seen": 10**9}
    parser = parsing.build(helper)
    trainer = parsing.make_trainer(parsing.build(helper), helper, {})
    trainer.networks["model"].train()
    yield b.row("psfr_gan", f"fpn_64: training step, batch {n}", "ms/image", n,
                lambda: trainer.step(batch))  # fmt: skip
    guide = {"parser": parser.eval().requires_grad_(False)}
    path = b.asset("mobilenet_v2")
    if path is not None:
        taps = psfr_gan.TAPS["mobilenet_v2"]
        guide["perceptual"] = perceptual.load("mobilenet_v2", path, taps=taps)
    for name, settings in (("psfrgan_64", small), ("psfr_gan, default settings", default)):
        what = f"{name}: training step, batch {n}"
        if path is None:
            yield Row("psfr_gan", what, "ms/image", n, note="no weights: mobilenet_v2")
            continue
        model = psfr_gan.build(settings).to(memory_format=torch.channels_last)
        trainer = psfr_gan.make_trainer(model, settings, guide)
        model.train()
        yield b.row("psfr_gan", what, "ms/image", n, lambda trainer=trainer: trainer.step(batch))
        model.eval()
        for count in (n, 1):

            def restore(model=model, images=degraded[:count]):
                with torch.inference_mode():
                    psfr_gan.restore(model, Faces(images), guide)

            what = f"{name}: restore, batch {count}"
            yield b.row("psfr_gan", what, "ms/image", count, restore)


def bench_stylegan2(b: Bench) -> Iterator[Row]:
    """Training steps of the shipped prior, sampling, and the forms of its convolutions."""
    import torch

    from frcore.helpers import generator
    from frcore.images import to_float
    from frcore.nets import stylegan2

    entry = b.config.models["stylegan2-64"]
    settings, n = generator.Settings(**entry.settings), entry.train.batch
    torch.manual_seed(0)
    model = generator.build(settings).to(memory_format=torch.channels_last)
    trainer = generator.make_trainer(model, settings, {})
    real = to_float(b.faces(n, 64)) * 2 - 1
    steps = {
        f"generator, {n} images": (n, lambda: trainer.generator_step(n)),
        f"path length, {n // 2} images": (n // 2, lambda: trainer.path_step(n // 2)),
        f"discriminator, {n} images": (n, lambda: trainer.discriminator_step(real)),
        f"R1, {n} images": (n, lambda: trainer.r1_step(real)),
    }
    for name, (items, call) in steps.items():
        yield b.row("stylegan2", f"stylegan2-64: {name}", "images/s", items, call)

    def whole_cycle():
        for step in range(settings.r1_every):
            trainer.step({"truth": real / 2 + 0.5, "step": step})

    what = "stylegan2-64: training, all steps at their intervals"
    yield b.row("stylegan2", what, "images/s", n * settings.r1_every, whole_cycle)
    yield b.row(
        "stylegan2", "stylegan2-64: sampling, 50 images", "images/s", 50,
        lambda: generator.sample(model, 50, torch.Generator().manual_seed(0)),
    )  # fmt: skip

    def both_ways(function, *tensors):
        tensors = [tensor.requires_grad_(True) for tensor in tensors]

        def call():
            torch.autograd.grad(function(*tensors).square().sum(), tensors)

        return call

    for c_in, c_out, side, up in ((64, 64, 16, False), (16, 16, 64, False), (64, 32, 16, True)):
        x = torch.randn(n, c_in, side, side).to(memory_format=torch.channels_last)
        weight, s = torch.randn(c_out, c_in, 3, 3) / (3 * c_in**0.5), torch.randn(n, c_in) + 1
        what = f"modulated {'up-' * up}convolution {c_in} -> {c_out} at {side} px, both ways"
        ours = both_ways(lambda *a, up=up: stylegan2.modulated_conv(*a, up=up), x, weight, s)
        peer = both_ways(lambda *a, up=up: per_sample_conv(*a, up=up), x, weight, s)
        named = ("a kernel an image, grouped", peer)
        yield b.row("stylegan2", what, "images/s", n, ours, peer=named)


def per_sample_conv(x, weight, s, up=False):
    """Eq. 1 and 3 of StyleGAN2 as they stand: a kernel for each image, one grouped convolution."""
    import torch
    from torch.nn import functional as F

    from frcore.nets.stylegan2 import blur

    n, c_in, h, w = x.shape
    kernels = weight[None] * s[:, None, :, None, None]  # N x C_out x C_in x 3 x 3
    kernels = kernels * torch.rsqrt(kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    x = x.reshape(1, n * c_in, h, w)
    if up:
        kernels = kernels.transpose(1, 2).flatten(0, 1)
        y = F.conv_transpose2d(x, kernels, stride=2, groups=n)
        return blur(y.unflatten(1, (n, -1))[0], (1, 1), gain=4.0)
    y = F.conv2d(x, kernels.flatten(0, 1), padding=1, groups=n)
    return y.unflatten(1, (n, -1))[0]


def bench_metrics(b: Bench) -> Iterator[Row]:
    """Every metric, from the images (or features) to its values."""
    import numpy as np
    import torch

    from frcore.degrade import degrade_batch, draw
    from frcore.images import to_float
    from frcore.metrics import fidelity, perception, score, sets
    from frcore.registry import METRICS
    from frcore.seeds import numpy_generator

    names = list(dict.fromkeys(asset for row in METRICS.values() for asset in row.assets))
    paths = {name: b.asset(name) for name in names}
    nets = score.load_nets({k: v for k, v in paths.items() if v}, list(METRICS))
    recipe = b.config.degradations["gfpgan_64"]
    drawn = [draw(recipe, numpy_generator("bench", i)) for i in range(32)]
    x64, y64 = degrade_batch(to_float(b.faces(32, 64)), recipe, drawn)

    def enlarge(images):
        return torch.nn.functional.interpolate(images, (256, 256), mode="bilinear").clamp(0, 1)

    pairs = {64: (x64, y64), 256: (enlarge(x64[:4]), enlarge(y64[:4]))}
    measured = set()  # nets whose features of sets are timed: several metrics share them
    for name, row in METRICS.items():
        side = 64 if row.min_side <= 64 else 256
        x, y = pairs[side]
        ids = [str(i) for i in range(len(x))]
        what = f"{name} ({side} px)"
        absent = [asset for asset in row.assets if asset not in nets]
        if absent:
            yield Row("metrics", what, "pairs/s", 0, note=f"no weights: {', '.join(absent)}")
            continue
        if row.kind == "set":
            if row.assets not in measured:
                measured.add(row.assets)
                yield b.row("metrics", f"{what}: features", "images/s", len(x),
                            lambda x=x, name=name: score.set_features(x, [name], nets))  # fmt: skip
            continue

        def ours(x=x, y=y, ids=ids, name=name):
            return score.score_images(x, y, ids, [name], nets)

        yield b.row("metrics", what, "pairs/s", len(x), ours)
    for name, (peer, call) in _image_peers(nets).items():
        for side, (x, y) in pairs.items():

            def mine(x=x, y=y, name=name):
                if name in ("psnr_rgb", "ssim_rgb"):
                    return getattr(fidelity, name)(x, y)
                net = nets[METRICS[name].assets[0]]
                return perception.lpips_distance(x, y, net)

            def theirs(x=x, y=y, call=call):
                return call(x, y)

            difference = np.abs(np.array(theirs()) - mine()).max()
            size = "not at all" if difference == 0 else f"by less than 1e{exponent(difference)}"
            note = (
                "the function alone; both go from the same float32 tensors to one value a pair, "
                f"and differ {size}"
            )
            yield b.row(
                "metrics", f"{name} ({side} px), function", "pairs/s", len(x), mine,
                peer=(peer, theirs), note=note,
            )  # fmt: skip
    # distances of sets: features of the size of a default test set, drawn
    rng = numpy_generator("bench", "features")
    mix = rng.standard_normal((64, 1280)) / 8
    shape = (512, 64)
    a, c = (np.abs(rng.standard_normal(shape) @ mix + s).astype(np.float32) for s in (0.4, 0.5))
    stats_a, stats_c = sets.statistics(a), sets.statistics(c)
    theirs, value = _frechet_peers(a, c, stats_a, stats_c)
    mine = sets.frechet_distance(a, c)
    difference = f"; {mine:.6g} and {value:.6g}" if value is not None else ""
    note = f"512 features of 1280 numbers each side, drawn; for both the same{difference}"
    yield b.row("metrics", "Frechet distance, from features", "distances/s", 1,
                lambda: sets.frechet_distance(a, c), note=note,
                **({"peer": ("pytorch-fid", theirs[0])} if theirs else {}))  # fmt: skip
    yield b.row("metrics", "Frechet distance, from statistics", "distances/s", 1,
                lambda: sets.frechet_from_statistics(*stats_a, *stats_c), note=note,
                **({"peer": ("pytorch-fid", theirs[1])} if theirs else {}))  # fmt: skip
    reference = sets.factor(c)
    yield b.row("metrics", "Frechet distance: interval, 100 draws", "ms", 1,
                lambda: sets.frechet_interval(a, *reference, 0, 100), note=note)  # fmt: skip
    yield b.row("metrics", "kernel distance", "ms", 1,
                lambda: sets.kernel_distance(a, c), note=note)  # fmt: skip
    true = rng.standard_normal((3000, 128))
    found = {"dlib_resnet": true + 0.7 * rng.standard_normal(true.shape)}
    ids = tuple(map(str, range(len(true))))
    people = tuple(str(i // 10) for i in range(len(true)))
    known = score.TruthFeatures(ids, {"dlib_resnet": true}, people=people)
    names = [name for name, row in METRICS.items()
             if row.kind == "set" and row.features == "dlib_resnet"]  # fmt: skip
    yield b.row("metrics", "iPrecision and iRecall: all twelve", "ms", 1,
                lambda: score.score_set(ids, found, known, names),
                note="3000 descriptors of 128 numbers each side, drawn; 300 people")  # fmt: skip


def _image_peers(nets: Mapping) -> dict[str, tuple[str, Callable]]:
    """metric -> (package, call on two float32 batches -> values)."""
    import torch

    from frcore.images import to_uint8

    peers = {}
    try:
        from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    except ImportError:  # part of the development tools
        pass
    else:

        def psnr(x, y):
            both = zip(to_uint8(x), to_uint8(y), strict=True)
            return [peak_signal_noise_ratio(t, r, data_range=255) for r, t in both]

        def ssim(x, y):
            options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
            both = zip(to_uint8(x), to_uint8(y), strict=True)
            return [
                structural_similarity(t, r, data_range=255, channel_axis=2, **options)
                for r, t in both
            ]

        peers |= {"psnr_rgb": ("scikit-image", psnr), "ssim_rgb": ("scikit-image", ssim)}
    for name, asset in (("lpips_alex_v0.1", "alexnet"), ("lpips_vgg_v0.1", "vgg16")):
        if asset in nets:

            def lpips(x, y, net=nets[asset]):
                with torch.no_grad():
                    return net(2 * x - 1, 2 * y - 1).flatten().tolist()

            peers[name] = ("lpips", lpips)
    return peers


def _frechet_peers(a, c, stats_a, stats_c):
    """pytorch-fid from features and from statistics, and its value; None where it does not run."""
    import numpy as np

    try:
        from pytorch_fid.fid_score import calculate_frechet_distance

        value = calculate_frechet_distance(*stats_a, *stats_c)
    except Exception as error:  # its matrix root depends on SciPy's version
        print(f"pytorch-fid does not run: {error}", file=sys.stderr)
        return None, None

    def from_features():
        x, y = a.astype(np.float64), c.astype(np.float64)
        both = [(z.mean(0), np.cov(z, rowvar=False)) for z in (x, y)]
        calculate_frechet_distance(*both[0], *both[1])

    return (from_features, lambda: calculate_frechet_distance(*stats_a, *stats_c)), value


def bench_workflow(b: Bench) -> Iterator[Row]:
    """A dry run of 25 models x 3 data sets x 6 degradations."""
    import yaml

    settings = {**b.config.models["psfrgan_64"].settings}
    train = {"datasets": ["digiface"], "degradations": ["psfr_64"], "images": 256}
    models = {
        f"model_{i:02d}": {"method": "psfr_gan", "settings": settings, "seed": i, "train": train}
        for i in range(24)
    }
    recipes = b.config.degradations.items()
    presets = [name for name, recipe in recipes if recipe.size == 64 and not recipe.learned][:6]
    run = {"datasets": ["digiface", "orl", "third"], "models": ["bicubic", *models]}
    third = b.config.datasets["orl"].model_dump(exclude_defaults=True, mode="json")
    data = {"run": run | {"degradations": presets}, "datasets": {"third": third}, "models": models}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.yaml")
        config.write_text(yaml.safe_dump(data))
        Path(folder, "resources").symlink_to(b.root.resolve())
        command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile")]
        command += ["--configfile", str(config), "--cores", "1", "-n", "--quiet", "rules"]
        output = []

        def dry_run():
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            output[:] = [done.stdout + done.stderr]
            if done.returncode:
                raise SystemExit(f"the dry run failed:\n{output[0][-3000:]}")

        row = b.row("workflow", "dry run, 25 models x 3 sets x 6 degradations", "s", 1, dry_run)
    jobs = re.findall(r"^total\s+(\d+)", output[0], re.M)
    yield Row(**{**vars(row), "note": f"snakemake -n from the shell, {jobs[-1]} jobs"})


GROUPS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "faces": bench_faces,
    "degrade": bench_degrade,
    "operators": bench_operators,
    "psfr_gan": bench_psfrgan,
    "stylegan2": bench_stylegan2,
    "metrics": bench_metrics,
    "workflow": bench_workflow,
}


def write_csv(path: str | Path, rows: Iterable[Row], about: str) -> None:
    """The table as CSV, with the machine in the last column of every row."""
    with Path(path).open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, [*COLUMNS, "machine"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.record() | {"machine": about} for row in rows)


def one_thread() -> None:
    """One thread for everything that is imported later, and for programs that are started."""
    names = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB_MAXIMUM", "BLIS")
    os.environ |= {f"{name}_NUM_THREADS": "1" for name in names}
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the network for its newest version
    import torch

    torch.set_num_threads(1)


def main(words: list[str] | None = None) -> None:
    """Run the groups and print the table."""
    parser = argparse.ArgumentParser(prog="python -m frcore.bench", description="Performance table")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"some of {','.join(GROUPS)}")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write the table as CSV")
    a = parser.parse_args(words)
    chosen = a.only.split(",")
    unknown = [name for name in chosen if name not in GROUPS]
    if unknown or a.repeats < 1:
        parser.error(f"--only: unknown {unknown}" if unknown else "--repeats must be 1 or more")
    one_thread()
    from frcore import assets

    bench = Bench(Path(assets.resources_root()), a.repeats)
    about, begin, rows = machine(), time.monotonic(), []
    for name in chosen:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += GROUPS[name](bench)
    print(about)
    print(f"ratio: speed of ours by that of the peer. {time.monotonic() - begin:.0f} s in all\n")
    print(table(rows))
    if a.out:
        write_csv(a.out, rows, about)


if __name__ == "__main__":
    main()
