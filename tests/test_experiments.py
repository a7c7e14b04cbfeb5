"""Every file in experiments/: it parses, its settings fit its methods, its graph can be planned."""

import functools
import json
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, whole_config
from snakemake.utils import update_config

from frcore.config import CATALOGUE, ConfigError, load_config, load_protocol, load_settings
from frcore.io.checkpoint import save_weights
from frcore.registry import METHODS, load_method
from frcore.workflow import checks

FILES = sorted((ROOT / "experiments").glob("*.yaml"))
DEFAULT = ROOT / "config.yaml"


def merged(path: Path) -> dict:
    """The file merged into config.yaml as Snakemake does it: mappings deep, lists replaced."""
    data = whole_config()
    update_config(data, yaml.safe_load(path.read_text(encoding="utf-8")))
    return data


def stand_in(data: dict) -> None:
    """Empty folders and files, below the working folder, in place of what a user puts there."""
    for dataset in data["datasets"].values():
        for path in (dataset.get("path"), dataset.get("labels", {}).get("path")):
            if path:
                Path(path).mkdir(parents=True, exist_ok=True)
        people = Path(CATALOGUE / dataset.get("people", ""))
        if people.is_file():
            for line in people.read_text().splitlines()[1:]:
                Path(dataset["path"], line.split(",")[0]).touch()
    for model in data["models"].values():
        init = Path(model.get("init", ""))
        if init.suffix and (ROOT / init).is_file():  # beside the experiment
            init.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / init, init)
        if model.get("weights"):
            settings = load_method(model["method"]).Settings(**model.get("settings", {}))
            card = {"method": model["method"], "settings": settings.model_dump()}
            Path(model["weights"]).parent.mkdir(parents=True, exist_ok=True)
            save_weights(model["weights"], {}, card)


@functools.cache
def can_be_built(method: str, settings: str) -> None:
    """Raises what the method raises for sizes that do not fit; the same settings are built once."""
    module = load_method(method)
    module.build(module.Settings(**json.loads(settings)))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def experiment(request):
    return request.param


def test_there_is_a_file_for_every_paper():
    papers = {"psfrgan512", "lcqs256", "rdfr512", "dlst512", "sair1024"}
    assert papers <= {path.stem for path in FILES}


def test_parses_and_fits(experiment):
    config = load_config(merged(experiment))
    assert config.results == f"results/{experiment.stem}"
    protocol = load_protocol(config.run.protocol)
    for name in config.run.datasets:
        assert config.datasets[name].size == protocol.size, name
    for name in config.run.degradations:
        assert config.degradations[name].size == protocol.size, name


def test_settings_fit_the_methods(experiment):
    config = load_config(merged(experiment))
    for name, entry in config.models.items():
        method = load_method(entry.method)
        settings = load_settings(method.Settings, entry.settings, f"models.{name}.settings.")
        if METHODS[entry.method].trained:
            can_be_built(entry.method, json.dumps(entry.settings, sort_keys=True))
        if entry.train:
            sides = {config.degradations[key].size for key in entry.train.degradations}
            sides |= {config.datasets[key].size for key in entry.train.datasets}
            assert sides == {settings.size}, name
        for role, helper in config.helpers_of(name).items():
            # what a helper gives must be what its user expects
            other = config.models[helper]
            net = load_settings(load_method(other.method).Settings, other.settings)
            for shared in ("size", "labels", "w_dim"):
                if hasattr(settings, shared) and hasattr(net, shared):
                    assert getattr(net, shared) == getattr(settings, shared), (name, role, shared)


def test_published_tables_are_known(experiment):
    import pandas as pd

    table = pd.read_csv(CATALOGUE / "published.csv", dtype=str, keep_default_na=False)
    known = {*table["paper"], *(table["paper"] + " " + table["table"])}
    assert set(load_config(merged(experiment)).run.published) <= known


def test_plans_with_stand_ins(experiment, tmp_path, monkeypatch, capsys):
    """Folders that are not there are named at once; with them the graph can be planned."""
    monkeypatch.chdir(tmp_path)
    data = merged(experiment)
    config = load_config(data)
    needs_folders = any(config.datasets[name].path for name in config.run.datasets)
    if needs_folders:
        with pytest.raises(SystemExit):
            checks.open_plan(data)
        text = capsys.readouterr().err
        assert "no folder data/" in text
    stand_in(data)
    plan = checks.open_plan(data)
    assert plan.runs()
    assert plan.all_assets() is not None


@pytest.mark.workflow
def test_dry_run(experiment, tmp_path, monkeypatch, snakemake):
    monkeypatch.chdir(tmp_path)
    stand_in(merged(experiment))
    words = ["-s", ROOT / "Snakefile", "--configfile", experiment, "--cores", 1]
    done = snakemake(tmp_path, *words, "-n", "--quiet", "rules")
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert "report_page" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("where", "key"),
    [
        ((), "sede"),
        (("run",), "modles"),
        (("models", "*"), "settigns"),
        (("datasets", "*"), "sizze"),
    ],
    ids=lambda value: value if isinstance(value, str) else ".".join(value) or "top",
)
def test_unknown_keys_are_caught(experiment, where, key):
    data = merged(experiment)
    place = data
    for part in where:
        place = place[next(iter(place)) if part == "*" else part]
    place[key] = 1
    with pytest.raises(ConfigError, match=f"{key}: unknown key"):
        load_config(data)


def test_unknown_settings_are_caught(experiment, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = merged(experiment)
    stand_in(data)
    data["models"]["psfrgan_64"]["settings"]["chanels"] = [1]
    with pytest.raises(SystemExit):
        checks.open_plan(data)
    assert "models.psfrgan_64.settings.chanels: unknown key" in capsys.readouterr().err
