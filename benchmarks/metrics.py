"""Metrics of images and of sets."""

import sys
from collections.abc import Callable, Iterator, Mapping

from benchmarks.measuring import Bench, Row, exponent


def bench_metrics(b: Bench) -> Iterator[Row]:
    """Every metric, from the images (or features) to its values."""
    import torch

    from frcore.degrade.apply import degrade_batch
    from frcore.degrade.draw import draw
    from frcore.io.images import to_float
    from frcore.metrics import score
    from frcore.registry import METRICS
    from frcore.seeds import numpy_generator

    names = list(dict.fromkeys(asset for row in METRICS.values() for asset in row.assets))
    paths = {name: b.asset(name) for name in names}
    nets = score.load_nets({k: v for k, v in paths.items() if v}, list(METRICS))
    recipe = b.config.degradations["gfpgan_64"]
    drawn = [draw(recipe, numpy_generator("bench", i)) for i in range(32)]
    x64, y64 = degrade_batch(to_float(b.faces(32, 64)), recipe, drawn)

    def enlarge(images, side=256):
        return torch.nn.functional.interpolate(images, (side, side), mode="bilinear").clamp(0, 1)

    pairs = {64: (x64, y64), 256: (enlarge(x64[:4]), enlarge(y64[:4]))}
    large = {64: (x64, y64), 512: (enlarge(x64[:4], 512), enlarge(y64[:4], 512))}
    yield from _each_metric(b, nets, pairs)
    yield from _functions(b, nets, large)
    yield from _set_distances(b)


def _each_metric(b: Bench, nets: Mapping, pairs: Mapping) -> Iterator[Row]:
    from frcore.metrics import score
    from frcore.registry import METRICS

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


def _functions(b: Bench, nets: Mapping, pairs: Mapping) -> Iterator[Row]:
    import numpy as np

    from frcore.metrics import fidelity
    from frcore.metrics import lpips as perception
    from frcore.registry import METRICS

    for name, peer, call in _image_peers(nets):
        for side, (x, y) in pairs.items():
            if side < METRICS[name].min_side:
                continue

            def mine(x=x, y=y, name=name):
                if name in ("psnr_rgb", "ssim_rgb", "ms_ssim_rgb"):
                    return getattr(fidelity, name)(x, y)
                net = nets[METRICS[name].assets[0]]
                net.known.clear()  # the peer sees the true images every time, too
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
                "metrics", f"{name} ({side} px), beside {peer}", "pairs/s", len(x), mine,
                peer=(peer, theirs), note=note,
            )  # fmt: skip


def _set_distances(b: Bench) -> Iterator[Row]:
    """Distances of features of the size of a default test set, drawn."""
    import numpy as np

    from frcore.metrics import score, sets
    from frcore.registry import METRICS
    from frcore.seeds import numpy_generator

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


def _image_peers(nets: Mapping) -> list[tuple[str, str, Callable]]:
    """(metric, package, call on two float32 batches -> values)."""
    import torch

    from frcore.frozen.torchvision_cpu import import_torchvision
    from frcore.io.images import to_uint8

    import_torchvision()
    peers: list[tuple[str, str, Callable]] = []
    try:
        import pytorch_msssim
        import torchmetrics.functional.image as torchmetrics
        from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    except ImportError:  # the extra `bench`
        print("pip install '.[bench]' for the peers", file=sys.stderr)
    else:

        def pairs(x, y):
            return zip(to_uint8(x), to_uint8(y), strict=True)

        each = {"data_range": 1.0, "reduction": "none"}
        window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        whole = {"data_range": 255, "channel_axis": 2, **window}
        peers += [
            ("psnr_rgb", "scikit-image",
             lambda x, y: [peak_signal_noise_ratio(t, r, data_range=255) for r, t in pairs(x, y)]),
            ("psnr_rgb", "torchmetrics",
             lambda x, y: torchmetrics.peak_signal_noise_ratio(x, y, dim=(1, 2, 3), **each)),
            ("ssim_rgb", "scikit-image",
             lambda x, y: [structural_similarity(t, r, **whole) for r, t in pairs(x, y)]),
            ("ssim_rgb", "torchmetrics",
             lambda x, y: torchmetrics.structural_similarity_index_measure(x, y, **each)),
            ("ssim_rgb", "pytorch-msssim",
             lambda x, y: pytorch_msssim.ssim(x, y, data_range=1.0, size_average=False)),
            ("ms_ssim_rgb", "torchmetrics",
             lambda x, y: torchmetrics.multiscale_structural_similarity_index_measure(
                 x, y, **each)),
            ("ms_ssim_rgb", "pytorch-msssim",
             lambda x, y: pytorch_msssim.ms_ssim(x, y, data_range=1.0, size_average=False)),
        ]  # fmt: skip
    for name, asset in (("lpips_alex_v0.1", "alexnet"), ("lpips_vgg_v0.1", "vgg16")):
        if asset in nets:

            def lpips(x, y, net=nets[asset].net.net):  # the package's own
                with torch.no_grad():
                    return net(2 * x - 1, 2 * y - 1).flatten().tolist()

            peers.append((name, "lpips", lpips))
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
