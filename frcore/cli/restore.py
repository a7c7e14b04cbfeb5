"""`frcore restore` and `frcore sample`."""

from frcore.cli.common import EXIT_PARTLY, config_of, device_of, progress, root_of


def restore(args) -> int:
    """Photographs -> restored photographs."""
    from frcore.io.assets import Checked, catalogue
    from frcore.registry import METHODS
    from frcore.restore import models, photos

    options = photos.PhotoOptions(
        faces=args.faces,
        scale=args.scale,
        aligned=args.aligned,
        strength=args.strength,
        strip_metadata=args.strip_metadata,
        min_face=args.min_face,
        detector=args.detector or "hog",
        enlarge=args.enlarge or 2,
        seed=args.seed,
        samples=args.samples,
    )
    if args.batch < 1:
        raise ValueError(f"--batch must be at least 1, got {args.batch}")
    config, device = config_of(args), device_of(args)
    root = root_of(args)
    parts = Checked(root, catalogue(config.assets))
    restorer = models.load_model(args.model, device, config, results=config.results, assets=parts)
    if METHODS[restorer.card["method"]].generative:
        raise ValueError(f"{restorer.name} makes faces and restores none: use frcore sample")
    source = restorer.path or "no weights needed"
    print(f"{restorer.name} ({source}), {restorer.size} px faces, on {device}")
    counts = photos.restore_photos(
        args.input, args.output, restorer, options, root, args.batch, args.overwrite
    )
    text = f"{counts['restored']} of {counts['photos']} photographs restored"
    text += f" in {options.samples} ways each" * (options.samples > 1)
    text += f" ({counts['faces']} faces; {counts['kept']} photographs done before)"
    if counts["failed"] or counts["unrestored"]:
        text += f", {counts['unrestored']} not restored, {counts['failed']} failures"
    print(f"{text}; see {args.output / 'restored.csv'}")
    return EXIT_PARTLY if counts["failed"] or counts["unrestored"] else 0


def sample(args) -> int:
    """Faces of a generative model as OUT/000000.png, ..., and OUT.png with up to 100 of them."""
    import torch

    from frcore.io.images import to_uint8, write_image
    from frcore.io.outputs import beside, made
    from frcore.registry import METHODS
    from frcore.restore.models import load_model
    from frcore.seeds import torch_generator
    from frcore.train.pictures import grid

    config = config_of(args)
    if args.number < 1:
        raise ValueError(f"-n must be 1 or more, got {args.number}")
    loaded = load_model(args.model, device_of(args), config, results=config.results)
    if not METHODS[loaded.card["method"]].generative:
        raise ValueError(f"{loaded.name} restores faces and makes none: use frcore restore")
    generator, shown = torch_generator(args.seed, "sample"), []
    sheet = beside(args.output, ".png")
    with made(args.output, "frcore sample", args.overwrite, files=[sheet]) as (part, [picture]):
        part.mkdir()
        for start in progress(range(0, args.number, 50), "sample"):
            n = min(50, args.number - start)
            images = loaded.module.sample(loaded.model, n, generator, args.truncation).cpu()
            for place, pixels in enumerate(to_uint8(images), start):
                write_image(part / f"{place:06d}.png", pixels)
            shown.append(images[: max(0, 100 - start)])
        whole = torch.cat(shown)
        across = min(10, len(whole))
        whole = whole[: len(whole) // across * across]
        write_image(picture, to_uint8(grid(whole, across))[0])
    print(f"{args.number} faces of {loaded.name}; {args.output}")
    return 0
