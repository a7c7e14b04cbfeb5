"""Parsing maps of faces from a trained parser: labels as indices and as maps of 0 and 1.

N batch, K labels, H W image.
"""

import torch
from torch import nn
from torch.nn import functional as F


def predict_labels(model: nn.Module, degraded: torch.Tensor) -> torch.Tensor:
    """I_P as indices: images N x 3 x H x W in [0, 1] -> N x H x W int64, without gradients.

    The model must be in eval mode, else batch norm would mix the images of a batch.
    """
    if model.training:
        raise ValueError("the parser must be in eval mode")
    with torch.no_grad():
        return model(degraded * 2 - 1)[0].argmax(1)


def one_hot(labels: torch.Tensor, n_labels: int) -> torch.Tensor:
    """N x H x W indices -> N x K x H x W float maps of 0 and 1."""
    return F.one_hot(labels.long(), n_labels).permute(0, 3, 1, 2).float()
