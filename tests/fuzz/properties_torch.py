"""What holds of the calls that take tensors: gradients are finite, and NumPy's calls give the same."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from arrays import plain, value
from verdicts import Outcome, outcome, require, require_close, require_finite, require_same

import crfrnn
import crfrnn.torch
from crfrnn import reference
from crfrnn.torch import losses

torch.set_num_threads(1)
FEW = 80


def _called(call: Callable[..., Any], example: dict[str, Any]) -> Outcome:
    """A call on what is given; contiguous tensors and three threads give the same bits."""
    options = value(example["options"])
    given = {name: value(each) for name, each in example["arrays"].items()}
    found = outcome(lambda: call(**given, **options))
    if all(isinstance(each, torch.Tensor) for each in given.values()) and "threads" not in options:
        copies = {name: each.detach().contiguous().requires_grad_(each.requires_grad) for name, each in given.items()}
        again = outcome(lambda: call(**copies, **options, threads=3))
        if found.error or again.error or found.result.ndim:
            require_same(found, again, "contiguous tensors")
        else:  # torch adds up the pixels of other layouts in another order
            require_close(again.result.detach(), found.result.detach(), 1e-5, "contiguous tensors")
    if not found.error:
        require_finite(found.result.detach(), "result")
        _check_gradients(found.result, given)
    return found


def _check_gradients(result: Any, given: dict[str, Any]) -> None:
    learned = {name: each for name, each in given.items() if isinstance(each, torch.Tensor) and each.requires_grad}
    if not learned or not result.requires_grad:
        return
    numbers = [each.detach().double() for each in given.values() if isinstance(each, torch.Tensor)]
    if any(each.abs().max() > 1e300 for each in numbers if each.numel()):
        return  # gradients are beyond float64
    weights = torch.linspace(-1, 1, max(1, result.numel()), dtype=result.dtype).reshape(result.shape)
    backward = outcome(lambda: torch.autograd.grad((result * weights).sum(), learned.values(), allow_unused=True))
    if backward.error:
        return
    for name, gradient in zip(learned, backward.result, strict=True):
        if gradient is not None and gradient.dtype != torch.float16:  # which ends at 65504
            require(gradient.shape == learned[name].shape, f"shape of the gradient to {name}")
            require_finite(gradient, f"gradient to {name}")


def torch_mean_field(example: dict[str, Any]) -> bool:
    """What `refine` gives of each image."""
    fields = example["parameters"]

    def call(logits: Any, image: Any, mask: Any = None, **options: Any) -> Any:
        parameters = crfrnn.CRFParameters(**value(fields))
        return crfrnn.torch.mean_field(logits, image, mask, parameters, return_probabilities=True, **options)

    found = _called(call, example)
    if found.error:
        return True
    result = found.result.detach()
    require(bool((result >= 0).all() and (result <= 1 + 1e-3).all()), "a probability outside 0 to 1")
    single = result.dtype not in (torch.float16, torch.bfloat16)
    if result.shape[1] > 1:
        require_close(
            result.double().sum(1),
            np.ones((result.shape[0], *result.shape[2:])),
            2e-5 if single else 1e-2,
            "sum over classes",
        )
    if "mask" in example["arrays"] or not single or result.shape[1] == 1 or "spacing" in example["options"]:
        return False
    logits, image = (plain(example["arrays"][name]) for name in ("logits", "image"))
    if result.shape[1:] == image.shape[1:] or image.dtype.kind not in "biuf":
        return False  # which may be maps of the foreground for refine
    parameters = crfrnn.CRFParameters(**value(fields))
    for index in range(len(logits)):
        expected = outcome(
            lambda index=index: crfrnn.refine(logits[index], np.moveaxis(image[index], 0, -1), parameters)
        )
        require(expected.error is None, "refine refuses what torch takes", repr(expected.error))
        require_close(result[index], expected.result, 1e-2 if parameters.tolerance else 1e-3, "refine")
    return False


def torch_layer(example: dict[str, Any]) -> bool:
    """The layer's gradients to its weights are finite."""

    def call(logits: Any, image: Any, **options: Any) -> Any:
        options.pop("threads", None)
        classes = logits.shape[1] if isinstance(logits, torch.Tensor) and logits.ndim > 1 else 3
        layer = crfrnn.torch.CrfRnn(classes, **options)
        result = layer(logits, image)
        if result.requires_grad and not result.isnan().any():
            shares = result.double() / (1 + result.detach().double().abs().max())  # gradients within float32
            shares.square().mean().backward(retain_graph=True, inputs=list(layer.parameters()))
            for name, weight in layer.named_parameters():
                if weight.grad is not None:
                    require_finite(weight.grad, f"gradient to {name}")
        return result

    return _called(call, example).error is not None


def gaussian_filter(example: dict[str, Any]) -> bool:
    """Exactly, the sum over all pairs; means stay within the range of the values."""
    found = _called(crfrnn.torch.gaussian_filter, example)
    if found.error:
        return True
    options = value(example["options"])
    values, features = (plain(example["arrays"][name]).astype(np.float64) for name in ("values", "features"))
    points = values[0, 0].size
    ordinary = np.abs(features).max() < 1e3 and found.result.dtype in (torch.float32, torch.float64)
    if "mask" in example["arrays"] or not ordinary or points > FEW or options.get("filter") != "exact":
        return False
    for index in range(len(values)):
        rows = features[index].reshape(features.shape[1], -1).T
        term = reference.Term(reference.DenseGaussian(rows), 1.0, options.get("normalization", "after"))
        expected = term.filter(values[index].reshape(values.shape[1], -1)).reshape(values.shape[1:])
        require_close(found.result[index].detach(), expected, 1e-3, "all pairs")
    return False


def torch_upsample(example: dict[str, Any]) -> bool:
    """Exactly, what NumPy's `upsample` gives; a lattice has steps, on which rounding decides."""
    exact = example["options"].get("exact", False)

    def call(scores: Any, image: Any, exact: bool = False, **options: Any) -> Any:
        return crfrnn.torch.upsample(scores, image, filter=crfrnn.Exact() if exact else None, **options)

    found = _called(call, example)
    if found.error:
        return True
    if found.result.dtype not in (torch.float32, torch.float64) or not exact:
        return False
    scores, image = (plain(example["arrays"][name]) for name in ("scores", "image"))
    scale = np.abs(scores).max() or 1
    for each, levels, result in zip(scores, image, found.result.detach(), strict=True):
        expected = outcome(partial(crfrnn.upsample, each, np.moveaxis(levels, 0, -1), filter=crfrnn.Exact()))
        require(expected.error is None, "NumPy refuses what torch takes", repr(expected.error))
        require_close(result / scale, expected.result / scale, 1e-3, "NumPy")
    return False


def _loss(loss: Callable[..., Any], example: dict[str, Any]) -> bool:
    found = _called(loss, example)
    if found.error:
        return True
    require(float(found.result.detach()) >= -1e-4, "a loss below 0", f"{found.result}")
    return False


def dense_crf_loss(example: dict[str, Any]) -> bool:
    """Never negative, with finite gradients."""
    return _loss(losses.dense_crf_loss, example)


def gated_crf_loss(example: dict[str, Any]) -> bool:
    """Never negative, with finite gradients."""
    return _loss(losses.gated_crf_loss, example)


def normalized_cut_loss(example: dict[str, Any]) -> bool:
    """Never negative, with finite gradients."""
    return _loss(losses.normalized_cut_loss, example)
