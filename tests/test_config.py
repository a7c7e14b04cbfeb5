"""The configuration is checked strictly, at once, and says what to change."""

import copy
import shutil
from pathlib import Path

import pytest
from conftest import whole_config

from frcore import config as config_module
from frcore.config import (
    CATALOGUE,
    ConfigError,
    Protocol,
    load_config,
    load_experiment,
    load_protocol,
    load_settings,
)
from frcore.registry import METHODS, nearest, settings_fields
from frcore.workflow import checks
from frcore.workflow.checks import open_plan
from frcore.workflow.graph import file_digest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def data() -> dict:
    return whole_config()


def mistakes(data) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(data)
    assert str(caught.value) == "\n".join(caught.value.mistakes)
    assert all("\n" not in line for line in caught.value.mistakes)
    return caught.value.mistakes


def test_default_configuration_is_valid(data):
    config = load_config(data)
    assert set(config.run.models) <= set(config.models)
    assert load_config(ROOT / "config.yaml") == config


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("sed", 1, ["sed", "did you mean 'seed'?"]),
        ("run.modles", [], ["run.modles", "did you mean 'models'?"]),
        ("datasets.orl.cropscale", 1, ["datasets.orl.cropscale", "did you mean 'crop_scale'?"]),
        ("models.fpn_64.train.bacth", 4, ["models.fpn_64.train.bacth", "did you mean 'batch'?"]),
        ("datasets.orl.size", -3, ["datasets.orl.size", "got -3"]),
        ("datasets.orl.detector", "haar", ["datasets.orl.detector", "got 'haar'"]),
        ("models.fpn_64.method", "fpm", ["models.fpn_64.method", "did you mean 'fpn'?"]),
        ("run.datasets", ["olr"], ["run.datasets", "'olr'", "did you mean 'orl'?"]),
        ("run.models", ["psfrgan64"], ["run.models", "did you mean 'psfrgan_64'?"]),
        ("models.psfrgan_64.settings.parser", "fnp_64", ["settings.parser", "'fpn_64'?"]),
        ("models.bicubic.train", {}, ["models.bicubic.train", "is not trained"]),
        ("datasets.orl.split", {"train": 0.9, "test": 0.2}, ["datasets.orl.split", "sum to 1"]),
        ("datasets.orl.source", "folder", ["datasets.orl", "needs path:"]),
        ("run.figures", ["rdfr_skip"], ["run.figures", "did you mean 'rdfr_skips'?"]),
        ("figures.rdfr_skips.models", ["rdfr64"], ["figures.rdfr_skips.models", "'rdfr_64'?"]),
        ("figures.rdfr_skips.models", ["stylegan2-64"], ["figures.rdfr_skips", "restores none"]),
        ("figures.rdfr_skips.dataset", "olr", ["figures.rdfr_skips.dataset", "'orl'?"]),
        ("figures.rdfr_skips.degradations", ["x3_64"], ["degradations", "'x3_64'"]),
        ("figures.dl_st_attention.degradations", ["x4_64"], ["orl_small is seen under small_64"]),
        ("datasets.orl.reference", "digiface", ["datasets.orl", "belongs to low_quality"]),
        ("datasets.orl_small.low_quality", "smal_64", ["orl_small.low_quality", "'small_64'?"]),
        ("datasets.orl_small.reference", "olr", ["datasets.orl_small.reference", "'orl'?"]),
        ("datasets.orl_small.reference", "orl_small", ["good faces of 64 px, orl_small has none"]),
        ("datasets.orl_small.split.like", "olr", ["datasets.orl_small.split.like", "'orl'?"]),
        ("datasets.orl_small.split.like", "digiface", ["orl_small.split", "shares of digiface"]),
        ("models.fpn_64.train.datasets", ["orl_small"], ["fpn_64", "orl_small has no true faces"]),
        ("models.dl_64.train.degradations", [], ["dl_64", "seen under small_64 alone"]),
        ("models.rdfr_64.init", "fpn_64", ["models.rdfr_64.init", "of method fpn"]),
        ("models.rdfr_64.init", "rdfr_64", ["models.rdfr_64.init", "from itself"]),
    ],
)
def test_a_mistake_is_one_line_that_names_key_and_fix(data, path, value, words):
    *parents, last = path.split(".")
    place = data
    for key in parents:
        place = place[key]
    place[last] = value
    found = mistakes(data)
    assert len(found) == 1, found
    for word in words:
        assert word in found[0]


def test_all_mistakes_are_told_at_once(data):
    data["sed"] = 1
    data["datasets"]["orl"]["sise"] = 64
    data["models"]["fpn_64"]["train"]["batch"] = 0
    assert len(mistakes(data)) == 3


def test_trained_method_needs_a_plan_or_weights(data):
    del data["models"]["fpn_64"]["train"]
    assert "needs train: or weights:" in mistakes(data)[0]
    data["models"]["fpn_64"]["weights"] = "somewhere.safetensors"
    load_config(data)


def test_training_can_start_from_another_entry(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data["run"]["models"], data["results"] = ["bicubic", "rdfr_64_x8"], "elsewhere"
    plan = open_plan(data)  # weights that are still to be made are no mistake
    start = "elsewhere/models/rdfr_64/weights.safetensors"
    assert plan.train_model("rdfr_64_x8").start == start
    assert "start" not in plan.train_model("rdfr_64_x8").given  # a job makes it: an input file
    assert plan.trained_models() == ["rdfr_64_x8", "rdfr_64"]
    first = plan.train_model("rdfr_64")
    assert first.start == str(CATALOGUE / "weights" / "rdfr_64.safetensors")
    assert first.given["start"] == file_digest(first.start)


def test_weights_are_looked_up_here_and_then_in_the_catalogue(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data["run"]["models"] = ["psfrgan_64"]
    entry, path = data["models"]["psfrgan_64"], "weights/psfrgan_64.safetensors"
    for key, found in (
        ("init", lambda plan: plan.train_model("psfrgan_64").start),
        ("weights", lambda plan: plan.weights_path("psfrgan_64")),
    ):
        entry[key] = path
        assert found(open_plan(data)) == str(CATALOGUE / path)
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(CATALOGUE / path, tmp_path / path)
        assert found(open_plan(data)) == path
        (tmp_path / path).unlink()
        entry[key] = "weights/nowhere.safetensors"
        with pytest.raises(SystemExit):
            open_plan(data)
        del entry[key]


def refused(data, capsys) -> str:
    with pytest.raises(SystemExit):
        open_plan(data)
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_settings_beside_weights_must_be_those_of_the_card(data, capsys):
    data["run"] |= {"models": ["mine"], "figures": []}
    mine = {"method": "rdfr", "weights": "weights/rdfr_64.safetensors", "settings": {"c_max": 128}}
    data["models"]["mine"] = mine
    open_plan(data)
    mine["settings"] = {"c_max": 64}
    said = "models.mine.settings.c_max: 64, the weights were trained with 128: leave it out"
    assert said in refused(data, capsys)
    mine["settings"] = {"skips": [8]}
    assert "settings.skips: [8], the weights were trained with [8, 16]" in refused(data, capsys)
    mine |= {"method": "dl_st", "settings": {}}
    assert "models.mine.method: dl_st, the weights are of rdfr" in refused(data, capsys)


def test_pretrained_parts_that_nobody_knows_are_one_line(data, capsys):
    data["models"]["psfrgan_64"]["settings"] |= {"perceptual": "vgg20"}
    line = refused(data, capsys)
    assert (
        "models.psfrgan_64: settings.perceptual: no asset 'vgg20' (did you mean 'vgg19'?)" in line
    )


def test_a_missing_asset_says_how_to_do_without_it(data, tmp_path, monkeypatch):
    """Optional nets are named as such; what the run cannot do without is not."""
    monkeypatch.setenv("PATH", "")  # no npm
    monkeypatch.setattr(checks, "queued_jobs", lambda folder: [])
    data["models"]["mine"] = {
        "method": "rdfr",
        "init": "scratch",
        "train": {"degradations": ["gfpgan_64"]},
    }
    data["run"] |= {"models": ["mine"]}
    data["resources"] = str(tmp_path)
    # as brought by the user, so that no index is asked
    bare = {"file": "a.pth", "sha256": "0" * 8, "licence": "own", "what": "a net"}
    data["assets"] = dict.fromkeys(("vgg16", "dlib_68"), bare)
    plan = open_plan(data)
    assert "faceres" not in plan.all_assets() and "alexnet" in plan.all_assets()
    for name, way in (
        ("vgg16", "`perceptual: mobilenet_v2` in the settings of mine"),
        ("faceres", "; or do without it: a protocol without id_faceres"),
        ("dlib_68", None),
    ):
        with pytest.raises(SystemExit) as stopped:
            checks.stop_before_any_job(plan, [name])
        line = str(stopped.value)
        assert line.startswith(f"asset {name} is missing") and "\n" not in line
        assert way in line if way else "do without" not in line


@pytest.mark.parametrize("value", [3, "my_methods", {"a": 1}])
def test_folders_of_methods_are_a_list(data, value):
    data["methods"] = value
    assert mistakes(data)[0].startswith("methods: Input should be a valid tuple")


def test_shipped_weights_that_are_not_there_say_what_to_write(data, capsys):
    data["run"] |= {"models": ["mine"], "figures": []}
    train = {"degradations": ["psfr_64"], "images": 64}
    data["models"]["mine"] = {"method": "fpn", "train": train}
    for init in ({}, {"init": "shipped"}):
        data["models"]["mine"] |= init
        line = refused(data, capsys)
        assert "models.mine.init: no file weights/mine.safetensors to start from" in line
        assert "write `init: scratch`" in line
    data["models"]["mine"]["init"] = "scratch"
    assert open_plan(data).train_model("mine").start is None


# What a job's digest leaves out because nobody set it. A changed default changes results: then
# raise DEFAULTS in frcore/config.py with it, so that everything is made again.
OLD_DEFAULTS = {
    1: {
        "Split": {"train": 0.8, "val": 0.0, "test": 0.2, "like": None},
        "Labels": {"kind": "landmarks", "path": None, "model": None},
        "Dataset": {
            "path": None, "people": "none", "samples": 6000, "limit": None, "shards": 4,
            "aligned": False, "size": 64, "crop_scale": 1.0, "crop_shift": 0.1, "detector": "hog",
            "enlarge": 1, "min_face": 0, "max_yaw": None, "max_outside": 0.2, "faces": "largest",
            "test_limit": None, "low_quality": None, "reference": None,
        },
        "TrainStage": {"freeze": (), "settings": {}, "rates": {}},
        "Train": {
            "datasets": ("digiface",), "low_quality": (), "degradations": (), "stages": (),
            "images": 512, "batch": 16, "ema_images": 10_000, "ema_ramp": None,
            "precision": "float32",
        },
        "Model": {"settings": {}, "seed": 0, "init": "shipped", "weights": None},
        "Protocol": {"size": 64, "crop": 0, "reference": "truth", "bootstrap": 1000},
    }
}  # fmt: skip


def test_defaults_that_digests_leave_out_are_the_old_ones():
    assert list(OLD_DEFAULTS) == [config_module.DEFAULTS]
    for name, known in OLD_DEFAULTS[config_module.DEFAULTS].items():
        fields = getattr(config_module, name).model_fields
        now = {key: fields[key].get_default() for key in known}
        assert now == known, f"{name}: raise frcore.config.DEFAULTS"


def test_faces_of_low_quality_are_measured_under_their_own_degradation(data):
    data["run"] |= {"datasets": ["orl_small", "orl"], "degradations": ["psfr_64", "small_64"]}
    config = load_config(data)
    assert config.test_sets() == [
        ("orl_small", "small_64"),
        ("orl", "psfr_64"),
        ("orl", "small_64"),
    ]
    assert config.first_shown() == {"small_64": "orl_small", "psfr_64": "orl"}
    assert config.used_datasets() == {"orl_small", "orl", "digiface"}  # digiface to compare with
    data["run"] |= {"datasets": ["orl_small"], "degradations": []}
    assert load_config(data).test_sets() == [("orl_small", "small_64")]
    # bad photographs as they come may be learnt from under any degradation, or none
    data["degradations"]["as_is"] = {"size": 64, "steps": []}
    data["datasets"]["orl_small"]["low_quality"] = "as_is"
    data["figures"]["dl_st_attention"]["degradations"] = ["as_is"]
    for names in ([], ["small_64"]):
        data["models"]["dl_64"]["train"]["degradations"] = names
        load_config(data)


def test_a_learned_degradation_makes_no_test_set(data):
    data["datasets"]["orl_small"]["low_quality"] = "learned_64"
    data["figures"]["rdfr_skips"]["degradations"] = ["learned_64"]
    found = [line for line in mistakes(data) if "makes true faces of its own" in line]
    assert [line.split(":")[0] for line in found] == [
        "figures.rdfr_skips.degradations",
        "datasets.orl_small.low_quality",
    ]


def test_figures_of_the_run_bring_their_models_and_data(data):
    data["run"] |= {"models": ["bicubic"], "datasets": ["orl"]}
    assert load_config(data).used_models() == ["bicubic"]
    assert load_config(data).used_datasets() == {"orl"}
    data["run"]["figures"] = ["rdfr_skips"]
    config = load_config(data)
    assert config.used_models() == ["bicubic", *config.figures["rdfr_skips"].models]
    assert config.used_datasets() == {"orl", "digiface"}
    data["run"]["models"] = ["psfrgan_64"]
    assert load_config(data).used_models()[-1] == "fpn_64"  # helpers after what is asked for


def test_training_sets_of_one_model_must_have_one_size(data):
    data["datasets"]["orl"]["size"] = 128
    data["models"]["fpn_64"]["train"]["datasets"] = ["digiface", "orl"]
    assert "differ in size" in mistakes(data)[0]


def test_plan_stops_with_lines_and_no_traceback(data, capsys):
    wrong = copy.deepcopy(data)
    wrong["models"]["fpn_64"]["settings"]["bas"] = 8
    with pytest.raises(SystemExit):
        open_plan(wrong)
    told = capsys.readouterr().err
    assert told == "config: models.fpn_64.settings.bas: unknown key (did you mean 'base'?)\n"
    wrong = copy.deepcopy(data)
    wrong["run"]["published"] = ["PSFR-GAN T9"]
    with pytest.raises(SystemExit):
        open_plan(wrong)
    assert "run.published: no table 'PSFR-GAN T9'" in capsys.readouterr().err


def test_protocol_names_and_digest():
    protocol = load_protocol("faces64")
    assert protocol.digest() == protocol.model_copy(update={"title": "x", "note": "y"}).digest()
    assert protocol.digest() != protocol.model_copy(update={"size": 128}).digest()
    with pytest.raises(ConfigError, match="did you mean 'faces64'"):
        load_protocol("face64")
    with pytest.raises(ConfigError, match="did you mean 'psnr_rgb'"):
        load_settings(Protocol, {"metrics": ["psnr_rbg"]})
    with pytest.raises(ConfigError, match="crop must be 0"):
        load_settings(Protocol, {"metrics": ["id_dlib"], "crop": 4})


def test_settings_fields_read_without_import_are_the_real_ones():
    from frcore.registry import load_method

    for name, row in METHODS.items():
        assert settings_fields(row.module) == list(load_method(name).Settings.model_fields)


def test_nearest_lists_what_is_known_when_nothing_is_near():
    assert nearest("zzz", ["b", "a"]) == "(known: a, b)"


def test_an_experiment_is_merged_as_snakemake_merges_it(tmp_path):
    (tmp_path / "x.yaml").write_text("run: {models: [bicubic]}\ndatasets: {orl: {shards: 5}}\n")
    base, config = load_config(ROOT / "config.yaml"), load_experiment(tmp_path / "x.yaml")
    assert config.run.models == ("bicubic",)  # lists replace
    assert config.datasets["orl"].shards == 5  # mappings merge
    assert config.datasets["orl"].crop_scale == base.datasets["orl"].crop_scale
    assert config.datasets["digiface"] == base.datasets["digiface"]
