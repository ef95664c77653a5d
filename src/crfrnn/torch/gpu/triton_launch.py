"""What the launches of Triton kernels ask of a device."""

from functools import lru_cache

import torch
from triton import cdiv  # type: ignore[import-untyped]

PROGRAMS = 32  # for each multiprocessor
INTERPRETED_PROGRAMS = 2


def programs(most: int, block: int, device: torch.device, each: int = PROGRAMS) -> int:
    """How many programs share work whose size only the device knows, at most `each` for each multiprocessor."""
    return min(int(cdiv(most, block)), _resident_programs(device, each))


@lru_cache
def begins_early(device: torch.device) -> bool:
    """Whether kernels that call `triton_lattice.await_memory` may be launched before those before them have ended."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


@lru_cache
def _resident_programs(device: torch.device, each: int) -> int:
    if device.type == "cpu":
        return INTERPRETED_PROGRAMS
    multiprocessors: int = torch.cuda.get_device_properties(device).multi_processor_count
    return each * multiprocessors
