"""Weights files that describe themselves, and training states that can be resumed.

A weights file is safetensors: tensors named `net/key`, and a card (JSON) in the header that says
what it is: method, settings, data, images seen, seed, commit, hardware, date, scores, licence.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from frcore.io.files import atomic_output, full_disk, mode_of_new_file


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
        mode = mode_of_new_file(part.parent)
        safetensors.torch.save_file(tensors, str(part), metadata=header)
        part.chmod(mode)  # it writes for its owner alone


def load_weights(path: str | Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict]:
    """Read a file of `save_weights`: (name -> state dict in float32, card).

    Raises FileNotFoundError, or WeightsError for a file that is damaged, has no card or an odd one,
    or holds values that are not finite.
    """
    path = Path(path)
    card = read_card(path)
    networks: dict[str, dict[str, torch.Tensor]] = {}
    try:
        with safetensors.safe_open(str(path), framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                net, _, key = name.partition("/")
                tensor = opened.get_tensor(name)
                if tensor.dtype == torch.float16:
                    tensor = tensor.float()
                networks.setdefault(net, {})[key] = tensor
    except _UNREADABLE as error:
        raise WeightsError(f"{path} is not a weights file of frcore: {_words(error)}") from None
    for net, state in networks.items():
        for key, tensor in state.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
                raise WeightsError(f"{path}: {net}/{key} holds values that are not finite")
    return networks, card


def read_card(path: str | Path) -> dict:
    """The card of a weights file without reading its tensors. Raises as `load_weights`."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights file {path}")
    try:
        with safetensors.safe_open(str(path), framework="pt") as opened:
            card = json.loads((opened.metadata() or {})["card"])
    except _UNREADABLE as error:
        raise WeightsError(f"{path} is not a weights file of frcore: {_words(error)}") from None
    for mistake in _card_mistakes(card):
        raise WeightsError(f"{path} is not a weights file of frcore: its card {mistake}")
    return card


_UNREADABLE = (
    *(safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError),
    *(RuntimeError, OverflowError),  # RecursionError is a RuntimeError
)


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _card_mistakes(card) -> Iterator[str]:
    """What is wrong with a card, as the end of a sentence."""
    if not isinstance(card, dict):
        yield f"is {type(card).__name__}, expected a mapping"
        return
    for key, kinds in (("method", str), ("settings", dict)):
        if not isinstance(card.get(key), kinds):
            yield f"has no {key}" if key not in card else f"has a strange {key}: {card[key]!r:.50}"
    for key, kinds in (("name", str), ("helpers", dict)):
        if not isinstance(card.get(key, kinds()), kinds):
            yield f"has a strange {key}: {card[key]!r:.50}"
    helpers = card.get("helpers")
    if isinstance(helpers, dict) and not all(isinstance(n, str) for n in helpers.values()):
        yield f"has a strange helpers: {helpers!r:.50}"
    for key, lowest in (("size", 1), ("crop_scale", 1e-6), ("crop_shift", -10)):
        value = card.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and lowest <= value < 1e6):
            yield f"has a strange {key}: {value!r:.50}"


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
    shapes += [
        f"{key}: file {state[key].dtype}, network {own[key].dtype}"
        for key in sorted(own.keys() & state.keys())
        if own[key].is_floating_point() != state[key].is_floating_point()
    ]
    if missing or unexpected or shapes:
        raise WeightsError(
            f"{name} does not fit: missing {missing[:5]} ({len(missing)}), unexpected "
            f"{unexpected[:5]} ({len(unexpected)}), shapes {shapes[:5]} ({len(shapes)})"
        )
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:  # of a type that cannot be copied
        raise WeightsError(f"{name} does not fit: {_words(error)}") from None


def save_state(folder: str | Path, state: Mapping) -> None:
    """Write a training state atomically; the one before it stays as `previous.pt`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "state.pt.part"
    try:
        with open(part, "wb") as opened:
            torch.save(dict(state), opened)
            opened.flush()
            os.fsync(opened.fileno())
    except BaseException as error:  # no half file stays, least of all on a full disk
        part.unlink(missing_ok=True)
        number = full_disk(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(folder / "state.pt")) from None
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
