"""`frcore evaluate`: two folders of images -> scores."""

from pathlib import Path

from frcore.cli.common import catalogue_of, device_of, print_table, progress, root_of

COLUMNS = [
    *("metric", "value", "n", "ci_low", "ci_high", "protocol", "protocol_digest", "seed"),
    "note",
]
IMAGE_COLUMNS = ["id", "metric", "value", "note"]


def evaluate(args) -> int:
    """Two folders, paired by stem -> OUT.csv (a row per metric) and OUT.images.csv (per image)."""
    from frcore.config import Protocol, load_protocol, load_settings
    from frcore.io.outputs import check_table, check_writable
    from frcore.metrics import score
    from frcore.registry import METRICS

    per_image = args.out.with_name(f"{args.out.stem}.images{args.out.suffix}")
    check_table(args.out, COLUMNS[:5])
    check_table(per_image, IMAGE_COLUMNS)
    check_writable(args.out.parent)
    pairs = pair_by_stem(args.restored, args.truth)
    groups, sizes = _groups(pairs, 64)
    side = min(next(iter(sizes.values())))
    if args.protocol:
        protocol, name = load_protocol(args.protocol), args.protocol
        if protocol.reference != "truth":
            raise ValueError(f"protocol {name} compares with training faces: not from two folders")
        for stem, size in sizes.items():
            if min(size) != protocol.size:
                given = f"{pairs[stem][1]} has {size[0]}x{size[1]}"
                raise ValueError(f"protocol {name} measures {protocol.size} px, {given}")
    else:
        metrics = args.metrics.split(",") if args.metrics else list(METRICS)
        values = {"title": "frcore evaluate", "metrics": metrics, "size": side}
        protocol, name = load_settings(Protocol, values, "--metrics: "), "none"
    root = root_of(args)
    entries = catalogue_of(args)
    needed = {asset for metric in protocol.metrics for asset in METRICS[metric].assets}
    device = device_of(args)
    nets = score.load_nets(_present(needed, root, entries), protocol.metrics, device)
    frame = {"crop_scale": args.crop_scale, "crop_shift": args.crop_shift}
    single = [metric for metric in protocol.metrics if METRICS[metric].kind == "image"]
    of_set = [metric for metric in protocol.metrics if METRICS[metric].kind == "set"]

    rows: list[dict] = []
    features: tuple[list, list] = ([], [])
    for ids in progress(groups, "evaluate"):
        both = [_read_pairs(pairs, ids, which, protocol.crop) for which in (0, 1)]
        rows += score.score_images(both[0], both[1], ids, single, nets, **frame)
        for kept, images in zip(features, both):
            kept.append(score.set_features(images, of_set, nets, **frame))
    order = [name for ids in groups for name in ids]
    (found, mixed), (wanted, _) = (_joined(parts) for parts in features)
    # metrics that compare with training faces stay empty: there are none here
    truth = score.TruthFeatures(tuple(order), wanted, score.statistics_of(wanted))
    summary = score.summarise(rows, args.seed, protocol.bootstrap)
    summary += score.score_set(order, found, truth, of_set, args.seed)
    for row in summary:
        if METRICS[row["metric"]].features in mixed and row["value"] is None:
            row["note"] = f"needs images of one size, {len(set(sizes.values()))} were given"
        row |= {"protocol": name, "protocol_digest": protocol.digest(), "seed": args.seed}
        if METRICS[row["metric"]].square:  # aligned frames
            crop = f"crop_scale {args.crop_scale:g}, crop_shift {args.crop_shift:g}"
            row["note"] = "; ".join(text for text in (row["note"], crop) if text)

    _write_csv(args.out, summary, COLUMNS)
    _write_csv(per_image, rows, IMAGE_COLUMNS)
    shown = [{**row, "value": shown_number(row["value"])} for row in summary]
    print_table(shown, ["metric", "value", "n", "note"])
    print(f"{len(pairs)} pairs on {device}; {args.out}, {per_image}")
    return 0


def pair_by_stem(restored: Path, truth: Path) -> dict[str, tuple[Path, Path]]:
    """{stem: (restored, truth)} of two folders, sorted; subfolders are not read.

    Raises ValueError naming what is missing, extra or there twice in one folder.
    """
    from frcore.faces.listings import PHOTO_SUFFIXES

    found: list[dict[str, Path]] = []
    for folder in (restored, truth):
        if not folder.is_dir():
            raise NotADirectoryError(f"no such folder: {folder}")
        files: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith("."):
                if path.stem in files:
                    raise ValueError(f"two images of one name: {files[path.stem]} and {path}")
                files[path.stem] = path
        found.append(files)
    problems = []
    for text, names in (
        (f"missing in {restored}", found[1].keys() - found[0].keys()),
        (f"without truth in {truth}", found[0].keys() - found[1].keys()),
    ):
        if names:
            more = ", ..." if len(names) > 5 else ""
            problems.append(f"{len(names)} {text}: {', '.join(sorted(names)[:5])}{more}")
    if problems:
        raise ValueError("images do not pair: " + "; ".join(problems))
    if not found[0]:
        raise FileNotFoundError(f"no images in {restored}")
    return {stem: (found[0][stem], found[1][stem]) for stem in sorted(found[0])}


def _present(names, root, entries) -> dict[str, Path]:
    """Checked files of those assets that are here; a metric without its net has an empty value."""
    from frcore.io.assets import AssetBroken, AssetMissing, locate

    paths = {}
    for name in sorted(names):
        try:
            paths[name] = locate(name, root, entries)
        except AssetBroken:  # there, but not what it should be: never measured with
            raise
        except AssetMissing:
            continue
    return paths


def _size(path: Path) -> tuple[int, int]:
    from frcore.io.images import read_photo

    return read_photo(path).size


def _groups(pairs, most: int) -> tuple[list[list[str]], dict[str, tuple[int, int]]]:
    """Stems in groups of equal size, `most` in each, and {stem: size of its pair}.

    Raises ValueError where a pair differs in size.
    """
    by_size: dict[tuple, list[str]] = {}
    sizes = {}
    for stem, (restored, truth) in pairs.items():
        sizes[stem] = _size(restored)
        if sizes[stem] != _size(truth):
            raise ValueError(f"{restored} has {sizes[stem]} px, its truth {_size(truth)}")
        by_size.setdefault(sizes[stem], []).append(stem)
    groups = [
        stems[start : start + most]
        for stems in by_size.values()
        for start in range(0, len(stems), most)
    ]
    return groups, sizes


def _read_pairs(pairs, stems, which: int, crop: int):
    """Restored (0) or true (1) images of `stems`, N x 3 x H x W in [0, 1], without `crop` px."""
    import numpy as np

    from frcore.io.images import read_image, to_float

    images = to_float(np.stack([read_image(pairs[stem][which]) for stem in stems]))
    return images[..., crop : images.shape[-2] - crop, crop : images.shape[-1] - crop]


def _joined(parts: list[dict]) -> tuple[dict, set[str]]:
    """Features of all groups, where every group has them (small images have none of NIQE's).

    Those that are larger for larger images cannot be joined where sizes are mixed: their names.
    """
    import numpy as np

    keys = set.intersection(*(set(part) for part in parts))
    mixed = {key for key in keys if len({part[key].shape[1:] for part in parts}) > 1}
    joined = {key: np.concatenate([part[key] for part in parts]) for key in sorted(keys - mixed)}
    return joined, mixed


def shown_number(value) -> str:
    return "" if value is None else f"{value:.5g}"


def _write_csv(path: Path, rows: list[dict], columns: list[str]) -> None:
    from frcore.io.tables import write_table

    write_table(path, columns, rows)
