"""`frcore align` and `frcore degrade`: photographs -> faces -> degraded faces."""

import sys
from pathlib import Path

from frcore.cli.common import EXIT_PARTLY, config_of, root_of


def align(args) -> int:
    """Photographs -> OUT/faces/*.png, OUT/faces.csv, OUT/quarantine.csv."""
    import tempfile

    from frcore.config import ConfigError, Dataset, load_settings
    from frcore.faces import build, people
    from frcore.io.assets import locate
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
    if (out / "faces").exists() and not args.overwrite:
        raise FileExistsError(f"{out / 'faces'} exists: use --overwrite")
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.input
        if folder.is_file():  # the stage reads folders
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
        build.build_shard("align", dataset, 0, root, args.seed, out / "faces", *tables)
        summary = build.join_shards(
            "align", dataset, args.seed, tables[:1], tables[1:],
            out / "faces.csv", out / "quarantine.csv",
        )  # fmt: skip
    print(f"{summary}; {out / 'faces'}")
    return 0 if any((out / "faces").iterdir()) else EXIT_PARTLY


def degrade(args) -> int:
    """A folder of aligned PNG faces -> degraded ones of the same names."""
    from frcore.config import ConfigError
    from frcore.degrade.test_sets import degrade_folder
    from frcore.registry import nearest

    recipes = config_of(args).degradations
    if args.degradation not in recipes:
        known = nearest(args.degradation, recipes)
        raise ConfigError([f"--degradation: no entry {args.degradation!r} {known}"])
    faces = [(path.stem, path) for path in _pngs(args.input).values()]
    if args.output.exists() and not args.overwrite:
        raise FileExistsError(f"{args.output} exists: use --overwrite")
    table = args.output.with_name(f"{args.output.name}.csv")
    degrade_folder(
        faces,
        args.output,
        table,
        recipes[args.degradation],
        args.seed,
        args.dataset,
        args.degradation,
        progress=sys.stderr.isatty(),
    )
    print(f"{len(faces)} faces degraded; {args.output}, parameters in {table}")
    return 0


def _pngs(folder: Path) -> dict[str, Path]:
    """{stem: path} of the PNG files in `folder`; raises when there is none."""
    if not folder.is_dir():
        raise NotADirectoryError(f"no such folder: {folder}")
    found = {path.stem: path for path in sorted(folder.glob("*.png"))}
    if not found:
        raise FileNotFoundError(f"no PNG files in {folder}")
    return found
