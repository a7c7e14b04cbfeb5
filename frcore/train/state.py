"""The state of a training on disk: written from time to time, read by the run that goes on."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from frcore.io import checkpoint
from frcore.io.files import atomic_output


class NotFinite(RuntimeError):
    """A loss became NaN or infinite; the last good state is kept."""


class RunState:
    """Networks, their average, optimizers and place of one run, in the folder `state`.

    fingerprint: what makes the run; a saved state of another one is not gone on with.
    """

    def __init__(self, trainer, average: nn.Module, state: Path, fingerprint: dict):
        self.trainer, self.average, self.folder = trainer, average, state
        self.fingerprint = digest_of(fingerprint)

    def resume(self, images: int, batch: int, device, log: Callable[[str], None]) -> int:
        """Load what is saved of this run; images seen, 0 where there is nothing to go on with."""
        state, trainer = checkpoint.load_state(self.folder, device), self.trainer
        if state is None:
            return 0
        if state["fingerprint"] != self.fingerprint:
            log("settings or data changed since the saved state: starting over")
            return 0
        if state["images_seen"] > math.ceil(images / batch) * batch:
            log("the saved state has seen more images than are asked for: starting over")
            return 0
        for name, network in trainer.networks.items():
            network.load_state_dict(state["networks"][name])
        for name, optimizer in trainer.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        for name, scheduler in getattr(trainer, "schedulers", {}).items():
            scheduler.load_state_dict(state["schedulers"][name])
        if hasattr(trainer, "load_extra"):
            trainer.load_extra(state["extra"])
        self.average.load_state_dict(state["average"])
        log(f"resuming at {state['images_seen']} of {images} images")
        return state["images_seen"]

    def check(self, seen: int) -> None:
        """Raise NotFinite before weights that a last step spoiled replace the good state."""
        for name, network in self.trainer.networks.items():
            for key, tensor in network.state_dict().items():
                if not torch.isfinite(tensor).all():
                    raise NotFinite(
                        f"{name}: {key} is not finite at {seen} images; "
                        f"the last good state is kept in {self.folder}"
                    )

    def save(self, seen: int) -> None:
        """Write the state, the one before it kept until this one is whole."""
        trainer = self.trainer
        schedulers = getattr(trainer, "schedulers", {})
        with atomic_output(self.folder / "images_seen") as part:
            part.write_text(str(seen))
        checkpoint.save_state(
            self.folder,
            {
                "fingerprint": self.fingerprint,
                "images_seen": seen,
                "networks": {k: v.state_dict() for k, v in trainer.networks.items()},
                "average": self.average.state_dict(),
                "optimizers": {k: v.state_dict() for k, v in trainer.optimizers.items()},
                "schedulers": {k: v.state_dict() for k, v in schedulers.items()},
                "extra": trainer.extra() if hasattr(trainer, "extra") else {},
            },
        )


def digest_of(values: dict) -> str:
    """SHA-256 of JSON-able values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
