"""Operators and training steps."""

from collections.abc import Iterator

from benchmarks.measuring import Bench, Row


def bench_operators(b: Bench) -> Iterator[Row]:
    """Single operators beside albumentations, on the same images."""
    import albumentations as A
    import cv2
    import torch

    from frcore.degrade.apply import degrade_batch
    from frcore.degrade.draw import draw
    from frcore.degrade.recipes import Recipe
    from frcore.io.images import to_float
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
                    degrade_batch(images[i : i + 1], recipe, drawn[i : i + 1], operators="cpu")

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

    from frcore.degrade.apply import degrade_batch
    from frcore.degrade.draw import draw
    from frcore.faces.batch import Faces
    from frcore.frozen import perceptual
    from frcore.io.images import to_float
    from frcore.methods import fpn, psfr_gan
    from frcore.seeds import numpy_generator

    entries = b.config.models
    helper = fpn.Settings(**entries["fpn_64"].settings)
    small = psfr_gan.Settings(**entries["psfrgan_64"].settings)
    default = psfr_gan.Settings(parser="fpn_64")
    recipe = b.config.degradations["psfr_64"]
    n = entries["psfrgan_64"].train.batch
    drawn = [draw(recipe, numpy_generator("bench", i)) for i in range(n)]
    degraded, truth = degrade_batch(to_float(b.faces(n, 64)), recipe, drawn)
    torch.manual_seed(0)
    labels = torch.randint(helper.labels, (n, 8, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    batch = {"truth": truth, "degraded": degraded, "labels": labels, "images_seen": 10**9}
    parser = fpn.build(helper)
    trainer = fpn.make_trainer(fpn.build(helper), helper, {})
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

    from frcore.io.images import to_float
    from frcore.methods import stylegan2 as generator
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
