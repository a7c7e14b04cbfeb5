"""Faces."""

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
