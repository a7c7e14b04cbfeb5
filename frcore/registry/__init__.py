"""What exists: methods and metrics, read from the heads of their files."""

from frcore.registry.methods import (
    DATA,
    METHODS,
    NETS,
    MethodRow,
    add_methods_folder,
    default_of,
    load_method,
    nearest,
    settings_fields,
)
from frcore.registry.metrics import FEATURES, METRICS, MetricRow

__all__ = [
    "DATA",
    "FEATURES",
    "METHODS",
    "METRICS",
    "NETS",
    "MethodRow",
    "MetricRow",
    "add_methods_folder",
    "default_of",
    "load_method",
    "nearest",
    "settings_fields",
]
