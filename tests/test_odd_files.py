"""A folder of odd files: each is a result or a row with a reason, soon and in little memory."""

import csv
import io
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frcore.cli import common, main
from frcore.config import Dataset
from frcore.faces import build

SECONDS, MEGABYTES = 120, 600
NOBODY = 65534


def coded(image, kind, **more) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def png_of(width, height, bits=8, colour=2, data=bytes(1000)) -> bytes:
    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def odd_files(image: Image.Image) -> dict[str, bytes]:
    """{name: content} of about 140 files that show or once showed `image`."""
    draw, noise = random.Random(3), random.Random(4).randbytes
    grey = np.asarray(image.convert("L"))
    kinds = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF", "webp": "WEBP", "gif": "GIF", "bmp": "BMP"}
    whole = {kind: coded(image, name) for kind, name in kinds.items()}
    found = {f"whole.{kind}": data for kind, data in whole.items()}
    for kind, data in whole.items():
        for n, part in enumerate((0.001, 0.01, 0.1, 0.5, 0.9, 0.999)):
            found[f"cut_{n}.{kind}"] = data[: max(1, int(part * len(data)))]
        for n, times in enumerate((1, 10, 200, 1000)):
            damaged = bytearray(data)
            for _ in range(times):
                damaged[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            found[f"flipped_{n}.{kind}"] = bytes(damaged)
        damaged = bytearray(data)
        for _ in range(6):
            damaged[draw.randrange(min(64, len(data)))] ^= 0xFF
        found[f"head.{kind}"] = bytes(damaged)
    jpg, png = whole["jpg"], whole["png"]
    found |= {
        "png_called.jpg": png, "jpg_called.png": jpg, "text.jpg": b"hello\n" * 20, "empty.jpg": b"",
        "page.png": b"<html>", "zeros.jpg": bytes(10_000), "zip.png": b"PK\x03\x04" + bytes(100),
        "program.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n",
        "NOSUFFIX": jpg, "drawing.svg": b"<svg/>", "notes.txt": b"notes", "cut.heic": noise(1000),
        "bomb_60000.png": png_of(60000, 60000), "bomb.png": png_of(2**31 - 1, 2**31 - 1),
        "no_width.png": png_of(0, 10), "no_height.png": png_of(10, 0),
        "odd_bits.png": png_of(10, 10, 3), "odd_colour.png": png_of(10, 10, 8, 7),
        "one.png": coded(Image.new("RGB", (1, 1)), "PNG"),
        "thin.png": coded(Image.new("RGB", (1, 5000)), "PNG"),
        "wide.png": coded(Image.new("RGB", (30_000, 2)), "PNG"),
        "ppm_negative.ppm": b"P6 -5 10 255\n" + bytes(100), "ppm.ppm": b"P3 2 2 255 " + b"1 " * 12,
        "deep.png": coded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"),
        "deep.tif": coded(Image.fromarray(grey.astype(np.uint16) * 257), "TIFF"),
        "cmyk.jpg": coded(image.convert("CMYK"), "JPEG"),
        "cmyk.tif": coded(image.convert("CMYK"), "TIFF"),
        "la.png": coded(image.convert("LA"), "PNG"), "bit.png": coded(image.convert("1"), "PNG"),
        "palette.png": coded(image.convert("P"), "PNG", transparency=3),
        "many.gif": coded(image, "GIF", save_all=True, append_images=[image.rotate(9)] * 5),
        "many.tif": coded(image, "TIFF", save_all=True, append_images=[image.resize((9, 9))]),
        "tags_noise.jpg": coded(image, "JPEG", exif=b"Exif\0\0" + noise(3000)),
        "tags_loop.jpg": coded(image, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0"
                               b"\x01\0\0\0\x08\0\0\0\x08\0\0\0"),
        "profile_noise.jpg": coded(image, "JPEG", icc_profile=noise(5000)),
        "profile_huge.jpg": coded(image, "JPEG", icc_profile=b"A" * 8_000_000),
        "trailing.jpg": jpg + noise(500_000), "twice.jpg": jpg + jpg, "same.jpg": jpg,
        "quo'te.jpg": jpg, "new\nline.jpg": jpg, "semi;$(touch oops).jpg": jpg, "a,b\"c.jpg": b"x",
        "<img src=x>.jpg": b"x", "ünï.jpg": jpg, "UPPER.JPG": jpg, "-rf.jpg": jpg, "same.JPG": b"x",
        "a" * 240 + ".jpg": jpg, os.fsdecode(b"bad\xffname.jpg"): jpg, ".hidden.jpg": jpg,
        "deep/er/and/deeper.jpg": jpg,
    }  # fmt: skip
    for name, values in {
        "float": grey / 255, "nan": np.where(grey > 99, np.nan, 0.5), "negative": -grey / 255.0,
        "infinite": np.where(grey > 250, np.inf, grey / 255), "million": grey * 1e4,
    }.items():  # fmt: skip
        found[f"{name}.tif"] = coded(Image.fromarray(values.astype(np.float32)), "TIFF")
    for turn in (0, 3, 6, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = turn
        found[f"turn_{turn}.jpg"] = coded(image, "JPEG", exif=exif)
    return found


@pytest.fixture(scope="module")
def base():
    """A folder that other users may look into, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        yield Path(made)


@pytest.fixture(scope="module")
def folder(base) -> Path:
    """The odd files, and what is no file."""
    made = base / "in"
    y, x = np.mgrid[0:64, 0:64] / 64
    image = Image.fromarray(np.uint8(255 * np.stack([x, y, (x + y) / 2], -1)))
    for name, data in odd_files(image).items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(data)
    (made / "folder.jpg").mkdir()
    os.mkfifo(made / "pipe.png")
    with socket.socket(socket.AF_UNIX) as opened:
        before = Path.cwd()
        os.chdir(made)  # the name of a socket must be short
        opened.bind("socket.png")
        os.chdir(before)
    for name, target in {
        "self.png": "self.png", "one": "two", "two": "one", "loop": ".", "deep/up": "../deep",
        "gone.jpg": "nowhere", "zero.jpg": "/dev/zero", "password.jpg": "/etc/passwd",
    }.items():  # fmt: skip
        (made / name).symlink_to(target)
    for name in ("unreadable.jpg", "locked/x.jpg", "locked.jpg/x.jpg"):
        (made / name).parent.mkdir(exist_ok=True)
        coded_image = coded(image, "JPEG")
        (made / name).write_bytes(coded_image)
    shut = ("unreadable.jpg", "locked", "locked.jpg")
    for name in shut:
        (made / name).chmod(0)
    yield made
    for name in shut:
        (made / name).chmod(0o755)


@pytest.fixture(params=["as I am", "as nobody"])
def user(request, folder):
    """Runs the test as another user too, where that can be done: root may read everything."""
    if request.param == "as I am":
        yield request.param
        return
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    yield request.param
    os.seteuid(0)
    os.setegid(0)


@pytest.fixture
def out(base, folder, request):
    """A folder for results that both users may write to."""
    made = base / f"out{abs(hash(request.node.name))}"
    made.mkdir()
    made.chmod(0o777)
    return made / "out"


def rows_of(path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def expected(folder, user) -> int:
    """How many things a user sees below the folder; what is hidden is left out on purpose."""
    count = 0
    for here, folders, names in os.walk(folder):
        links = [n for n in folders if os.path.islink(f"{here}/{n}")]
        count += sum(not name.startswith(".") for name in names)
        count += sum(name.endswith(".jpg") for name in folders)
        folders[:] = [n for n in folders if n not in links and os.access(f"{here}/{n}", os.R_OK)]
    locked = user == "as nobody" or os.geteuid() != 0
    return count + 1 if locked else count  # `locked` itself instead of what is in it


@pytest.fixture(scope="module", autouse=True)
def everything_imported(tmp_path_factory):
    """Imports happen as the user that started: another one may not read this Python."""
    here = tmp_path_factory.mktemp("plain")
    (here / "in").mkdir()
    Image.new("RGB", (64, 64)).save(here / "in" / "a.webp")
    Image.new("CMYK", (64, 64)).save(here / "in" / "b.tif")
    (here / "in" / "c.jpg").write_bytes(b"%!PS-Adobe")
    words = ["-i", f"{here}/in", "-o"]
    assert main.main(["align", "--aligned", *words, f"{here}/a"]) == 0
    more = ["restore", "--aligned", "--device", "cpu", "--model", "bicubic"]
    assert main.main([*more, *words, f"{here}/b"]) == common.EXIT_PARTLY


def test_align_lists_every_file(folder, out, user):
    command = ["align", "--aligned", "-i", str(folder), "-o", str(out)]
    assert main.main([*command, "--size", "32"]) == 0
    faces, bad = rows_of(out / "faces.csv"), rows_of(out / "quarantine.csv")
    written = {path.stem for path in (out / "faces").glob("*.png")}
    assert {row["id"] for row in faces} == written and len(faces) > 40
    assert all(row["reason"] and len(row["reason"]) < 300 for row in bad)
    assert len({row["id"] for row in (*faces, *bad)}) == len(faces) + len(bad)
    assert len(faces) + len(bad) == expected(folder, user) >= 145
    if user == "as nobody":
        denied = {row["photo"] for row in bad if "Permission denied" in row["reason"]}
        assert denied == {"unreadable.jpg", "locked", "locked.jpg"}


def test_restore_lists_every_file(folder, out, user):
    command = ["restore", "--aligned", "-i", str(folder), "-o", str(out), "--device", "cpu"]
    assert main.main([*command, "--model", "bicubic"]) == common.EXIT_PARTLY
    rows = rows_of(out / "restored.csv")
    good = [row for row in rows if row["status"] == "restored"]
    assert len(good) > 40 and all(row["reason"] for row in rows if row not in good)
    assert len(rows) == len({row["photo"] for row in rows}) == expected(folder, user)
    written = {row["output"] for row in good}
    assert len(written) == len(good)
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert written == {name for name in there if not name.startswith((".done/", "faces/"))} - {
        "restored.csv"
    }
    assert not (Path.cwd() / "oops").exists()


def test_a_folder_dataset_lists_every_file(folder, out, user):
    dataset = Dataset(source="folder", path=str(folder), aligned=True, size=32,
                      labels={"kind": "model", "model": "none"}, shards=2)  # fmt: skip
    rows = []
    for shard in (0, 1):
        tables = [out / f"{shard}.csv", out / f"{shard}.bad.csv"]
        build.build_shard("odd", dataset, shard, out, 0, out / f"faces{shard}", *tables)
        rows += [row for table in tables for row in rows_of(table)]
    assert len(rows) == expected(folder, user)


MEASURED = """
import signal, sys
signal.alarm(int(sys.argv[1]))  # ends it: a test that waits for ever tells nobody
from frcore.cli import main
code = main.main(sys.argv[2:])
[most] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print("used", code, int(most.split()[1]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("verb", ["align", "restore"])
def test_time_and_memory(folder, tmp_path, resources, verb):
    """Looking for faces, as is usual; two large photographs among them."""
    given = tmp_path / "in"
    given.mkdir()
    (given / "odd").symlink_to(folder)
    large = bytes((1 + 3 * 13_000) * 13_000)
    (given / "large.png").write_bytes(png_of(13_000, 13_000, data=large))
    (given / "one_bit.png").write_bytes(png_of(14_000, 14_000, 1, 0, bytes(1751 * 14_000)))
    words = [verb, "-i", str(given), "-o", str(tmp_path / "out")]
    words += ["--resources", str(resources("dlib_68", "dlib_resnet"))]
    words += ["--model", "bicubic", "--device", "cpu"] if verb == "restore" else []
    process = subprocess.run(
        [sys.executable, "-c", MEASURED, str(SECONDS), *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr[-2000:]
    _, code, used = process.stdout.splitlines()[-1].split()
    assert (int(code), int(used) < MEGABYTES) == (common.EXIT_PARTLY, True), process.stdout
