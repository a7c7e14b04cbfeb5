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
import functools
import hashlib
import importlib.util
import json
import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from frcore.config import RAMP, TrainStage, load_settings
from frcore.faces.batch import resized
from frcore.io import checkpoint
from frcore.io.images import atomic_output, to_uint8, write_image
from frcore.seeds import make_deterministic, seed_for
from frcore.train.data import TrainingFaces
from frcore.train.processes import (
    any_of,
    join_processes,
    leave_processes,
    only_writer,
    share_gradients,
)

INTERRUPTED = 75  # exit code after SIGTERM/SIGUSR1: "try again", state is saved


class NotFinite(RuntimeError):
    """A loss became NaN or infinite; the last good state is kept."""


class Interrupted(SystemExit):
    """A signal asked the run to stop; its state is saved."""

    def __init__(self):
        super().__init__(INTERRUPTED)


@dataclass
class Schedule:
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
    plan: Schedule,
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
    rank, ranks = join_processes(device)
    plan.state.mkdir(parents=True, exist_ok=True)
    with (
        only_writer(plan.state, rank),
        _signals() as stopping,
        contextlib.ExitStack() as at_the_end,
    ):
        # ----- networks, their average, and what is shared between processes
        model = trainer.networks["model"]
        for network in trainer.networks.values():
            network.train()
        average = copy.deepcopy(model).eval().requires_grad_(False)
        if ranks > 1:
            share_gradients(trainer)

        # ----- resume
        seen = 0
        fingerprint = digest_of({**plan.fingerprint, "ranks": ranks})
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
            _move_average(average, model, plan.batch, half_life)
            pause = crossed(seen, plan.batch, plan.sample_images) and rank == 0
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
                write_picture(plan.state / "samples" / f"{seen:09d}.png", picture(average))
            if any_of(bool(stopping), ranks, device) or (stop_at is not None and seen >= stop_at):
                save()
                log(f"stopped at {seen} images, state saved; the same command goes on")
                raise Interrupted
            if crossed(seen, plan.batch, plan.save_images):
                save()

        # ----- the end: the caller writes the weights file, then removes the state
        save()
        if picture and rank == 0:
            write_picture(plan.state / "samples" / f"{seen:09d}.png", picture(average))
        leave_processes(ranks)
        others = {k: v.state_dict() for k, v in trainer.networks.items() if k != "model"}
        return {"model": average.state_dict(), **others}


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


def _move_average(average: nn.Module, model: nn.Module, batch: int, half_life: float) -> None:
    """average <- average + (1 - beta) (model - average), beta from a half-life in images."""
    beta = 0.5 ** (batch / half_life) if half_life > 0 else 0.0
    with torch.no_grad():
        for mean, new in zip(average.parameters(), model.parameters()):
            mean.lerp_(new, 1 - beta)
        for mean, new in zip(average.buffers(), model.buffers()):
            mean.copy_(new)  # spectral norm's vectors, batch statistics


def crossed(seen: int, batch: int, every: int) -> bool:
    return every > 0 and seen // every > (seen - batch) // every


def digest_of(values: dict) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_picture(path: Path, images: torch.Tensor) -> None:
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
