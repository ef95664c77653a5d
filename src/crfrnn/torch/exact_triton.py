# mypy: disable-error-code="import-untyped, untyped-decorator"
"""The exact Gaussian filter of float32 tensors on a GPU, in Triton; imported only where there is one, or to test it.

With TRITON_INTERPRET=1 in the environment before the import the same kernel runs on the CPU.
"""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

# Compiled for sm_90, 32 channels take 176 registers a thread and spill none; 64 columns or 4 warps spill.
ROWS = 128
COLUMNS = 32
MOST_CHANNELS = 64
WARPS = 8


@triton.jit
def _filter(  # type: ignore[no-untyped-def]
    values,
    features,
    result,
    points,
    channels,
    DIMENSIONS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`CHANNELS` sums at each of `ROWS` points; weights live in registers only, `COLUMNS` of them a row at a time."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)).to(tl.int64)
    image = tl.program_id(2).to(tl.int64)
    features += image * DIMENSIONS * points
    values += image * channels * points
    result += image * channels * points
    sums = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(0, points, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        square = tl.zeros((ROWS, COLUMNS), tl.float32)
        for dimension in tl.static_range(DIMENSIONS):
            line = features + dimension * points
            at_row = tl.load(line + rows, mask=rows < points, other=0.0)
            at_column = tl.load(line + columns, mask=columns < points, other=0.0)
            difference = at_row[:, None] - at_column[None, :]
            square += difference * difference
        weights = tl.exp2(square * -0.7213475204444817)  # exp(-½ square)
        sent = tl.load(
            values + channel[None, :] * points + columns[:, None],
            mask=(columns[:, None] < points) & (channel[None, :] < channels),
            other=0.0,
        )
        sums += tl.dot(weights, sent, input_precision=PRECISION)
    tl.store(
        result + channel[None, :] * points + rows[:, None],
        sums,
        mask=(rows[:, None] < points) & (channel[None, :] < channels),
    )


def exact_filter(values: Tensor, features: Tensor, precision: str = "ieee") -> Tensor:
    """Σ_j exp(-½ |f_i - f_j|²) v_j for values (B, C, N) and features (B, d, N), float32 on one device.

    On the current stream of the tensors' device. The N² weights never reach memory. Differences, exponents and sums are
    float32.

    Args:
        precision: How weights and values are multiplied. "ieee" is float32; "tf32x3" uses the matrix units on values
            split in two, which keeps about 21 bits, enough for a relative error of 1e-5; "tf32" rounds both to 11
            bits, an error of up to 1e-3, for timings only.
    """
    values, features = values.contiguous(), features.contiguous()
    batch, channels, points = values.shape
    result = torch.empty_like(values)
    # tl.dot needs 16 columns; channels beyond one program's are other programs', which find the weights once more.
    width = min(MOST_CHANNELS, max(16, triton.next_power_of_2(channels)))
    grid = (triton.cdiv(points, ROWS), triton.cdiv(channels, width), batch)
    with torch.cuda.device(values.device) if values.is_cuda else nullcontext():
        _filter[grid](
            values,
            features,
            result,
            points,
            channels,
            DIMENSIONS=features.shape[1],
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            CHANNELS=width,
            PRECISION=precision,
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
    return result
