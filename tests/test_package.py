"""Outside of the clone: the wheel, another workflow, awkward paths, conda; documentation."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT
from PIL import Image
from skimage import data

from frcore.config import CATALOGUE
from frcore.degrade.steps import BaseStep
from frcore.registry import METHODS, METRICS

BARE = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SCRIPTS")}


def call(*words, cwd: Path, **more) -> subprocess.CompletedProcess:
    words = [str(word) for word in words]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, env=BARE, **more)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}{done.stderr[-5000:]}"
    return done


# ---- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The built wheel, from a copy of what git tracks."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("frcore", "README.md", "LICENSE", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    words = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, ".")
    call(sys.executable, "-m", "pip", *words, cwd=source)
    [found] = out.glob("frcore-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Folder of the programs of an environment with the wheel and no trace of the clone.

    The packages that it needs are those of this environment: only a path to them is written down,
    so that the finder of an editable frcore among them is not run.
    """
    folder = tmp_path_factory.mktemp("environment") / "venv"
    call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    [site] = folder.glob("lib/python3*/site-packages")
    own = [p for p in sys.path if p.endswith("site-packages")]
    (site / "others.pth").write_text("\n".join(own) + "\n")
    words = ("install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel)
    call(sys.executable, "-m", "pip", *words, cwd=folder.parent)
    program = folder / "bin" / "frcore"
    program.write_text(f"#!{folder}/bin/python\nimport sys\nfrom frcore.cli.main import main\n"
                       "sys.exit(main())\n")  # fmt: skip
    program.chmod(0o755)
    return program.parent


@pytest.fixture
def empty(tmp_path) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_the_wheel_holds_the_catalogue_and_weights_with_their_cards(wheel):
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        [about] = [n for n in names if n.endswith("METADATA")]
        text = opened.read(about).decode()
    files = {path.relative_to(ROOT).as_posix() for path in CATALOGUE.rglob("*") if path.is_file()}
    assert {"frcore/py.typed", "frcore/report/page.css", *files} <= set(names)
    assert not [n for n in names if n.startswith(("tests", "benchmarks", "docs"))]
    for field in ("Author", "Summary", "License-Expression", "Classifier", "Keywords"):
        assert f"\n{field}: " in text
    for extra in ("workflow", "bench", "docs", "dev", "heic"):
        assert f"Provides-Extra: {extra}" in text
    lines = [line for line in text.splitlines() if line.startswith("Requires-Dist: ")]
    needed = [re.match(r"[\w-]+", line[15:])[0] for line in lines if "extra" not in line]
    assert {"torch", "albumentations"} <= set(needed)
    assert not {"snakemake", "matplotlib", "scikit"} & set(needed)


def test_the_wheel_lists_from_an_empty_folder(installed, empty):
    text = call(installed / "frcore", "list", cwd=empty).stdout
    assert {line.split()[0] for line in text.splitlines() if line} >= {*METHODS, *METRICS}
    assert re.search(r"^psfrgan_64 .* shipped ", text, re.M)
    code = "import frcore; print(frcore.__file__)"
    assert str(installed.parent) in call(installed / "python", "-c", code, cwd=empty).stdout


def test_the_wheel_restores_and_evaluates_in_an_empty_folder(installed, empty, resources):
    names = ("dlib_68", "dlib_resnet", "mobilenet_v2", "stlpips_vgg")
    root = resources(*names)
    (empty / "photos").mkdir()
    Image.fromarray(data.astronaut()).save(empty / "photos" / "astronaut.png")
    frcore = installed / "frcore"
    words = ("-i", "photos", "-o", "restored", "--model", "psfrgan_64", "--resources", root)
    assert "1 of 1 photographs restored" in call(frcore, "restore", *words, cwd=empty).stdout
    after = np.asarray(Image.open(empty / "restored" / "astronaut.png"))
    assert after.shape == data.astronaut().shape and (after != data.astronaut()).any()

    for name, shift in (("truth", 0), ("made", 3)):
        (empty / name).mkdir()
        for k in range(3):
            face = np.roll(data.astronaut()[:192, 160:352], 4 * k, 0)
            small = Image.fromarray(face).resize((64, 64))
            Image.fromarray(np.roll(np.asarray(small), shift, 0)).save(empty / name / f"{k}.png")
    words = ("--restored", "made", "--truth", "truth", "--protocol", "faces64", "--out", "s.csv")
    text = call(frcore, "evaluate", *words, "--resources", root, cwd=empty).stdout
    assert "3 pairs" in text
    scores = (empty / "s.csv").read_text()
    metrics = yaml.safe_load((CATALOGUE / "protocols" / "faces64.yaml").read_text())["metrics"]
    assert all(f"\n{metric}," in scores for metric in metrics)


def test_the_wheel_degrades_by_a_recipe_of_the_catalogue(installed, empty):
    (empty / "faces").mkdir()
    Image.fromarray(data.astronaut()[:192, 160:352]).resize((64, 64)).save(empty / "faces/a.png")
    words = ("-i", "faces", "-o", "worse", "--degradation", "gfpgan_64")
    call(installed / "frcore", "degrade", *words, cwd=empty)
    assert Image.open(empty / "worse" / "a.png").size == (64, 64)


def test_python_use_is_what_the_documentation_says(tmp_path):
    """The first block of docs/python.md, on a face of 64 px."""
    text = (ROOT / "docs" / "python.md").read_text()
    Image.fromarray(data.astronaut()[:192, 160:352]).resize((64, 64)).save(tmp_path / "face.png")
    code = re.search(r"```python\n(.*?)```", text, re.S)[1]
    call(sys.executable, "-c", code, cwd=tmp_path)
    assert Image.open(tmp_path / "restored.png").size == (64, 64)


# ---- from another workflow, from an awkward path


USE = """
configfile: "mine.yaml"

module frcore:
    snakefile: {snakefile!r}
    config: config

use rule * from frcore

rule mine:
    input: "results/tables/licences.md"
    output: "done.txt"
    shell: "cp {{input}} {{output}}"
"""
RUN = {"datasets": ["digiface"], "degradations": ["x4_64"], "models": ["bicubic"]}


@pytest.fixture
def other(empty, clone, tmp_path):
    """A workflow that uses ours as a module."""
    project = clone(tmp_path / "frcore project")
    (empty / "Snakefile").write_text(USE.format(snakefile=str(project / "Snakefile")))
    shutil.copytree(project / "resources", empty / "resources", copy_function=os.link)
    few = {"digiface": {"samples": 60, "shards": 1}}
    content = {"run": {**RUN, "protocol": "toy"}, "datasets": few}
    (empty / "mine.yaml").write_text(yaml.safe_dump(content))
    return empty


@pytest.mark.workflow
def test_another_workflow_uses_ours_as_a_module(other):
    snakemake = (sys.executable, "-m", "snakemake", "--cores", 2)
    text = call(*snakemake, "-n", "results/report.html", cwd=other).stdout
    assert "align_faces" in text and "report_page" in text
    call(*snakemake, "done.txt", "results/degraded/digiface/x4_64.csv", cwd=other, timeout=600)
    assert "digiface_generator" in (other / "done.txt").read_text()
    assert len((other / "results/degraded/digiface/x4_64.csv").read_text().splitlines()) > 1
    assert not (other / "workflow_scripts").exists()


@pytest.mark.workflow
@pytest.mark.parametrize("name", ["it's a {project}", "[ä] $HOME; #1"])
def test_the_path_of_the_clone_may_be_awkward(clone, tmp_path, name):
    project = clone(tmp_path / name)
    picture = "results/figures/degradations/digiface/x4_64.png"
    words = (picture, "--cores", 2, "--configfile", "tests/toy.yaml")
    call(sys.executable, "-m", "snakemake", *words, cwd=project, timeout=600)
    assert (project / picture).is_file()


# ---- environments


def pins(lines) -> dict[str, str]:
    """{package: version} of lines NAME==VERSION."""
    return dict(line.strip().lower().split("==") for line in lines if "==" in line)


def test_the_conda_file_needs_nothing_of_the_clone():
    """Snakemake copies it away; no conda is on this machine, so that is as far as this goes."""
    content = yaml.safe_load((ROOT / "envs" / "frcore.yaml").read_text())
    python, pip, inner = content["dependencies"]
    assert python.startswith("python=3.") and pip == "pip"
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in inner["pip"])
    locked = pins((ROOT / "requirements.lock").read_text().splitlines())
    assert pins(inner["pip"]).items() <= locked.items()
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    jobs = [*about["dependencies"], *about["optional-dependencies"]["workflow"]]
    needed = {re.match(r"[\w-]+", line)[0].lower() for line in jobs}
    needed -= {"snakemake", "snakemake-executor-plugin-slurm", "pygments"}
    assert needed <= set(pins(inner["pip"]))


def test_every_package_that_is_asked_for_is_locked():
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {k: v for k, v in about["optional-dependencies"].items() if k != "heic"}
    lines = [*about["dependencies"], *(line for group in groups.values() for line in group)]
    locked = pins((ROOT / "requirements.lock").read_text().splitlines())
    named = {re.match(r"[\w-]+", line)[0].lower() for line in lines}
    assert {name.replace("_", "-") for name in named} <= {k.replace("_", "-") for k in locked}


# ---- documentation


def test_the_site_is_built_without_a_warning(tmp_path):
    words = ("build", "--strict", "--site-dir", tmp_path / "site")
    done = call(sys.executable, "-m", "mkdocs", *words, cwd=ROOT)
    assert "WARNING" not in done.stderr + done.stdout
    pages = {path.parent.name: path.read_text() for path in tmp_path.glob("site/**/index.html")}
    assert all(f"<code>{name}</code>" in pages["metrics"] for name in METRICS)
    assert all(f'id="{name}"' in pages["methods"] for name in METHODS)
    for key in ("crop_scale", "ema_images", "low_quality", "published", "bootstrap"):
        assert f"<code>{key}</code>" in pages["configuration"]
    for step in BaseStep.__subclasses__():
        [kind] = step.model_fields["kind"].annotation.__args__
        assert f'id="{kind}"' in pages["configuration"], kind
    for verb in ("restore", "evaluate", "align", "degrade", "sample", "list", "check", "weights"):
        assert f"frcore {verb}" in pages["cli"]
    assert "load_model" in pages["python"] and "restore_faces" in pages["python"]
    for path in tmp_path.glob("site/**/*.html"):  # nothing is fetched by a reader's browser
        assert "```" not in path.read_text(), f"{path}: a fence that is none"
        assert not re.search(r'(src|rel="stylesheet" href)="https?:', path.read_text()), path


def test_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 90 and len(text.split()) <= 900
    for name in ("README.md", "CONTRIBUTING.md", *(p.relative_to(ROOT) for p in
                 ROOT.glob("docs/**/*.md"))):  # fmt: skip
        page = ROOT / name
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            made = link.startswith("reference/") or link.endswith("contributing.md")
            assert made or (page.parent / link).exists(), f"{name}: {link}"


def test_the_map_of_the_tree_names_what_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text[text.index("## Where is") : text.index("## Where do I add")]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) == 10
    paths = re.findall(r"`((?:frcore|experiments|rules)/[\w/.]*)`", text)
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert len(paths) > 30 and not missing
