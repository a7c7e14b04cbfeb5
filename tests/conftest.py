"""What tests share: pretrained parts from the package index, a small run of the workflow."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from frcore.config import read_yaml, with_catalogue
from frcore.io import assets, fetch

ROOT = Path(__file__).resolve().parents[1]


def whole_config() -> dict:
    """The default configuration with the catalogue, as a mapping."""
    return with_catalogue(read_yaml(ROOT / "config.yaml"))


@pytest.fixture(autouse=True)
def few_threads():
    """One thread: two test processes must not fight for the cores, and results stay the same."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def resources():
    """`resources("dlib_68", ...)` -> cache folder that holds these assets, fetched when missing."""
    root = Path(os.environ.get("FRCORE_RESOURCES", ROOT / "resources")).resolve()

    def fetched(*names: str) -> Path:
        for name in names:
            try:
                assets.locate(name, root)
            except assets.AssetMissing:
                try:
                    fetch.fetch(name, root)
                except assets.AssetError as error:
                    pytest.skip(f"{name} cannot be fetched: {error}")
        return root

    return fetched


@pytest.fixture(scope="session")
def snakemake():
    """`snakemake(folder, *words)` -> finished process of the Snakefile in `folder`."""

    def call(folder: Path, *words, timeout: float = 600, env=None):
        return subprocess.run(
            [sys.executable, "-m", "snakemake", *map(str, words)],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **(env or {})},
        )

    return call


@pytest.fixture(scope="session")
def clone(resources):
    """`clone(folder)` -> a copy of the project there, with the toy run's assets in resources/."""

    def copy(folder: Path) -> Path:
        names = ("digiface_generator", "dlib_68", "mobilenet_v2", "dlib_resnet", "alexnet")
        root = resources(*names)
        skipped = (".*", "resources", "results", "__pycache__", "*.egg-info", "build")
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*skipped))
        for name in names:  # the workflow must not see, or write, what other tests fetched
            shutil.copytree(root / name, folder / "resources" / name, copy_function=os.link)
        return folder

    return copy


@pytest.fixture(scope="session")
def toy(clone, snakemake, tmp_path_factory):
    """A copy of the project (with a space in its path) after an uninterrupted toy run."""
    folder = clone(tmp_path_factory.mktemp("toy") / "a project")
    started = time.monotonic()
    process = snakemake(folder, "--cores", 2, "--configfile", "tests/toy.yaml")
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-6000:]
    print(f"toy run: {time.monotonic() - started:.0f} s")
    return folder


def job_counts(process) -> dict[str, int]:
    """{rule: number of jobs} of a dry run."""
    from frcore.workflow.jobs import RULES

    text = process.stdout + process.stderr
    assert process.returncode == 0, text
    if "Job stats:" not in text:
        assert "Nothing to be done" in text, text
        return {}
    rows = text.split("Job stats:")[1].split("total")[0].splitlines()[3:]
    # one job of many cells is called by what it makes: degrade_orl
    many = {"panels": "panel", "contact_sheets": "contact_sheet"}
    found: dict[str, int] = {}
    for name, n in (row.split()[:2] for row in rows if row.strip()):
        known = name in (*RULES, "all", "tables")
        kind = name if known else many.get(name) or f"{name.split('_')[0]}_faces"
        found[kind] = found.get(kind, 0) + int(n)
    return found
