"""What one face gets: the parameters of every step of a recipe, drawn from a generator."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from frcore.degrade.recipes import Recipe

# (seeds, truncation) -> clean and degraded faces, N x 3 x S x S in [0, 1]: what a trained
# degradation model gives to the step `learned`
Pairs = Callable[[Sequence[int], float], tuple[torch.Tensor, torch.Tensor]]


def draw(recipe: Recipe, rng: np.random.Generator, for_test: bool = False) -> dict:
    """Parameters of one image: {"noise_seed": int, "steps": [dict or None per step of `recipe`]}.

    None marks a step that does not happen. The dict holds plain numbers and text, so that JSON
    keeps it exactly. `for_test` leaves out grey steps that would change the truth: a test set has
    one truth for all presets. The other parameters do not depend on `for_test`.
    Raises ValueError for a test set of a recipe that makes its own true faces (step `learned`).
    """
    if recipe.learned and for_test:
        raise ValueError(
            f"pairs of {recipe.learned} have a truth of their own: no test set can be made of them"
        )
    steps: list[dict | None] = []
    noise_seed = int(rng.integers(2**48))
    side = recipe.size
    for step in recipe.steps:
        drawn = step.draw(rng, side, for_test) if rng.random() < step.p else None
        if drawn is not None:
            side = step.side_after(side, drawn, recipe.size)
        steps.append(drawn)
    return {"noise_seed": noise_seed, "steps": steps}
