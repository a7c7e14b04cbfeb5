"""Faces and degradations."""

from collections.abc import Iterator

from benchmarks.measuring import Bench, Row


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

    from frcore.degrade.apply import degrade_batch
    from frcore.degrade.draw import draw
    from frcore.io.images import to_float
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
                degrade_batch(images[i : i + 1], recipe, drawn[i : i + 1], operators="cpu")

        label = f"{name} ({side} px)"
        yield b.row("degrade", f"{label}, training batch of {n}", "images/s", n, batched)
        yield b.row("degrade", f"{label}, test set", "images/s", n // 2, alone)
