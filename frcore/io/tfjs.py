"""Graph models of TensorFlow.js: a JSON with the graph, a file with the weights' bytes.

Only what a network's weights and their places are made of is read; nothing is executed.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Operation:
    """One node of a graph that is no constant: what it does and to what."""

    kind: str  # "Conv2D"
    inputs: tuple[str, ...]  # names of nodes
    strides: tuple[int, ...] = ()  # as for N x H x W x C
    padding: str = ""  # "SAME", "VALID"


def read_weights(model: str | Path, data: str | Path) -> dict[str, np.ndarray]:
    """{name: array} of a graph model whose weights are all in the file `data`.

    Floats keep the type that they are stored in (float16 where the model was made smaller).
    Raises FileNotFoundError, ValueError for another file or one of another length.
    """
    manifest = _content(model).get("weightsManifest")
    raw = Path(data).read_bytes()
    if not isinstance(manifest, list) or len(manifest) != 1 or len(manifest[0]["paths"]) != 1:
        raise ValueError(f"{model}: expected one file of weights")
    found, at = {}, 0
    for entry in manifest[0]["weights"]:
        kind = np.dtype(entry.get("quantization", entry)["dtype"]).newbyteorder("<")
        if kind.name not in ("float16", "float32", "int32"):
            raise ValueError(f"{model}: {entry['name']} is {kind.name}")
        count = int(np.prod(entry["shape"], dtype=np.int64))
        if at + count * kind.itemsize > len(raw):
            raise ValueError(f"{data}: ends within {entry['name']}")
        values = np.frombuffer(raw, kind, count, at)
        found[entry["name"]] = values.reshape(entry["shape"])
        at += count * kind.itemsize
    if at != len(raw):
        raise ValueError(f"{data}: {len(raw) - at} bytes too many")
    return found


def read_graph(model: str | Path) -> dict[str, Operation]:
    """{name: Operation} of a graph model, without its constants.

    Raises FileNotFoundError, ValueError for another file.
    """
    nodes = _content(model).get("modelTopology", {}).get("node", [])
    try:
        return {node["name"]: _operation(node) for node in nodes if node["op"] != "Const"}
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise ValueError(f"{model}: not a graph of TensorFlow.js: {error}") from None


def _operation(node: dict) -> Operation:
    about = node.get("attr", {})
    strides = tuple(int(n) for n in about.get("strides", {}).get("list", {}).get("i", ()))
    padding = base64.b64decode(about.get("padding", {}).get("s", "")).decode()
    return Operation(node["op"], tuple(node.get("input", ())), strides, padding)


def _content(model: str | Path) -> dict:
    try:
        content = json.loads(Path(model).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{model}: not a graph model of TensorFlow.js: {error}") from None
    if not isinstance(content, dict) or content.get("format") != "graph-model":
        raise ValueError(f"{model}: not a graph model of TensorFlow.js")
    return content
