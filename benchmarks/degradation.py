"""Degradation: every recipe, and beside some the calls that its authors' training code makes."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measuring import Bench, Row

# recipe at 64 and at 512 px -> the package whose calls the peer makes
PEERS = {
    ("psfr_64", "psfr"): "OpenCV, as in PSFR-GAN's data",
    ("gfpgan_train_64", "gfpgan_train"): "OpenCV, as in GFP-GAN's data",
    ("bicn_64", "bicn"): "Pillow",
}
NOTE = (
    "the same drawn parameters for both, face by face. Training: bytes to a float tensor; disk: "
    "PNG to PNG"
)


def bench_degrade(b: Bench) -> Iterator[Row]:
    """Faces a second of every preset at its own size; with peers, training and disk to disk."""
    import torch

    from frcore.degrade.apply import degrade_batch
    from frcore.degrade.draw import draw
    from frcore.io.images import to_float
    from frcore.seeds import numpy_generator

    yield from _beside_peers(b)
    counts = {64: 32, 256: 8, 512: 4, 1024: 2}
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
        for what in ("cpu", "batched"):

            def call(images=images, recipe=recipe, drawn=drawn, what=what):
                with torch.no_grad():
                    degrade_batch(images, recipe, drawn, operators=what)

            yield b.row("degrade", f"{name} ({side} px), {what} operators", "images/s", n, call)


def _beside_peers(b: Bench) -> Iterator[Row]:
    import numpy as np
    import torch

    from frcore.degrade.cpu import degrade_face
    from frcore.degrade.draw import draw
    from frcore.degrade.test_sets import degrade_file
    from frcore.io.images import write_image
    from frcore.seeds import numpy_generator

    for names, peer in PEERS.items():
        for side, name in zip((64, 512), names, strict=True):
            recipe = b.config.degradations[name].model_copy(update={"size": side})
            n = 64 if side == 64 else 24
            faces = b.faces(8, side)
            faces = np.concatenate([faces] * (n // 8))
            drawn = [draw(recipe, numpy_generator("bench", name, i)) for i in range(n)]

            def tensor(pixels):
                return torch.from_numpy(pixels).permute(2, 0, 1).float().div_(255)

            def ours(faces=faces, recipe=recipe, drawn=drawn):
                for face, p in zip(faces, drawn, strict=True):
                    tensor(degrade_face(face, recipe, p)[0])

            def theirs(faces=faces, recipe=recipe, drawn=drawn):
                for face, p in zip(faces, drawn, strict=True):
                    tensor(plain(face, recipe, p))

            label = f"{name} ({side} px)"
            yield b.row("degrade", f"{label}, training", "images/s", n, ours,
                        peer=(peer, theirs), note=NOTE)  # fmt: skip
            with tempfile.TemporaryDirectory() as folder:
                paths = [Path(folder) / f"{i}.png" for i in range(8)]
                for path, face in zip(paths, faces, strict=False):
                    write_image(path, face)
                out = Path(folder) / "out.png"

                def ours_disk(paths=paths, recipe=recipe, drawn=drawn, out=out):
                    for i, p in enumerate(drawn):
                        write_image(out, degrade_file(paths[i % 8], recipe, p))

                def theirs_disk(paths=paths, recipe=recipe, drawn=drawn, out=out):
                    for i, p in enumerate(drawn):
                        _write(out, plain(_read(paths[i % 8]), recipe, p))

                yield b.row("degrade", f"{label}, disk to disk", "images/s", n, ours_disk,
                            peer=(peer, theirs_disk), note=NOTE)  # fmt: skip


def _read(path):
    import cv2

    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def _write(path, pixels):
    import cv2

    cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))


def plain(pixels, recipe, drawn):
    """The recipe as a data set class writes it: uint8 or float32 throughout, a call a step."""
    import numpy as np

    image = pixels if recipe.eight_bit else pixels.astype(np.float32) / np.float32(255)
    rng = np.random.default_rng(drawn["noise_seed"])
    for step, p in zip(recipe.steps, drawn["steps"], strict=True):
        if p is not None:
            image = _PLAIN[step.kind](image, step, p, rng, recipe.size)
    if image.dtype == np.uint8:
        return image
    return np.clip((image * np.float32(255)).round(), 0, 255).astype(np.uint8)


def _gray(image, step, p, rng, size):
    import cv2
    import numpy as np

    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def _blur(image, step, p, rng, size):
    import cv2
    import numpy as np

    from frcore.degrade.kernels import anisotropic_kernel, motion_kernel

    shape, k = p["shape"], p["kernel_px"]
    if shape == "box":
        return cv2.blur(image, (k, k))
    if shape == "median":
        return cv2.medianBlur(image, k)
    if shape == "motion":
        return cv2.filter2D(image, -1, motion_kernel(k, p["angle_deg"], p["direction"]))
    if image.dtype == np.uint8:
        return cv2.GaussianBlur(image, (k, k), p["sigma_px"])
    sigmas = p["sigma_px"], p.get("sigma_y_px", p["sigma_px"])
    return cv2.filter2D(image, -1, anisotropic_kernel(*sigmas, p.get("angle_rad", 0.0), k))


def _resize(image, side, filter, antialias):
    import cv2
    import numpy as np
    from PIL import Image

    if antialias:
        eight = np.clip((image * 255).round(), 0, 255).astype(np.uint8)
        made = Image.fromarray(eight).resize((side, side), Image.Resampling.BICUBIC)
        return np.asarray(made).astype(np.float32) / np.float32(255)
    kinds = {"nearest": 0, "bilinear": 1, "bicubic": 2, "area": 3}
    return cv2.resize(image, (side, side), interpolation=kinds[filter])


def _down(image, step, p, rng, size):
    return _resize(image, p["side_px"], p["filter"], p["antialias"])


def _up(image, step, p, rng, size):
    return _resize(image, size, step.filter, step.antialias)


def _noise(image, step, p, rng, size):
    import numpy as np

    shape = image.shape if p["per_channel"] else (*image.shape[:2], 1)
    if image.dtype == np.uint8:
        noisy = image + rng.normal(0, p["std_255"], shape)
        return np.clip(noisy.round(), 0, 255).astype(np.uint8)
    noise = np.float32(rng.standard_normal(shape)) * np.float32(p["std_255"] / 255)
    return np.clip(image + noise, 0, 1)


def _jpeg(image, step, p, rng, size):
    import cv2
    import numpy as np

    eight = image if image.dtype == np.uint8 else np.uint8(image * 255)
    _, coded = cv2.imencode(".jpg", eight, [cv2.IMWRITE_JPEG_QUALITY, p["quality"]])
    decoded = cv2.imdecode(coded, 1)
    return decoded if image.dtype == np.uint8 else np.float32(decoded) / np.float32(255)


def _colour_shift(image, step, p, rng, size):
    import numpy as np

    return np.clip(image + np.array(p["shift_255"], np.float32) / np.float32(255), 0, 1)


def _jitter(image, step, p, rng, size):
    import numpy as np
    import torch

    from frcore.frozen.torchvision_cpu import import_torchvision

    import_torchvision()
    from torchvision.transforms import functional

    face = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    for name in p["order"]:
        face = getattr(functional, f"adjust_{name}")(face, p[name])
    return face.numpy().transpose(1, 2, 0)


_PLAIN = {
    "gray": _gray, "blur": _blur, "down": _down, "up": _up, "noise": _noise, "jpeg": _jpeg,
    "colour_shift": _colour_shift, "jitter": _jitter,
}  # fmt: skip
