"""Degradation recipes: what may happen to a face, in which order, with which ranges. No torch here.

A recipe is an entry of `degradations:` in config.yaml. `degrade.draw.draw` picks the parameters of
one image from it; `degrade.apply.degrade_batch` carries them out.

A kind of step is one class in steps.py (its fields, its draw) and one function `apply_KIND` in
batched.py; a second one in cpu.py, `face_KIND`, makes it fast on the CPU. No list names the kinds:
a class derived from `BaseStep` there is one.

Lengths (`*_px`) are pixels at the place in the chain where the step stands, for faces of `size`
pixels: a recipe of 512 px is not meant for 64 px. Noise and colour are on the 0..255 scale.
Every step is applied with probability `p`; ranges are inclusive and uniform.
"""

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field, Strict, model_validator

from frcore.degrade.steps import BaseStep, Learned, StepModel, check_pulse_factor

if TYPE_CHECKING:
    Step = Any  # one of the classes derived from BaseStep
else:
    # every class of steps.py is a kind; X | Y cannot be written of a list
    _kinds = tuple(BaseStep.__subclasses__())
    Step = Annotated[Union[_kinds], Field(discriminator="kind")]  # noqa: UP007


class Recipe(StepModel):
    """A chain of steps for faces of `size` x `size` pixels.

    `eight_bit`: round to 8 bit after every step, for pipelines that work on uint8 images; without
    it only JPEG and the end of the chain round. `source`: paper or file the numbers are from.
    """

    size: int = Field(ge=8, le=4096)
    steps: Annotated[tuple[Step, ...], Strict(False)]
    eight_bit: bool = False
    description: str = ""
    source: str = ""

    @property
    def learned(self) -> str | None:
        """Entry of `models:` whose pairs take the photographs' place, if there is one."""
        first = self.steps[0] if self.steps else None
        return first.model if isinstance(first, Learned) else None

    def facts(self) -> dict:
        """What the recipe does, JSON-able: the fields that somebody set, without the prose.

        `Recipe.model_validate` makes the same recipe of it, but for description and source.
        """
        prose = {"description", "source"}
        return self.model_dump(mode="json", exclude_unset=True, exclude=prose)

    def code(self) -> tuple[str, ...]:
        """The code of its kinds of steps: entries "module:name" of `codehash.code_hash`.

        Of each the class here and the functions that apply it. What all recipes share is found by
        following `degrade.draw:draw` and `degrade.apply:degrade_batch`, which name no kind.
        """
        found: dict[str, None] = {}
        for step in self.steps:
            found[f"{type(step).__module__}:{type(step).__name__}"] = None
            found[f"frcore.degrade.batched:apply_{step.kind}"] = None
            found[f"frcore.degrade.cpu:face_{step.kind}?"] = None  # not every kind has one
        return tuple(found)

    @model_validator(mode="after")
    def _check(self):
        kinds = [step.kind for step in self.steps]
        last_up = max((i for i, kind in enumerate(kinds) if kind == "up"), default=-1)
        for index, step in enumerate(self.steps):
            if step.kind == "learned" and index:
                raise ValueError(f"step {index + 1} (learned) must be the first of the recipe")
            if step.kind != "down":
                continue
            if index > last_up:
                raise ValueError(
                    f"step {index + 1} (down) is not followed by an up step, so the degraded face "
                    f"would not have {self.size} px"
                )
            if step.factor is not None and self.size / step.factor[1] < 1:
                raise ValueError(f"factor {step.factor[1]:g} leaves nothing of {self.size} px")
            if "pulse_bicubic" in step.filters:
                factor = int(step.factor[0])
                if "down" in kinds[:index]:
                    raise ValueError("pulse_bicubic must be the first down step")
                check_pulse_factor(self.size, factor)
        return self
