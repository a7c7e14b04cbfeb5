"""A model ready to restore: by name, by file or by entry of the workflow."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import torch

from frcore.config import CATALOGUE, Config, ConfigError, Model, load_settings
from frcore.degrade.recipes import Recipe
from frcore.faces.batch import sides_of
from frcore.frozen.guide import build, load_guide
from frcore.io import checkpoint
from frcore.io.assets import AssetError, present
from frcore.io.cards import differences, find_weights, places_of
from frcore.registry import METHODS, load_method, nearest


class RestoreError(ValueError):
    """A model that cannot be had, or faces that could not be restored; one line."""


@dataclass
class Restorer:
    """A method ready to restore: frozen net, the nets that it leans on, and card.

    size, crop_scale, crop_shift: the frame of the aligned faces it was trained on.
    digest: changes with anything that changes a result.
    """

    name: str
    module: ModuleType
    model: torch.nn.Module
    device: torch.device
    card: dict
    digest: str
    guide: dict = field(default_factory=dict)
    path: Path | None = None
    recipe: Recipe | None = None  # what made the faces worse, for a method that is told

    @property
    def size(self) -> int:
        """Side of the aligned faces, pixels."""
        return int(self.card.get("size") or self.card["settings"].get("size") or 64)

    @property
    def crop(self) -> tuple[float, float]:
        """crop_scale and crop_shift of the aligned faces."""
        return float(self.card.get("crop_scale", 1.0)), float(self.card.get("crop_shift", 0.1))

    @property
    def sides(self) -> tuple[int, int] | None:
        """(side that the net takes, side that it gives), where they are not the faces'."""
        return sides_of(self.module, self.model.settings)

    @property
    def stochastic(self) -> bool:
        """Whether a face has more than one restoration."""
        row = METHODS[self.card["method"]]
        return row.stochastic and self.card["settings"].get("stochastic", True)


def load_model(
    name_or_path: str | Path,
    device: str | torch.device = "cpu",
    config: Config | None = None,
    helpers: Mapping[str, str | Path] | None = None,
    root: str | Path = CATALOGUE,
    results: str | Path = "results",
    assets: Mapping[str, str | Path] | None = None,
) -> Restorer:
    """A frozen model by name or from a weights file.

    A name is looked up as `weights:` of its entry in `config`, then in {root}/weights/, then as
    {results}/models/NAME/weights.safetensors; methods that are not trained need no file.
    `helpers` {role: weights file} replaces the helper entries that the card, or the entry of
    `config`, names; those are looked up beside the file first. assets: {asset: file} of the
    pretrained parts that some methods restore with; default: those in `resources` here.
    Raises RestoreError naming what exists, where it was looked for, or settings of the entry that
    the weights were not trained with; WeightsError for a file that does not fit.
    """
    name = str(name_or_path)
    try:
        path = find_weights(name_or_path, config, root, results)
    except ValueError as error:
        raise RestoreError(str(error)) from None
    entry = config.models.get(name) if config is not None else None
    if path is None:
        method, settings, frame = _untrained(name, config, root, results)
        card = {"name": name, "method": method, "settings": settings, **frame}
        named = {role: settings.get(role) for role in METHODS[method].helpers}
    else:
        card = checkpoint.read_card(path)
        if card["method"] not in METHODS:
            known = nearest(card["method"], METHODS)
            raise RestoreError(f"{path}: unknown method {card['method']!r} {known}")
        named = {
            role: card.get("helpers", {}).get(role) for role in METHODS[card["method"]].helpers
        }
        if entry is not None and entry.weights:
            wrong = differences(card, entry.method, entry.settings)
            if wrong:
                raise RestoreError(f"models.{name}.{wrong[0]}: leave it out or write the same")
    found: dict[str, Path] = {}
    for role, helper in {**named, **(helpers or {})}.items():
        if helper is None or role not in METHODS[card["method"]].helpers:
            continue
        place = _beside(path, str(helper)) if path else None
        place = place or find_weights(helper, config, root, results)
        if place is None:
            looked = " or ".join(str(place) for place in places_of(str(helper), root, results))
            raise RestoreError(f"{name} needs the helper {role}: {helper!r} has no weights yet: "
                               f"looked for {looked}")  # fmt: skip
        found[role] = place
    check_reference(card["method"], name)
    own = name if entry is not None or path is None else card.get("name") or path.stem
    return assemble(own, card, path, found, assets, device)


def assemble(
    name: str,
    card: Mapping,
    path: str | Path | None,
    helpers: Mapping[str, str | Path],
    assets: Mapping[str, str | Path] | None = None,
    device: str | torch.device = "cpu",
    recipe: Recipe | None = None,
) -> Restorer:
    """The one way to a Restorer, for trained and untrained methods alike.

    card: method and settings, and size, crop_scale, crop_shift where they are known. path: weights
    file, None for a method that is not trained. helpers: {role: weights file}. assets: {asset:
    file}; None: those in `resources` here. Raises RestoreError for a part that is not there,
    ConfigError for settings, WeightsError for a file that does not fit.
    """
    device, method = torch.device(device), card["method"]
    module = load_method(method)
    networks: dict = {}
    where = f"models.{name}.settings." if path is None else f"{path}: "
    if path is not None:
        networks, _ = checkpoint.load_weights(path)
    elif METHODS[method].trained:
        raise RestoreError(f"method {method} is trained and needs a weights file")
    settings = load_settings(module.Settings, card["settings"], where)
    with _told(path or f"models.{name}"):
        model = build(module, settings)
    if path is not None:
        if "model" not in networks:
            raise checkpoint.WeightsError(f"{path} holds no network called model")
        checkpoint.load_strict(model, networks["model"], str(path))
    wanted = METHODS[method].parts(settings.model_dump(), training=False)
    there = (present("resources") if assets is None else assets) if wanted else {}
    for part, asset in wanted.items():
        if asset not in there:
            get = f"`frcore weights fetch {asset}`"
            raise RestoreError(f"{name} needs the pretrained part {part}: {get}")
    with _told(", ".join(map(str, helpers.values())) or name):
        guide = load_guide(method, settings, helpers, there, device)
    card = {**card, "name": name, "settings": settings.model_dump()}
    digest = hashlib.sha256(json.dumps(card, sort_keys=True, default=list).encode())
    for file in (path, *helpers.values(), *(there[asset] for asset in wanted.values())):
        digest.update(checkpoint.file_digest(file).encode() if file else b"")
    model.to(device).eval().requires_grad_(False)
    path = None if path is None else Path(path)
    return Restorer(name, module, model, device, card, digest.hexdigest(), guide, path, recipe)


@contextlib.contextmanager
def _told(source) -> Iterator[None]:
    """Whatever parts from foreign files raise becomes a WeightsError of one line with `source`."""
    try:
        yield
    except (RestoreError, checkpoint.WeightsError, ConfigError, AssetError, OSError):
        raise
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise checkpoint.WeightsError(f"{source}: no network can be made of it: {words}") from error


def load_entry(
    name: str,
    entry: Model,
    weights: Mapping[str, str | Path],
    frame: Mapping,
    assets: Mapping[str, str | Path],
    device: str | torch.device,
    recipe: Recipe | None = None,
) -> Restorer:
    """An entry of the workflow under its own name.

    weights: {entry: file}, of its helpers too. frame: size, crop_scale, crop_shift of the faces.
    assets: {name in METHOD: file}.
    """
    row = METHODS[entry.method]
    path = weights.get(name)
    if path is None:
        card = {"method": entry.method, "settings": entry.settings, **frame}
    else:
        card = checkpoint.read_card(path)
        wrong = differences(card, entry.method, entry.settings)
        if wrong:
            raise RestoreError(f"models.{name}.{wrong[0]}: leave it out or write the same")
    named = {role: entry.settings.get(role, card["settings"].get(role)) for role in row.helpers}
    helpers = {role: weights[helper] for role, helper in named.items() if helper in weights}
    files = {asset: assets[n] for n, asset in row.parts(card["settings"], False).items()}
    return assemble(name, card, path, helpers, files, device, recipe)


def without_weights(
    name: str, method: str, settings: Mapping, device: str | torch.device = "cpu", **frame
) -> Restorer:
    """A method that is not trained. `frame`: size, crop_scale, crop_shift of its faces."""
    check_reference(method, name)
    return assemble(name, {"method": method, "settings": settings, **frame}, None, {}, None, device)


def _beside(path: Path, helper: str) -> Path | None:
    """The helper's file in the same folder, or in the neighbouring one of results/models."""
    for place in (
        path.parent / f"{helper}.safetensors",
        path.parent.parent / helper / "weights.safetensors",
    ):
        if place.is_file():
            return place
    return None


def _untrained(name: str, config, root, results):
    """Method, settings and frame of an entry without weights; RestoreError when it needs some."""
    entry = config.models.get(name) if config is not None else None
    if entry is None and not (name in METHODS and not METHODS[name].trained):
        known = {item.stem for item in (Path(root) / "weights").glob("*.safetensors")}
        known |= {item.parent.name for item in Path(results).glob("models/*/weights.safetensors")}
        known |= set(config.models) if config is not None else set()
        known |= {key for key, row in METHODS.items() if not row.trained}
        raise RestoreError(f"unknown model {name!r} {nearest(name, known)}")
    method = entry.method if entry else name
    if METHODS[method].trained:
        places = [entry.weights] if entry and entry.weights else places_of(name, root, results)
        looked = " or ".join(str(place) for place in places)
        raise RestoreError(f"model {name} has no weights yet: looked for {looked}")
    frame = {}
    if config is not None and config.run.datasets:
        dataset = config.datasets[config.run.datasets[0]]
        frame = dataset.model_dump(include={"size", "crop_scale", "crop_shift"})
    return method, entry.settings if entry else {}, frame


def check_reference(method: str, name: str) -> None:
    if METHODS[method].needs_reference:
        raise RestoreError(f"{name}: method {method} needs a reference face, not supported here")


def config_mistakes(config: Config) -> list[str]:
    """Mistakes in the methods' own settings, one line each."""
    mistakes = []
    for name, entry in config.models.items():
        module = load_method(entry.method)
        try:
            load_settings(module.Settings, entry.settings, f"models.{name}.settings.")
        except ConfigError as error:
            mistakes += error.mistakes
    return mistakes
