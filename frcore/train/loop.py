"""The training loop of every trained method; progress is counted in images seen.

What a method gives is a trainer (CONTRIBUTING.md): `networks` and `optimizers` by name, where
`networks["model"]` is the one that restores, and `step(batch) -> {loss name: value}`. The loop owns
data, averaging, saving, pictures, logging and stopping.

The same command resumes: a run that was killed and started again ends with the same bits as one
that was not, because a step is a function of the state and the position in the run alone.
"""

import contextlib
import copy
import math
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from frcore.config import RAMP, TrainStage
from frcore.faces.batch import resized
from frcore.seeds import make_deterministic, seed_for
from frcore.train.data import TrainingFaces
from frcore.train.processes import (
    any_of,
    join_processes,
    leave_processes,
    only_writer,
    share_gradients,
)
from frcore.train.records import Records, write_picture
from frcore.train.stages import Stages
from frcore.train.state import NotFinite, RunState

INTERRUPTED = 75  # exit code after SIGTERM/SIGUSR1: "try again", state is saved


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

    def half_life(self, seen: int) -> float:
        """Half-life of the average, in images, after `seen` of them."""
        ramp = self.ema_ramp
        if ramp is None and not self.images_before:
            ramp = RAMP  # or a short run would give its random start back
        if ramp is None:
            return self.ema_images
        return min(self.ema_images, ramp * (self.images_before + seen))


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
    with only_writer(plan.state, rank), _signals() as stopping:
        model = trainer.networks["model"]
        for network in trainer.networks.values():
            network.train()
        average = copy.deepcopy(model).eval().requires_grad_(False)
        if ranks > 1:
            share_gradients(trainer)
        state = RunState(trainer, average, plan.state, {**plan.fingerprint, "ranks": ranks})
        seen = state.resume(plan.images, plan.batch, device, log)
        stages = Stages(trainer, plan.stages)
        with Records(plan.state, plan.images, seen, rank, log) as records:

            def save():
                if rank == 0:
                    state.check(seen)
                    records.flush()
                    state.save(seen)

            while seen < plan.images:
                # Seeding every step by its position makes a method's random draws part of the
                # position: there is no generator state to save, and a resumed step draws what it
                # would have drawn.
                torch.manual_seed(seed_for(plan.seed, "step", seen, rank))
                batch = faces.batch(seen, plan.batch, device, rank, ranks)
                stages.enter(seen)
                values = _step(trainer, batch, plan, seen, device)
                if not all(math.isfinite(value) for value in values.values()):
                    records.flush()
                    where = f"at {seen} images; the last good state is kept in {plan.state}"
                    raise NotFinite(f"{values} {where}")
                seen += plan.batch
                _move_average(average, model, plan.batch, plan.half_life(seen))
                pause = _crossed(seen, plan.batch, plan.sample_images) and rank == 0
                if pause and curve:
                    values |= curve(average)
                records.add(seen, values)
                if pause and picture:
                    write_picture(plan.state / "samples" / f"{seen:09d}.png", picture(average))
                if any_of(bool(stopping), ranks, device) or seen >= (stop_at or math.inf):
                    save()
                    log(f"stopped at {seen} images, state saved; the same command goes on")
                    raise Interrupted
                if _crossed(seen, plan.batch, plan.save_images):
                    save()
            save()  # the caller writes the weights file, then removes the state
        if picture and rank == 0:
            write_picture(plan.state / "samples" / f"{seen:09d}.png", picture(average))
        leave_processes(ranks)
        others = {k: v.state_dict() for k, v in trainer.networks.items() if k != "model"}
        return {"model": average.state_dict(), **others}


def _step(trainer, batch: dict, plan: Schedule, seen: int, device) -> dict[str, float]:
    """One step of the trainer at its place in the run; its losses."""
    batch["images_seen"], batch["step"] = seen, seen // plan.batch
    if plan.sides:
        _resize(batch, *plan.sides)
    bf16 = plan.precision == "bfloat16"
    # no cache: the discriminator's step would go on with weights cast before its descent
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
        losses = trainer.step(batch)
    return {name: float(value.detach()) for name, value in losses.items()}


def _resize(batch: dict, taken: int, given: int) -> None:
    """Bring a batch to the sides that a net takes and gives."""
    for key, side in (("degraded", taken), ("truth", given)):
        if key in batch:
            batch[key] = resized(batch[key], side)


def _move_average(average: nn.Module, model: nn.Module, batch: int, half_life: float) -> None:
    """average <- average + (1 - beta) (model - average), beta from a half-life in images."""
    beta = 0.5 ** (batch / half_life) if half_life > 0 else 0.0
    with torch.no_grad():
        for mean, new in zip(average.parameters(), model.parameters()):
            mean.lerp_(new, 1 - beta)
        for kept, now in zip(average.buffers(), model.buffers()):
            kept.copy_(now)  # spectral norm's vectors, batch statistics


def _crossed(seen: int, batch: int, every: int) -> bool:
    return every > 0 and seen // every > (seen - batch) // every


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
