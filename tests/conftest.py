"""What tests share: pretrained parts from the package index, a small run of the workflow."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from frcore import assets

ROOT = Path(__file__).resolve().parents[1]


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

    def fetch(*names: str) -> Path:
        for name in names:
            try:
                assets.locate(name, root)
            except assets.AssetMissing:
                try:
                    assets.fetch(name, root)
                except assets.AssetError as error:
                    pytest.skip(f"{name} cannot be fetched: {error}")
        return root

    return fetch


@pytest.fixture(scope="session")
def snakemake():
    """`snakemake(folder, *words)` -> finished process, run in `folder`."""

    def call(folder: Path, *words: str, timeout: int = 600, **options):
        command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), *words]
        return subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "FRCORE_RESOURCES": str(ROOT / "resources")},
            **options,
        )

    return call


@pytest.fixture
def workplace(tmp_path, resources):
    """A folder to run the workflow in, with the assets of the toy run in resources/."""
    root = resources("digiface_generator", "dlib_68", "mobilenet_v2", "dlib_resnet")
    (tmp_path / "resources").symlink_to(root)
    shutil.copytree(ROOT / "slurm", tmp_path / "slurm")
    return tmp_path
