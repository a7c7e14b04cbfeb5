"""The command line: everything here works on plain folders, without Snakemake.

Each verb is one function; heavy imports are inside, so that `frcore --help` is immediate.
"""

import argparse
import json
import os
import sys
from pathlib import Path

EXIT_ERROR = 1  # nothing useful was done
EXIT_PARTLY = 2  # done, but some photographs or faces were not restored
EXIT_INTERRUPTED = 130

EPILOG = """exit codes:
  0  all was done
  1  an error, one line on stderr; also wrong arguments
  2  done in part: photographs without a face, broken or failed ones; the table says which and why
"""

SAMPLES = (
    "N restorations of every photograph, for models that draw random numbers (default: 1): "
    "NAME_0.SUFFIX, NAME_1.SUFFIX, ...; faces/*_std.png shows the standard deviation of each pixel "
    "(white: sample_std_max_255 in restored.csv); sample_rms_255 is the mean over pairs of their "
    "root mean square difference, both on the scale 0 to 255; id_distance is the mean over samples"
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code. Expected errors are one line on stderr."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("frcore: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `frcore list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except Exception as error:
        if args.traceback or not _expected(error):
            raise
        for line in str(error).splitlines() or [type(error).__name__]:
            print(f"frcore: error: {line}", file=sys.stderr)
        return EXIT_ERROR


def _expected(error: Exception) -> bool:
    """Errors whose text is meant for the user; the others are mistakes of ours."""
    from frcore.assets import AssetError

    # ConfigError, RestoreError, WeightsError and BadImage are ValueErrors
    return isinstance(error, ValueError | OSError | AssetError)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        """Wrong arguments end with EXIT_ERROR: argparse's 2 means something else here."""
        self.print_usage(sys.stderr)
        self.exit(EXIT_ERROR, f"{self.prog}: error: {message}\n")


def make_parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    parser = _Parser(
        prog="frcore",
        description="Face restoration: train, restore and measure every method the same way.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name, run, text, parent=verbs, epilog=None):
        verb = parent.add_parser(
            name,
            help=text,
            description=text,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.set_defaults(run=run)
        verb.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
        verb.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
        verb.add_argument("--config", type=Path, help="default: ./config.yaml, else the project's")
        verb.add_argument("--traceback", action="store_true", help="show where an error arose")
        return verb

    group = verbs.add_parser("weights", help="pretrained parts: list, fetch, verify")
    parts = group.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("list", weights_list, "what there is, its licence and whether it is here"),
        ("fetch", weights_fetch, "fetch parts, checked by SHA-256; repeat to continue"),
        ("verify", weights_verify, "read every file again and compare its SHA-256"),
    ):
        verb = add(name, run, text, parts)
        verb.add_argument("names", nargs="*", metavar="NAME", help="default: all")
        verb.add_argument("--resources", type=Path, help="cache root; default: $FRCORE_RESOURCES")
        if name == "fetch":
            verb.add_argument("--discard", action="store_true", help="remove downloads afterwards")
        if name == "list":
            verb.add_argument("--format", choices=("text", "markdown", "csv"), default="text")
    verb = add("convert", weights_convert, "StyleGAN2 of rosinality or BasicSR -> a model", parts)
    verb.add_argument("source", type=Path, metavar="FILE", help="PyTorch file of either layout")
    verb.add_argument("--out", type=Path, required=True, metavar="NAME.safetensors")
    verb.add_argument("--discriminator", type=Path, metavar="FILE", help="if it has its own file")
    verb.add_argument("--overwrite", action="store_true")

    verb = add("list", list_all, "models, methods and metrics")
    verb.add_argument("--json", action="store_true")

    verb = add("align", align, "photographs -> aligned faces")
    _photos(verb)
    verb.add_argument("--dataset", help="take the frame and the rules of this config entry")
    verb.add_argument("--size", type=int, help="side of the aligned face, pixels (default: 64)")
    verb.add_argument("--crop-scale", type=float, help="1 is FFHQ's crop (default)")
    verb.add_argument("--crop-shift", type=float, help="default: 0.1, FFHQ's")
    verb.add_argument("--people", help="subfolder, file, none (default) or a CSV photo,person")
    verb.add_argument("--faces", choices=("largest", "all"))
    verb.add_argument("--min-face", type=int, help="smaller faces are left out, pixels")
    verb.add_argument("--max-yaw", type=float, help="faces turned further are left out, 0..1")
    verb.add_argument("--aligned", action="store_true", help="photographs are aligned: only resize")

    verb = add("degrade", degrade, "aligned faces -> degraded faces, parameters in OUT.csv")
    verb.add_argument("-i", "--input", type=Path, required=True, help="folder of PNG faces")
    verb.add_argument("-o", "--output", type=Path, required=True)
    verb.add_argument("--degradation", required=True, help="entry of `degradations:`")
    verb.add_argument("--dataset", default="folder", help="name that is part of every seed")
    verb.add_argument("--overwrite", action="store_true")

    verb = add("evaluate", evaluate, "measure restored images against their truth", epilog=EPILOG)
    verb.add_argument("--restored", type=Path, required=True, metavar="DIR")
    verb.add_argument("--truth", type=Path, required=True, metavar="DIR")
    how = verb.add_mutually_exclusive_group()
    how.add_argument("--metrics", help="names with commas; see `frcore list`")
    how.add_argument("--protocol", help="protocols/NAME.yaml")
    verb.add_argument("--out", type=Path, required=True, metavar="FILE.csv")
    verb.add_argument("--crop-scale", type=float, default=1.0, help="of the aligned faces")
    verb.add_argument("--crop-shift", type=float, default=0.1, help="of the aligned faces")
    verb.add_argument("--resources", type=Path, help="cache root; default: $FRCORE_RESOURCES")

    verb = add("restore", restore, "restore the faces of photographs", epilog=EPILOG)
    _photos(verb)
    verb.add_argument("--model", required=True, help="name, or a .safetensors file")
    verb.add_argument("--faces", default="all", help="all, largest, or numbers from left: 0,2")
    verb.add_argument("--scale", type=int, choices=(1, 2, 4), default=1)
    verb.add_argument("--aligned", action="store_true", help="photographs are aligned faces")
    verb.add_argument("--strength", type=float, default=1.0, help="0 keeps the face, 1 restores it")
    verb.add_argument("--strip-metadata", action="store_true", help="no EXIF (place, date) in OUT")
    verb.add_argument("--min-face", type=int, default=0, help="smaller faces are kept, pixels")
    verb.add_argument("--batch", type=int, default=16, help="faces at once (default: 16)")
    verb.add_argument("--samples", type=int, default=1, metavar="N", help=SAMPLES)

    verb = add("sample", sample, "faces that a generative model makes, and a sheet of them")
    verb.add_argument("--model", required=True, help="name, or a .safetensors file")
    verb.add_argument("-o", "--output", type=Path, required=True, help="folder")
    verb.add_argument("-n", "--number", type=int, default=100, help="default: 100")
    verb.add_argument("--truncation", type=float, default=0.7, help="1: all of them; 0: the mean")
    verb.add_argument("--overwrite", action="store_true")

    verb = add("check", check, "check a configuration with the settings of every method")
    verb.add_argument("file", nargs="?", type=Path, metavar="CONFIG")
    return parser


def _photos(verb) -> None:
    verb.add_argument("-i", "--input", type=Path, required=True, help="photograph or folder")
    verb.add_argument("-o", "--output", type=Path, required=True, help="folder")
    verb.add_argument("--detector", choices=("hog", "mmod"), default=None)
    verb.add_argument("--enlarge", type=int, help="for small faces: enlarge before detection")
    verb.add_argument("--overwrite", action="store_true")
    verb.add_argument("--resources", type=Path, help="cache root; default: $FRCORE_RESOURCES")


# ---- what several verbs need


def _config(args, needed: bool = True):
    """The configuration, or None when there is none and none is needed."""
    from frcore.config import ROOT, ConfigError, load_experiment

    given = getattr(args, "file", None) or args.config
    places = [given] if given else [Path("config.yaml"), ROOT / "config.yaml"]
    for place in places:
        if place.is_file():
            return load_experiment(place)
    if needed or given:
        raise ConfigError([f"no configuration: {', '.join(str(place) for place in places)}"])
    return None


def _root(args) -> Path:
    from frcore.assets import resources_root

    return args.resources or resources_root()


def _catalogue(args):
    from frcore.assets import catalogue

    config = _config(args, needed=False)
    return catalogue(config.assets if config else None)


def _device(args):
    from frcore.device import pick_device

    return pick_device(args.device)


def _print_table(rows: list[dict], columns: list[str]) -> None:
    cells = [columns, *([str(row.get(key, "")) for key in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def _progress(items, text):
    """`items` with a bar on a terminal, and only there."""
    from tqdm import tqdm

    return tqdm(items, desc=text, disable=None)


# ---- weights


def weights_list(args) -> int:
    """Print the catalogue."""
    from frcore import assets

    entries, root = _catalogue(args), _root(args)
    names = args.names or list(entries)
    if args.format != "text":
        print(assets.licence_table(names, root, entries, args.format), end="")
        return 0
    rows = []
    for name in names:
        path = assets.place(name, root, entries)
        entry = entries[name]
        rows.append(
            {
                "name": name,
                "here": "yes" if path.exists() else "no",
                "MB": f"{entry.size / 1e6:.1f}" if entry.size else "?",
                "licence": entry.licence,
                "what": entry.what,
            }
        )
    _print_table(rows, ["name", "here", "MB", "licence", "what"])
    print(f"cache: {root.absolute()}")
    return 0


def weights_fetch(args) -> int:
    """Fetch the named assets, or all that can be fetched."""
    from frcore import assets

    entries, root = _catalogue(args), _root(args)
    fetchable = [n for n, entry in entries.items() if entry.package or entry.url or entry.path]
    failed = []
    for name in _progress(args.names or fetchable, "fetch"):
        try:
            print(f"{name}: {assets.fetch(name, root, entries)}")
        except assets.AssetError as error:  # the others may well be had
            failed.append(name)
            print(f"frcore: error: {error}", file=sys.stderr)
    if args.discard:
        print(f"downloads removed: {assets.discard_downloads(root) / 1e6:.0f} MB")
    return EXIT_ERROR if failed else 0


def weights_verify(args) -> int:
    """Compare the SHA-256 of every file; missing ones are an error only when named."""
    from frcore import assets

    entries = _catalogue(args)
    for name in args.names:
        assets.place(name, ".", entries)  # raises for an unknown one
    chosen = {name: entries[name] for name in args.names or entries}
    rows = assets.verify(_root(args), chosen)
    _print_table(rows, ["asset", "status", "file"])
    bad = [row for row in rows if row["status"] == "wrong" or (args.names and not row["got"])]
    for row in bad:
        got = f"SHA-256 is {row['got']}, expected {row['expected']}" if row["got"] else "missing"
        print(f"frcore: error: {row['file']}: {got}", file=sys.stderr)
    counts = [f"{sum(r['status'] == s for r in rows)} {s}" for s in ("ok", "wrong", "missing")]
    print(", ".join(counts))
    return EXIT_ERROR if bad else 0


def weights_convert(args) -> int:
    """A StyleGAN2 of another project -> a weights file of the method stylegan2."""
    from frcore.convert import convert_file

    if args.out.suffix != ".safetensors":
        raise ValueError(f"--out must end in .safetensors, got {args.out}")
    if args.out.exists() and not args.overwrite:
        raise FileExistsError(f"{args.out} exists: use --overwrite")
    card = convert_file(args.source, args.out, args.discriminator)
    print(
        f"{' and '.join(card['networks'])} of {card['size']} px, {card['parameters']:,} "
        f"parameters, from {card['source_layout']}'s layout; {args.out}"
    )
    return 0


# ---- list, check


def list_all(args) -> int:
    """Models of the configuration and of weights/, methods and metrics."""
    config = _config(args, needed=False)
    listing = {"models": _models(config), "methods": _methods(), "metrics": _metrics()}
    if args.json:
        print(json.dumps(listing, indent=2))
        return 0
    print("models")
    _print_table(listing["models"], ["name", "method", "size", "parameters", "weights", "title"])
    print("\nmethods")
    columns = ["name", "kind", "trained", "data", "parameters", "helpers", "title"]
    _print_table(listing["methods"], columns)
    print("\nmetrics")
    _print_table(listing["metrics"], ["name", "kind", "better", "truth", "min_side", "what"])
    return 0


def _models(config) -> list[dict]:
    from frcore.checkpoint import read_card
    from frcore.config import ROOT
    from frcore.restore import find_weights

    rows = []
    results = getattr(config, "results", "results")
    for name, entry in config.models.items() if config else ():
        path = find_weights(name, config, results=results)
        row = {"name": name, "method": entry.method, "title": entry.title or ""}
        row["parameters"], size = _parameters(entry.method, entry.settings)
        rows.append({**row, "size": size, "weights": str(path) if path else "none"})
    known = {row["name"] for row in rows}
    for path in sorted((ROOT / "weights").glob("*.safetensors")):
        if path.stem not in known:
            card = read_card(path)
            parameters, size = _parameters(card["method"], card["settings"])
            row = {"name": path.stem, "method": card["method"], "title": "", "size": size}
            rows.append({**row, "parameters": parameters, "weights": str(path)})
    return rows


def _methods() -> list[dict]:
    from frcore.registry import METHODS

    rows = []
    for name, row in METHODS.items():
        parameters, _ = _parameters(name, {})
        rows.append(
            {
                "name": name,
                "title": row.title,
                "kind": row.role,
                "trained": "yes" if row.trained else "no",
                "data": row.data,
                "parameters": parameters,
                "helpers": ",".join(row.roles),
                "paper": row.paper,
            }
        )
    return rows


def _metrics() -> list[dict]:
    from frcore.registry import METRICS

    better = {True: "higher", False: "lower", None: ""}
    return [
        {
            "name": name,
            "title": row.title,
            "kind": row.kind,
            "better": better[row.higher_is_better],
            "truth": "yes" if row.needs_truth else "no",
            "assets": ",".join(row.assets),
            "min_side": row.min_side,
            "unit": row.unit,
            "what": row.what,
        }
        for name, row in METRICS.items()
    ]


def _parameters(method: str, settings) -> tuple[int, int | str]:
    """Parameters of the network that restores, and the side of its faces ("" when it has none)."""
    from frcore.config import load_settings
    from frcore.registry import load_method

    module = load_method(method)
    checked = load_settings(module.Settings, settings, f"{method}.settings.")
    # not on the meta device: spectral norm's power iterations take 100 times longer there
    model = module.build(checked)
    count = sum(item.numel() for item in model.parameters()) if model is not None else 0
    return count, getattr(checked, "size", "")


def check(args) -> int:
    """The whole configuration: keys, names, protocol, catalogue, settings of each method."""
    from frcore.assets import catalogue
    from frcore.config import ConfigError, load_protocol
    from frcore.restore import config_mistakes

    config = _config(args)
    mistakes = []
    for part in (
        lambda: load_protocol(config.run.protocol),
        lambda: catalogue(config.assets),
    ):
        try:
            part()
        except ConfigError as error:
            mistakes += error.mistakes
    mistakes += config_mistakes(config)
    if mistakes:
        raise ConfigError(mistakes)
    print(
        f"ok: {len(config.models)} models, {len(config.datasets)} datasets, "
        f"{len(config.degradations)} degradations; selected {len(config.run.models)} models on "
        f"{len(config.run.datasets)} datasets, protocol {config.run.protocol}"
    )
    return 0


# ---- align, degrade


def align(args) -> int:
    """Photographs -> OUT/faces/*.png, OUT/faces.csv, OUT/quarantine.csv."""
    import tempfile

    from frcore.assets import locate
    from frcore.config import ConfigError, Dataset, load_settings
    from frcore.faces import build, people
    from frcore.registry import nearest

    given = {
        key: getattr(args, key)
        for key in ("size", "crop_scale", "crop_shift", "people", "faces", "min_face", "max_yaw",
                    "detector", "enlarge")
        if getattr(args, key) is not None
    }  # fmt: skip
    base = {}
    if args.dataset:
        datasets = _config(args).datasets
        if args.dataset not in datasets:
            known = nearest(args.dataset, datasets)
            raise ConfigError([f"--dataset: no entry {args.dataset!r} {known}"])
        base = datasets[args.dataset].model_dump(exclude={"limit", "people", "labels"})
    aligned = {"aligned": True} if args.aligned else {}
    fixed = {"source": "folder", "shards": 1}
    if args.aligned:  # maps from landmarks would need the detection that is to be left out
        fixed["labels"] = {"kind": "model", "model": "none"}
    root, out = _root(args), args.output
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
    from frcore.degrade import degrade_folder
    from frcore.registry import nearest

    recipes = _config(args).degradations
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


# ---- restore


def restore(args) -> int:
    """Photographs -> restored photographs."""
    from frcore import restore as restoring
    from frcore.registry import METHODS

    options = restoring.PhotoOptions(
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
    config, device = _config(args, needed=False), _device(args)
    results = getattr(config, "results", "results")
    restorer = restoring.load_model(args.model, device, config, results=results)
    if METHODS[restorer.card["method"]].generative:
        raise ValueError(f"{restorer.name} makes faces and restores none: use frcore sample")
    source = restorer.path or "no weights needed"
    print(f"{restorer.name} ({source}), {restorer.size} px faces, on {device}")
    counts = restoring.restore_photos(
        args.input, args.output, restorer, options, _root(args), args.batch, args.overwrite
    )
    text = f"{counts['restored']} of {counts['photos']} photographs restored"
    text += f" in {options.samples} ways each" * (options.samples > 1)
    text += f" ({counts['faces']} faces; {counts['kept']} photographs done before)"
    if counts["failed"] or counts["unrestored"]:
        text += f", {counts['unrestored']} not restored, {counts['failed']} failures"
    print(f"{text}; see {args.output / 'restored.csv'}")
    return EXIT_PARTLY if counts["failed"] or counts["unrestored"] else 0


# ---- sample


def sample(args) -> int:
    """Faces of a generative model as OUT/000000.png, ..., and OUT.png with up to 100 of them."""
    import torch

    from frcore.images import atomic_output, to_uint8, write_image
    from frcore.registry import METHODS
    from frcore.restore import load_model
    from frcore.seeds import torch_generator
    from frcore.train import grid

    config = _config(args, needed=False)
    if args.number < 1:
        raise ValueError(f"-n must be 1 or more, got {args.number}")
    if args.output.exists() and not args.overwrite:
        raise FileExistsError(f"{args.output} exists: use --overwrite")
    results = config.results if config else "results"
    loaded = load_model(args.model, _device(args), config, results=results)
    if not METHODS[loaded.card["method"]].generative:
        raise ValueError(f"{loaded.name} restores faces and makes none: use frcore restore")
    generator, sheet = torch_generator(args.seed, "sample"), []
    with atomic_output(args.output, folder=True) as part:
        for start in _progress(range(0, args.number, 50), "sample"):
            n = min(50, args.number - start)
            images = loaded.module.sample(loaded.model, n, generator, args.truncation).cpu()
            for place, pixels in enumerate(to_uint8(images), start):
                write_image(part / f"{place:06d}.png", pixels)
            sheet.append(images[: max(0, 100 - start)])
    sheet = torch.cat(sheet)
    across = min(10, len(sheet))
    whole = sheet[: len(sheet) // across * across]
    write_image(args.output.with_name(f"{args.output.name}.png"), to_uint8(grid(whole, across))[0])
    print(f"{args.number} faces of {loaded.name}; {args.output}")
    return 0


# ---- evaluate


def evaluate(args) -> int:
    """Two folders, paired by stem -> OUT.csv (a row per metric) and OUT.images.csv (per image)."""
    from frcore.config import Protocol, load_protocol, load_settings
    from frcore.metrics import score
    from frcore.registry import METRICS

    pairs = pair_by_stem(args.restored, args.truth)
    side = min(_size(next(iter(pairs.values()))[1]))
    if args.protocol:
        protocol, name = load_protocol(args.protocol), args.protocol
        if protocol.reference != "truth":
            raise ValueError(f"protocol {name} compares with training faces: not from two folders")
        if protocol.size != side:
            raise ValueError(f"protocol {name} measures {protocol.size} px, images have {side} px")
    else:
        metrics = args.metrics.split(",") if args.metrics else list(METRICS)
        values = {"title": "frcore evaluate", "metrics": metrics, "size": side}
        protocol, name = load_settings(Protocol, values, "--metrics: "), "none"
    root = _root(args)
    entries = _catalogue(args)
    needed = {asset for metric in protocol.metrics for asset in METRICS[metric].assets}
    device = _device(args)
    nets = score.load_nets(_present(needed, root, entries), protocol.metrics, device)
    frame = {"crop_scale": args.crop_scale, "crop_shift": args.crop_shift}
    single = [metric for metric in protocol.metrics if METRICS[metric].kind == "image"]
    of_set = [metric for metric in protocol.metrics if METRICS[metric].kind == "set"]

    rows, features = [], ([], [])
    groups = _groups(pairs, 64)
    for ids in _progress(groups, "evaluate"):
        both = [_read_pairs(pairs, ids, which, protocol.crop) for which in (0, 1)]
        rows += score.score_images(*both, ids, single, nets, **frame)
        for kept, images in zip(features, both):
            kept.append(score.set_features(images, of_set, nets, **frame))
    order = [name for ids in groups for name in ids]
    found, wanted = (_joined(parts) for parts in features)
    # metrics that compare with training faces stay empty: there are none here
    truth = score.TruthFeatures(tuple(order), wanted, score.statistics_of(wanted))
    summary = score.summarise(rows, args.seed, protocol.bootstrap)
    summary += score.score_set(order, found, truth, of_set, args.seed)
    for row in summary:
        row |= {"protocol": name, "protocol_digest": protocol.digest(), "seed": args.seed}
        if METRICS[row["metric"]].square:  # aligned frames
            crop = f"crop_scale {args.crop_scale:g}, crop_shift {args.crop_shift:g}"
            row["note"] = "; ".join(text for text in (row["note"], crop) if text)

    per_image = args.out.with_name(f"{args.out.stem}.images{args.out.suffix}")
    columns = ["metric", "value", "n", "ci_low", "ci_high", "protocol", "protocol_digest", "seed"]
    _write_csv(args.out, summary, [*columns, "note"])
    _write_csv(per_image, rows, ["id", "metric", "value", "note"])
    shown = [{**row, "value": _number(row["value"])} for row in summary]
    _print_table(shown, ["metric", "value", "n", "note"])
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
    from frcore.assets import AssetBroken, AssetMissing, locate

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
    from frcore.images import read_photo

    return read_photo(path).size


def _groups(pairs, most: int) -> list[list[str]]:
    """Stems in groups of equal size, `most` in each; raises where a pair differs in size."""
    by_size: dict[tuple, list[str]] = {}
    for stem, (restored, truth) in pairs.items():
        size = _size(restored)
        if size != _size(truth):
            raise ValueError(f"{restored} has {size} px, its truth {_size(truth)}")
        by_size.setdefault(size, []).append(stem)
    return [
        stems[start : start + most]
        for stems in by_size.values()
        for start in range(0, len(stems), most)
    ]


def _read_pairs(pairs, stems, which: int, crop: int):
    """Restored (0) or true (1) images of `stems`, N x 3 x H x W in [0, 1], without `crop` px."""
    import numpy as np

    from frcore.images import read_image, to_float

    images = to_float(np.stack([read_image(pairs[stem][which]) for stem in stems]))
    return images[..., crop : images.shape[-2] - crop, crop : images.shape[-1] - crop]


def _joined(parts: list[dict]) -> dict:
    """Features of all groups, where every group has them (small images have none of NIQE's)."""
    import numpy as np

    keys = set.intersection(*(set(part) for part in parts))
    return {key: np.concatenate([part[key] for part in parts]) for key in sorted(keys)}


def _number(value) -> str:
    return "" if value is None else f"{value:.5g}"


def _write_csv(path: Path, rows: list[dict], columns: list[str]) -> None:
    from frcore.tables import write_table

    write_table(path, columns, rows)
