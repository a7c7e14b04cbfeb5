"""The discriminator's side of a training, written once for every method that has one.

Nothing here knows a method: what the discriminator sees besides the images (a parsing map) is
passed on, what augments its images is a function, and what of its answer is the score too.

N batch, H W image.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn

from frcore.nets.losses import descend, full, hinge_d, hinge_g, logistic_d, logistic_g, r1_penalty


def least_squares_d(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """LSGAN (Mao et al., ICCV 2017) Eq. 9 with a = 0 and b = 1."""
    return (full(real) - 1).square().mean() / 2 + full(fake).square().mean() / 2


def least_squares_g(fake: torch.Tensor) -> torch.Tensor:
    """LSGAN Eq. 9 with c = 1."""
    return (full(fake) - 1).square().mean() / 2


# name -> (discriminator's loss of real and fake scores, generator's loss of fake scores)
KINDS: dict[str, tuple[Callable, Callable]] = {
    "logistic": (logistic_d, logistic_g),
    "hinge": (hinge_d, hinge_g),
    "ls": (least_squares_d, least_squares_g),
}


class Adversary:
    """A discriminator, its optimizer and its loss: who is fooled, and how it learns.

    d(images, *conditions) -> its answer. kind: of KINDS. augment: applied to every image that it
    sees, real, fake and those of R1 alike, so that it cannot tell them by it. scores: what of its
    answer the losses take. first: which images it sees first in its own step; spectral norm moves
    its vectors with every pass, so that a method keeps the order that it had.
    """

    def __init__(
        self,
        d: nn.Module,
        optimizer: torch.optim.Optimizer,
        kind: str = "logistic",
        augment: Callable[[torch.Tensor], torch.Tensor] = lambda images: images,
        scores: Callable = lambda answer: answer,
        first: str = "real",
    ):
        self.d, self.optimizer, self.augment, self.scores = d, optimizer, augment, scores
        self.d_loss, self.g_loss = KINDS[kind]
        self.first = first

    def judged(self, images: torch.Tensor, *conditions):
        """The discriminator's answer to augmented images N x 3 x H x W in [-1, 1]."""
        return self.d(self.augment(images), *conditions)

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Within it the discriminator gets no gradient. What was frozen before stays frozen."""
        learning = [p for p in self.d.parameters() if p.requires_grad]
        for parameter in learning:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)

    def fool(self, fake: torch.Tensor, *conditions) -> torch.Tensor:
        """The generator's loss on its images N x 3 x H x W; the gradient is theirs alone."""
        with self.resting():
            return self.g_loss(self.scores(self.judged(fake, *conditions)))

    def learn(self, real: torch.Tensor, fake: torch.Tensor, *conditions):
        """One descent on real and made images -> its loss and the scores of the real ones.

        The generator that made `fake` gets no gradient.
        """
        fake = fake.detach()
        if self.first == "real":
            of_real, of_fake = (self.judged(x, *conditions) for x in (real, fake))
        else:
            of_fake, of_real = (self.judged(x, *conditions) for x in (fake, real))
        of_real, of_fake = self.scores(of_real), self.scores(of_fake)
        loss = self.d_loss(of_real, of_fake)
        descend(self.optimizer, loss)
        return loss, of_real

    def penalise(
        self, real: torch.Tensor, gamma: float, every: int, step: int
    ) -> dict[str, torch.Tensor]:
        """In each `every`-th step a descent on gamma / 2 * every * R1 -> {"r1": R1}, else {}.

        The gradient is that of the images before augmentation and flows through it. gamma 0 leaves
        it out.
        """
        if not gamma or step % every:
            return {}
        real = real.detach().requires_grad_(True)
        penalty = r1_penalty(real, self.judged(real))
        descend(self.optimizer, gamma / 2 * every * penalty)
        return {"r1": penalty}
