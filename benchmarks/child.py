"""One measured side in a process of its own: reads requests as JSON lines, answers each with a JSON line.

It imports nothing but NumPy before it is asked for a side, so that other interpreters can run it.
"""

import json
import os
import sys
import time
from functools import lru_cache

import numpy as np

from .smoothers import SMOOTHERS


def crfrnn(logits, image, settings):
    from crfrnn import CRFParameters, refine

    parameters = CRFParameters(**settings)
    return lambda: refine(logits, image, parameters)


def pydensecrf(logits, image, settings):
    from pydensecrf.densecrf import NORMALIZE_AFTER, DenseCRF2D

    classes, height, width = logits.shape
    energy = -logits.reshape(classes, -1)  # what it takes, as logits are what ours takes: neither is timed

    def call():
        model = DenseCRF2D(width, height, classes)
        model.setUnaryEnergy(energy)
        model.addPairwiseGaussian(settings["theta_gamma"], settings["spatial_weight"], normalization=NORMALIZE_AFTER)
        model.addPairwiseBilateral(
            settings["theta_alpha"],
            settings["theta_beta"],
            image,
            settings["bilateral_weight"],
            normalization=NORMALIZE_AFTER,
        )
        return np.asarray(model.inference(settings["iterations"])).reshape(logits.shape)

    return call


def pydensecrf_volume(logits, image, settings):
    from pydensecrf.densecrf import DIAG_KERNEL, NORMALIZE_AFTER, DenseCRF
    from pydensecrf.utils import create_pairwise_bilateral, create_pairwise_gaussian

    classes, *shape = logits.shape
    energy = -logits.reshape(classes, -1)
    in_order = [2, 1, 0]  # x, y, z as everywhere else; the lattice depends on the order

    def call():
        model = DenseCRF(image.size, classes)
        model.setUnaryEnergy(energy)
        spatial = create_pairwise_gaussian([settings["theta_gamma"]] * 3, shape)[in_order]
        model.addPairwiseEnergy(spatial, settings["spatial_weight"], DIAG_KERNEL, NORMALIZE_AFTER)
        bilateral = create_pairwise_bilateral([settings["theta_alpha"]] * 3, settings["theta_beta"], image)
        model.addPairwiseEnergy(bilateral[[*in_order, 3]], settings["bilateral_weight"], DIAG_KERNEL, NORMALIZE_AFTER)
        return np.asarray(model.inference(settings["iterations"])).reshape(logits.shape)

    return call


def simplecrf(logits, image, settings):
    import denseCRF

    probabilities = np.exp(logits - np.logaddexp.reduce(logits))
    channels_last = np.ascontiguousarray(np.moveaxis(probabilities, 0, -1))
    names = ("bilateral_weight", "theta_alpha", "theta_beta", "spatial_weight", "theta_gamma", "iterations")
    return lambda: denseCRF.densecrf(image, channels_last, tuple(settings[name] for name in names))


def crfseg(logits, image, settings):
    import torch
    from crfseg import CRF

    crf = CRF(
        n_spatial_dims=2,
        n_iter=settings["iterations"],
        returns="proba",
        smoothness_weight=settings["spatial_weight"],
        smoothness_theta=settings["theta_gamma"],
    )
    batch = torch.from_numpy(logits)[None]
    return torch.no_grad()(lambda: crf(batch)[0].numpy())


def layer(logits, image, settings, backward=False, **options):
    import torch

    from crfrnn.torch import CrfRnn

    crf = CrfRnn(
        len(logits),
        num_iterations=settings["iterations"],
        theta_alpha=settings["theta_alpha"],
        theta_beta=settings["theta_beta"],
        theta_gamma=settings["theta_gamma"],
        **options,
    )
    unary = torch.from_numpy(logits)[None].requires_grad_(backward)
    reference = torch.from_numpy(image).movedim(-1, 0)[None].float()
    cotangent = torch.randn(unary.shape, generator=torch.Generator().manual_seed(0))

    def call():
        if not backward:
            with torch.no_grad():
                return crf(unary, reference)[0].softmax(0).numpy()
        unary.grad = None
        crf(unary, reference).backward(cotangent)
        return unary.grad[0].numpy()

    return call


def layer_dense(logits, image, settings):
    return layer(logits, image, settings, tolerance=0.0)


def layer_backward(logits, image, settings):
    return layer(logits, image, settings, backward=True)


def segmenter(logits, image, settings, part="whole"):
    """The model in the package on the photo: all of it, its network, or the kernels of its CRF."""
    import torch

    from crfrnn import CRFParameters, pairwise_terms
    from crfrnn.models import load_model
    from crfrnn.segment import image_batch

    model = load_model().segmenter
    images, crf = image_batch([image], model), model.crf
    crf.num_iterations = settings["iterations"]
    names = ("theta_alpha", "theta_beta", "theta_gamma", "normalization", "spatial")
    parameters = CRFParameters(**{name: getattr(crf, name) for name in names})
    calls = {
        "whole": lambda: model(images)[0].softmax(0).numpy(),
        "network": lambda: model.unary(images)[0].softmax(0).numpy(),
        "kernels": lambda: pairwise_terms(image, parameters, dtype=np.float32),
    }
    return torch.inference_mode()(calls[part])


def segmenter_network(logits, image, settings):
    return segmenter(logits, image, settings, "network")


def segmenter_kernels(logits, image, settings):
    return segmenter(logits, image, settings, "kernels")


def step(logits, image, settings, crf=False):
    """A training step of FcnLite, with or without a CRF-RNN behind it, on a batch of 8 of the photo."""
    import torch

    from crfrnn.models import FcnLite, Segmenter
    from crfrnn.torch import CrfRnn

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    names = ("theta_alpha", "theta_beta", "theta_gamma")
    options = {name: settings[name] for name in names} | {"num_iterations": settings["iterations"]}
    model = Segmenter(FcnLite(len(logits)), CrfRnn(len(logits), **options) if crf else None)
    images = torch.from_numpy(image).movedim(-1, 0)[None].float().repeat(8, 1, 1, 1)
    labels = torch.from_numpy(logits.argmax(0))[None].repeat(8, 1, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def call():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return call


def step_crf(logits, image, settings):
    return step(logits, image, settings, crf=True)


SIDES = {
    side.__name__: side
    for side in (
        *(crfrnn, pydensecrf, pydensecrf_volume, simplecrf, crfseg, layer, layer_dense, layer_backward),
        *(segmenter, segmenter_network, segmenter_kernels, step, step_crf),
        *SMOOTHERS,
    )
}


@lru_cache(maxsize=1)
def prepared(side, inputs, settings):
    with np.load(inputs) as file:
        logits, image = file["logits"], file["image"]
    return SIDES[side](logits, image, json.loads(settings))


def memory(field):
    """Bytes of resident memory now (VmRSS) or at most since the mark (VmHWM)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) * 1024


def time_call(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def save_result(call, path):
    np.save(path, call())


def peak_memory(call):
    before = memory("VmRSS")
    with open("/proc/self/clear_refs", "w") as mark:
        mark.write("5")  # sets VmHWM back to VmRSS
    call()
    return memory("VmHWM") - before


def memory_growth(call, count):
    """Growth over the last nine tenths of `count` calls: the first tenth fills caches and free lists."""
    for _ in range(count // 10):
        call()
    before = memory("VmRSS")
    for _ in range(count - count // 10):
        call()
    return memory("VmRSS") - before


ACTIONS = {action.__name__: action for action in (time_call, save_result, peak_memory, memory_growth)}


def main():
    # Answers keep the real standard output; whatever a library prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-int(os.environ["OMP_NUM_THREADS"]) :])
    for line in sys.stdin:
        request = json.loads(line)
        call = prepared(request["side"], request["inputs"], request["settings"])
        result = ACTIONS[request["action"]](call, *request["arguments"])
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
