"""Compiles every Triton kernel that a mean field needs, without a GPU; `triton_suite.py` runs it.

python triton_compile_suite.py CAPABILITY     such as 90
"""

import sys
from pathlib import Path

import torch

from crfrnn import CRFParameters
from crfrnn.inference.backend import Execution, Inputs
from crfrnn.torch.gpu import meanfield, triton_steps

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.gpu_counts import compiling

THETAS = ("theta_alpha", "theta_beta", "theta_gamma")
CLASSES = 21


def compile_all(capability):
    """The names of the kernels compiled, and how many variants of them there were."""
    with compiling(capability) as found:
        for dtype, spatial, axes, damping, masked, storage in (
            (torch.float32, "grid", 2, 0.0, False, None),
            (torch.float32, "lattice", 1, 0.25, True, torch.bfloat16),
            (torch.float32, "grid", 1, 0.0, False, torch.float16),
            (torch.float64, "grid", 2, 0.25, True, None),
        ):
            logits, image = torch.zeros(1, CLASSES, 6, 7, dtype=dtype), torch.zeros(1, 3, 6, 7)
            couplings = [torch.ones((CLASSES,) * axes, dtype=dtype)] * 2
            crf = CRFParameters(spatial=spatial, iterations=2, damping=damping, class_threshold=damping).crf
            execution = Execution(None, not masked, storage)
            triton_steps.MANY_RUNS = 0 if storage else 2**16
            mask = torch.ones(1, 6, 7) if masked else None
            thetas = {name: torch.ones(1, dtype=dtype) for name in THETAS} if masked else {}
            inputs = Inputs(logits, image, mask, thetas=thetas)
            _, record = meanfield.forward(crf, inputs, couplings, True, execution, triton_steps)
            for guide in (False, True):
                meanfield.vjp(crf, inputs, logits, record, couplings, execution, guide, triton_steps)
    return {name: len(variants) for name, variants in found.items()}


if __name__ == "__main__":
    for name, count in compile_all(int(sys.argv[1])).items():
        print(name, count)
