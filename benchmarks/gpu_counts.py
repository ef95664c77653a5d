"""`python -m benchmarks.gpu_counts`: what the machine code of the GPU kernels says, without a GPU.

For a photo of 500×366 with 21 classes: instructions of each kernel and of the loops in it, memory accesses, matrix
products, registers, instructions that spill them, and how many warps of it a multiprocessor holds at a time. Then how
much a call launches, and what lattices of the example photos ask of the kernels. No times follow from that.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import timeit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from crfrnn.demo import EXAMPLES
from crfrnn.inference.backend import Execution, Inputs
from crfrnn.torch.gpu import meanfield, plain, triton_steps
from crfrnn.torch.gpu.lattice import Lattice
from crfrnn.torch.gpu.terms import build_terms

from .gpu_cases import CLASSES, Sizes, crf_of, example
from .report import table

WARP = 32
REGISTERS, WARPS = 65536, 64  # of a multiprocessor
SHARED = {80: 163, 90: 227, 100: 227}  # KiB
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
KINDS = {"loads": "LDG|LDGSTS", "stores": "STG", "atomics": "ATOMG|RED", "products": "HMMA|HGMMA|QGMMA|UTC.MMA"}
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*)")
RUN, TILE, UNROLL = 32, 8, 4  # corners of a run, runs of a program, corners of a pass: of splats by runs of a vertex
ROW = 32  # numbers of a row in a program
SPLATS = [
    tile // ROW * triton_steps.RUN for tile in (triton_steps.RUN_TILE, 2 * triton_steps.RUN_TILE)
]  # corners of one
BLUR = triton_steps.LARGE_TILE // ROW  # vertices of one
LATTICES = ["photo", "vertices", *(f"rows of a splat of {corners}" for corners in SPLATS)]
LATTICES += ["rows of blurs, 1 a pass", "2 a pass"]
LATTICES += ["runs by vertex", "lanes in use", "runs in all"]
SHAPES = (1, 32), (4, 16), (8, 8)  # of pixels
LATTICES += [f"vertices around {height}×{width} pixels" for height, width in SHAPES]
LAUNCHES = ["images", "iterations", "operations of torch", "kernels", "ms of Python, no kernel launched"]
CALLS, TINY = 200, (8, 9)
NOTHING = re.compile("empty|lift_fresh")
HEADINGS = ["kernel", "instructions", "in loops", *KINDS, "registers", "spilled", "warps"]


class Card:
    """As much of a driver as compilation asks for."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, WARP)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: object) -> int:
        return 0


@contextmanager
def compiling(capability: int) -> Iterator[dict[str, dict[str, Any]]]:
    """Inside, launches of Triton kernels only compile them: those compiled, by name and hash. Results are zeros."""
    found: dict[str, dict[str, Any]] = {}
    triton.runtime.driver.set_active(Card(capability))

    def compile_only(kernel: JITFunction, grid: object) -> Callable[..., None]:
        def launch(*arguments: object, **options: object) -> None:
            compiled = kernel.warmup(*arguments, grid=grid, **options)
            found.setdefault(kernel.__name__, {})[compiled.hash] = compiled

        return launch

    embed, launches = triton_steps.embed, JITFunction.__getitem__

    def embed_at_0(*arguments: Any) -> tuple[torch.Tensor, ...]:
        cell, order, weight = (result.zero_() for result in embed(*arguments))
        return cell, order + torch.arange(len(order), dtype=order.dtype)[:, None], weight

    JITFunction.__getitem__, triton_steps.embed = compile_only, embed_at_0
    try:
        yield found
    finally:
        JITFunction.__getitem__, triton_steps.embed = launches, embed


class Operations(TorchDispatchMode):
    """Counts operations of torch that work something out: neither views nor fresh memory."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = operator(*arguments, **(options or {}))
        self.number += not (operator.is_view or NOTHING.search(str(operator)))
        return result


class Counts(NamedTuple):
    """Of one kernel; `kinds` are numbers of instructions, by the names in `KINDS`."""

    instructions: int
    in_loops: int
    kinds: dict[str, int]
    registers: int
    spilled: int
    warps: int

    def row(self, name: str) -> list[str]:
        numbers = self.instructions, self.in_loops, *self.kinds.values(), self.registers, self.spilled, self.warps
        return [name, *map(str, numbers)]


def told_by(tool: str, option: str, compiled: Any) -> str:
    """What a tool of Triton's says about a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        return subprocess.run([TOOLS / tool, option, file.name], capture_output=True, text=True, check=True).stdout


def counts(compiled: Any, capability: int) -> Counts:
    code, usage = told_by("nvdisasm", "-c", compiled), told_by("cuobjdump", "-res-usage", compiled)
    instructions, labels, in_loops = [], {}, set()
    for line in code.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif found := INSTRUCTION.search(line):
            instructions.append(found[1])
            target = re.search(r"`\((\.L_x_\d+)\)", found[2])
            if (
                found[1].startswith("BRA")
                and target
                and labels.get(target[1], len(instructions)) < len(instructions) - 1
            ):
                in_loops.update(range(labels[target[1]], len(instructions)))
    instructions = [each for each in instructions if each != "NOP"]
    registers = int(re.search(r"REG:(\d+)", usage)[1])
    threads = WARP * compiled.metadata.num_warps
    programs = min(REGISTERS // (threads * -(-registers // 8) * 8), WARPS * WARP // threads, 32)
    if compiled.metadata.shared:
        programs = min(programs, SHARED[capability] * 1024 // (compiled.metadata.shared + 1024))
    kinds = {
        kind: sum(bool(re.match(rf"(?:{names})\b", each)) for each in instructions) for kind, names in KINDS.items()
    }
    spilled = sum(each.startswith("STL") for each in instructions)
    warps = programs * compiled.metadata.num_warps
    return Counts(len(instructions), len(in_loops), kinds, registers, spilled, warps)


def measured(capability: int, storage: torch.dtype | None) -> list[list[str]]:
    """A row for each variant of each kernel, of one image forward with numbers and backward with matrices."""
    height, width = Sizes().photo
    inputs = Inputs(torch.zeros(1, CLASSES, height, width), torch.zeros(1, 3, height, width))
    execution = Execution(None, True, storage)
    with compiling(capability) as found:
        for matrices in (False, True):
            couplings = [torch.ones((CLASSES,) * 2 * matrices)] * 2
            crf = crf_of(2)
            _, record = meanfield.forward(crf, inputs, couplings, matrices, execution, triton_steps)
            if matrices:
                meanfield.vjp(crf, inputs, inputs.logits, record, couplings, execution, False, triton_steps)
    return [
        counts(compiled, capability).row(name)
        for name, variants in sorted(found.items())
        for compiled in variants.values()
    ]


def launches(images: int, iterations: int) -> list[str]:
    """A row of how many operations of torch and kernels a call forward is, after the first one, and what Python takes.

    That is the least of some calls for an image that is no work.
    """
    size, kernels = Sizes().photo, 0

    def count(kernel: JITFunction, grid: object) -> Callable[..., None]:
        nonlocal kernels
        kernels += 1
        return lambda *arguments, **options: None

    given, JITFunction.__getitem__ = JITFunction.__getitem__, count
    try:
        inputs = Inputs(torch.zeros(images, CLASSES, *size), torch.zeros(images, 3, *size))
        couplings = [torch.ones(()), torch.ones(())]
        for _ in range(2):
            kernels = 0
            with Operations() as operations:
                meanfield.forward(crf_of(iterations), inputs, couplings, False, Execution(), triton_steps)
        numbers = [str(images), str(iterations), str(operations.number), str(kernels)]
        tiny = Inputs(torch.zeros(images, CLASSES, *TINY), torch.zeros(images, 3, *TINY))
        call = partial(meanfield.forward, crf_of(iterations), tiny, couplings, False, Execution(), triton_steps)
        return [*numbers, f"{1000 * min(timeit.repeat(call, number=1, repeat=CALLS)):.2f}"]
    finally:
        JITFunction.__getitem__ = given


def lattices() -> list[list[str]]:
    """Of each example photo: rows that programs of a splat read, for each corner; rows that six blurs read and write,
    for each vertex; runs, and what lanes do in them; and vertices around pixels.

    A program reads a row once, as its cache keeps the few that it reads again. Runs by vertex end with their vertex, so
    that lanes of a program wait for the longest of it.
    """
    rows = []
    for name in EXAMPLES:
        logits, image = example(name, Sizes().photo)
        inputs = Inputs(logits, image)
        lattice = build_terms(crf_of(1), inputs, torch.float32, Execution(), plain)[1].kernel
        corners, vertices = lattice.vertex.numel(), lattice.neighbours.shape[2]
        points = lattice.vertex.flatten().sort(stable=True).indices % lattice.vertex.shape[1]
        parts = torch.bincount(lattice.vertex.flatten())
        runs = -(-parts // RUN)
        place = torch.arange(int(runs.sum())) - torch.repeat_interleave(runs.cumsum(0) - runs, runs)
        length = (torch.repeat_interleave(parts, runs) - RUN * place).clamp(max=RUN)
        tiles = torch.nn.functional.pad(length, (0, -len(length) % TILE)).view(-1, TILE).amax(dim=1)
        lanes = corners / int((-(-tiles // UNROLL) * UNROLL * TILE).sum())
        numbers = [f"{different([points], program):.2f}" for program in SPLATS]
        numbers += [f"{of_blurs(lattice, count):.1f}" for count in (1, 2)]
        numbers += [str(len(length)), f"{lanes:.2f}", str(-(-corners // RUN))]
        vertex = lattice.vertex.view(-1, *Sizes().photo)
        rows.append([name, str(vertices), *numbers, *(f"{around(vertex, shape):.0f}" for shape in SHAPES)])
    return rows


def different(reads: Sequence[torch.Tensor], block: int) -> float:
    """How many rows programs read, for each of the N numbers that a block of them works out.

    Args:
        reads: Numbers (N,) of rows, -1 where there is none.
    """
    programs = torch.arange(len(reads[0])) // block
    distinct = torch.cat([programs[row >= 0] * 2**32 + row[row >= 0] for row in reads]).unique()
    return len(distinct) / len(programs)


def of_blurs(lattice: Lattice, count: int) -> float:
    """Rows that blurs read and write for each vertex, `count` directions a pass."""
    total, directions = 0.0, range(len(lattice.neighbours))
    for passed in zip(*(directions[first::count] for first in range(count)), strict=True):
        reads = [torch.arange(lattice.neighbours.shape[2])]
        for direction in reversed(passed):
            beside = lattice.neighbours[direction]
            reads += [torch.where(row >= 0, side[row], -1) for row in reads for side in beside]
        total += different(reads, BLUR) + 1
    return total


def around(vertex: torch.Tensor, shape: tuple[int, int]) -> float:
    """How many vertices (d + 1, H, W) there are around the pixels of a block, on average."""
    blocks = vertex.unfold(1, shape[0], shape[0]).unfold(2, shape[1], shape[1])
    sorted_vertices = blocks.permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1).sort(1).values
    return float(1 + sorted_vertices.diff(dim=1).ne(0).sum(1).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_counts", description=__doc__)
    parser.add_argument("--capability", type=int, choices=SHARED, default=90, help="of the card (default: %(default)s)")
    parser.add_argument("--bfloat16", action="store_true", help="of kernels that store rows in 16 bits")
    arguments = parser.parse_args()
    print(table(HEADINGS, measured(arguments.capability, torch.bfloat16 if arguments.bfloat16 else None)))
    print(table(LAUNCHES, [launches(1, iterations) for iterations in (1, 10)]))
    print(table(LATTICES, lattices()))


if __name__ == "__main__":
    main()
