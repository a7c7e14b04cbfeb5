"""`frcore align` and `frcore degrade`: photographs -> faces -> degraded faces."""

import os
import sys
from pathlib import Path

from frcore.cli.common import EXIT_PARTLY, config_of, root_of


def align(args) -> int:
    """Photographs -> OUT/faces/*.png, OUT/faces.csv, OUT/quarantine.csv."""
    import tempfile

    from frcore.config import ConfigError, Dataset, load_settings
    from frcore.faces import build, people
    from frcore.faces.listings import walk
    from frcore.io.assets import locate
    from frcore.io.outputs import folders_on_the_way, keep_apart, made
    from frcore.registry import nearest

    given = {
        key: getattr(args, key)
        for key in ("size", "crop_scale", "crop_shift", "people", "faces", "min_face", "max_yaw",
                    "detector", "enlarge")
        if getattr(args, key) is not None
    }  # fmt: skip
    base = {}
    if args.dataset:
        datasets = config_of(args).datasets
        if args.dataset not in datasets:
            known = nearest(args.dataset, datasets)
            raise ConfigError([f"--dataset: no entry {args.dataset!r} {known}"])
        base = datasets[args.dataset].model_dump(exclude={"limit", "people", "labels"})
    aligned = {"aligned": True} if args.aligned else {}
    fixed = {"source": "folder", "shards": 1}
    if args.aligned:  # maps from landmarks would need the detection that is to be left out
        fixed["labels"] = {"kind": "model", "model": "none"}
    root, out = root_of(args), args.output
    there = walk(args.input) if args.input.is_dir() else ()
    keep_apart(args.input, (out, out / "faces"), folders_on_the_way(args.input, there))
    files = [out / "faces.csv", out / "quarantine.csv"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.input
        if not folder.is_dir() and os.path.lexists(folder):  # the stage reads folders
            folder = Path(scratch) / "photo"
            folder.mkdir()
            (folder / args.input.name).symlink_to(args.input.absolute())
        values = {**base, **given, **aligned, **fixed, "path": str(folder)}
        dataset = load_settings(Dataset, values, "align: ")
        people.finder(dataset)  # a wrong table of people is told before the work
        if not dataset.aligned or dataset.labels.kind == "landmarks":
            for name in ("dlib_68", *(["dlib_mmod"] if dataset.detector == "mmod" else [])):
                locate(name, root)
        tables = [Path(scratch) / "faces.csv", Path(scratch) / "quarantine.csv"]
        with made(out, "frcore align", args.overwrite, "faces", files) as (part, parts):
            build.build_shard("align", dataset, 0, root, args.seed, part, *tables)
            summary = build.join_shards("align", dataset, args.seed, tables[:1], tables[1:], *parts)
            found = any(part.iterdir())
    print(f"{summary}; {out / 'faces'}")
    return 0 if found else EXIT_PARTLY


def degrade(args) -> int:
    """A folder of aligned PNG faces -> degraded ones of the same names."""
    from frcore.config import ConfigError
    from frcore.degrade.test_sets import degrade_folder
    from frcore.io.outputs import beside, keep_apart, made
    from frcore.registry import nearest

    recipes = config_of(args).degradations
    if args.degradation not in recipes:
        known = nearest(args.degradation, recipes)
        raise ConfigError([f"--degradation: no entry {args.degradation!r} {known}"])
    pngs, others = _pngs(args.input)
    keep_apart(args.input, (args.output,))
    table = beside(args.output, ".csv")
    with made(args.output, "frcore degrade", args.overwrite, files=[table]) as (part, [csv]):
        degrade_folder(
            list(pngs.items()),
            part,
            csv,
            recipes[args.degradation],
            args.seed,
            args.dataset,
            args.degradation,
            progress=sys.stderr.isatty(),
        )
    left = f" ({others} other files are no PNGs)" if others else ""
    print(f"{len(pngs)} faces degraded{left}; {args.output}, parameters in {table}")
    return 0


def _pngs(folder: Path) -> tuple[dict[str, Path], int]:
    """{stem: path} of the PNG files in `folder` and how many other files; hidden ones are neither.

    Raises when there is none, or two of one name.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"no such folder: {folder}")
    found: dict[str, Path] = {}
    shown = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    files = [path for path in shown if not path.is_dir()]
    for path in files:
        if path.suffix.lower() == ".png":
            if path.stem in found:
                raise ValueError(f"two images of one name: {found[path.stem]} and {path}")
            found[path.stem] = path
    if not found:
        raise FileNotFoundError(f"no PNG files in {folder}")
    return found, len(files) - len(found)
