"""What a forward pass leaves for its backward pass (lattices, marginals), kept as long as a small tensor lives.

Autograd and torch.compile carry tensors from the forward to the backward pass, not Python objects. So the forward
operator also returns a one-element tensor, its handle. While the handle's memory lives, this file keeps what belongs
to it under the memory's address, which nothing else can have. When the last view of the memory is freed, so is the
entry. A copy of a handle (made by a hook on saved tensors, or in another process) has no entry: the caller then
computes the forward pass again, and nothing fails.
"""

import weakref
from typing import Any

import numpy as np
import torch

_entries: dict[int, Any] = {}


def blank_handle() -> torch.Tensor:
    """A handle with nothing kept under it."""
    return torch.zeros(1, dtype=torch.int64)


def keep(entry: Any) -> torch.Tensor:
    """Keep an object for as long as the returned handle's memory lives."""
    owner = np.zeros(1, np.int64)
    handle = torch.from_numpy(owner)
    address = handle.data_ptr()
    _entries[address] = entry
    # The callback runs before the memory is given back, so the address cannot have a new owner yet.
    weakref.finalize(owner, _entries.pop, address, None).atexit = False
    return handle


def find(handle: torch.Tensor) -> Any | None:
    """What is kept under this handle; None if the handle is blank or a copy."""
    return _entries.get(handle.data_ptr())
