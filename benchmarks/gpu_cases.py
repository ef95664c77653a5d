"""What `gpu.py` measures, and how: sizes, modes, examples on a device, and the clock of the device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib.resources import as_file, files
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from crfrnn import CRFParameters
from crfrnn.crf import CRF
from crfrnn.demo import EXAMPLES, read_example
from crfrnn.inference.backend import Execution, Inputs
from crfrnn.torch.gpu import meanfield, steps_of
from crfrnn.torch.gpu.terms import Term, build_terms

CLASSES = 21
THETAS = ((160.0, 3.0, 3.0), (80.0, 13.0, 3.0))
CANVAS = 513  # pixels of the square that the scores of an example cover


class Sizes(NamedTuple):
    """What is measured: (height, width) of photos, images of a batch, iterations, and seconds for each figure; of the
    program few and many photos, and (height, width) of their files.
    """

    photo: tuple[int, int] = (366, 500)
    large: tuple[int, int] = (1464, 2000)
    images: int = 16
    iterations: int = 10
    trained: int = 5
    seconds: float = 0.2
    photos: tuple[int, int] = (64, 1024)
    files: tuple[int, int] = (375, 500)


class Mode(NamedTuple):
    """Whether sums have a fixed order, what marginals and messages are stored in, and whether vertices are counted."""

    deterministic: bool = True
    storage: torch.dtype | None = None
    counted: bool = False

    @property
    def name(self) -> str:
        stored = "float32" if self.storage is None else str(self.storage).removeprefix("torch.")
        return f"{'fixed' if self.deterministic else 'any'} order, {stored}{', counted' * self.counted}"

    @property
    def execution(self) -> Execution:
        return Execution(None, self.deterministic, self.storage, self.counted)


MODES = tuple(Mode(order, storage) for storage in (None, torch.bfloat16) for order in (True, False))
SMOKE = Sizes((24, 32), (30, 40), 2, 2, 1, 0.0, (2, 2), (24, 32))


class Bench:
    """A device, and how to time on it."""

    def __init__(self, device: torch.device, sizes: Sizes) -> None:
        self.device, self.sizes = device, sizes
        self.cuda = device.type == "cuda"
        self.steps = steps_of(device)

    def milliseconds(self, call: Callable[[], object]) -> float:
        """Median over calls, after two that compile and warm up; between events on a GPU."""
        taken: list[float] = []
        for _ in range(2):
            call()
        end = time.perf_counter() + self.sizes.seconds
        while len(taken) < 3 or (time.perf_counter() < end and len(taken) < 1000):
            taken.append(self._once(call))
        return statistics.median(taken)

    def graph(self, call: Callable[[], object]) -> Callable[[], object]:
        """The call, recorded: what it takes when launching costs nothing."""
        if not self.cuda:
            return call
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph.replay

    def peak_bytes(self, call: Callable[[], object]) -> int | None:
        """Most memory of tensors during a call, above what there was before it."""
        if not self.cuda:
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def _once(self, call: Callable[[], object]) -> float:
        if not self.cuda:
            start = time.perf_counter()
            call()
            return 1000 * (time.perf_counter() - start)
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        call()
        last.record()
        last.synchronize()
        return first.elapsed_time(last)


class Case(NamedTuple):
    """Scores and photos of a batch on the device, and the couplings: numbers, or matrices as a trained layer has."""

    logits: Tensor
    image: Tensor
    couplings: list[Tensor]

    def forward(
        self, steps: ModuleType, iterations: int, mode: Mode, keep: bool = False
    ) -> tuple[Tensor, meanfield.Record]:
        crf, execution = crf_of(iterations), mode.execution
        return meanfield.forward(crf, Inputs(self.logits, self.image), self.couplings, keep, execution, steps)

    def terms(self, mode: Mode, steps: ModuleType) -> list[Term[Any]]:
        """Kernels and their norms."""
        return build_terms(crf_of(1), Inputs(self.logits, self.image), torch.float32, mode.execution, steps)

    def both_ways(self, steps: ModuleType, iterations: int, mode: Mode, guide: bool = False) -> object:
        """Gradients to logits and couplings; with `guide` to the image and to θ, given as tensors, as well."""
        crf, execution = crf_of(iterations), mode.execution
        names = ("theta_alpha", "theta_beta", "theta_gamma") if guide else ()
        thetas = {name: self.logits.new_full((1,), theta) for name, theta in zip(names, THETAS[0], strict=False)}
        inputs = Inputs(self.logits, self.image, thetas=thetas)
        refined, record = meanfield.forward(crf, inputs, self.couplings, True, execution, steps)
        return meanfield.vjp(crf, inputs, refined, record, self.couplings, execution, guide, steps)


def crf_of(iterations: int, thetas: tuple[float, float, float] = THETAS[0]) -> CRF:
    return CRFParameters(*thetas, iterations=iterations).crf


def example(name: str, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Logits (1, 21, H, W) and photo (1, 3, H, W), 0 to 255, of an example, scaled to a size."""
    photo = torch.from_numpy(np.moveaxis(read_example(name), -1, 0).copy())[None].float()
    with as_file(files("crfrnn").joinpath("data", "examples", f"{name}_logits33.npz")) as path, np.load(path) as file:
        coarse = torch.from_numpy(file["logits"].astype(np.float32))[None]
    height, width = photo.shape[2:]
    covered = [round(side * CANVAS / max(height, width)) for side in (height, width)]
    canvas = interpolate(coarse, (CANVAS, CANVAS), mode="bilinear", align_corners=True)
    logits = interpolate(canvas[:, :, : covered[0], : covered[1]], size, mode="bilinear")
    return logits, interpolate(photo, size, mode="bilinear").round()


def make_case(bench: Bench, size: tuple[int, int], images: int, matrices: bool) -> Case:
    chosen = [example(EXAMPLES[index % len(EXAMPLES)], size) for index in range(images)]
    logits, image = (torch.cat(parts).to(bench.device) for parts in zip(*chosen, strict=True))
    weights = [torch.tensor(-3.0), torch.tensor(-5.0)]
    if matrices:
        weights = [weight * torch.eye(CLASSES) + 0.1 for weight in weights]
    return Case(logits, image, [weight.to(bench.device) for weight in weights])
