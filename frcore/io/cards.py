"""Weights files and their cards without torch: for the graph, the report and listings."""

import json
import struct
from pathlib import Path

from frcore.config import CATALOGUE, Config, project_file


def card_of(path: str | Path) -> dict | None:
    """The card of a safetensors file; None for a file that has none.

    checkpoint.read_card does the same, checks more and imports torch.
    """
    path = Path(path)
    with open(path, "rb") as opened:
        start = opened.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= path.stat().st_size - 8:
            return None
        header = opened.read(length)
    try:
        card = json.loads(json.loads(header)["__metadata__"]["card"])
    except (ValueError, KeyError, TypeError):
        return None
    return card if isinstance(card, dict) else None


def differences(card: dict, method: str, settings: dict) -> list[str]:
    """What an entry says otherwise than the card of its weights, one line each.

    settings: those that the entry writes. A key that the card lacks differs too.
    """
    if card.get("method") != method:
        return [f"method: {method}, the weights are of {card.get('method')}"]
    trained = card.get("settings", {})
    return [
        f"settings.{key}: {value!r}, the weights were trained with {trained.get(key)!r}"
        for key, value in json.loads(json.dumps(settings)).items()
        if key not in trained or trained[key] != value
    ]


def find_weights(
    name_or_path: str | Path,
    config: Config | None = None,
    root: str | Path = CATALOGUE,
    results: str | Path = "results",
) -> Path | None:
    """The weights file that `load_model` would read, or None when a name has none.

    Raises ValueError when the path of a file is given and nothing lies there.
    """
    given = Path(name_or_path)
    if given.suffix == ".safetensors":
        if not given.is_file():
            raise ValueError(f"no weights file {given}")
        return given
    name = str(name_or_path)
    places = places_of(name, root, results)
    entry = config.models.get(name) if config is not None else None
    if entry is not None and entry.weights:
        places = [Path(project_file(entry.weights, root))]
    return next((place for place in places if place.is_file()), None)


def places_of(name: str, root: str | Path, results: str | Path) -> list[Path]:
    """Where weights of a name are looked up."""
    return [
        Path(root) / "weights" / f"{name}.safetensors",
        Path(results) / "models" / name / "weights.safetensors",
    ]
