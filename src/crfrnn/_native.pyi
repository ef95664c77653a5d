"""Native core. Arrays are C-contiguous, but `unary` and `cotangent` (C, N) may be so transposed, and then results that
go with them are; `...32` classes and functions take float32, `...64` float64.

This is the only module that knows pointers; `crfrnn.kernels` checks and converts what users give
before it calls. Rows: N points; columns: channels. `threads` is at least 1.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Kept = NDArray[Any]  # floats of the precision of the scores, float16, or bfloat16 as uint16
Happened = tuple[int, list[int], NDArray[np.uint8] | None]  # iterations run, classes sent in each, points evaluated

def info() -> dict[str, str | int]: ...

class Storage(Enum):
    COMPUTED = ...
    FLOAT16 = ...
    BFLOAT16 = ...

def release_memory() -> int: ...
def padded_channels(channels: int) -> int: ...

class Kernel32:
    num_points: int
    def filter(self, values: F32, transpose: bool, threads: int) -> F32: ...
    def gradient(self, values: F32, cotangent: F32, threads: int) -> F32: ...

class Kernel64:
    num_points: int
    def filter(self, values: F64, transpose: bool, threads: int) -> F64: ...
    def gradient(self, values: F64, cotangent: F64, threads: int) -> F64: ...

class Lattice32(Kernel32):
    def __init__(self, features: F32, batch: NDArray[np.int32] | None, neighbour_rounds: int, threads: int) -> None: ...
    num_features: int
    num_vertices: int
    def vertices(self) -> NDArray[np.int32]: ...
    def weights(self) -> F32: ...
    def neighbours(self) -> NDArray[np.int32]: ...

class Lattice64(Kernel64):
    def __init__(self, features: F64, batch: NDArray[np.int32] | None, neighbour_rounds: int, threads: int) -> None: ...
    num_features: int
    num_vertices: int
    def vertices(self) -> NDArray[np.int32]: ...
    def weights(self) -> F64: ...
    def neighbours(self) -> NDArray[np.int32]: ...

class GridGaussian32(Kernel32):
    def __init__(self, shape: Sequence[int], sigmas: Sequence[float]) -> None: ...

class GridGaussian64(Kernel64):
    def __init__(self, shape: Sequence[int], sigmas: Sequence[float]) -> None: ...

class ExactGaussian32(Kernel32):
    def __init__(self, features: F32) -> None: ...

class ExactGaussian64(Kernel64):
    def __init__(self, features: F64) -> None: ...

def mean_field32(
    unary: F32,
    kernels: Sequence[Kernel32],
    pre: Sequence[F32 | None],
    post: Sequence[F32 | None],
    couplings: Sequence[F32],
    row_sums: Sequence[float],
    iterations: int,
    damping: float,
    class_threshold: float,
    tolerance: float,
    keep: Storage | None,
    return_probabilities: bool,
    return_evaluated: bool,
    threads: int,
) -> tuple[F32, Kept, Happened]: ...
def mean_field64(
    unary: F64,
    kernels: Sequence[Kernel64],
    pre: Sequence[F64 | None],
    post: Sequence[F64 | None],
    couplings: Sequence[F64],
    row_sums: Sequence[float],
    iterations: int,
    damping: float,
    class_threshold: float,
    tolerance: float,
    keep: Storage | None,
    return_probabilities: bool,
    return_evaluated: bool,
    threads: int,
) -> tuple[F64, Kept, Happened]: ...
def mean_field_labels32(
    unary: F32,
    kernels: Sequence[Kernel32],
    pre: Sequence[F32 | None],
    post: Sequence[F32 | None],
    couplings: Sequence[F32],
    row_sums: Sequence[float],
    iterations: int,
    damping: float,
    class_threshold: float,
    tolerance: float,
    return_evaluated: bool,
    threads: int,
) -> tuple[NDArray[np.int32], Happened]: ...
def mean_field_vjp32(
    cotangent: F32,
    marginals: Kept,
    kernels: Sequence[Kernel32],
    pre: Sequence[F32 | None],
    post: Sequence[F32 | None],
    couplings: Sequence[F32],
    row_sums: Sequence[float],
    damping: float,
    tolerance: float,
    guide: bool,
    threads: int,
) -> tuple[F32, list[F32], list[tuple[F32, F32 | None, F32 | None]]]: ...
def mean_field_labels64(
    unary: F64,
    kernels: Sequence[Kernel64],
    pre: Sequence[F64 | None],
    post: Sequence[F64 | None],
    couplings: Sequence[F64],
    row_sums: Sequence[float],
    iterations: int,
    damping: float,
    class_threshold: float,
    tolerance: float,
    return_evaluated: bool,
    threads: int,
) -> tuple[NDArray[np.int32], Happened]: ...
def mean_field_vjp64(
    cotangent: F64,
    marginals: Kept,
    kernels: Sequence[Kernel64],
    pre: Sequence[F64 | None],
    post: Sequence[F64 | None],
    couplings: Sequence[F64],
    row_sums: Sequence[float],
    damping: float,
    tolerance: float,
    guide: bool,
    threads: int,
) -> tuple[F64, list[F64], list[tuple[F64, F64 | None, F64 | None]]]: ...
