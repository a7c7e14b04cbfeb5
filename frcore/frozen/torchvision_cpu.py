"""torchvision, also beside a CPU-only torch; no other file of frcore imports it first.

The torchvision wheel on the default index is built against CUDA. Beside a CPU-only torch its
compiled operators cannot be loaded and `import torchvision` stops with "operator torchvision::nms
does not exist", although nothing here uses them. Declaring the two schemas that its Python side
looks up is enough for its models, lpips and pytorch_fid.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # torch forgets the schemas when this is collected


def import_torchvision() -> ModuleType:
    """torchvision, with its models imported.

    Its missing operators are declared only where its compiled part cannot be loaded: a declaration
    made before a working one is loaded would clash with it.
    Raises ImportError when torchvision is not installed.
    """
    if "torchvision" not in sys.modules:
        spec = importlib.util.find_spec("torchvision")
        if spec is None:
            raise ImportError("torchvision is not installed: pip install torchvision")
        if not _declared and not _load_operators(Path(spec.origin or "").parent):
            library = torch.library.Library("torchvision", "FRAGMENT")
            for schema in _SCHEMAS:
                library.define(schema)
            _declared.append(library)
    import torchvision
    import torchvision.models

    return torchvision


def _load_operators(package: Path) -> bool:
    """Whether torchvision's operators are there after trying to load its compiled part."""
    for suffix in (".so", ".pyd", ".dylib"):
        for compiled in package.glob(f"_C*{suffix}"):
            try:
                torch.ops.load_library(str(compiled))
            except OSError:
                continue
    return torch._C._dispatch_has_kernel("torchvision::nms")
