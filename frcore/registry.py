"""What exists: methods, helper nets and metrics, as literal tables. Imports no torch.

The command line's choices, the configuration check and the workflow's graph read these tables.
"""

import importlib
from dataclasses import dataclass
from types import ModuleType

from frcore.registry_metrics import METRICS, MetricRow

__all__ = ["METHODS", "METRICS", "MethodRow", "MetricRow", "load_method", "nearest"]


@dataclass(frozen=True)
class MethodRow:
    """One method or self-trained helper net, as far as the graph needs to know it.

    `module` exports Settings, build, restore, make_trainer and TINY (guides: CONTRIBUTING.md);
    a `generative` one exports sample in the place of restore, a `degrader` pairs besides.
    """

    module: str
    title: str
    # method | baseline | helper (a net that other methods lean on) | degrader (makes the pairs of
    # learned degradations)
    role: str = "method"
    trained: bool = True
    # paired | unpaired (low-quality faces alone, degraded or not) | faces (clean ones alone) | none
    data: str = "paired"
    assets: tuple[str, ...] = ()  # pretrained parts needed to train
    helpers: tuple[str, ...] = ()  # settings that name another entry under `models:`
    training_helpers: tuple[str, ...] = ()  # the same, read in training alone
    needs_labels: bool = False  # parsing maps of the training faces
    needs_reference: bool = False
    generative: bool = False  # makes faces from nothing and restores none
    # restores one face in many ways; an entry's setting `stochastic: false` takes that away
    stochastic: bool = False
    paper: str = ""

    @property
    def roles(self) -> tuple[str, ...]:
        """All settings that name another entry."""
        return (*self.helpers, *self.training_helpers)


METHODS: dict[str, MethodRow] = {
    "bicubic": MethodRow(
        "frcore.baselines.bicubic",
        "Bicubic",
        role="baseline",
        trained=False,
        data="none",
        paper="(the degraded face as it is after enlargement)",
    ),
    "fpn": MethodRow(
        "frcore.helpers.parsing",
        "FPN",
        role="helper",
        needs_labels=True,
        paper="Chen et al., Progressive Semantic-Aware Style Transformation for Blind Face "
        "Restoration, CVPR 2021, arXiv 2009.08709",
    ),
    "stylegan2": MethodRow(
        "frcore.helpers.generator",
        "StyleGAN2",
        role="helper",
        data="faces",
        assets=("mobilenet_v2",),
        generative=True,
        paper="Karras et al., Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020, "
        "arXiv 1912.04958",
    ),
    "stylegan2_encoder": MethodRow(
        "frcore.helpers.encoder",
        "W+ encoder",
        role="helper",
        data="faces",
        assets=("mobilenet_v2",),
        helpers=("prior",),
        paper="Richardson et al., Encoding in Style, CVPR 2021, arXiv 2008.00951; Tov et al., "
        "Designing an Encoder for StyleGAN Image Manipulation, SIGGRAPH 2021, arXiv 2102.02766",
    ),
    "dl_st_degradation": MethodRow(
        "frcore.helpers.degradation",
        "DL-ST's degradation",
        role="degrader",
        data="unpaired",
        assets=("mobilenet_v2",),
        training_helpers=("prior",),
        generative=True,
        paper="Cheikh Sidiya et al., Degradation Learning and Skip-Transformer for Blind Face "
        "Restoration, Frontiers in Signal Processing 3:1106465, 2023",
    ),
    "dl_st": MethodRow(
        "frcore.methods.dl_st",
        "DL-ST",
        assets=("mobilenet_v2",),
        training_helpers=("prior",),
        paper="Cheikh Sidiya et al., Degradation Learning and Skip-Transformer for Blind Face "
        "Restoration, Frontiers in Signal Processing 3:1106465, 2023",
    ),
    "rdfr": MethodRow(
        "frcore.methods.rdfr",
        "RDFR",
        assets=("mobilenet_v2",),
        stochastic=True,
        paper="Zhao et al., Rethinking Deep Face Restoration, CVPR 2022",
    ),
    "psfr_gan": MethodRow(
        "frcore.methods.psfr_gan",
        "PSFR-GAN",
        assets=("mobilenet_v2",),
        helpers=("parser",),
        needs_labels=True,
        paper="Chen et al., Progressive Semantic-Aware Style Transformation for Blind Face "
        "Restoration, CVPR 2021, arXiv 2009.08709",
    ),
}


def nearest(name: str, known) -> str:
    """Text `(did you mean 'x'?)`, or the list of known names when none is near."""
    import difflib

    known = sorted(str(item) for item in known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    return f"(did you mean {close[0]!r}?)" if close else f"(known: {', '.join(known)})"


def load_method(name: str) -> ModuleType:
    """Import the module of method `name`; ValueError with the nearest known name otherwise."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r} {nearest(name, METHODS)}")
    return importlib.import_module(METHODS[name].module)
