"""The command line: exit codes, one-line errors, files; without assets and without a network."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from frcore.cli import common, listing, main
from frcore.config import CATALOGUE
from frcore.io.images import read_image, write_image

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Commands must work from any folder; nothing is fetched."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRCORE_RESOURCES", str(tmp_path / "resources"))


def faces(folder: Path, names: str, shift: int = 0) -> Path:
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 200, (len(names), 64, 64, 3), dtype=np.uint8)
    for name, image in zip(names, pixels):
        write_image(folder / f"{name}.png", image + np.uint8(shift))
    return folder


def table(path: Path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def error_of(capsys, *arguments) -> str:
    assert main.main([str(item) for item in arguments]) == common.EXIT_ERROR
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


def test_help_imports_no_torch():
    code = "import sys, frcore.cli.main as c; c.make_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_list_needs_no_torch():
    code = "import sys, frcore.cli.main as c; c.main(['list']); sys.exit('torch' in sys.modules)"
    words = [sys.executable, "-c", code]
    assert subprocess.run(words, cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0


def test_counted_parameters_are_those_of_the_networks():
    known = json.loads((CATALOGUE / "parameters.json").read_text())
    assert known == listing.counts_of_catalogue(), "run `make counts`"


def test_wrong_arguments_end_with_1(capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main(["restore", "-i", "photos"])
    assert stopped.value.code == common.EXIT_ERROR
    with pytest.raises(SystemExit) as stopped:
        main.main(["restore", "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0 and "exit codes" in text and "--strip-metadata" in text
    assert "NAME_0.SUFFIX" in text  # where samples go


def test_own_mistakes_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(main, "check", lambda args: {}["bug"])
    with pytest.raises(KeyError):
        main.main(["check"])


# ---- weights, list, check


def test_weights(capsys, tmp_path):
    assert main.main(["weights", "list"]) == 0
    assert "non-commercial" in capsys.readouterr().out
    assert main.main(["weights", "verify"]) == 0  # missing ones are no fault
    text = error_of(capsys, "weights", "verify", "niqe")
    assert "niqe_image_params.mat: missing" in text
    (tmp_path / "resources" / "niqe").mkdir(parents=True)
    (tmp_path / "resources" / "niqe" / "niqe_image_params.mat").write_text("half")
    assert "expected 269cd2d5" in error_of(capsys, "weights", "verify")
    text = error_of(capsys, "weights", "fetch", "vgg19")
    assert "vgg19-dcbb9e9d.pth" in text and len(text.splitlines()) == 1
    assert "did you mean 'niqe'" in error_of(capsys, "weights", "fetch", "nique")


def test_list_counts_parameters(capsys):
    assert main.main(["list", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    models = {row["name"]: row for row in listing["models"]}
    from frcore.config import load_config, load_settings
    from frcore.registry import METHODS, METRICS, load_method

    entry = load_config(ROOT / "config.yaml").models["psfrgan_64"]
    module = load_method(entry.method)
    net = module.build(load_settings(module.Settings, entry.settings))
    assert models["psfrgan_64"]["parameters"] == sum(item.numel() for item in net.parameters())
    assert models["bicubic"]["parameters"] == 0
    assert [row["name"] for row in listing["methods"]] == list(METHODS)
    assert [row["name"] for row in listing["metrics"]] == list(METRICS)


def test_check_reads_the_settings_of_the_methods(capsys, tmp_path):
    assert main.main(["check"]) == 0
    text = (ROOT / "config.yaml").read_text(encoding="utf-8")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text + "models: {bicubic: {settings: {sharp: 1}}}\n")
    assert "models.bicubic.settings.sharp: unknown key" in error_of(capsys, "check", wrong)
    wrong.write_text("a: [")
    assert "wrong.yaml" in error_of(capsys, "check", wrong)
    assert "No such file" in error_of(capsys, "check", tmp_path / "none.yaml")


# ---- align, degrade, restore, evaluate


def test_align_names_the_missing_landmark_model(capsys, tmp_path):
    faces(tmp_path / "in", "a")
    text = error_of(capsys, "align", "-i", "in", "-o", "out")
    assert "shape_predictor_68_face_landmarks.dat" in text and len(text.splitlines()) == 1


def test_align_of_aligned_photographs(capsys, tmp_path):
    faces(tmp_path / "in", "ab")
    (tmp_path / "in" / "broken.png").touch()
    command = ["align", "-i", "in", "-o", "out", "--aligned", "--size", "32"]
    assert main.main(command) == 0
    assert "2 faces of 3 photographs, 1 quarantined" in capsys.readouterr().out
    written = sorted((tmp_path / "out" / "faces").iterdir())
    assert len(written) == 2 and read_image(written[0]).shape == (32, 32, 3)
    assert table(tmp_path / "out" / "quarantine.csv")[0]["reason"] == "empty file"
    assert "--overwrite" in error_of(capsys, *command)
    assert main.main([*command, "--overwrite"]) == 0
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "broken.png").touch()
    assert main.main(["align", "-i", "none", "-o", "o", "--aligned"]) == common.EXIT_PARTLY


def test_degrade_gives_the_same_bytes_again(capsys, tmp_path):
    faces(tmp_path / "in", "ab")
    for out in ("x", "y"):
        assert main.main(["degrade", "-i", "in", "-o", out, "--degradation", "psfr_64"]) == 0
    command = ["degrade", "-i", "in", "-o", "z", "--degradation", "psfr_64", "--seed", "1"]
    assert main.main(command) == 0
    first, again, other = ((tmp_path / out / "a.png").read_bytes() for out in "xyz")
    assert first == again != other
    assert [row["id"] for row in table(tmp_path / "x.csv")] == ["a", "b"]
    assert "use --overwrite" in error_of(capsys, *command)
    wrong = error_of(capsys, "degrade", "-i", "in", "-o", "w", "--degradation", "psfr_65")
    assert "did you mean" in wrong


def test_restore_counts_and_exit_codes(capsys, tmp_path):
    faces(tmp_path / "in", "ab")
    command = ["restore", "-i", "in", "-o", "out", "--model", "bicubic", "--aligned"]
    assert main.main(command) == 0
    assert "2 of 2 photographs restored" in capsys.readouterr().out
    (tmp_path / "in" / "c.png").touch()
    assert main.main(command) == common.EXIT_PARTLY
    last = capsys.readouterr().out.splitlines()[-1]
    assert "2 of 3 photographs restored" in last and "2 photographs done before" in last
    assert not (tmp_path / "out" / "c.png").exists()
    rows = table(tmp_path / "out" / "restored.csv")
    assert [(row["photo"], row["status"]) for row in rows][2] == ("c.png", "failed")
    assert "did you mean 'bicubic'" in error_of(capsys, *command[:-2], "bicubik")
    assert "landmarks.dat" in error_of(capsys, *command[:-1], "--overwrite")


def test_samples_are_counted_or_refused(capsys, tmp_path):
    from frcore.io import checkpoint
    from frcore.methods import rdfr

    settings = rdfr.Settings(**rdfr.TINY)
    card = {"method": "rdfr", "settings": settings.model_dump(), "name": "tiny"}
    networks = {"model": rdfr.build(settings).state_dict()}
    checkpoint.save_weights(tmp_path / "tiny.safetensors", networks, card)
    faces(tmp_path / "in", "ab")
    command = ["restore", "-i", "in", "-o", "out", "--aligned", "--samples", "2", "--model"]
    assert main.main([*command, "tiny.safetensors"]) == 0
    assert "2 of 2 photographs restored in 2 ways each" in capsys.readouterr().out
    assert {path.name for path in Path("out").glob("*.png")} == {
        "a_0.png", "a_1.png", "b_0.png", "b_1.png",
    }  # fmt: skip
    text = error_of(capsys, *command, "bicubic")
    assert "bicubic draws nothing" in text and len(text.splitlines()) == 1
    assert "samples must be at least 1" in error_of(
        capsys, *command[:-2], "0", "--model", "tiny.safetensors"
    )


def test_evaluate_known_answer(capsys, tmp_path):
    faces(tmp_path / "truth", "ab")
    faces(tmp_path / "restored", "ab", shift=5)
    command = ["evaluate", "--restored", "restored", "--truth", "truth", "--out", "e.csv"]
    assert main.main([*command, "--metrics", "psnr_rgb,niqe,stlpips_vgg"]) == 0
    psnr, niqe, distance = table(tmp_path / "e.csv")
    assert float(psnr["value"]) == pytest.approx(10 * np.log10(255**2 / 25)) and psnr["n"] == "2"
    assert (niqe["value"], distance["value"]) == ("", "")
    assert "smaller than 192" in niqe["note"] and "no weights" in distance["note"]
    assert len(table(tmp_path / "e.images.csv")) == 6
    assert main.main([*command, "--protocol", "faces64"]) == 0
    rows = table(tmp_path / "e.csv")
    assert {row["protocol"] for row in rows} == {"faces64"} and rows[0]["protocol_digest"]
    assert "did you mean 'psnr_rgb'" in error_of(capsys, *command, "--metrics", "psnr_rbg")


def test_evaluate_never_pairs_by_position(capsys, tmp_path):
    faces(tmp_path / "truth", "abc")
    faces(tmp_path / "restored", "abx")
    command = ["evaluate", "--restored", "restored", "--truth", "truth", "--out", "e.csv"]
    text = error_of(capsys, *command)
    assert "1 missing in restored: c" in text and "1 without truth in truth: x" in text
    (tmp_path / "restored" / "x.png").rename(tmp_path / "restored" / "c.jpg.png")
    assert "c.jpg" in error_of(capsys, *command)
    (tmp_path / "restored" / "c.jpg.png").unlink()
    write_image(tmp_path / "restored" / "c.png", np.zeros((32, 32, 3), np.uint8))
    assert "its truth" in error_of(capsys, *command)
    assert not (tmp_path / "e.csv").exists()
