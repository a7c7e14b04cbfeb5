"""What several verbs need."""

from pathlib import Path

EXIT_ERROR = 1  # nothing useful was done
EXIT_PARTLY = 2  # done, but some photographs or faces were not restored


OURS = {"datasets", "degradations", "models", "protocol"}  # keys of `run:`


def config_of(args):
    """The configuration: the file that is named, ./config.yaml, or the catalogue alone.

    A config.yaml that selects nothing under `run:` belongs to something else, as one does that is
    no configuration at all.
    """
    from frcore.config import ConfigError, catalogue_config, load_config, load_experiment

    here, given = Path("config.yaml"), getattr(args, "file", None) or args.config
    ours = is_ours(here)
    if given is None:
        return load_config(here) if ours else catalogue_config()
    if not given.exists():
        raise ConfigError([f"{given}: No such file or directory"])
    return load_experiment(given, here) if ours else load_config(given)


def is_ours(path: Path) -> bool:
    """Whether a file is a configuration of frcore, right or wrong."""
    from frcore.config import ConfigError, read_yaml

    try:
        selected = read_yaml(path).get("run") if path.is_file() else None
    except (ConfigError, ValueError, OSError, RecursionError):
        return False
    return isinstance(selected, dict) and not OURS.isdisjoint(selected)


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
