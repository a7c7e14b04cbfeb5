"""Degraded faces of good ones and drawn parameters: the one function that callers need.

`draw` decides what happens to one image, `degrade_batch` does it to many at once, each with its own
parameters. Two sets of operators, tied by tests: batched ones, which run on any device and pass
gradients (batched.py), and on the CPU, where no gradient is wanted, the image libraries', one face
at a time (cpu.py): test sets, and training without a GPU.

N batch, S side.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from frcore.degrade.batched import State, of_kind
from frcore.degrade.draw import Pairs
from frcore.degrade.jpeg import to_bytes
from frcore.degrade.recipes import Recipe
from frcore.io import images as image_files


def degrade_batch(
    images: torch.Tensor,
    recipe: Recipe,
    params: Sequence[dict],
    learned: Mapping[str, Pairs] | None = None,
    operators: str = "fastest",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Degraded faces and their truth, both N x 3 x S x S in [0, 1] like `images`.

    `params`: one result of `draw` per image. The degraded faces are multiples of 1/255. The truth
    is `images`, but for faces whose recipe makes both grey or begins with the step `learned`: then
    `learned` {entry: Pairs} makes the truth, and `images` says only how many, where and of which
    type. operators: "batched" (any device; gradients pass, roundings count as identity, clipped
    values have none; an image's result depends on its batch by float rounding only), "cpu" (the
    image libraries', face by face, no gradient), or "fastest": those of the CPU where `images` are
    there and want no gradient.
    Raises ValueError for images that are not square or not of the recipe's size, for values outside
    [0, 1], a wrong number of `params`, `params` of another recipe, unknown operators, or a model of
    the recipe that is not in `learned` or makes faces of another size.
    """
    image_files.check_images(images.detach())
    if images.shape[2:] != (recipe.size, recipe.size):
        raise ValueError(
            f"the recipe is for faces of {recipe.size} x {recipe.size} px, got "
            f"{images.shape[2]} x {images.shape[3]}"
        )
    if len(params) != len(images):
        raise ValueError(f"{len(params)} parameter sets for {len(images)} images")
    if any(len(drawn["steps"]) != len(recipe.steps) for drawn in params):
        raise ValueError("the parameters were drawn from another recipe: numbers of steps differ")
    if operators not in ("fastest", "batched", "cpu"):
        raise ValueError(f"unknown operators {operators!r}; known: fastest, batched, cpu")
    here = images.device.type == "cpu" and not images.requires_grad
    one_by_one = operators == "cpu" or (operators == "fastest" and here)

    state = State(images, images, [recipe.size] * len(images), recipe.size, learned or {})
    batched = recipe.steps[: bool(recipe.learned)] if one_by_one else recipe.steps
    for index, step in enumerate(batched):
        chosen = [i for i, drawn in enumerate(params) if drawn["steps"][index] is not None]
        if not chosen:
            continue
        drawn = [params[i]["steps"][index] for i in chosen]
        numbers = [(params[i]["noise_seed"], index) for i in chosen]
        changed = of_kind(step.kind)(state, step, chosen, drawn, numbers)
        if recipe.eight_bit:
            changed = to_bytes(changed) / 255
        state.images = changed
    if one_by_one:
        return _face_by_face(state, recipe, params)
    return to_bytes(state.images) / 255, state.truth


def _face_by_face(state: State, recipe: Recipe, params: Sequence[dict]):
    """The end of `degrade_batch` by the operators of cpu.py; pairs have been generated."""
    from frcore.degrade.cpu import degrade_face  # imports albumentations: most programs need none

    degraded, truth = torch.empty_like(state.images), state.truth
    generated = bool(recipe.learned)
    for i, drawn in enumerate(params):
        given = clean = _levels(state.images[i])
        if generated:
            drawn = {**drawn, "steps": [None, *drawn["steps"][1:]]}
            clean = _levels(state.truth[i])
        face, true = degrade_face(given, recipe, drawn, clean)
        degraded[i] = torch.from_numpy(face).permute(2, 0, 1)
        if true is not clean:
            truth = truth.clone() if truth is state.truth else truth  # once a batch
            truth[i] = torch.from_numpy(true).permute(2, 0, 1).to(truth.device) / 255
    return degraded.div_(255), truth


def _levels(image: torch.Tensor) -> np.ndarray:
    """3 x S x S in [0, 1] -> S x S x 3 of 0..255: uint8 if the face is of bytes, else float64."""
    levels = image.detach().cpu() * 255
    rounded = levels.round()
    if float(levels.sub_(rounded).abs_().max()) < 1e-3:
        return np.ascontiguousarray(rounded.to(torch.uint8).permute(1, 2, 0).numpy())
    return (image.detach().cpu().double() * 255).permute(1, 2, 0).contiguous().numpy()
