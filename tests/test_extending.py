"""docs/extending.md: its blocks run in their order, and what they compute is compared with dense matrices in float64.

A block that begins with the path of a file runs inside that module, as if it stood at its end; a module that does not
exist is made. All of it runs in a process of its own, so that no other test sees the changed modules.
"""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from repository import ROOT

TEXT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
PATH = re.compile(r"# src/(\S+)\.py\n")
LEFT_OUT = 1e-3
"""How far results may be off with the tolerance of `MeanField`."""


def run_page(without: tuple[str, ...] = ()) -> dict[str, object]:
    """The names that the page defines; blocks that import what is not there are left out."""
    names: dict[str, object] = {}
    for number, block in enumerate(BLOCKS):
        if any(re.search(rf"\b{package}\b", block) for package in without):
            continue
        path = PATH.match(block)
        space = names if path is None else vars(module(path[1].replace("/", ".")))
        exec(compile(block, f"docs/extending.md, block {number}", "exec"), space)
    return names


def module(name: str) -> ModuleType:
    """The module of that name, made if there is none."""
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        package, _, last = name.rpartition(".")
        made = ModuleType(name)
        sys.modules[name] = made
        setattr(importlib.import_module(package), last, made)
    return importlib.import_module(name)


def test_a_file_named_in_a_block_is_there_or_new() -> None:
    files = [path[1] for path in map(PATH.match, BLOCKS) if path]
    new = [file for file in files if not (ROOT / "src" / f"{file}.py").exists()]
    assert new == ["crfrnn/inference/tempered", "crfrnn/inference/dense", "crfrnn/jax"]


@pytest.mark.torch
@pytest.mark.parametrize("last", ["torch", "jax"])
def test_page(last: str) -> None:
    """The blocks that do not need JAX, and all of them."""
    pytest.importorskip(last, reason=f"needs {last}")
    command = [sys.executable, "-P", __file__, last]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == 0, process.stderr


def solved(unary, kernels, couplings, iterations, temperature=1.0, damping=0.0):
    """Logits by the formulas of docs/algorithm.md, (C, N), of dense normalised kernels (N, N); for torch too."""
    softmax = (lambda a: a.softmax(0)) if hasattr(unary, "softmax") else reference.softmax
    a = unary
    for _ in range(iterations):
        q = softmax(a / temperature)
        message = sum(E * (q @ N.T) for N, E in zip(kernels, couplings, strict=True))
        a = (1 - damping) * (unary - message) + damping * a
    return a


def gaussian(features):
    """The dense kernel of (N, d) features, averaged over what reaches each point."""
    K = reference.DenseGaussian(features).matrix
    return K / K.sum(axis=1, keepdims=True)


def gaussian_on_lattice(features):
    K = reference.Lattice(features).filter(np.eye(len(features)))
    return K / K.sum(axis=1, keepdims=True)


def check_own_kernel(page) -> None:
    scores, features = rows(page), bilateral(page)
    same = page["segments"].reshape(-1)[:, None] == page["segments"].reshape(-1)[None]
    same = same / same.sum(axis=1)  # symmetric, as all segments are of one size
    expected = solved(scores, [gaussian_on_lattice(features), same], [-4, -2], 5)
    close(page["probabilities"], reference.softmax(expected))
    term = reference.Term(reference.MatrixKernel(same), 2.0, "none")
    logits, marginals = reference.mean_field(scores, [term], iterations=5)
    close(page["logits"], logits)
    truth = reference.mean_field_vjp(np.ones_like(logits), marginals, [term])
    close(page["gradients"].unary, truth.unary)
    close(page["gradients"].weights[0], truth.weights[0])
    close(
        page["by_depth"],
        reference.softmax(solved(scores, [gaussian(page["depth"].reshape(-1, 1) / 0.1)], [-3], 10)),
        LEFT_OUT,
    )


def check_own_kernel_in_torch(page) -> None:
    import torch

    scores, features = rows(page), bilateral(page)
    lattice = torch.tensor(gaussian_on_lattice(features))
    window = page["neighbours"].window.detach().double().clone().requires_grad_()
    shape = page["scores"].shape[1:]
    N = shape[0] * shape[1]
    eye = torch.eye(N, dtype=torch.float64).view(N, 1, *shape)
    K = torch.nn.functional.conv2d(eye, window[None, None], padding=1).view(N, N).T
    neighbours = K / K.sum(dim=1, keepdim=True)
    expected = solved(torch.tensor(scores), [lattice, neighbours], [-4, -2], 5)
    close(page["refined"].detach(), expected.detach())
    expected.square().sum().backward()
    close(page["neighbours"].window.grad, window.grad, 1e-6)


def check_colour(page) -> None:
    colours = page["photo"].reshape(-1, 3) / 60
    expected = solved(rows(page), [gaussian(colours)], [-3], 10)
    close(page["by_colour"], reference.softmax(expected), LEFT_OUT)
    close(page["by_colour_in_torch"], reference.softmax(expected), LEFT_OUT)


def check_solver(page) -> None:
    import torch

    from crfrnn.torch import mean_field

    expected = solved(rows(page), [gaussian(bilateral(page))], [-4], 5, temperature=2.0)
    close(page["softer"], reference.softmax(expected))
    close(page["softer_in_torch"], reference.softmax(expected))
    assert len(set(page["softer"].argmax(axis=0).ravel())) > 1

    logits, image = page["tensors"]
    given = logits.clone().requires_grad_()
    weight = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)

    def loss(logits, weight):
        return mean_field(logits, image, parameters=page["soft"], bilateral_weight=weight)

    assert torch.autograd.gradcheck(loss, (given, weight))
    # The differentiable backend: an exact filter with a gradient to θ.
    theta = torch.tensor(60.0, dtype=torch.float64, requires_grad=True)
    refined = mean_field(logits, image, parameters=page["soft"], theta_beta=theta)
    close(refined.detach(), expected)
    refined.square().sum().backward()
    assert theta.grad.abs() > 0
    labels = crfrnn.refine(page["scores"], page["photo"], page["soft"], return_labels=True)
    np.testing.assert_array_equal(labels, page["softer"].argmax(axis=0))


def check_regions(page) -> None:
    """The example against loops over pixels, and against the package's own regions."""
    segments, scores = page["segments"].reshape(-1), rows(page)
    same = segments[:, None] == segments[None]
    averaged = same / same.sum(axis=1)

    class Others:
        weight = 2.0

        def filter(self, q):
            pixels = range(len(segments))
            others = [[j for j in np.flatnonzero(same[i]) if j != i] for i in pixels]
            return np.stack([q[:, each].prod(axis=1) for each in others], axis=1)

    terms = [reference.Term(reference.MatrixKernel(averaged), 0.5, "none"), Others()]
    close(page["agreed"], reference.mean_field(scores, terms, iterations=3)[0])
    ours = [page["terms"][0], crfrnn.RegionTerm(page["segments"], 2.0, None)]
    gradients = crfrnn.mean_field_vjp(np.ones_like(page["agreed"]), page["kept"], ours)
    close(page["agreed_gradients"].unary, gradients.unary)
    for mine, theirs in zip(page["agreed_gradients"].weights, gradients.weights, strict=True):
        close(mine, theirs)
    labels = page["agreed"].argmax(axis=0)
    close(page["agreed_energy"], crfrnn.energy(labels, page["scores"], ours))
    terms = [reference.Term(reference.MatrixKernel(gaussian_on_lattice(bilateral(page))), 4, "none"), Others()]
    expected = reference.softmax(reference.mean_field(scores, terms, iterations=10)[0])
    for found in (page["by_regions"], page["by_regions_in_torch"]):
        close(found, expected)
    without_regions = page["soft"]
    with pytest.raises(ValueError, match="Tempered takes no regions"):
        replace(without_regions, regions=page["layered"].regions)


def check_backend(page) -> None:
    crf, inputs, couplings, batch = (page[name] for name in ("exact", "inputs", "couplings", "batch"))
    expected = solved(rows(page), [gaussian(bilateral(page))], [-4], 5, damping=0.2)
    close(page["truth"], expected)
    refined, record = batch.forward(crf, inputs, couplings, True, page["Execution"]())
    close(refined, page["truth"])
    cotangent = np.random.default_rng(1).normal(size=refined.shape)
    ours = batch.vjp(crf, inputs, cotangent, record, couplings, page["Execution"](), False)
    theirs = page["dense"].vjp(crf, inputs, cotangent, page["record"], couplings, page["Execution"](), False)
    close(ours[0], theirs[0])
    close(ours[1][0], theirs[1][0])
    check_masks_and_normalisations(page)
    with pytest.raises(page["UnsupportedError"], match=r"Lattice\(\) is not available"):
        page["able"]([page["dense"]], page["asked_by"](page["crf"]), "this example")
    with pytest.raises(page["UnsupportedError"], match="Tempered is not available"):
        page["able"]([page["dense"]], page["asked_by"](page["soft"]), "this example")


def check_masks_and_normalisations(page) -> None:
    """With a mask and a spacing, in every normalisation, and with features that a call gives."""
    exact, inputs, dense, batch = (page[name] for name in ("exact", "inputs", "dense", "batch"))
    rng, execution = np.random.default_rng(2), page["Execution"]()
    mask = rng.uniform(0.2, 1, size=inputs.logits[:, 0].shape) * (rng.random(inputs.logits[:, 0].shape) < 0.7)
    depth = np.moveaxis(page["depth"], -1, 0)[None]
    given = inputs._replace(mask=mask, spacing=(1.0, 20.0), given={"depth": depth / 0.1})
    cotangent = rng.normal(size=inputs.logits.shape)
    couplings = [np.asarray(-0.6), np.asarray([-0.3, -0.2, -0.1])]
    for normalization in ("none", "before", "after", "symmetric"):
        features = (exact.kernels[0].features, page["near"].kernels[0].features)
        kernels = [replace(exact.kernels[0], features=each, normalization=normalization) for each in features]
        crf = replace(exact, kernels=kernels)
        theirs, their_record = dense.forward(crf, given, couplings, True, execution)
        ours, our_record = batch.forward(crf, given, couplings, True, execution)
        close(ours, theirs)
        true = dense.vjp(crf, given, cotangent, their_record, couplings, execution, False)
        found = batch.vjp(crf, given, cotangent, our_record, couplings, execution, False)
        close(found.logits, true.logits)
        for mine, other in zip(found.couplings, true.couplings, strict=True):
            close(mine, other)
    unmasked, _ = dense.forward(crf, given._replace(mask=None), couplings, False, execution)
    in_pixels, _ = dense.forward(crf, given._replace(spacing=None), couplings, False, execution)
    assert min(np.abs(theirs - each).max() for each in (unmasked, in_pixels)) > 1e-3


def check_jax(page) -> None:
    close(page["in_jax"], page["truth"], LEFT_OUT)
    to_logits, to_couplings = page["slopes"]
    ones, inputs = np.ones(page["truth"].shape), page["inputs"]
    theirs = page["dense"].vjp(page["exact"], inputs, ones, page["record"], page["couplings"], None, False)
    close(to_logits, theirs[0], 1e-4)
    close(to_couplings[0], theirs[1][0], 1e-4)


def rows(page):
    return page["scores"].reshape(3, -1)


def bilateral(page):
    return crfrnn.bilateral_features(page["photo"], 80, 60)


def close(actual, expected, bound=1e-9) -> None:
    expected = np.asarray(expected, np.float64)
    actual = np.asarray(actual, np.float64).reshape(expected.shape)
    assert np.abs(actual - expected).max() <= bound * np.abs(expected).max(), np.abs(actual - expected).max()


CHECKS = {
    "torch": (check_own_kernel, check_own_kernel_in_torch, check_colour, check_solver, check_regions, check_backend),
    "jax": (check_jax,),
}

if __name__ == "__main__":
    import crfrnn
    from crfrnn import reference

    last = sys.argv[1]
    page = run_page(() if last == "jax" else ("jax",))
    for check in CHECKS[last]:
        check(page)
