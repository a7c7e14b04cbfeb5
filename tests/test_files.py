"""Files appear whole or not at all: after a kill, on a full disk, with the modes of the umask."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest
import safetensors
import torch

from frcore.io import checkpoint, files
from frcore.io.files import atomic_output, clear_scratch


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("mask", [0o077, 0o002, 0o022, 0o027], ids=oct)
def test_modes_follow_the_umask(tmp_path, umask, mask):
    umask(mask)
    with atomic_output(tmp_path / "deep" / "folder", folder=True) as part:
        (part / "x").touch()
    with atomic_output(tmp_path / "file") as part:
        part.touch()
    checkpoint.save_weights(tmp_path / "w.safetensors", {"model": {"a": torch.zeros(2)}}, {})
    checkpoint.save_state(tmp_path / "state", {"n": 1})
    for path in tmp_path.rglob("*"):
        whole = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == whole & ~mask, path


WRITER = """
import sys, time
from frcore.io.files import atomic_output
with atomic_output(sys.argv[1], folder=sys.argv[2] == "folder") as part:
    (part / "x" if sys.argv[2] == "folder" else part).write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def start_writer(path, kind):
    words = [sys.executable, "-c", WRITER, str(path), kind]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    return process


@pytest.fixture
def forgetful(monkeypatch):
    """As in a new process, folders were not looked through yet."""
    files._clear_once.cache_clear()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_a_kill_leaves_is_removed_by_the_next(tmp_path, kind, forgetful):
    process = start_writer(tmp_path / "out", kind)
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert {path.name for path in tmp_path.iterdir()} == left
    with atomic_output(tmp_path / "another") as part:  # of any name
        part.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["another"]


def test_the_scratch_of_a_living_process_stays(tmp_path, forgetful):
    process = start_writer(tmp_path / "out", "folder")
    try:
        assert clear_scratch(tmp_path) == []
    finally:
        process.kill()
        process.wait()
    assert len(clear_scratch(tmp_path)) == 1


def test_the_scratch_of_another_host_stays_for_days(tmp_path, monkeypatch, forgetful):
    process = start_writer(tmp_path / "out", "folder")
    process.kill()
    process.wait()
    monkeypatch.setattr(files.socket, "gethostname", lambda: "elsewhere")
    assert clear_scratch(tmp_path) == []
    old = time.time() - 10 * 86400
    for path in (*tmp_path.rglob("*"), *tmp_path.iterdir()):
        os.utime(path, (old, old))
    assert len(clear_scratch(tmp_path)) == 1


def test_folders_that_only_look_like_scratch_stay(tmp_path, forgetful):
    (tmp_path / ".frcore-notes").mkdir()  # no lock in it
    (tmp_path / ".frcore-link").symlink_to(tmp_path)
    (tmp_path / ".frcore-file").touch()
    assert clear_scratch(tmp_path) == []


def test_a_long_name_has_room(tmp_path):
    with atomic_output(tmp_path / ("a" * 251 + ".csv")) as part:
        part.write_text("x")
    assert len(list(tmp_path.iterdir())) == 1


def test_the_link_of_a_folder_is_followed_and_that_of_a_file_is_not(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    with atomic_output(tmp_path / "out", folder=True) as part:
        (part / "x").touch()
    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk" / "x").exists()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "file").symlink_to("mine")
    with atomic_output(tmp_path / "file") as part:
        part.write_text("new")
    assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / "file").read_text() == "new"


# ---- a full disk

FULL = OSError(errno.ENOSPC, "No space left on device")


def fill(kind):
    """Raise what this kind of writing raises on a full disk."""
    if kind == "plain":
        raise FULL
    if kind == "quota":
        raise OSError(errno.EDQUOT, "Disk quota exceeded")
    if kind == "safetensors":
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")
    try:
        raise FULL
    except OSError:
        raise RuntimeError("unexpected pos 64 vs 0") from None  # torch says this


@pytest.mark.parametrize("kind", ["plain", "quota", "safetensors", "torch"])
def test_a_full_disk_names_the_path(tmp_path, kind):
    (tmp_path / "out.csv").write_text("before")
    with pytest.raises(OSError, match=r"out\.csv") as error, atomic_output(tmp_path / "out.csv"):
        fill(kind)
    assert error.value.errno in (errno.ENOSPC, errno.EDQUOT)
    assert "frcore-" not in str(error.value) and error.value.__cause__ is None
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize("kind", ["plain", "torch"])
def test_a_training_state_on_a_full_disk(tmp_path, monkeypatch, kind):
    checkpoint.save_state(tmp_path, {"n": 1})

    def save(state, opened):
        opened.write(b"half")
        fill(kind)

    monkeypatch.setattr(checkpoint.torch, "save", save)
    with pytest.raises(OSError, match=r"No space left on device: .*state\.pt'"):
        checkpoint.save_state(tmp_path, {"n": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    assert checkpoint.load_state(tmp_path) == {"n": 1}


def test_a_really_full_disk(tmp_path):
    """/dev/full takes nothing; a limit on the size of files stands for the disk."""
    code = (
        "import resource, signal, sys, numpy as np; from pathlib import Path\n"
        "from frcore.io.files import atomic_output; from frcore.io.images import write_image\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "with atomic_output(sys.argv[1]) as part: write_image(part, noise)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "x.png")]
    process = subprocess.run(words, capture_output=True, text=True)
    last = process.stderr.splitlines()[-1]
    assert last.startswith("OSError") and last.endswith(f"'{tmp_path / 'x.png'}'")
    assert not list(tmp_path.iterdir())


def test_other_errors_are_as_they_were(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_output(tmp_path / "out"):
        json.dumps(1 / 0)
    with pytest.raises(FileNotFoundError), atomic_output(tmp_path / "out") as part:
        part.with_name("none").read_text()
    assert not list(tmp_path.iterdir())


def test_many_at_once(tmp_path, forgetful):
    """Processes that look for what was left do not take each other's scratch folders away."""
    code = (
        "import sys; from frcore.io import files\n"
        "for n in range(60):\n"
        "    files._clear_once.cache_clear(); name = f'{sys.argv[1]}/{sys.argv[2]}{n % 3}'\n"
        "    with files.atomic_output(name, folder=n % 3 == 2) as part:\n"
        "        (part / 'x' if n % 3 == 2 else part).write_text('whole')\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen([*words, name]) for name in "abc"]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert {path.name for path in tmp_path.iterdir()} == {f"{a}{n}" for a in "abc" for n in "012"}
