"""The command line: everything here works on plain folders, without Snakemake.

Each verb is one function; heavy imports are inside, so that `frcore --help` is immediate.
"""

import argparse
import io
import os
import sys
from pathlib import Path

from frcore.cli.common import EXIT_ERROR
from frcore.cli.evaluate import evaluate
from frcore.cli.faces import align, degrade
from frcore.cli.listing import check, list_all
from frcore.cli.restore import restore, sample
from frcore.cli.weights import weights_convert, weights_fetch, weights_list, weights_verify

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
    _clean_surroundings()
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


# of notebooks and clusters: a backend for figures that this Python lacks, the place of a process
# among those of a training. A command is one process and shows no figure.
_FOREIGN = ("MPLBACKEND", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def _clean_surroundings() -> None:
    for name in _FOREIGN:
        os.environ.pop(name, None)
    for stream in (sys.stdout, sys.stderr):  # a name that they cannot show ends no command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _expected(error: Exception) -> bool:
    """Errors whose text is meant for the user; the others are mistakes of ours."""
    from frcore.io.assets import AssetError

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

    _weights_verbs(verbs)
    _listing_verbs(verbs)
    _face_verbs(verbs)
    _restoring_verbs(verbs)
    return parser


def _add(parent, name, run, text, epilog=None):
    """A verb with the options that all have."""
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
    verb.add_argument("--config", type=Path, help="default: ./config.yaml, else none")
    verb.add_argument("--traceback", action="store_true", help="show where an error arose")
    return verb


def _weights_verbs(verbs) -> None:
    """Pretrained parts."""
    group = verbs.add_parser("weights", help="pretrained parts: list, fetch, verify")
    parts = group.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("list", weights_list, "what there is, its licence and whether it is here"),
        ("fetch", weights_fetch, "fetch parts, checked by SHA-256; repeat to continue"),
        ("verify", weights_verify, "read every file again and compare its SHA-256"),
    ):
        verb = _add(parts, name, run, text)
        verb.add_argument("names", nargs="*", metavar="NAME", help="default: all")
        verb.add_argument("--resources", type=Path, help="cache root; default: $FRCORE_RESOURCES")
        if name == "fetch":
            verb.add_argument("--discard", action="store_true", help="remove downloads afterwards")
        if name == "list":
            verb.add_argument("--format", choices=("text", "markdown", "csv"), default="text")
    verb = _add(parts, "convert", weights_convert, "StyleGAN2 of rosinality or BasicSR -> a model")
    verb.add_argument("source", type=Path, metavar="FILE", help="PyTorch file of either layout")
    verb.add_argument("--out", type=Path, required=True, metavar="NAME.safetensors")
    verb.add_argument("--discriminator", type=Path, metavar="FILE", help="if it has its own file")
    verb.add_argument("--overwrite", action="store_true")


def _listing_verbs(verbs) -> None:
    """What there is, and whether a configuration is right."""
    verb = _add(verbs, "list", list_all, "models, methods and metrics")
    verb.add_argument("--json", action="store_true")

    verb = _add(verbs, "check", check, "check a configuration with the settings of every method")
    verb.add_argument("file", nargs="?", type=Path, metavar="CONFIG")


def _face_verbs(verbs) -> None:
    """Photographs -> faces -> degraded faces."""
    verb = _add(verbs, "align", align, "photographs -> aligned faces")
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

    verb = _add(verbs, "degrade", degrade, "aligned faces -> degraded faces, parameters in OUT.csv")
    verb.add_argument("-i", "--input", type=Path, required=True, help="folder of PNG faces")
    verb.add_argument("-o", "--output", type=Path, required=True)
    verb.add_argument("--degradation", required=True, help="entry of `degradations:`")
    verb.add_argument("--dataset", default="folder", help="name that is part of every seed")
    verb.add_argument("--overwrite", action="store_true")


def _restoring_verbs(verbs) -> None:
    """Restoring, making and measuring faces."""
    verb = _add(
        verbs, "evaluate", evaluate, "measure restored images against their truth", epilog=EPILOG
    )
    verb.add_argument("--restored", type=Path, required=True, metavar="DIR")
    verb.add_argument("--truth", type=Path, required=True, metavar="DIR")
    how = verb.add_mutually_exclusive_group()
    how.add_argument("--metrics", help="names with commas; see `frcore list`")
    how.add_argument("--protocol", help="protocols/NAME.yaml")
    verb.add_argument("--out", type=Path, required=True, metavar="FILE.csv")
    verb.add_argument("--crop-scale", type=float, default=1.0, help="of the aligned faces")
    verb.add_argument("--crop-shift", type=float, default=0.1, help="of the aligned faces")
    verb.add_argument("--resources", type=Path, help="cache root; default: $FRCORE_RESOURCES")

    verb = _add(verbs, "restore", restore, "restore the faces of photographs", epilog=EPILOG)
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

    verb = _add(verbs, "sample", sample, "faces that a generative model makes, and a sheet of them")
    verb.add_argument("--model", required=True, help="name, or a .safetensors file")
    verb.add_argument("-o", "--output", type=Path, required=True, help="folder")
    verb.add_argument("-n", "--number", type=int, default=100, help="default: 100")
    verb.add_argument("--truncation", type=float, default=0.7, help="1: all of them; 0: the mean")
    verb.add_argument("--overwrite", action="store_true")


def _photos(verb) -> None:
    verb.add_argument("-i", "--input", type=Path, required=True, help="photograph or folder")
    verb.add_argument("-o", "--output", type=Path, required=True, help="folder")
    verb.add_argument("--detector", choices=("hog", "mmod"), default=None)
    verb.add_argument("--enlarge", type=int, help="for small faces: enlarge before detection")
    verb.add_argument("--overwrite", action="store_true")
    verb.add_argument("--resources", type=Path, help="cache root; default: $FRCORE_RESOURCES")
