"""Trainings in stages: what rests, and which settings and rates count."""

import functools
from collections.abc import Sequence

from torch import nn

from frcore.config import TrainStage, load_settings


class Stages:
    """The parts of a training: what rests, which settings and rates count, by images seen.

    A stage follows from the place in the run alone, so that a resumed run is in the right one.
    """

    def __init__(self, trainer, stages: Sequence[TrainStage]):
        self.trainer, self.stages, self.at = trainer, list(stages), -1
        if not self.stages:
            return
        self.base = trainer.settings
        self.resting: list[tuple[nn.Module, list[nn.Parameter]]] = []
        self.factors: dict[str, float] = {}
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
