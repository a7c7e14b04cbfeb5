"""An entry of `models:` -> its weights, card, history and pictures."""

import functools
import json
import math
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn

from frcore.config import LEAST_LEFT, Model, load_settings
from frcore.degrade.draw import Pairs
from frcore.degrade.recipes import Recipe
from frcore.faces.batch import sides_of
from frcore.faces.parsing_maps import mirror_table
from frcore.frozen import parsing
from frcore.frozen.guide import build, frozen, load_guide
from frcore.io import checkpoint
from frcore.io.files import atomic_output
from frcore.registry import METHODS, default_of, load_method
from frcore.seeds import numpy_generator, seed_for
from frcore.train.data import Sample, TrainingFaces, TwoSets
from frcore.train.loop import Schedule, train
from frcore.train.pictures import pairs_picture, restored_picture, samples_picture, set_score
from frcore.train.records import write_picture
from frcore.train.state import digest_of


def train_model(
    *,
    name: str,
    entry: Model,
    samples: dict[str, list[Sample]],
    recipes: dict[str, Recipe],
    helpers: dict[str, Path],
    assets: dict[str, Path],
    out: Path,
    state: Path,
    start: Path | None,
    device: torch.device,
    card: dict,
    code: str = "",
    log: Callable[[str], None] = print,
    stop_at: int | None = None,
    degraders: dict[str, Path] | None = None,
    low_quality: dict[str, list[Sample]] | None = None,
) -> None:
    """Train one entry of `models:`: weights.safetensors, weights.json, history.csv, samples.png.

    Besides, {name}.png of what the method's `pictures` shows of the trained network, if it has one.
    samples: {dataset: training faces}. recipes: {name: degradation}. helpers: {role: weights file
    of a trained helper net}. assets: {asset: file}. start: the weights file that `init` stands
    for. card: more entries for the weights' card. code: digest of the training code. degraders:
    {entry: weights file} of the degradation models that the recipes name. low_quality: {dataset:
    faces} of a method of two sets (data.disjoint). state: folder of the states; each run has one
    named by its fingerprint (settings, data, code, helpers, start), so that none overwrites
    another's. It is removed once the weights file is written.
    Raises what `train` raises, FileNotFoundError for a start that is not there, and ValueError or
    WeightsError for settings and weights that do not fit.
    """
    method, row, asked = load_method(entry.method), METHODS[entry.method], entry.training
    settings = load_settings(method.Settings, entry.settings, f"models.{name}.settings.")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
    log(f"device {device}, CUDA_VISIBLE_DEVICES={visible}")
    degraders, low_quality = degraders or {}, low_quality or {}
    torch.manual_seed(seed_for(entry.seed, name, "init"))  # whatever ran before
    model = build(method, settings)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    guide = load_guide(entry.method, settings, helpers, assets, device, training=True)
    guide["frame"] = card.get("crop_scale", 0.7), card.get("crop_shift", 0.1)
    faces = faces_of(entry, samples, low_quality, recipes, degraders, guide, device)
    start = _start_of(entry, name, start)
    networks, before = _begin(model, start, log)
    if start is None and asked.start_share() > LEAST_LEFT:
        left = f"{asked.start_share():.0%}"
        raise ValueError(f"models.{name}.train: the average would be {left} its random start")
    named = helpers | {f"pairs of {key}": path for key, path in degraders.items()}
    seen = [sample for part in (*samples.values(), *low_quality.values()) for sample in part]
    fingerprint = _fingerprint(entry, recipes, seen, named, start, code)
    images = math.ceil(asked.images / asked.batch) * asked.batch
    # by what makes this run: no other run writes there
    state = _state_of(state, digest_of(fingerprint), images, log)

    if hasattr(method, "fit") and start is None and not (state / "state.pt").is_file():
        torch.manual_seed(seed_for(entry.seed, name, "fit"))
        method.fit(model, settings, guide, faces)
    trainer = method.make_trainer(model, settings, guide) if row.descends else Fitted(model)
    _begin_others(trainer, networks, start)
    plan = _schedule(entry, state, fingerprint, before, device, sides_of(method, settings))
    picture, curve = _watched(entry, settings, guide, faces, assets, plan, device)
    networks = train(trainer, faces, plan, device, picture, log, stop_at, curve)
    if int(os.environ.get("RANK", 0)):
        return
    facts = {
        "helpers": {role: settings.model_dump()[role] for role in helpers},
        "size": faces.truth([0], torch.device("cpu")).shape[-1],
        "parameters": sum(p.numel() for p in model.parameters()),
        **({"pairs_of": sorted(degraders)} if degraders else {}),
    }
    about = {"name": name, "init": _init_of(start, before), **facts, **card}
    whole = make_card(entry, settings.model_dump(), images, before["images_seen"], device, **about)
    _write_results(out, state, whole, images)
    if hasattr(method, "pictures"):
        model.load_state_dict(networks["model"])
        _write_pictures(out, method, model.eval(), faces, device)
    checkpoint.save_weights(out / "weights.safetensors", networks, whole)
    for stale in (state / "state.pt", state / "previous.pt", state / "images_seen"):
        stale.unlink(missing_ok=True)


def _begin(model: nn.Module, start: Path | None, log) -> tuple[dict, dict]:
    """Load the weights that a training starts from: their networks and their card."""
    if start is None:
        return {}, {"images_seen": 0}
    networks, before = checkpoint.load_weights(start)
    before["images_seen"] = before["images_seen"] or 0  # a converted network's are not known
    checkpoint.load_strict(model, networks["model"], f"{start}: model")
    log(f"starting from {start} ({before['images_seen']} images seen)")
    return networks, before


def _begin_others(trainer, networks: dict, start: Path | None) -> None:
    """Load the trainer's networks, as far as the start holds them."""
    for key, network in trainer.networks.items():
        if key in networks:
            checkpoint.load_strict(network, networks[key], f"{start}: {key}")


def _init_of(start: Path | None, before: dict) -> str:
    """What a card says of the start."""
    if start is None:
        return "scratch"
    # another entry's weights of this run all have one file name; the card knows the entry
    own = before.get("name") if start.name == "weights.safetensors" else None
    return f"{own or start.name}, {before['images_seen']} images"


def _fingerprint(entry: Model, recipes, samples, helpers, start, code: str) -> dict:
    """What makes a run: with another one its state is not gone on with."""
    return {
        # not the number of images: a longer run goes on from a shorter one that was interrupted
        "entry": entry.facts(
            exclude={"title": True, "restore": True, "train": RESOURCES | {"images"}}
        ),
        "recipes": {
            key: recipes[key].model_dump(exclude={"description", "source"})
            for key in entry.training.degradations
        },
        "faces": [[sample.id, sample.image.stat().st_size] for sample in samples],
        "helpers": {key: checkpoint.file_digest(path) for key, path in helpers.items()},
        "start": checkpoint.file_digest(start) if start else None,
        "code": code,
        "ranks": int(os.environ.get("WORLD_SIZE", 1)),
    }


def _schedule(entry: Model, state, fingerprint, before, device, sides) -> Schedule:
    """What the loop is told of an entry."""
    asked = entry.training
    return Schedule(
        images=asked.images if METHODS[entry.method].descends else 0,
        batch=asked.batch,
        ema_images=asked.ema_images,
        ema_ramp=asked.ema_ramp,
        save_images=asked.save_images,
        sample_images=asked.sample_images,
        precision=asked.precision if device.type == "cuda" else "float32",
        seed=entry.seed,
        state=state,
        images_before=before["images_seen"],
        fingerprint=fingerprint,
        stages=asked.stages,
        sides=sides,
    )


def _watched(entry: Model, settings, guide, faces, assets, plan: Schedule, device):
    """The picture that is written from time to time, and the curve, or None."""
    method, row = load_method(entry.method), METHODS[entry.method]
    if row.generative:
        picture = pairs_picture(method) if row.role == "degrader" else samples_picture(method)
        return picture, set_score(method, faces, assets, settings, device)
    return restored_picture(method, guide, faces.fixed_batch(8, device), plan.sides), None


def _write_pictures(out: Path, method, model: nn.Module, faces, device) -> None:
    """What the method's `pictures` shows of the trained network."""
    places = numpy_generator(0, "pictures").permutation(len(faces))[:128]
    for key, image in method.pictures(model, faces.truth(places, device)).items():
        write_picture(out / f"{key}.png", image)


def _write_results(out: Path, state: Path, card: dict, images: int) -> None:
    """history.csv, samples.png and the card; the weights file comes last."""
    out.mkdir(parents=True, exist_ok=True)
    with atomic_output(out / "history.csv") as part:
        if (state / "history.csv").is_file():
            shutil.copy(state / "history.csv", part)
        else:  # nothing descended
            part.write_text(f"images\n{images}\n")
    pictures = sorted((state / "samples").glob("*.png"))
    with atomic_output(out / "samples.png") as part:
        shutil.copy(pictures[-1], part)
    with atomic_output(out / "weights.json") as part:
        part.write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")


class Fitted:
    """The trainer of a method that is fitted and not trained: there is no step."""

    def __init__(self, model: nn.Module):
        self.networks = {"model": model}
        self.optimizers: dict = {}


def faces_of(entry, samples, low_quality, recipes, degraders, guide, device):
    """What the entry trains on: TrainingFaces, or TwoSets where it names faces of low quality."""
    own = [recipes[key] for key in entry.training.degradations]
    parse = (
        functools.partial(parsing.predict_labels, guide["parser"]) if "parser" in guide else None
    )
    good = [sample for part in samples.values() for sample in part]
    sets = [len(part) for part in samples.values()]
    classes = entry.settings.get("labels", default_of(METHODS[entry.method].module, "labels"))
    mirror = mirror_table(classes or 10) if entry.training.mirror else None
    if not low_quality:
        pairs = load_degraders(degraders, device)
        return TrainingFaces(good, entry.seed, own, pairs, parse, sets, mirror)
    bad = [sample for part in low_quality.values() for sample in part]
    bad_sets = [len(part) for part in low_quality.values()]
    other = seed_for(entry.seed, "low quality")
    return TwoSets(
        TrainingFaces(good, entry.seed, [], sets=sets, mirror=mirror),
        TrainingFaces(bad, other, own, sets=bad_sets, mirror=mirror),
    )


def _start_of(entry: Model, name: str, start: Path | None) -> Path | None:
    """The weights that a training starts from; FileNotFoundError that says what to write."""
    if entry.init == "scratch":
        return None
    if start is None or not Path(start).is_file():
        raise FileNotFoundError(
            f"models.{name}.init: no file {start} to start from: write `init: scratch` to train "
            "from random weights, or another entry or a weights file"
        )
    return Path(start)


def _state_of(folder: Path, digest: str, images: int, log) -> Path:
    """The folder of a run's state: by its fingerprint; a shorter run does not touch a longer's."""
    place = folder / digest[:16]
    if _images_in(place) > images:
        place = folder / f"{digest[:16]}_{images}"
    others = [p for p in folder.glob("*") if p != place and _images_in(p)]
    if others and not _images_in(place):
        kept = ", ".join(f"{p} ({_images_in(p)} images)" for p in sorted(others))
        log(f"starting over; states of other settings, data or lengths are kept in {kept}")
    return place


def _images_in(state: Path) -> int:
    """Images seen by an unfinished state; 0 for none."""
    seen = state / "images_seen"
    text = seen.read_text() if seen.is_file() and (state / "state.pt").is_file() else ""
    return int(text) if text.isdecimal() else 0


# settings of a run that change nothing in the result
RESOURCES = {"gpus", "threads", "memory_mb", "minutes", "save_images", "sample_images"}


def load_degraders(degraders: dict[str, Path], device) -> dict[str, Pairs]:
    """What the `learned` steps of recipes call: {entry: its pairs, by seeds and truncation}."""
    made: dict[str, Pairs] = {}
    for name, path in degraders.items():
        networks, card = checkpoint.load_weights(path)
        if METHODS[card["method"]].role != "degrader":
            raise ValueError(f"{path} is of {card['method']}, expected a degradation model")
        net = frozen(networks, card, "model", path, device)
        made[name] = functools.partial(load_method(card["method"]).pairs, net)
    return made


def make_card(
    entry: Model, settings: dict, images_seen: int, images_before: int, device, **more
) -> dict:
    """What a weights file says about itself (JSON-able). more: name, init and the like."""
    asked = entry.training
    return {
        "method": entry.method,
        "settings": settings,
        "datasets": list(asked.datasets),
        "degradations": list(asked.degradations),
        "images_seen": images_before + images_seen,
        "images_seen_here": images_seen,
        "batch": asked.batch,
        "seed": entry.seed,
        "commit": checkpoint.commit(),
        "hardware": checkpoint.hardware(device),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "licence": "Apache-2.0",
        **({"low_quality": list(asked.low_quality)} if asked.low_quality else {}),
        **({"stages": [stage.facts() for stage in asked.stages]} if asked.stages else {}),
        **more,
    }
