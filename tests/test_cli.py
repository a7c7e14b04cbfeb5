"""The command line: exit codes, one-line errors, files; without assets and without a network."""

import csv
import json
import os
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


def test_evaluate_of_mixed_sizes(capsys, tmp_path):
    """Each image is measured; what compares sets says why it cannot, a protocol which file."""
    for folder in ("truth", "restored"):
        faces(tmp_path / folder, "ab")
        for name in "cd":
            pixels = np.random.default_rng(1).integers(0, 200, (96, 96, 3), dtype=np.uint8)
            write_image(tmp_path / folder / f"{name}.png", pixels)
    words = ["evaluate", "--restored", "restored", "--truth", "truth", "--out", "e.csv"]
    assert main.main([*words, "--metrics", "ssim_rgb,niqe_refit32"]) == 0
    ssim, refit = table(tmp_path / "e.csv")
    assert ssim["n"] == "4" and (refit["value"], "of one size" in refit["note"]) == ("", True)
    text = error_of(capsys, *words, "--protocol", "toy")
    assert "protocol toy measures 64 px, truth/c.png has 96x96" in text
    assert "named twice" in error_of(capsys, *words, "--metrics", "psnr_rgb,psnr_rgb")


# ---- surroundings


FOREIGN_CONFIGS = {
    "another project": b"name: my_other_project\nlr: 0.1\n",
    "with a run": b"run: {name: first, epochs: 3}\n",
    "a command as run": b"run: python train.py\n",
    "empty": b"",
    "a list": b"- a\n- b\n",
    "binary": b"\xff\xfe\x00\x01" * 50,
    "latin-1": "ville: Orléans\n".encode("latin-1"),
    "no YAML": b"a: [b\n  c: }",
    "a tag": b"!!python/object/apply:os.system ['touch pwned']\n",
    "deep": b"[" * 3000,
}


@pytest.mark.parametrize("content", FOREIGN_CONFIGS)
def test_a_config_of_another_project_disturbs_no_verb(capsys, tmp_path, content):
    Path("config.yaml").write_bytes(FOREIGN_CONFIGS[content])
    faces(tmp_path / "in", "ab")
    for words in (
        ["align", "-i", "in", "-o", "a", "--aligned"],
        ["degrade", "-i", "in", "-o", "d", "--degradation", "gfpgan_64"],
        ["restore", "-i", "in", "-o", "r", "--aligned", "--model", "bicubic"],
        ["evaluate", "--restored", "r", "--truth", "in", "--metrics", "psnr_rgb", "--out", "e.csv"],
        ["weights", "list", "dlib_68"],
    ):
        assert main.main(words) == 0, capsys.readouterr().err
    assert not Path("pwned").exists()


def test_a_config_folder_pipe_or_link_disturbs_no_verb(capsys):
    for make in (
        lambda: Path("config.yaml").mkdir(),
        lambda: os.mkfifo("config.yaml"),
        lambda: Path("config.yaml").symlink_to("config.yaml"),
    ):
        make()
        assert main.main(["weights", "list", "dlib_68"]) == 0
        Path("config.yaml").rmdir() if Path("config.yaml").is_dir() else os.unlink("config.yaml")


def test_a_config_of_ours_is_used_right_or_wrong(capsys, tmp_path):
    faces(tmp_path / "in", "a")
    words = ["degrade", "-i", "in", "-o", "d", "--degradation", "mine"]
    whole = "run: {datasets: [], degradations: [], models: [], protocol: faces64}\n"
    Path("config.yaml").write_text(f"{whole}nonsense: 3\n")
    assert "nonsense" in error_of(capsys, *words)
    recipe = "{description: x, size: 64, steps: [{kind: jpeg, quality: [40, 40]}]}"
    Path("config.yaml").write_text(f"{whole}degradations: {{mine: {recipe}}}\n")
    assert main.main(words) == 0
    Path("other.yaml").write_text("seed: 3\n")  # stands over it
    assert main.main([*words, "--config", "other.yaml", "--overwrite"]) == 0


FOREIGN_VARIABLES = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "7",
}


@pytest.mark.parametrize("value", ["usual", "nonsense"])
def test_variables_of_notebooks_and_clusters(tmp_path, value):
    """In processes of their own: what they read is read when they start."""
    faces(tmp_path / "in", "ab")
    nothing = tmp_path / "nobody"
    nothing.mkdir()
    nothing.chmod(0o555)
    odd = {
        key: usual if value == "usual" else "nonsense" for key, usual in FOREIGN_VARIABLES.items()
    }
    home = {"HOME": str(nothing if value == "usual" else "/nonexistent/here")}
    code = {"PYTHONIOENCODING": "ascii" if value == "usual" else "latin-1", "LC_ALL": "C"}
    outside = {**os.environ, **odd, **home, **code, "PYTHONPATH": str(ROOT)}
    outside.pop("FRCORE_RESOURCES")
    for words in (
        ["restore", "-i", "in", "-o", "дед", "--aligned", "--model", "bicubic"],
        ["align", "-i", "in", "-o", "é", "--aligned"],
        ["degrade", "-i", "in", "-o", "d", "--degradation", "gfpgan_64"],
    ):
        process = subprocess.run(
            [sys.executable, "-m", "frcore", *words], env=outside, capture_output=True, cwd=tmp_path
        )
        assert process.returncode == 0, process.stderr
        assert b"Traceback" not in process.stderr
    assert len(list(tmp_path.glob("дед/*.png"))) == len(list(tmp_path.glob("é/faces/*.png"))) == 2


def test_names_that_are_no_text(capsys, tmp_path):
    faces(tmp_path / "in", "ab")
    out = os.fsdecode(b"out\xff")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = ["align", "-i", "in", "-o", out, "--aligned"]
    process = subprocess.run(
        [sys.executable, "-m", "frcore", *words], env=environment, capture_output=True, cwd=tmp_path
    )
    assert process.returncode == 0 and rb"out\udcff" in process.stdout, process.stderr
    assert len(list(Path(out, "faces").iterdir())) == 2


# ---- errors in batches


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "pipe", "gone", "another size"])
def test_errors_of_a_batch_name_the_file(capsys, tmp_path, damage):
    faces(tmp_path / "truth", "abc")
    faces(tmp_path / "restored", "abc")
    bad = Path("restored/b.png")
    data = bad.read_bytes()
    bad.unlink()
    if damage == "pipe":
        os.mkfifo(bad)
    elif damage == "gone":
        bad.symlink_to("nowhere")
    elif damage == "another size":
        write_image(bad, np.zeros((20, 20, 3), np.uint8))
    else:
        bad.write_bytes({"cut": data[:300], "empty": b"", "text": b"hello"}[damage])
    words = ["--restored", "restored", "--truth", "truth", "--metrics", "psnr_rgb"]
    for command in (
        ["evaluate", *words, "--out", "e.csv"],
        ["degrade", "-i", "restored", "-o", "d", "--degradation", "gfpgan_64"],
    ):
        text = error_of(capsys, *command)
        assert "restored/b.png" in text and len(text.splitlines()) == 1
        assert text.count("b.png") == 1 or command[0] == "evaluate"
    assert not Path("d").exists() and not Path("e.csv").exists()


def test_degrade_counts_what_it_leaves_out(capsys, tmp_path):
    faces(tmp_path / "in", "ab")
    Path("in/a.png").rename("in/A.PNG")
    Path("in/._b.png").write_bytes(b"\0\5\x16\7")  # what macOS leaves on foreign disks
    Path("in/photo.jpg").touch()
    Path("in/notes.txt").touch()
    Path("in/folder.png").mkdir()
    assert main.main(["degrade", "-i", "in", "-o", "d", "--degradation", "gfpgan_64"]) == 0
    assert "2 faces degraded (2 other files are no PNGs)" in capsys.readouterr().out
    assert {path.name for path in Path("d").glob("*.png")} == {"A.png", "b.png"}
