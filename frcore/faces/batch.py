"""What a method's `restore` gets: faces, and all that may be known about them.

N faces, C channels, S side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from frcore.degrade.recipes import Recipe


@dataclass
class Faces:
    """A batch of degraded faces.

    Random numbers come from `randn` and `rand`, which draw each face's own: a batch is restored as
    its faces one by one would be, whatever else is in it.
    """

    images: torch.Tensor  # N x 3 x S x S in [0, 1], on the model's device
    # good photographs of the same people, like `images`; None where there are none
    reference: torch.Tensor | None = None
    # one a face, on the CPU, so that a seed means the same on every device; () = no noise
    generators: Sequence[torch.Generator] = ()
    recipe: Recipe | None = None  # what made the faces worse, where that is known
    told: dict[str, list[float]] = field(default_factory=dict)  # of `tell`

    def __len__(self) -> int:
        return len(self.images)

    def randn(self, *shape: int) -> torch.Tensor:
        """Normal numbers N x shape, each face's own; zeros where there is to be no noise."""
        return self._drawn(torch.randn, shape)

    def rand(self, *shape: int) -> torch.Tensor:
        """As `randn`, uniform in [0, 1); halves where there is to be no noise."""
        return self._drawn(torch.rand, shape, 0.5)

    def _drawn(self, draw: Callable, shape, otherwise: float = 0.0) -> torch.Tensor:
        if not self.generators:
            return self.images.new_full((len(self), *shape), otherwise)
        rows = [draw(shape, generator=generator) for generator in self.generators]
        return torch.stack(rows).to(self.images)

    def tell(self, **numbers: float | Sequence[float]) -> None:
        """Numbers for the table of restored faces, one for all or one a face: iterations=100.

        A column `seconds` (of the batch, shared out among its faces) is added to them.
        """
        for name, value in numbers.items():
            values = list(value) if isinstance(value, Sequence) else [value] * len(self)
            if len(values) != len(self):
                raise ValueError(f"{name}: {len(values)} numbers for {len(self)} faces")
            self.told[name] = [float(number) for number in values]


def resized(images: torch.Tensor, side: int) -> torch.Tensor:
    """N x 3 x H x W in [0, 1] -> N x 3 x side x side, anti-aliased cubic; itself if it has them."""
    if images.shape[-2:] == (side, side):
        return images
    size = (side, side)
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)


def sides_of(module, settings) -> tuple[int, int] | None:
    """(side that a method's net takes, side that it gives), where they are its own; else None.

    Such a method exports `sides(settings)`. The harness brings faces to the one and back from the
    other, in training and in restoring.
    """
    return module.sides(settings) if hasattr(module, "sides") else None


def sides_note(size: int, sides: tuple[int, int]) -> str:
    """What a row says about a net with sides of its own."""
    taken, given = sides
    return f"the net takes {taken} px and gives {given} px: faces of {size} px were resized"
