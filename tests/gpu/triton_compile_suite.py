"""Compiles every Triton kernel that a mean field needs, without a GPU; `triton_suite.py` runs it.

Those that may begin before the kernels before them have ended have to wait for these before they touch memory.

python triton_compile_suite.py CAPABILITY     such as 90
"""

import re
import sys
from pathlib import Path

import torch

from crfrnn import CRFParameters
from crfrnn.inference.backend import Execution, Inputs
from crfrnn.torch.gpu import meanfield, triton_steps

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.gpu_counts import INSTRUCTION, KINDS, compiling, told_by

THETAS = ("theta_alpha", "theta_beta", "theta_gamma")
CLASSES = 21
SIZE = 4, 130  # so that kernels that slice have blocks of several lines
EARLIEST = 90  # the first cards on which kernels begin early
WAIT = "ACQBULK"
TOUCHES_MEMORY = re.compile("|".join([WAIT, "EXIT", *(KINDS[kind] for kind in ("loads", "stores", "atomics"))]))


def waits_first(compiled):
    """Whether a kernel waits before it touches memory or ends."""
    instructions = (found[1] for found in INSTRUCTION.finditer(told_by("nvdisasm", "-c", compiled)))
    return next(each for each in instructions if TOUCHES_MEMORY.match(each)) == WAIT


def compile_all(capability):
    """The names of the kernels compiled, and how many variants of them there were."""
    triton_steps.EARLY, triton_steps.begins_early = True, lambda device: capability >= EARLIEST
    with compiling(capability) as found:
        for dtype, spatial, axes, damping, masked, storage in (
            (torch.float32, "grid", 2, 0.0, False, None),
            (torch.float32, "lattice", 1, 0.25, True, torch.bfloat16),
            (torch.float32, "grid", 1, 0.0, False, torch.float16),
            (torch.float64, "grid", 2, 0.25, True, None),
        ):
            logits, image = torch.zeros(1, CLASSES, *SIZE, dtype=dtype), torch.zeros(1, 3, *SIZE)
            couplings = [torch.ones((CLASSES,) * axes, dtype=dtype)] * 2
            crf = CRFParameters(spatial=spatial, iterations=2, damping=damping, class_threshold=damping).crf
            execution = Execution(None, not masked, storage)
            triton_steps.MANY_RUNS, triton_steps.BLURS = (0, 2) if storage else (2**16, 1)
            mask = torch.ones(1, *SIZE) if masked else None
            thetas = {name: torch.ones(1, dtype=dtype) for name in THETAS} if masked else {}
            inputs = Inputs(logits, image, mask, thetas=thetas)
            _, record = meanfield.forward(crf, inputs, couplings, True, execution, triton_steps)
            for guide in (False, True):
                meanfield.vjp(crf, inputs, logits, record, couplings, execution, guide, triton_steps)
    early = [kernel for variants in found.values() for kernel in variants.values() if kernel.metadata.launch_pdl]
    assert bool(early) == (capability >= EARLIEST)
    assert all(map(waits_first, early))
    return {name: len(variants) for name, variants in found.items()}


if __name__ == "__main__":
    for name, count in compile_all(int(sys.argv[1])).items():
        print(name, count)
