"""Recipes: every preset of config.yaml is valid, and each mistake has its own message."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import whole_config
from pydantic import ValidationError

from frcore.degrade.recipes import Recipe
from frcore.degrade.steps import check_pulse_factor, jpeg_quality

ROOT = Path(__file__).resolve().parents[1]
PRESETS = whole_config()["degradations"]
GOOD = {
    "size": 64,
    "steps": [
        {"kind": "blur", "choices": [{"shape": "gaussian", "sigma_px": [0, 1], "kernel_px": 7}]},
        {"kind": "down", "factor": [4, 4], "filters": ["bicubic"]},
        {"kind": "noise", "std_255": [0, 10]},
        {"kind": "jpeg", "quality": [60, 100]},
        {"kind": "up", "filter": "bicubic"},
    ],
}


@pytest.mark.parametrize("name", PRESETS)
def test_preset(name):
    recipe = Recipe.model_validate(PRESETS[name])
    assert recipe.source
    assert recipe.description
    assert (recipe.size == 64) == name.endswith("_64")


def test_papers_are_there():
    wanted = ["psfr", "gfpgan", "gfpgan_train", "bicc", "bicn", "bbin", "x8", "x16", "sair_x32"]
    wanted += ["psfr_64", "gfpgan_64", "bicc_64", "bicn_64", "bbin_64", "x4_64", "sair_x8_64"]
    assert not set(wanted) - set(PRESETS)


def test_psfr_numbers():
    steps = {step.kind: step for step in Recipe.model_validate(PRESETS["psfr"]).steps}
    assert [steps[k].p for k in ("gray", "blur", "down", "noise", "jpeg", "up")] == [
        0.3, 0.5, 1, 0.2, 0.7, 1,
    ]  # fmt: skip
    assert steps["gray"].both
    assert steps["down"].side_px == (32, 255)
    assert steps["jpeg"].compression == (10, 65)
    shapes = [choice.shape for choice in steps["blur"].choices]
    assert shapes == ["gaussian", "box", "median", "motion"]


@pytest.mark.parametrize("compression, quality", [(0, 100), (10, 90), (50, 51), (65, 36), (100, 2)])
def test_jpeg_quality(compression, quality):
    assert jpeg_quality(compression) == quality


def test_jpeg_quality_refuses():
    with pytest.raises(ValueError, match="compression must be in"):
        jpeg_quality(100.5)


def changed(*path_and_value):
    """GOOD with one entry changed: keys, then the value; None deletes."""
    *path, value = path_and_value
    recipe = copy.deepcopy(GOOD)
    place = recipe
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return recipe


def test_good_is_good():
    assert Recipe.model_validate(GOOD).steps[1].factor == (4, 4)


@pytest.mark.parametrize(
    "recipe, message",
    [
        (changed("steps", 3, "quality", [100, 60]), r"\[low, high\].*got \[100, 60\]"),
        (changed("steps", 3, "quality", [0, 60]), r"quality must lie in \[1, 100\]"),
        (changed("steps", 3, "quality", [60.5, 70]), "valid integer"),
        (changed("steps", 3, "quality", None), "either quality or compression"),
        (changed("steps", 3, "compression", [1, 2]), "either quality or compression"),
        (changed("steps", 3, "subsampling", "4:1:1"), "4:2:0"),
        (changed("steps", 2, "variance", [0, 0.1]), "either std_255 or variance"),
        (changed("steps", 2, "std_255", [0, 300]), r"std_255 must lie in \[0, 255\]"),
        (changed("steps", 2, "std_255", ["0", 3]), "valid number"),
        (changed("steps", 2, "p", 1.5), "less than or equal to 1"),
        (changed("steps", 2, "sigma", 3), "Extra inputs"),
        (changed("steps", 1, "side_px", [8, 16]), "either side_px or factor"),
        (changed("steps", 1, "filters", ["lanczos"]), "nearest"),
        (changed("steps", 1, "filters", []), "at least 1 item"),
        (changed("steps", 1, "factor", [1, 65]), "leaves nothing of 64 px"),
        (changed("steps", 0, "choices", 0, "kernel_px", 6), "kernel_px must be odd"),
        (changed("steps", 0, "choices", 0, "sigma_px", [-1, 1]), r"sigma_px must lie in"),
        (changed("steps", 0, "choices", 0, "shape", "disc"), "gaussian"),
        (changed("steps", 0, "kind", "blurr"), "blur"),
        (changed("steps", 4, None), "step 2 .down. is not followed by an up step"),
        (
            changed("steps", 1, {"kind": "learned", "model": "m"}),
            r"step 2 .learned. must be the first",
        ),
        (changed("steps", 0, {"kind": "learned"}), "Field required"),
        (changed("steps", 0, {"kind": "learned", "model": ""}), "at least 1 character"),
        (changed("steps", 0, {"kind": "learned", "model": "m", "p": 0.5}), "1.0"),
        (changed("steps", 0, {"kind": "learned", "model": "m", "truncation": 0}), "greater than 0"),
        (changed("steps", 0, {"kind": "learned", "model": "m", "image": "both"}), "'clean'"),
        (changed("size", 4), "greater than or equal to 8"),
        (changed("colour", 4), "Extra inputs"),
    ],
)
def test_mistakes(recipe, message):
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate(recipe)


@pytest.mark.parametrize("factor", [[3, 3], [2, 4], [4.5, 4.5]])
def test_pulse_wants_one_even_factor(factor):
    recipe = changed("steps", 1, {"kind": "down", "factor": factor, "filters": ["pulse_bicubic"]})
    with pytest.raises(ValidationError, match="one even whole factor"):
        Recipe.model_validate(recipe)


@pytest.mark.parametrize("side, factor", [(64, 3), (64, 6), (64, 64), (64, 0)])
def test_pulse_factor_must_fit(side, factor):
    with pytest.raises(ValueError, match=f"got factor {factor}, side {side}"):
        check_pulse_factor(side, factor)


def test_a_recipe_says_whose_pairs_it_begins_with():
    first = {"kind": "learned", "model": "m"}
    assert Recipe.model_validate(changed("steps", 0, first)).learned == "m"
    assert Recipe.model_validate(GOOD).learned is None
    assert Recipe.model_validate({"size": 64, "steps": []}).learned is None


def test_second_order_goes_on_like_the_first():
    """DL-ST section 3.2.4: the same degradation on photographs and on generated faces."""
    recipes = {name: Recipe.model_validate(PRESETS[name]) for name in PRESETS}
    for name in ("second_order_64", "generated_64"):
        assert recipes[name].steps[1:] == recipes["gfpgan_plain_64"].steps
    assert recipes["gfpgan_plain"].steps == recipes["gfpgan_train"].steps[:5]  # D-13: no colour
    assert recipes["generated_64"].steps[0].image == "clean"
    assert recipes["learned_64"].steps == recipes["second_order_64"].steps[:1]


def test_recipes_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        Recipe.model_validate(GOOD).size = 128


def test_import_is_cheap():
    """The Snakefile reads recipes at every start."""
    code = "import sys, frcore.degrade.recipes; "
    code += "print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_facts_are_what_somebody_wrote_without_the_prose():
    entry = {**GOOD, "description": "d", "source": "s"}
    recipe = Recipe.model_validate(entry)
    assert recipe.facts() == GOOD
    assert Recipe.model_validate(json.loads(json.dumps(recipe.facts()))) == (
        recipe.model_copy(update={"description": "", "source": ""})
    )


def test_code_names_the_kinds_of_a_recipe():
    steps = [{"kind": "colour_shift", "shift_255": [-9, 9]}, *GOOD["steps"][2:]]
    twice = {"size": 64, "steps": [*steps, steps[0]]}
    assert Recipe.model_validate(twice).code() == (
        "frcore.degrade.steps:ColourShift", "frcore.degrade.batched:apply_colour_shift",
        "frcore.degrade.cpu:face_colour_shift?",
        "frcore.degrade.steps:Noise", "frcore.degrade.batched:apply_noise",
        "frcore.degrade.cpu:face_noise?",
        "frcore.degrade.steps:Jpeg", "frcore.degrade.batched:apply_jpeg",
        "frcore.degrade.cpu:face_jpeg?",
        "frcore.degrade.steps:Up", "frcore.degrade.batched:apply_up",
        "frcore.degrade.cpu:face_up?",
    )  # fmt: skip
    assert Recipe.model_validate({"size": 64, "steps": []}).code() == ()
