"""The training loop of every trained method: one flat function, progress counted in images seen.

What a method gives is a trainer (CONTRIBUTING.md): `networks` and `optimizers` by name, where
`networks["model"]` is the one that restores, and `step(batch) -> {loss name: value}`. The loop owns
data, averaging, saving, pictures, logging and stopping.

The same command resumes: a run that was killed and started again ends with the same bits as one
that was not, because a step is a function of the state and the position in the run alone.
"""

import contextlib
import copy
import csv
import fcntl
import functools
import hashlib
import importlib.util
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from frcore import checkpoint
from frcore.config import LEAST_LEFT, RAMP, Model, TrainStage, load_settings
from frcore.data import Sample, TrainingFaces, TwoSets
from frcore.degrade import Pairs
from frcore.facebatch import Faces, resized, sides_of
from frcore.guide import build, frozen, load_guide
from frcore.helpers import parsing
from frcore.images import atomic_output, to_uint8, write_image
from frcore.metrics import score
from frcore.metrics.sets import frechet_distance
from frcore.recipes import Recipe
from frcore.registry import METHODS, METRICS, load_method
from frcore.seeds import make_deterministic, numpy_generator, seed_for

INTERRUPTED = 75  # exit code after SIGTERM/SIGUSR1: "try again", state is saved


class NotFinite(RuntimeError):
    """A loss became NaN or infinite; the last good state is kept."""


class Interrupted(SystemExit):
    """A signal asked the run to stop; its state is saved."""

    def __init__(self):
        super().__init__(INTERRUPTED)


@dataclass
class Plan:
    """What one run trains, for how long and where it keeps its state."""

    images: int
    batch: int
    ema_images: float
    save_images: int
    sample_images: int
    precision: str
    seed: int
    state: Path  # folder outside the workflow's declared outputs
    fingerprint: dict = field(default_factory=dict)  # another one starts the run over
    ema_ramp: float | None = None
    images_before: int = 0  # seen by the weights that the run starts from
    stages: Sequence[TrainStage] = ()  # one after another; the last goes on to the end
    sides: tuple[int, int] | None = None  # that a net takes and gives, where they are its own


def train(
    trainer,
    faces: TrainingFaces,
    plan: Plan,
    device: torch.device,
    picture: Callable[[nn.Module], torch.Tensor] | None = None,
    log: Callable[[str], None] = print,
    stop_at: int | None = None,
    curve: Callable[[nn.Module], dict[str, float]] | None = None,
) -> dict[str, dict[str, torch.Tensor]]:
    """Train to `plan.images` images seen, resuming from `plan.state` if that run was interrupted.

    `picture(model)` -> image N x 3 x H x W in [0, 1], written from time to time; `curve(model)` ->
    {name: value}, logged with it. Both see the average. `stop_at` ends the
    invocation early, as a signal would (tests). Returns {network: state dict} for the weights file:
    the averaged model and the other networks as they are.
    Raises NotFinite, Interrupted, ValueError when another process is training in `plan.state`.
    """
    make_deterministic()
    rank, ranks = _join_processes(device)
    plan.state.mkdir(parents=True, exist_ok=True)
    with (
        _only_writer(plan.state, rank),
        _signals() as stopping,
        contextlib.ExitStack() as at_the_end,
    ):
        # ----- networks, their average, and what is shared between processes
        model = trainer.networks["model"]
        for network in trainer.networks.values():
            network.train()
        average = copy.deepcopy(model).eval().requires_grad_(False)
        if ranks > 1:
            _share(trainer)

        # ----- resume
        seen = 0
        fingerprint = _digest({**plan.fingerprint, "ranks": ranks})
        state = checkpoint.load_state(plan.state, device)
        if state is not None and state["fingerprint"] != fingerprint:
            log("settings or data changed since the saved state: starting over")
            state = None
        elif (
            state is not None
            and state["images_seen"] > math.ceil(plan.images / plan.batch) * plan.batch
        ):
            log("the saved state has seen more images than are asked for: starting over")
            state = None
        if state is not None:
            for name, network in trainer.networks.items():
                network.load_state_dict(state["networks"][name])
            for name, optimizer in trainer.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
            for name, scheduler in getattr(trainer, "schedulers", {}).items():
                scheduler.load_state_dict(state["schedulers"][name])
            if hasattr(trainer, "load_extra"):
                trainer.load_extra(state["extra"])
            average.load_state_dict(state["average"])
            seen = state["images_seen"]
            log(f"resuming at {seen} of {plan.images} images")
        stages = _Stages(trainer, plan.stages)
        history = _History(plan.state / "history.csv", seen, rank)
        board = _tensorboard(plan.state / "tensorboard", seen) if rank == 0 else None
        if board is not None:
            at_the_end.callback(board.close)

        def save():
            if rank == 0:
                _check_finite(trainer, seen, plan.state)
                history.flush()
                schedulers = getattr(trainer, "schedulers", {})
                (plan.state / "images_seen").write_text(str(seen))
                checkpoint.save_state(
                    plan.state,
                    {
                        "fingerprint": fingerprint,
                        "images_seen": seen,
                        "networks": {k: v.state_dict() for k, v in trainer.networks.items()},
                        "average": average.state_dict(),
                        "optimizers": {k: v.state_dict() for k, v in trainer.optimizers.items()},
                        "schedulers": {k: v.state_dict() for k, v in schedulers.items()},
                        "extra": trainer.extra() if hasattr(trainer, "extra") else {},
                    },
                )

        # ----- the loop
        started, started_at, reported = time.monotonic(), seen, time.monotonic()
        bf16 = plan.precision == "bfloat16"
        while seen < plan.images:
            # Seeding every step by its position makes random draws of a method part of the
            # position:
            # there is no generator state to save, and a resumed step draws what it would have
            # drawn.
            torch.manual_seed(seed_for(plan.seed, "step", seen, rank))
            batch = faces.batch(seen, plan.batch, device, rank, ranks)
            batch["images_seen"], batch["step"] = seen, seen // plan.batch
            if plan.sides:
                _resize(batch, *plan.sides)
            stages.enter(seen)
            # no cache: the discriminator's step would go on with weights cast before its descent
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
                losses = trainer.step(batch)
            values = {name: float(value.detach()) for name, value in losses.items()}
            if not all(math.isfinite(value) for value in values.values()):
                history.flush()
                raise NotFinite(
                    f"{values} at {seen} images; the last good state is kept in {plan.state}"
                )
            seen += plan.batch
            half_life, ramp = plan.ema_images, plan.ema_ramp
            if ramp is None and not plan.images_before:
                ramp = RAMP  # or a short run would give its random start back
            if ramp is not None:
                half_life = min(half_life, ramp * (plan.images_before + seen))
            _average(average, model, plan.batch, half_life)
            pause = _crossed(seen, plan.batch, plan.sample_images) and rank == 0
            if pause and curve:
                values |= curve(average)
            history.add(seen, values)
            if board is not None:
                for name, value in values.items():
                    board.add_scalar(name, value, seen)
            if time.monotonic() - reported > 30:
                reported = time.monotonic()
                speed = (seen - started_at) / (reported - started)
                rest = (plan.images - seen) / speed / 60
                terms = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
                log(f"{seen}/{plan.images} images, {speed:.1f}/s, {rest:.0f} min left: {terms}")
            if pause and picture:
                _write_picture(plan.state / "samples" / f"{seen:09d}.png", picture(average))
            if _any(bool(stopping), ranks, device) or (stop_at is not None and seen >= stop_at):
                save()
                log(f"stopped at {seen} images, state saved; the same command goes on")
                raise Interrupted
            if _crossed(seen, plan.batch, plan.save_images):
                save()

        # ----- the end: the caller writes the weights file, then removes the state
        save()
        if picture and rank == 0:
            _write_picture(plan.state / "samples" / f"{seen:09d}.png", picture(average))
        _leave_processes(ranks)
        others = {k: v.state_dict() for k, v in trainer.networks.items() if k != "model"}
        return {"model": average.state_dict(), **others}


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
    method, row, plan_of = load_method(entry.method), METHODS[entry.method], entry.train
    settings = load_settings(method.Settings, entry.settings, f"models.{name}.settings.")
    cards = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
    log(f"device {device}, CUDA_VISIBLE_DEVICES={cards}")
    # the starting weights depend on the entry's seed alone
    torch.manual_seed(seed_for(entry.seed, name, "init"))
    model = build(method, settings).to(device, memory_format=torch.channels_last)
    guide = load_guide(entry.method, settings, helpers, assets, device, training=True)
    faces = _faces_of(entry, samples, low_quality, recipes, degraders or {}, guide, device)
    start, before = _start_of(entry, name, start), {"images_seen": 0}
    networks: dict = {}
    if start is not None:
        networks, before = checkpoint.load_weights(start)
        before["images_seen"] = before["images_seen"] or 0  # a converted network's are not known
        checkpoint.load_strict(model, networks["model"], f"{start}: model")
        log(f"starting from {start} ({before['images_seen']} images seen)")
    left = plan_of.start_share() if start is None else 0.0
    if left > LEAST_LEFT:
        raise ValueError(f"models.{name}.train: the average would be {left:.0%} its random start")

    # ----- the state, by what makes this run: no other run writes there
    named = helpers | {f"pairs of {key}": path for key, path in (degraders or {}).items()}
    parts = [*samples.values(), *(low_quality or {}).values()]
    fingerprint = {
        # not the number of images: a longer run goes on from a shorter one that was interrupted
        "entry": entry.facts(
            exclude={"title": True, "restore": True, "train": _RESOURCES | {"images"}}
        ),
        "recipes": {
            key: recipes[key].model_dump(exclude={"description", "source"})
            for key in plan_of.degradations
        },
        "faces": [[s.id, s.image.stat().st_size] for part in parts for s in part],
        "helpers": {key: checkpoint.file_digest(path) for key, path in named.items()},
        "start": checkpoint.file_digest(start) if start else None,
        "code": code,
        "ranks": int(os.environ.get("WORLD_SIZE", 1)),
    }
    images = math.ceil(plan_of.images / plan_of.batch) * plan_of.batch
    state = _state_of(state, _digest(fingerprint), images, log)

    # ----- what is learnt otherwise than by descent, then the trainer
    if hasattr(method, "fit") and start is None and not (state / "state.pt").is_file():
        torch.manual_seed(seed_for(entry.seed, name, "fit"))
        method.fit(model, settings, guide, faces)
    trainer = method.make_trainer(model, settings, guide) if row.descends else Fitted(model)
    for key, network in trainer.networks.items():
        if key in networks:
            checkpoint.load_strict(network, networks[key], f"{start}: {key}")
    init = "scratch"
    if start is not None:
        # another entry's weights of this run all have one file name; the card knows the entry
        own = before.get("name") if start.name == "weights.safetensors" else None
        init = f"{own or start.name}, {before['images_seen']} images"
    plan = Plan(
        images=plan_of.images if row.descends else 0,
        batch=plan_of.batch,
        ema_images=plan_of.ema_images,
        ema_ramp=plan_of.ema_ramp,
        save_images=plan_of.save_images,
        sample_images=plan_of.sample_images,
        precision=plan_of.precision if device.type == "cuda" else "float32",
        seed=entry.seed,
        state=state,
        images_before=before["images_seen"],
        fingerprint=fingerprint,
        stages=plan_of.stages,
        sides=sides_of(method, settings),
    )
    if row.generative:
        picture = pairs_picture(method) if row.role == "degrader" else samples_picture(method)
        curve = set_score(method, faces, assets, settings, device)
    else:
        fixed = faces.fixed_batch(8, device)
        picture, curve = restored_picture(method, guide, fixed, plan.sides), None
    networks = train(trainer, faces, plan, device, picture, log, stop_at, curve)
    if int(os.environ.get("RANK", 0)):
        return
    out.mkdir(parents=True, exist_ok=True)
    whole = make_card(
        name=name,
        method=entry.method,
        settings=settings.model_dump(),
        datasets=plan_of.datasets,
        degradations=plan_of.degradations,
        images_seen=images,
        images_before=before["images_seen"],
        batch=plan_of.batch,
        seed=entry.seed,
        init=init,
        device=device,
        helpers={role: settings.model_dump()[role] for role in helpers},
        size=faces.truth([0], torch.device("cpu")).shape[-1],
        parameters=sum(p.numel() for p in model.parameters()),
        **({"pairs_of": sorted(degraders)} if degraders else {}),
        **({"low_quality": list(plan_of.low_quality)} if plan_of.low_quality else {}),
        **({"stages": [s.facts() for s in plan_of.stages]} if plan_of.stages else {}),
        **card,
    )
    with atomic_output(out / "history.csv") as part:
        if (state / "history.csv").is_file():
            shutil.copy(state / "history.csv", part)
        else:  # nothing descended
            part.write_text(f"images\n{images}\n")
    pictures = sorted((state / "samples").glob("*.png"))
    with atomic_output(out / "samples.png") as part:
        shutil.copy(pictures[-1], part)
    if hasattr(method, "pictures"):
        model.load_state_dict(networks["model"])
        places = numpy_generator(0, "pictures").permutation(len(faces))[:128]
        shown = method.pictures(model.eval(), faces.truth(places, device))
        for key, image in shown.items():
            _write_picture(out / f"{key}.png", image)
    with atomic_output(out / "weights.json") as part:
        part.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
    checkpoint.save_weights(out / "weights.safetensors", networks, whole)
    for stale in (state / "state.pt", state / "previous.pt", state / "images_seen"):
        stale.unlink(missing_ok=True)


class Fitted:
    """The trainer of a method that is fitted and not trained: there is no step."""

    def __init__(self, model: nn.Module):
        self.networks, self.optimizers = {"model": model}, {}


def _faces_of(entry, samples, low_quality, recipes, degraders, guide, device):
    """What the entry trains on: TrainingFaces, or TwoSets where it names faces of low quality."""
    own = [recipes[key] for key in entry.train.degradations]
    parse = (
        functools.partial(parsing.predict_labels, guide["parser"]) if "parser" in guide else None
    )
    good = [sample for part in samples.values() for sample in part]
    if not low_quality:
        return TrainingFaces(good, entry.seed, own, load_degraders(degraders, device), parse)
    bad = [sample for part in low_quality.values() for sample in part]
    other = seed_for(entry.seed, "low quality")
    return TwoSets(TrainingFaces(good, entry.seed, []), TrainingFaces(bad, other, own))


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


def restored_picture(
    method, guide: dict, fixed: dict, sides: tuple[int, int] | None = None
) -> Callable:
    """Degraded (if they are), restored and true faces (if they are known) in rows."""

    @torch.no_grad()
    def picture(average: nn.Module) -> torch.Tensor:
        given = fixed["degraded"] if "degraded" in fixed else fixed["truth"]
        generators = [torch.Generator().manual_seed(i) for i in range(len(given))]
        taken = given if sides is None else resized(given, sides[0])
        # a method that needs another photograph sees the true one here: it is a picture, no score
        wanted = getattr(method, "METHOD", {}).get("reference")
        reference = fixed.get("truth", given) if wanted else None
        restored = method.restore(average, Faces(taken, reference, generators), guide)
        rows = [given, resized(restored.float().clamp(0, 1), given.shape[-1])]
        if "degraded" in fixed and "truth" in fixed:
            rows.append(fixed["truth"])
        return grid(torch.cat(rows), len(given))

    return picture


def samples_picture(method, across: int = 10, truncation: float = 0.7) -> Callable:
    """across x across faces of a generative method, of the same latents every time."""

    def picture(average: nn.Module) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return grid(method.sample(average, across**2, generator, truncation), across)

    return picture


def pairs_picture(method, across: int = 8, rows: int = 4, truncation: float = 0.8) -> Callable:
    """Clean faces of a degradation model, each above its degraded twin; the same every time."""

    def picture(average: nn.Module) -> torch.Tensor:
        both = method.pairs(average, range(rows * across), truncation)
        lines = [line for pair in zip(*(part.split(across) for part in both)) for line in pair]
        return grid(torch.cat(lines), across)

    return picture


def grid(images: torch.Tensor, across: int) -> torch.Tensor:
    """N x 3 x H x W -> one image 1 x 3 x (N / across) H x across W, filled row by row."""
    rows = [torch.cat(list(row), 2) for row in images.split(across)]
    return torch.cat(rows, 1)[None]


CURVES = ("fid_mobilenetv2", "fid_inception")  # each where its net is to be had


def set_score(
    method, faces: TrainingFaces, assets: dict[str, Path], settings, device: torch.device
) -> Callable:
    """Frechet distances of a generative method's samples to as many training faces.

    To degraded ones, where the entry trains on those. `settings.score_samples` of each, the same
    latents and faces every time; a set distance of few images is too high, so that it serves as a
    curve and not as a number to be quoted.
    """
    n = min(settings.score_samples, len(faces))
    nets = score.load_nets(assets, CURVES, device)
    places = numpy_generator(0, "score").permutation(len(faces))[:n]
    target = faces.truth(places, device)
    if faces.recipes:  # positions before the run's first image: training never draws the same
        target = faces.degrade(target, range(-n, 0))[1]
    wanted = score.set_features(target, CURVES, nets)

    def scores(average: nn.Module) -> dict[str, float]:
        images = method.sample(average, n, torch.Generator().manual_seed(0))
        found = score.set_features(images, CURVES, nets)
        return {
            metric: frechet_distance(found[net], wanted[net])
            for metric in CURVES
            for net in [METRICS[metric].features]
            if net in found
        }

    return scores


# settings of a run that change nothing in the result
_RESOURCES = {"gpus", "threads", "memory_mb", "minutes", "save_images", "sample_images"}


def load_degraders(degraders: dict[str, Path], device) -> dict[str, Pairs]:
    """What the `learned` steps of recipes call: {entry: its pairs, by seeds and truncation}."""
    made = {}
    for name, path in degraders.items():
        networks, card = checkpoint.load_weights(path)
        if METHODS[card["method"]].role != "degrader":
            raise ValueError(f"{path} is of {card['method']}, expected a degradation model")
        net = frozen(networks, card, "model", path, device)
        made[name] = functools.partial(load_method(card["method"]).pairs, net)
    return made


def make_card(
    *,
    name: str,
    method: str,
    settings: dict,
    datasets: Sequence[str],
    degradations: Sequence[str],
    images_seen: int,
    images_before: int,
    batch: int,
    seed: int,
    init: str,
    device: torch.device,
    helpers: dict,
    size: int,
    licence: str = "Apache-2.0",
    **more,
) -> dict:
    """What a weights file says about itself (JSON-able)."""
    return {
        "name": name,
        "method": method,
        "settings": settings,
        "helpers": helpers,
        "size": size,
        "datasets": list(datasets),
        "degradations": list(degradations),
        "images_seen": images_before + images_seen,
        "images_seen_here": images_seen,
        "batch": batch,
        "seed": seed,
        "init": init,
        "commit": checkpoint.commit(),
        "hardware": checkpoint.hardware(device),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "licence": licence,
        **more,
    }


class _Stages:
    """The parts of a training: what rests, which settings and rates count, by images seen.

    A stage follows from the place in the run alone, so that a resumed run is in the right one.
    """

    def __init__(self, trainer, stages: Sequence[TrainStage]):
        self.trainer, self.stages, self.at = trainer, list(stages), -1
        if not self.stages:
            return
        self.base, self.resting, self.factors = trainer.settings, [], {}
        for place, stage in enumerate(self.stages):
            where = f"train.stages.{place}"
            merged = {**self.base.model_dump(), **stage.settings}
            load_settings(type(self.base), merged, f"{where}.settings.")
            for path in stage.freeze:
                _part_of(trainer.networks, path, f"{where}.freeze")
            for name in stage.rates:
                if name not in trainer.optimizers:
                    known = ", ".join(trainer.optimizers)
                    raise ValueError(f"{where}.rates: no optimizer {name!r} (known: {known})")
        for name, optimizer in trainer.optimizers.items():
            optimizer.register_step_pre_hook(functools.partial(self._scale, name))
            optimizer.register_step_post_hook(functools.partial(self._unscale, name))

    def enter(self, seen: int) -> None:
        """Bring networks and settings into the stage of this place, if it is another one."""
        ends, at = 0, len(self.stages) - 1
        for place, stage in enumerate(self.stages):
            ends += stage.images
            if seen < ends:
                at = place
                break
        if at == self.at:
            return
        self.at, stage = at, self.stages[at]
        for part, parameters in self.resting:
            part.train()
            for parameter in parameters:
                parameter.requires_grad_(True)
        self.resting, self.factors = [], stage.rates
        for path in stage.freeze:
            part = _part_of(self.trainer.networks, path, "freeze")
            learning = [p for p in part.parameters() if p.requires_grad]
            self.resting.append((part.eval(), learning))
            for parameter in learning:
                parameter.requires_grad_(False)
                parameter.grad = None  # or its optimizer would move it once more
        merged = {**self.base.model_dump(), **stage.settings}
        self.trainer.settings = type(self.base).model_validate(merged)

    def _scale(self, name, optimizer, _args, _kwargs) -> None:
        self.rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * self.factors.get(name, 1.0)

    def _unscale(self, name, optimizer, _args, _kwargs) -> None:
        for group, rate in zip(optimizer.param_groups, self.rates):
            group["lr"] = rate


def _part_of(networks: dict, path: str, where: str) -> nn.Module:
    """ "discriminator", or "model.encoder": a part of a network; ValueError for none."""
    name, _, inner = path.partition(".")
    try:
        return networks[name].get_submodule(inner)
    except (KeyError, AttributeError):
        known = ", ".join(networks)
        raise ValueError(f"{where}: no part {path!r} of the networks {known}") from None


def _resize(batch: dict, taken: int, given: int) -> None:
    """Bring a batch to the sides that a net takes and gives."""
    for key, side in (("degraded", taken), ("truth", given)):
        if key in batch:
            batch[key] = resized(batch[key], side)


def _check_finite(trainer, seen: int, state: Path) -> None:
    """Raise NotFinite before weights that a last step spoiled replace the good state."""
    for name, network in trainer.networks.items():
        for key, tensor in network.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise NotFinite(
                    f"{name}: {key} is not finite at {seen} images; "
                    f"the last good state is kept in {state}"
                )


def _average(average: nn.Module, model: nn.Module, batch: int, half_life: float) -> None:
    """average <- average + (1 - beta) (model - average), beta from a half-life in images."""
    beta = 0.5 ** (batch / half_life) if half_life > 0 else 0.0
    with torch.no_grad():
        for mean, new in zip(average.parameters(), model.parameters()):
            mean.lerp_(new, 1 - beta)
        for mean, new in zip(average.buffers(), model.buffers()):
            mean.copy_(new)  # spectral norm's vectors, batch statistics


def _crossed(seen: int, batch: int, every: int) -> bool:
    return every > 0 and seen // every > (seen - batch) // every


def _digest(values: dict) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _write_picture(path: Path, images: torch.Tensor) -> None:
    with atomic_output(path) as part:
        write_image(part, to_uint8(images)[0])


def _tensorboard(folder: Path, seen: int):
    """A TensorBoard writer that drops what it logged after `seen`, or None when not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=seen)


class _History:
    """history.csv: one row a step; rows after a resumed state are dropped and written again."""

    def __init__(self, path: Path, seen: int, rank: int):
        self.path, self.rank, self.rows = path, rank, []
        if rank == 0 and path.is_file():
            with open(path, newline="") as opened:
                self.rows = [row for row in csv.DictReader(opened) if int(row["images"]) <= seen]
        if seen == 0:
            self.rows = []

    def add(self, seen: int, values: dict) -> None:
        self.rows.append({"images": seen, **{k: f"{v:.6g}" for k, v in values.items()}})

    def flush(self) -> None:
        if self.rank or not self.rows:
            return
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with atomic_output(self.path) as part, open(part, "w", newline="") as opened:
            writer = csv.DictWriter(opened, names, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)


@contextlib.contextmanager
def _only_writer(state: Path, rank: int):
    """Hold a lock on the state folder: an orphan of a killed run may still be writing there."""
    if rank:
        yield
        return
    with open(state / "lock", "w") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is training in {state}; stop it first") from None
        yield


@contextlib.contextmanager
def _signals():
    """A list that is empty until SIGTERM, SIGINT or SIGUSR1 arrives."""
    got: list[int] = []
    wanted = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {}
    with contextlib.suppress(ValueError):  # not in the main thread
        for number in wanted:
            before[number] = signal.signal(number, lambda n, _frame: got.append(n))
    try:
        yield got
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _join_processes(device: torch.device) -> tuple[int, int]:
    """(rank, number of processes) from torchrun's environment; (0, 1) without it."""
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    if ranks > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return int(os.environ.get("RANK", 0)), ranks


def _any(stopping: bool, ranks: int, device: torch.device) -> bool:
    """Whether any process was asked to stop: all must leave the loop at the same step."""
    if ranks == 1:
        return stopping
    flag = torch.tensor(float(stopping), device=device)
    dist.all_reduce(flag)
    return bool(flag > 0)


def _leave_processes(ranks: int) -> None:
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


def _share(trainer) -> None:
    """Equal start in all processes, and gradients averaged before every optimizer step."""
    for network in trainer.networks.values():
        for tensor in [*network.parameters(), *network.buffers()]:
            dist.broadcast(tensor.data, 0)

    def average_gradients(optimizer, _args, _kwargs):
        gradients = [
            parameter.grad
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        if not gradients:
            return
        # one message: hundreds of small ones cost more than the arithmetic of a narrow net
        whole = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(whole)
        whole /= dist.get_world_size()
        for gradient, mean in zip(gradients, whole.split([g.numel() for g in gradients])):
            gradient.copy_(mean.view_as(gradient))

    for optimizer in trainer.optimizers.values():
        optimizer.register_step_pre_hook(average_gradients)
