"""Weights files that describe themselves, and training states that can be resumed.

A weights file is safetensors: tensors named `net/key`, and a card (JSON) in the header that says
what it is: method, settings, data, images seen, seed, commit, hardware, date, scores, licence.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from frcore.io.files import atomic_output


class WeightsError(ValueError):
    """A weights file that does not fit; the text names the differing keys."""


def save_weights(
    path: str | Path, networks: Mapping[str, Mapping[str, torch.Tensor]], card: Mapping
) -> None:
    """Write `networks` (name -> state dict) and `card` to one safetensors file, atomically.

    Floating tensors keep their type.
    """
    tensors = {
        f"{net}/{key}": tensor.detach().cpu().contiguous()
        for net, state in networks.items()
        for key, tensor in state.items()
    }
    header = {"card": json.dumps(card, sort_keys=True)}
    with atomic_output(path) as part:
        safetensors.torch.save_file(tensors, str(part), metadata=header)
        part.chmod(0o644)  # it writes for its owner alone


def load_weights(path: str | Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict]:
    """Read a file of `save_weights`: (name -> state dict in float32, card).

    Raises FileNotFoundError, or WeightsError for a file that is damaged or has no card.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    networks: dict[str, dict[str, torch.Tensor]] = {}
    try:
        with safetensors.safe_open(str(path), framework="pt") as opened:
            card = json.loads((opened.metadata() or {})["card"])
            for name in opened.keys():  # noqa: SIM118 - not a dict
                net, key = name.split("/", 1)
                tensor = opened.get_tensor(name)
                if tensor.dtype == torch.float16:
                    tensor = tensor.float()
                networks.setdefault(net, {})[key] = tensor
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise WeightsError(f"{path} is not a weights file of frcore: {error}") from None
    return networks, card


def read_card(path: str | Path) -> dict:
    """The card of a weights file without reading its tensors."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as opened:
            return json.loads((opened.metadata() or {})["card"])
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise WeightsError(f"{path} is not a weights file of frcore: {error}") from None


def load_strict(module: torch.nn.Module, state: Mapping[str, torch.Tensor], name: str) -> None:
    """Load `state` into `module`; WeightsError names missing, unexpected and misshapen keys."""
    own = module.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    shapes = [
        f"{key}: file {tuple(state[key].shape)}, network {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if own[key].shape != state[key].shape
    ]
    if missing or unexpected or shapes:
        raise WeightsError(
            f"{name} does not fit: missing {missing[:5]} ({len(missing)}), unexpected "
            f"{unexpected[:5]} ({len(unexpected)}), shapes {shapes[:5]} ({len(shapes)})"
        )
    module.load_state_dict(state, strict=True)


def save_state(folder: str | Path, state: Mapping) -> None:
    """Write a training state atomically; the one before it stays as `previous.pt`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "state.pt.part"
    with open(part, "wb") as opened:
        torch.save(dict(state), opened)
        opened.flush()
        os.fsync(opened.fileno())
    if (folder / "state.pt").exists():
        os.replace(folder / "state.pt", folder / "previous.pt")
    os.replace(part, folder / "state.pt")


def load_state(folder: str | Path, device: str | torch.device = "cpu") -> dict | None:
    """The newest readable training state in `folder`, or None. Tensors only: nothing is executed.

    A damaged newest file (a full disk, a broken transfer) falls back to the one before it.
    """
    for name in ("state.pt", "previous.pt"):
        path = Path(folder) / name
        if path.is_file():
            try:
                return torch.load(path, map_location=device, weights_only=True)
            except Exception as error:  # torch raises many kinds for damaged files
                print(f"{path} cannot be read ({type(error).__name__}); trying the one before")
    return None


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def commit() -> str:
    """Short hash of the source's git commit, `+` when files differ from it, or `unknown`."""
    where = Path(__file__).resolve().parent

    def git(*words):
        return subprocess.run(
            ["git", *words], cwd=where, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        dirty = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "--short=12", "HEAD") + dirty
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def hardware(device: torch.device) -> str:
    """What a run ran on, in words."""
    if device.type == "cuda":
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(device)}"
    return f"CPU, {torch.get_num_threads()} threads"
