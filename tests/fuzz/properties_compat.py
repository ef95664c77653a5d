"""What holds of other tools' names."""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from arrays import is_twin, twin, value
from verdicts import Outcome, outcome, require, require_close, require_finite, require_same

from crfrnn.compat.bilateral_solver import fastBilateralSolverFilter
from crfrnn.compat.pydensecrf import densecrf, utils
from crfrnn.compat.simplecrf.denseCRF import densecrf as simple_densecrf
from crfrnn.compat.simplecrf.denseCRF3D import densecrf3d


def _called(call: Callable[..., Any], example: dict[str, Any]) -> Outcome:
    options = value(example["options"])
    given = {name: value(each) for name, each in example["arrays"].items()}
    found = outcome(lambda: call(**given, **options))
    if all(map(is_twin, example["arrays"].values())):
        plain = {name: twin(each) for name, each in example["arrays"].items()}
        require_same(found, outcome(lambda: call(**plain, **options)), "plain arrays")
    return found


def pydensecrf(example: dict[str, Any]) -> bool:
    """Probabilities that sum to 1, for energies that are numbers."""

    def call(
        unary: Any, image: Any, w: Any, h: Any, labels: Any, iterations: Any, gaussian: Any, bilateral: Any
    ) -> Any:
        d = densecrf.DenseCRF2D(w, h, labels)
        d.setUnaryEnergy(unary)
        d.addPairwiseGaussian(**gaussian)
        d.addPairwiseBilateral(rgbim=image, **bilateral)
        return np.array(d.inference(iterations))

    found = _called(call, example)
    if found.error:
        return True
    if not np.isfinite(twin(example["arrays"]["unary"]).astype(np.float64)).all():
        return False  # as pydensecrf does, with a warning
    require_finite(found.result, "result")
    require_close(found.result.sum(axis=0), np.ones(found.result.shape[1]), 1e-4, "sum over classes")
    return False


def pydensecrf_unary_from_labels(example: dict[str, Any]) -> bool:
    """Energies that are finite."""
    found = _called(utils.unary_from_labels, example)
    if not found.error:
        require(not np.isnan(found.result).any(), "an energy is NaN")
    return found.error is not None


def pydensecrf_unary_from_softmax(example: dict[str, Any]) -> bool:
    """Energies that are numbers."""
    found = _called(utils.unary_from_softmax, example)
    if not found.error and np.isfinite(twin(example["arrays"]["sm"]).astype(np.float64)).all():
        require(not np.isnan(found.result).any(), "an energy is NaN")
    return found.error is not None


def pydensecrf_features(example: dict[str, Any]) -> bool:
    """Features that are finite."""
    found = _called(utils.create_pairwise_bilateral, example)
    if not found.error:
        require_finite(found.result, "features")
    return found.error is not None


def simplecrf(example: dict[str, Any]) -> bool:
    """Labels below the number of classes."""
    return _labels(simple_densecrf, example)


def simplecrf_3d(example: dict[str, Any]) -> bool:
    """Labels below the number of classes."""
    return _labels(densecrf3d, example)


def _labels(call: Callable[..., Any], example: dict[str, Any]) -> bool:
    found = _called(call, example)
    if found.error:
        return True
    classes = example["arrays"]["P"]["shape"][-1]
    require(found.result.min() >= 0 and found.result.max() < classes, "a label beyond the classes")
    return False


def opencv_bilateral_solver(example: dict[str, Any]) -> bool:
    """Of the shape and type of what is solved for."""
    found = _called(fastBilateralSolverFilter, example)
    if found.error:
        return True
    require(found.result.shape == tuple(example["arrays"]["src"]["shape"]), "shape")
    require_finite(found.result, "result")
    return False


if importlib.util.find_spec("torch"):
    import torch

    from crfrnn.compat import monai, pamr
    from crfrnn.compat.crfasrnn.crfrnn import CrfRnn

    torch.set_num_threads(1)

    def monai_crf(example: dict[str, Any]) -> bool:
        """Probabilities that sum to 1."""
        return _tensors(lambda logits, image, **options: monai.CRF(**options)(logits, image), example, True)

    def monai_bilateral_filter(example: dict[str, Any]) -> bool:
        """Finite."""
        return _tensors(lambda image, **options: monai.BilateralFilter.apply(image, **options), example, False)

    def monai_phl_filter(example: dict[str, Any]) -> bool:
        """Finite."""
        return _tensors(
            lambda values, features, **options: monai.PHLFilter.apply(values, features, **options), example, False
        )

    def monai_trainable_filter(example: dict[str, Any]) -> bool:
        """Finite."""

        def call(image: Any, spatial_sigma: Any = 2.0, color_sigma: Any = 0.5) -> Any:
            return monai.TrainableBilateralFilter(spatial_sigma, color_sigma)(image)

        return _tensors(call, example, False)

    def pamr_module(example: dict[str, Any]) -> bool:
        """Probabilities that sum to 1."""
        return _tensors(
            lambda image, probabilities, **options: pamr.PAMR(**options)(image, probabilities), example, True
        )

    def crfasrnn_layer(example: dict[str, Any]) -> bool:
        """Finite."""

        def call(image: Any, logits: Any, num_labels: Any, num_iterations: Any) -> Any:
            return CrfRnn(num_labels, num_iterations)(image, logits)

        return _tensors(call, example, False)

    def _tensors(call: Callable[..., Any], example: dict[str, Any], sums: bool) -> bool:
        options = value(example["options"])
        given = {name: value(each) for name, each in example["arrays"].items()}
        found = outcome(lambda: call(**given, **options))
        if found.error:
            return True
        result = found.result.detach()
        require_finite(result, "result")
        if sums and result.shape[1] > 1:
            half = result.dtype in (torch.float16, torch.bfloat16)
            ones = np.ones((len(result), *result.shape[2:]))
            require_close(result.double().sum(1), ones, 1e-2 if half else 2e-5, "sum over classes")
        return False
