"""What several verbs need."""

from pathlib import Path

EXIT_ERROR = 1  # nothing useful was done
EXIT_PARTLY = 2  # done, but some photographs or faces were not restored


def config_of(args):
    """The configuration: the file that is named, ./config.yaml, or the catalogue alone.

    A config.yaml without `run:` belongs to something else.
    """
    from frcore.config import catalogue_config, load_experiment, read_yaml

    given = getattr(args, "file", None) or args.config
    if given:
        return load_experiment(given)
    here = Path("config.yaml")
    if here.is_file() and "run" in read_yaml(here):
        return load_experiment(here)
    return catalogue_config()


def root_of(args) -> Path:
    from frcore.io.assets import resources_root

    return args.resources or resources_root()


def catalogue_of(args):
    from frcore.io.assets import catalogue

    return catalogue(config_of(args).assets)


def device_of(args):
    from frcore.device import pick_device

    return pick_device(args.device)


def print_table(rows: list[dict], columns: list[str]) -> None:
    shown = [[row.get(key) for key in columns] for row in rows]
    cells = [columns, *(["" if v is None else str(v) for v in line] for line in shown)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def progress(items, text):
    """`items` with a bar on a terminal, and only there."""
    from tqdm import tqdm

    return tqdm(items, desc=text, disable=None)
