"""Kinds of values that settings are made of; a value outside of its kind is a mistake. No torch.

Numbers have a range wide enough for any use and narrow enough that a slip of the hand is seen:
`batch: 1000000000` is one. Two marks say what a setting has to do with another entry: `Entry` of a
setting that names one, `SameAs` of one that must be as that entry's.
"""

import os
from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field

from frcore.degrade.steps import different

Items = TypeVar("Items", bound=tuple)

# nets that a perceptual loss can look through: frcore.frozen.perceptual.NETS
PERCEPTUAL = ("mobilenet_v2", "vgg16", "vgg19")


@dataclass(frozen=True)
class Entry:
    """Of a setting that names an entry under `models:`: what that entry has to be.

    kind: parser (predicts parsing maps) or prior (makes faces from nothing). A training needs one;
    where: only if this setting is true.
    """

    kind: str
    where: str = ""


@dataclass(frozen=True)
class SameAs:
    """Of a setting that must have the value of its namesake in the entry that `role` names."""

    role: str


def power_of_two(value: int) -> int:
    if value < 1 or value & (value - 1):
        raise ValueError("expected a power of two")
    return value


def at_least_one_channel(settings, *bases: str):
    """`settings` itself; ValueError where base // size of a net leaves its largest side without."""
    for name in bases:
        if getattr(settings, name) < settings.size:
            raise ValueError(f"{name}: expected {settings.size} (the size) or more")
    return settings


Different = Annotated[Items, AfterValidator(different)]

Count = Annotated[int, Field(ge=1, le=10**12)]  # of images, steps
Whole = Annotated[int, Field(ge=0, le=10**12)]  # the same, none included
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Width = Annotated[int, Field(ge=1, le=10**6)]  # of layers: channels, codes, lengths of vectors
Depth = Annotated[int, Field(ge=1, le=100)]  # of nets: layers, blocks
Halvings = Annotated[int, Field(ge=0, le=12)]
PowerOfTwo = Annotated[int, Field(ge=1, le=2**20), AfterValidator(power_of_two)]
Side = Annotated[PowerOfTwo, Field(ge=8, le=1024)]  # px, of nets that halve it down to 4
AnySide = Annotated[int, Field(ge=8, le=4096)]  # px
Classes = Annotated[int, Field(ge=2, le=256)]  # of a parsing map
Batch = Annotated[int, Field(ge=1, le=100_000)]
Weight = Annotated[float, Field(ge=0, le=1e9)]  # of a part of a loss
Rate = Annotated[float, Field(gt=0, le=1)]  # of learning
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # of a moving average
Betas = tuple[Decay, Decay]  # of Adam


def plain_folder(path: str) -> str:
    """A folder's path as it may stand in rules: Snakemake reads braces as wildcards."""
    if not path.strip():
        raise ValueError("expected a folder")
    if path != path.strip() or not path.isprintable():
        raise ValueError("a path without control characters, or spaces at its ends, is expected")
    if set(path) & set("{}"):
        raise ValueError("a path cannot have braces: Snakemake takes them for wildcards")
    if path.startswith(("~", "$")):
        raise ValueError("write the whole path: ~ and $NAME are not replaced")
    return os.path.normpath(path)  # Snakemake takes a/b and a//b, or ./a and a, for different files


Folder = Annotated[str, AfterValidator(plain_folder)]
