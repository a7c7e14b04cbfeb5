"""Weights files describe themselves and load strictly; states survive damage."""

import json
import struct

import pytest
import torch
from torch import nn

from frcore.io import checkpoint


def test_weights_file_keeps_tensors_and_card(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    card = {"method": "x", "images_seen": 3, "settings": {"a": [1, 2]}}
    path = tmp_path / "w.safetensors"
    checkpoint.save_weights(path, {"model": net.state_dict()}, card)
    networks, read = checkpoint.load_weights(path)
    assert read == card == checkpoint.read_card(path)
    assert all(torch.equal(v, networks["model"][k]) for k, v in net.state_dict().items())
    again = tmp_path / "again.safetensors"
    checkpoint.save_weights(again, {"model": net.state_dict()}, card)
    assert path.read_bytes() == again.read_bytes()
    assert path.stat().st_mode & 0o044  # others may read it


def test_strict_loading_names_the_differences():
    net = nn.Linear(2, 3)
    good = net.state_dict()
    with pytest.raises(checkpoint.WeightsError, match=r"missing \['bias'\]"):
        checkpoint.load_strict(net, {"weight": good["weight"]}, "f")
    with pytest.raises(checkpoint.WeightsError, match=r"unexpected \['more'\]"):
        checkpoint.load_strict(net, {**good, "more": good["bias"]}, "f")
    with pytest.raises(checkpoint.WeightsError, match=r"file \(2, 2\), network \(3, 2\)"):
        checkpoint.load_strict(net, {**good, "weight": torch.zeros(2, 2)}, "f")


def test_foreign_and_damaged_weights_files_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(FileNotFoundError):
        checkpoint.load_weights(path)
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(checkpoint.WeightsError, match="not a weights file"):
        checkpoint.load_weights(path)


def test_state_falls_back_to_the_one_before(tmp_path):
    assert checkpoint.load_state(tmp_path) is None
    checkpoint.save_state(tmp_path, {"n": 1})
    checkpoint.save_state(tmp_path, {"n": 2})
    assert checkpoint.load_state(tmp_path) == {"n": 2}
    newest = tmp_path / "state.pt"
    newest.write_bytes(newest.read_bytes()[:40])
    assert checkpoint.load_state(tmp_path) == {"n": 1}


def test_state_that_would_execute_code_is_not_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("executed",))

    torch.save({"x": Bomb()}, tmp_path / "state.pt")
    assert checkpoint.load_state(tmp_path) is None


def header_only(path, card: str):
    """A safetensors file with one tensor and this text as its card."""
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    head = json.dumps({"__metadata__": {"card": card}, "model/a": tensor}).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes(4))


@pytest.mark.parametrize(
    "card",
    [
        "null", "[1]", "3", '"x"', "{", "[" * 100_000, "{}",
        '{"method": "rdfr"}',
        '{"method": 3, "settings": {}}',
        '{"method": "rdfr", "settings": [1]}',
        '{"method": "rdfr", "settings": {}, "helpers": ["a"]}',
        '{"method": "rdfr", "settings": {}, "helpers": {"parser": 3}}',
        '{"method": "rdfr", "settings": {}, "name": ["x"]}',
        '{"method": "rdfr", "settings": {}, "size": "large"}',
        '{"method": "rdfr", "settings": {}, "size": -64}',
        '{"method": "rdfr", "settings": {}, "crop_scale": NaN}',
    ],
    ids=lambda card: card[:60],
)  # fmt: skip
def test_odd_cards_are_one_line(tmp_path, card):
    path = tmp_path / "w.safetensors"
    header_only(path, card)
    for read in (checkpoint.read_card, checkpoint.load_weights):
        with pytest.raises(checkpoint.WeightsError) as error:
            read(path)
        text = str(error.value)
        assert text.startswith(str(path)) and "\n" not in text and len(text) < 400


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_that_are_not_finite_are_refused(tmp_path, value, kind):
    path, tensor = tmp_path / "w.safetensors", torch.zeros(5, dtype=kind)
    card = {"method": "x", "settings": {}}
    checkpoint.save_weights(path, {"model": {"fine": tensor}}, card)
    checkpoint.load_weights(path)
    tensor[3] = value
    checkpoint.save_weights(path, {"model": {"fine": torch.zeros(2), "bad": tensor}}, card)
    with pytest.raises(checkpoint.WeightsError, match=r"w\.safetensors: model/bad holds values"):
        checkpoint.load_weights(path)


def test_tensors_of_another_type_do_not_fit():
    net = nn.Linear(2, 3)
    state = {**net.state_dict(), "bias": torch.zeros(3, dtype=torch.int8)}
    with pytest.raises(checkpoint.WeightsError, match=r"bias: file torch\.int8"):
        checkpoint.load_strict(net, state, "f")
