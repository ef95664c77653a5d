"""Couplings between classes as operations of torch."""

from torch import Tensor


def couple(coupling: Tensor, message: Tensor) -> Tensor:
    """E v at every point, for values (B, C, *spatial)."""
    if coupling.ndim == 2:
        return (coupling @ message.flatten(2)).view(message.shape)
    return coupling.view(-1, *(1,) * (message.ndim - 2)) * message
