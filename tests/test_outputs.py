"""No command deletes or replaces what it did not make: tried through the command line."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from frcore.cli import common, main
from frcore.io import checkpoint, files
from frcore.io.images import write_image
from frcore.io.outputs import MARK
from frcore.methods import stylegan2


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRCORE_RESOURCES", str(tmp_path / "resources"))


def faces(folder: str, names="ab") -> Path:
    Path(folder).mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 200, (len(names), 64, 64, 3), dtype=np.uint8)
    for name, image in zip(names, pixels):
        write_image(Path(folder) / f"{name}.png", image)
    return Path(folder)


@pytest.fixture
def prior():
    settings = stylegan2.Settings(**stylegan2.TINY)
    card = {"method": "stylegan2", "settings": settings.model_dump(), "name": "tiny"}
    networks = {"model": stylegan2.build(settings).state_dict()}
    checkpoint.save_weights("tiny.safetensors", networks, card)
    return "tiny.safetensors"


# verb -> words before IN and OUT; files beside OUT as (in OUT?, name)
VERBS = {
    "align": ["align", "--aligned", "--size", "32"],
    "degrade": ["degrade", "--degradation", "gfpgan_64"],
    "restore": ["restore", "--model", "bicubic", "--aligned"],
}


def run(verb, given, out, *more) -> int:
    return main.main([*VERBS[verb], "-i", str(given), "-o", str(out), *more])


def snapshot() -> dict:
    """Names and contents of everything here."""
    found = {}
    for path in sorted(Path().rglob("*")):
        link = os.readlink(path) if path.is_symlink() else None
        content = path.read_bytes() if path.is_file() else b""
        found[path.as_posix()] = (link, content)
    return found


# ---- IN and OUT

PLACES = {
    "the same": ("in", "in"),
    "with a slash": ("in", "in/"),
    "with dots": ("in", "other/../in"),
    "through a link": ("in", "link"),
    "the input through a link": ("link", "in"),
    "inside": ("in", "in/out"),
    "deep inside": ("in", "in/a/b/c"),
    "inside through a link": ("in", "link/out"),
    "around": ("in/sub", "in"),
    "around through a link": ("in/sub", "link"),
    "the working folder": ("in", "."),
    "absolute": ("in", "{here}/in"),
    "around by two dots": ("in/sub", "in/sub/.."),
}


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["", "overwrite"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("verb", VERBS)
def test_one_inside_the_other_is_refused_before_work(capsys, verb, place, overwrite):
    faces("in"), faces("in/sub"), faces("other")
    Path("link").symlink_to("in")
    before = snapshot()
    given, out = (text.format(here=Path.cwd()) for text in PLACES[place])
    assert run(verb, given, out, *overwrite) == common.EXIT_ERROR
    text = capsys.readouterr().err
    assert len(text.splitlines()) == 1 and "Traceback" not in text
    assert snapshot() == before


@pytest.mark.parametrize("verb", ["align", "restore"])
def test_a_link_inside_the_input_counts(capsys, verb):
    faces("in"), faces("collection/2019")
    Path("in/more").symlink_to("../collection")
    before = snapshot()
    for out in ("collection/out", "collection"):
        assert run(verb, "in", out) == common.EXIT_ERROR
        assert "by a link" in capsys.readouterr().err
    assert snapshot() == before


@pytest.mark.parametrize("verb", ["align", "restore"])
def test_a_single_photograph(capsys, verb):
    faces("in")
    before = snapshot()
    for out in ("in", "in/../in", "."):
        assert run(verb, "in/a.png", out) == common.EXIT_ERROR
        assert "holds the input" in capsys.readouterr().err
    assert snapshot() == before
    assert run(verb, "in/a.png", "in/out") == 0  # beside it is what people do


def test_folders_that_only_look_alike(capsys):
    faces("in"), faces("in2")
    for verb in VERBS:
        assert run(verb, "in", f"in-{verb}") == 0
        assert run(verb, "in2", f"IN-{verb}") == 0


# ---- --overwrite


@pytest.mark.parametrize("verb", ["align", "degrade"])
def test_what_was_made_is_replaced_and_nothing_else(capsys, verb):
    faces("in", "abc")
    out = Path("out/faces" if verb == "align" else "out")
    assert run(verb, "in", "out") == 0
    assert run(verb, "in", "out") == common.EXIT_ERROR
    assert "use --overwrite" in capsys.readouterr().err
    Path("in/c.png").unlink()
    assert run(verb, "in", "out", "--overwrite") == 0
    assert len(list(out.glob("*.png"))) == 2  # what an earlier call made is gone
    assert run(verb, "in", "out", "--overwrite") == 0
    (out / ".DS_Store").touch()  # file managers leave such things
    assert run(verb, "in", "out", "--overwrite") == 0


FOREIGN = {
    "notes beside": lambda out: (out / "notes.txt").write_text("mine"),
    "a photograph": lambda out: write_image(out / "holiday.png", np.zeros((9, 9, 3), np.uint8)),
    "a hidden file": lambda out: (out / ".mine").write_text("mine"),
    "a folder with a file": lambda out: (
        (out / "x" / "y").mkdir(parents=True),
        (out / "x" / "y" / "z").write_text("mine"),
    ),
    "a link": lambda out: (out / "disk").symlink_to(".."),
}


@pytest.mark.parametrize("ours", [False, True], ids=["their folder", "our folder"])
@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("verb", ["align", "degrade", "sample"])
def test_foreign_files_are_never_deleted(capsys, prior, verb, foreign, ours):
    faces("in")
    words = ["sample", "--model", prior, "-n", "2", "-o", "out"]
    call = lambda *more: (  # noqa: E731
        main.main([*words, *more]) if verb == "sample" else run(verb, "in", "out", *more)
    )
    out = Path("out/faces" if verb == "align" else "out")
    if ours:
        assert call() == 0
    out.mkdir(parents=True, exist_ok=True)
    FOREIGN[foreign](out)
    before = snapshot()
    for more in ([], ["--overwrite"]):
        assert call(*more) == common.EXIT_ERROR
        assert "frcore did not make" in capsys.readouterr().err
        assert snapshot() == before


SIDE_FILES = [
    ("align", "out/faces.csv"),
    ("align", "out/quarantine.csv"),
    ("degrade", "out.csv"),
    ("sample", "out.png"),
]


@pytest.mark.parametrize("kind", ["file", "link", "folder", "dangling"])
@pytest.mark.parametrize(("verb", "side"), SIDE_FILES)
def test_files_beside_are_guarded_like_the_folder(capsys, prior, verb, side, kind):
    faces("in")
    Path("out").mkdir() if verb == "align" else None
    Path("mine").write_text("image,age")
    if kind == "folder":
        Path(side).mkdir()
    elif kind == "file":
        shutil.copy("mine", side)
    else:
        Path(side).symlink_to(Path("mine" if kind == "link" else "none").absolute())
    before = snapshot()
    for more in ([], ["--overwrite"]):
        words = ["sample", "--model", prior, "-n", "2", "-o", "out", *more]
        code = main.main(words) if verb == "sample" else run(verb, "in", "out", *more)
        assert code == common.EXIT_ERROR
        assert side in capsys.readouterr().err
        assert snapshot() == before


@pytest.mark.parametrize(("verb", "side"), SIDE_FILES)
def test_our_own_files_beside_are_replaced_unless_changed(capsys, prior, verb, side):
    faces("in")
    words = ["sample", "--model", prior, "-n", "2", "-o", "out"]
    call = lambda *more: (  # noqa: E731
        main.main([*words, *more]) if verb == "sample" else run(verb, "in", "out", *more)
    )
    assert call() == call("--overwrite") == 0
    Path(side).write_text("my own remarks")
    before = snapshot()
    assert call("--overwrite") == common.EXIT_ERROR
    assert side in capsys.readouterr().err and snapshot() == before


@pytest.mark.parametrize("verb", ["align", "degrade"])
def test_a_mark_of_somebody_else_deletes_nothing(capsys, verb):
    """A mark may come with a downloaded folder: what it names must be in the folder."""
    faces("in")
    assert run(verb, "in", "out") == 0
    Path("mine").write_text("mine")
    mark = Path("out") / MARK if verb == "align" else Path(f".out{MARK}")
    whole = json.loads(mark.read_text())
    status = Path("mine").stat()
    for name in ("../mine", "../../mine", str(Path("mine").absolute())):
        names = {**whole["files"], name: [[status.st_size, status.st_mtime_ns]]}
        mark.write_text(json.dumps({**whole, "files": names}))
        assert run(verb, "in", "out", "--overwrite") == 0
        assert Path("mine").read_text() == "mine"
        whole = json.loads(mark.read_text())
    for damaged in ("", "[]", '{"files": 3}', '{"files": [3], "beside": []}'):
        mark.write_text(damaged)
        assert run(verb, "in", "out", "--overwrite") == common.EXIT_ERROR
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["align", "degrade"])
def test_other_files_of_the_same_names_are_not_ours(capsys, verb):
    """The results were deleted, and photographs of the same names put in their place; or edited."""
    faces("in")
    assert run(verb, "in", "out") == 0
    out = Path("out/faces" if verb == "align" else "out")
    first = sorted(out.glob("*.png"))[0]
    data = first.read_bytes()
    first.unlink()
    first.write_bytes(data[::-1])
    before = snapshot()
    assert run(verb, "in", "out", "--overwrite") == common.EXIT_ERROR
    assert "changed since" in capsys.readouterr().err and snapshot() == before


# ---- what OUT may be


@pytest.mark.parametrize("verb", VERBS)
def test_out_may_be_a_link_to_a_folder(verb):
    faces("in")
    Path("disk").mkdir()
    Path("out").symlink_to("disk")
    assert run(verb, "in", "out", "--overwrite") == 0
    assert Path("out").is_symlink() and len(list(Path("disk").rglob("*.png"))) >= 2
    assert run(verb, "in", "out", "--overwrite") == 0


@pytest.mark.parametrize("verb", VERBS)
def test_out_may_be_a_link_that_leads_nowhere_yet(verb):
    faces("in")
    Path("out").symlink_to("disk")
    assert run(verb, "in", "out") == 0
    assert Path("out").is_symlink() and len(list(Path("disk").rglob("*.png"))) >= 2


@pytest.mark.parametrize("verb", VERBS)
def test_out_that_cannot_be_a_folder_is_refused_before_work(capsys, verb):
    faces("in")
    Path("file").write_text("mine")
    Path("loop").symlink_to("loop")
    os.mkfifo("pipe")
    before = set(os.listdir())
    for out in ("file", "loop", "pipe", "file/in", "loop/in"):
        assert run(verb, "in", out, "--overwrite") == common.EXIT_ERROR
        text = capsys.readouterr().err
        assert len(text.splitlines()) == 1 and out.split("/")[0] in text
        assert Path("file").read_text() == "mine"
    assert set(os.listdir()) == before


@pytest.mark.parametrize("verb", ["degrade", "sample"])
def test_out_may_be_the_working_folder_if_it_is_empty(tmp_path, monkeypatch, prior, verb):
    faces("in")
    Path("here").mkdir()
    monkeypatch.chdir("here")
    words = ["sample", "--model", f"../{prior}", "-n", "2", "-o", ".", "--overwrite"]
    assert (main.main(words) if verb == "sample" else run(verb, "../in", ".", "--overwrite")) == 0
    assert len(list(Path().glob("*.png"))) == 2
    assert (tmp_path / {"sample": "here.png", "degrade": "here.csv"}[verb]).exists()


def test_a_failed_call_leaves_what_was_there(capsys, monkeypatch):
    faces("in")
    assert run("degrade", "in", "out") == 0
    before = snapshot()
    data = Path("in/b.png").read_bytes()
    Path("in/b.png").write_bytes(data[:200])
    assert run("degrade", "in", "out", "--overwrite") == common.EXIT_ERROR
    assert "in/b.png: truncated" in capsys.readouterr().err
    Path("in/b.png").write_bytes(data)
    assert snapshot() == before


@pytest.mark.parametrize("verb", ["align", "degrade"])
def test_a_call_that_was_cut_off_can_be_repeated(monkeypatch, verb):
    faces("in", "abc")
    assert run(verb, "in", "out") == 0
    replace, calls = os.replace, []

    def killed(source, target):
        calls.append(target)
        if len(calls) > 3:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    assert run(verb, "in", "out", "--overwrite") == main.EXIT_INTERRUPTED
    monkeypatch.setattr(os, "replace", replace)
    files._clear_once.cache_clear()
    assert run(verb, "in", "out", "--overwrite") == 0
    out = Path("out/faces" if verb == "align" else "out")
    assert len(list(out.glob("*.png"))) == 3


# ---- tables and weights


@pytest.mark.parametrize("name", ["scores.csv", "scores.images.csv"])
def test_evaluate_replaces_its_own_tables_alone(capsys, name):
    faces("truth"), faces("restored")
    words = ["evaluate", "--restored", "restored", "--truth", "truth", "--metrics", "psnr_rgb"]
    words += ["--out", "scores.csv"]
    Path(name).write_text("my,own,table\n")
    before = snapshot()
    assert main.main(words) == common.EXIT_ERROR
    assert name in capsys.readouterr().err and snapshot() == before
    Path(name).unlink()
    assert main.main(words) == main.main(words) == 0


@pytest.mark.parametrize("out", ["truth/a.png", "truth", "pipe", "loop/x.csv"])
def test_evaluate_refuses_a_place_that_is_no_table_before_work(capsys, out):
    faces("truth"), faces("restored")
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    before = Path("truth/a.png").read_bytes()
    words = ["evaluate", "--restored", "restored", "--truth", "truth", "--metrics", "psnr_rgb"]
    assert main.main([*words, "--out", out]) == common.EXIT_ERROR
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert Path("truth/a.png").read_bytes() == before


def test_convert_replaces_weights_alone(capsys):
    Path("thesis.safetensors").write_text("mine")
    Path("net.pt").write_bytes(b"x")
    words = ["weights", "convert", "net.pt", "--out", "thesis.safetensors", "--overwrite"]
    assert main.main(words) == common.EXIT_ERROR
    assert "no weights file of frcore" in capsys.readouterr().err
    assert Path("thesis.safetensors").read_text() == "mine"


def test_restore_replaces_no_table_of_others(capsys):
    faces("in")
    Path("out").mkdir()
    Path("out/restored.csv").write_text("my,own,table\n")
    before = snapshot()
    for more in ([], ["--overwrite"]):
        assert run("restore", "in", "out", *more) == common.EXIT_ERROR
        assert "restored.csv" in capsys.readouterr().err and snapshot() == before
