"""What the launches of Triton kernels ask of a device."""

from functools import lru_cache

import torch

PROGRAMS = 32  # for each multiprocessor
INTERPRETED_PROGRAMS = 2


def cdiv(size: int, block: int) -> int:
    """How many blocks there are. Triton's own takes 5 µs, for constants in kernels, and so does its power of 2."""
    return -(-size // block)


def next_power_of_2(number: int) -> int:
    """The least that is not below a number of at least 1."""
    return 1 << (number - 1).bit_length()


def programs(most: int, block: int, device: torch.device, each: int = PROGRAMS) -> int:
    """How many programs share work whose size only the device knows, at most `each` for each multiprocessor."""
    return min(cdiv(most, block), _resident_programs(device, each))


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
