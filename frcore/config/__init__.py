"""config.yaml -> frozen models, checked once and strictly. Imports no torch.

Configuration = catalogue (frcore/catalogue: datasets, degradations, models, figures, assets) with a
project's own entries over it + selection (lists under `run:`). Every error is found in one go; each
is one line that names the key.
"""

from frcore.config.experiment import Config, add_folders
from frcore.config.load import (
    CATALOGUE,
    catalogue_config,
    files_of,
    load_config,
    load_experiment,
    load_protocol,
    load_settings,
    merge,
    parse,
    placed,
    project_file,
    read_yaml,
    with_catalogue,
)
from frcore.config.schema import (
    DEFAULTS,
    LEAST_LEFT,
    RAMP,
    Asset,
    ConfigError,
    Dataset,
    Figure,
    Labels,
    Model,
    Name,
    Protocol,
    Restoring,
    Run,
    Split,
    Strict,
    Train,
    TrainStage,
)

__all__ = [
    "CATALOGUE",
    "DEFAULTS",
    "LEAST_LEFT",
    "RAMP",
    "Asset",
    "Config",
    "ConfigError",
    "Dataset",
    "Figure",
    "Labels",
    "Model",
    "Name",
    "Protocol",
    "Restoring",
    "Run",
    "Split",
    "Strict",
    "Train",
    "TrainStage",
    "add_folders",
    "catalogue_config",
    "files_of",
    "load_config",
    "load_experiment",
    "load_protocol",
    "load_settings",
    "merge",
    "parse",
    "placed",
    "project_file",
    "read_yaml",
    "with_catalogue",
]
