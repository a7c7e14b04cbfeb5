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
    yield from _beside_ffhq(b, detector, photos)
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


def _beside_ffhq(b: Bench, detector, photos) -> Iterator[Row]:
    """Whole alignment beside a loop of dlib and FFHQ's procedure, from small to large photographs.

    The photographs are ORL's, enlarged: what counts is their size and the face's.
    """
    import dlib
    import numpy as np
    from PIL import Image

    from frcore.faces.build import extract_faces

    places = b.asset("dlib_68")
    if not photos or places is None:
        yield Row("faces", "beside FFHQ's procedure", "faces/s", 0, note="no photographs")
        return
    plain, predictor = dlib.get_frontal_face_detector(), dlib.shape_predictor(str(places))
    every = {"max_yaw": None, "max_outside": 1.0, "enlarge": 1, "crop_scale": 1.0}
    orl = b.config.datasets["orl"]
    for width, size in ((640, 64), (640, 512), (1280, 512), (2560, 512)):
        images = []
        for photo in photos[:3]:
            height = round(photo.height * width / photo.width)
            images.append(photo.resize((width, height), Image.Resampling.BICUBIC))
        dataset = orl.model_copy(update=every | {"size": size})

        def ours(images=images, dataset=dataset):
            for image in images:
                extract_faces(image, dataset, detector)

        def theirs(images=images, size=size):
            for image in images:
                pixels = np.asarray(image)
                for box in plain(pixels, 0)[:1]:
                    shape = predictor(pixels, box)
                    points = np.array([(p.x, p.y) for p in shape.parts()], dtype=np.float64)
                    ffhq(image, points, size)

        note = "detection, landmarks and cut; the transform at 4 times the size, as there"
        what, peer = f"photograph of {width} px -> {size} px", ("dlib and FFHQ's script", theirs)
        yield b.row("faces", what, "photos/s", len(images), ours, peer=peer, note=note)


def ffhq(image, points, size: int):
    """FFHQ's cut (Karras et al. 2019, supplement C) of one face: shrink, crop, pad, transform."""
    import numpy as np
    from PIL import Image, ImageFilter

    left, right = points[36:42].mean(0), points[42:48].mean(0)
    eye, mouth = (left + right) / 2, (points[48] + points[54]) / 2
    across, down = right - left, mouth - eye
    x = across - np.flipud(down) * [-1, 1]
    x *= max(np.hypot(*across) * 2.0, np.hypot(*down) * 1.8) / np.hypot(*x)
    y, centre = np.flipud(x) * [-1, 1], eye + down * 0.1
    quad = np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])
    side = np.hypot(*x) * 2
    factor = int(np.floor(side / size * 0.5))
    if factor > 1:
        small = (round(image.width / factor), round(image.height / factor))
        image = image.resize(small, Image.Resampling.LANCZOS)
        quad, side = quad / factor, side / factor
    border = max(round(side * 0.1), 3)
    low, high = np.floor(quad.min(0)), np.ceil(quad.max(0))
    crop = (max(low[0] - border, 0), max(low[1] - border, 0),
            min(high[0] + border, image.width), min(high[1] + border, image.height))  # fmt: skip
    if crop[2] - crop[0] < image.width or crop[3] - crop[1] < image.height:
        image, quad = image.crop([int(v) for v in crop]), quad - crop[:2]
    low, high = np.floor(quad.min(0)), np.ceil(quad.max(0))
    pad = np.array([max(border - low[0], 0), max(border - low[1], 0),
                    max(high[0] - image.width + border, 0),
                    max(high[1] - image.height + border, 0)])  # fmt: skip
    if pad.max() > border - 4:
        pad = np.maximum(pad, round(side * 0.3)).astype(int)
        edges = ((pad[1], pad[3]), (pad[0], pad[2]), (0, 0))
        wide = np.pad(np.float32(image), edges, "reflect")
        h, w, _ = wide.shape
        v, u, _ = np.ogrid[:h, :w, :1]
        mask = np.maximum(
            1.0 - np.minimum(np.float32(u) / pad[0], np.float32(w - 1 - u) / pad[2]),
            1.0 - np.minimum(np.float32(v) / pad[1], np.float32(h - 1 - v) / pad[3]),
        )
        soft = Image.fromarray(np.uint8(np.clip(wide, 0, 255)))
        soft = np.float32(soft.filter(ImageFilter.GaussianBlur(float(side * 0.02))))
        wide += (soft - wide) * np.clip(mask * 3.0 + 1.0, 0.0, 1.0)
        wide += (np.median(wide, axis=(0, 1)) - wide) * np.clip(mask, 0.0, 1.0)
        image = Image.fromarray(np.uint8(np.clip(np.rint(wide), 0, 255)))
        quad = quad + pad[:2]
    four = (4 * size, 4 * size)
    corners = (quad + 0.5).flatten()
    image = image.transform(four, Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)
    return image.resize((size, size), Image.Resampling.LANCZOS)
