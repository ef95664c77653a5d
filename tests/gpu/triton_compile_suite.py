"""Compiles every Triton kernel that a mean field needs, without a GPU; `test_device_triton.py` runs it.

    python triton_compile_suite.py CAPABILITY     such as 90

Launches stop after compilation, so what they would have computed is replaced by zeros.
"""

import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from crfrnn import CRFParameters
from crfrnn.inference.backend import Execution, Inputs
from crfrnn.torch.gpu import meanfield, triton_steps

WARP = 32
THETAS = ("theta_alpha", "theta_beta", "theta_gamma")
CLASSES = 21


class Card:
    """As much of a driver as compilation asks for."""

    def __init__(self, capability):
        self.target = GPUTarget("cuda", capability, WARP)

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def compile_all(capability):
    """The names of the kernels compiled, and how many variants of them there were."""
    variants = {}
    triton.runtime.driver.set_active(Card(capability))

    def compile_only(kernel, grid):
        def launch(*arguments, **options):
            compiled = kernel.warmup(*arguments, grid=grid, **options)
            variants.setdefault(kernel.__name__, set()).add(compiled.hash)

        return launch

    JITFunction.__getitem__ = compile_only
    embed = triton_steps.embed

    def embed_at_0(*arguments):
        cell, order, weight = (result.zero_() for result in embed(*arguments))
        return cell, order + torch.arange(len(order), dtype=order.dtype)[:, None], weight

    triton_steps.embed = embed_at_0
    for dtype, spatial, axes, damping, masked, storage in (
        (torch.float32, "grid", 2, 0.0, False, None),
        (torch.float32, "lattice", 1, 0.25, True, torch.bfloat16),
        (torch.float32, "grid", 1, 0.0, False, torch.float16),
        (torch.float64, "grid", 2, 0.25, True, None),
    ):
        logits, image = torch.zeros(1, CLASSES, 6, 7, dtype=dtype), torch.zeros(1, 3, 6, 7)
        couplings = [torch.ones((CLASSES,) * axes, dtype=dtype)] * 2
        crf = CRFParameters(spatial=spatial, iterations=2, damping=damping).crf
        execution = Execution(None, not masked, storage)
        mask = torch.ones(1, 6, 7) if masked else None
        thetas = {name: torch.ones(1, dtype=dtype) for name in THETAS} if masked else {}
        inputs = Inputs(logits, image, mask, thetas=thetas)
        _, record = meanfield.forward(crf, inputs, couplings, True, execution, triton_steps)
        for guide in (False, True):
            meanfield.vjp(crf, inputs, logits, record, couplings, execution, guide, triton_steps)
    return {name: len(found) for name, found in variants.items()}


if __name__ == "__main__":
    for name, count in compile_all(int(sys.argv[1])).items():
        print(name, count)
