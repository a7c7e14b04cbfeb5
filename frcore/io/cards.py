"""The card in the header of a weights file, without torch: for the graph and the report."""

import json
import struct
from pathlib import Path


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
