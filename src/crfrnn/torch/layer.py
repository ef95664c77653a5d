"""CRF-RNN as a layer: mean-field iterations of a dense CRF whose weights train with the network before it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, NoReturn, TypeAlias, get_args

import torch
from torch import Tensor, nn

from crfrnn.attributes import CrfAttributes, alone, trained_thetas
from crfrnn.crf import CRF, MeanField, Normalization
from crfrnn.doubts import Doubts
from crfrnn.inference.backend import Execution
from crfrnn.kernels.build import given_mapping
from crfrnn.numbers import finite_number, flag, one_of, whole_number
from crfrnn.parameters import CRFParameters, Filter, SpatialKernel
from crfrnn.threads import thread_count
from crfrnn.torch.functional import check_storage, refine
from crfrnn.torch.plausibility import look
from crfrnn.torch.scene import Own, Scene
from crfrnn.torch.upsampling import at_image_size
from crfrnn.unary import num_classes_of
from crfrnn.upsampling import Method

Trained: TypeAlias = Literal["full", "per-class", "scalar"]
Deviation: TypeAlias = float | Sequence[float]


NO_ONNX = (
    "CrfRnn cannot be exported to ONNX, which has no permutohedral lattice: export the network alone, and refine what "
    "it returns by crfrnn.refine"
)
NO_SCRIPT = (
    "CrfRnn cannot be scripted, since its specification is a Python object: use torch.export, or under torch.no_grad() "
    "torch.jit.trace, which takes images of any size"
)


def _exports_to_onnx() -> bool:
    """Whether torch.onnx.export traces this, in any of its ways: a compiler takes torch's own answer to be False."""
    return torch.onnx.is_in_onnx_export()


# All that torch.compiler.assume_constant_result does, which imports the compiler first: seconds at every start.
_exports_to_onnx._dynamo_marked_constant = True  # type: ignore[attr-defined]


class CrfRnn(CrfAttributes, nn.Module):
    """Refine the logits of a segmentation network by the colours of the image.

    `num_iterations` times a = U - M (W_s s + W_b b), where s and b are the marginals softmax(a) under the spatial and
    the bilateral Gaussian filter. At the start M is -I, and W_s and W_b are the given weights times I. Batch, image
    size, number of image channels and of spatial axes (1 to 3) may change from call to call.

    It runs under `torch.compile` and `torch.export`. `torch.jit.trace` takes it under `torch.no_grad()`, or with
    `check_trace=False`, and the result takes images of any size, where `crfrnn.torch` is imported. `torch.jit.script`
    and ONNX cannot have it, and say so.

    Args:
        num_classes: Channels of the logits, at least 1. One channel is the log-odds of the foreground: weights and
            compatibility are then of two classes, background first.
        num_iterations: 5 in training and 10 at test in the paper; an attribute that may be set at any time.
        theta_alpha: Deviation of the bilateral kernel in pixels, or in the unit of the spacing of a call; a number, or
            one for each axis as (x, y[, z]).
        theta_beta: Deviation of the bilateral kernel in the image's own levels, or one for each channel.
        theta_gamma: Deviation of the spatial kernel in the unit of theta_alpha, or one for each axis.
        spatial_weight: W_s at the start, a number times I.
        bilateral_weight: W_b at the start, a number times I.
        normalization: "after" (CRF-RNN), "before", "symmetric" (pydensecrf) or "none" (raw sums).
        spatial: Spatial kernel as exact Gaussian on the "grid", or approximated by a "lattice" as the original does.
        weights: What W_s and W_b are trained as: "full" C×C matrices, "per-class" diagonals or a "scalar" each.
        compatibility: The same for M.
        damping: Share of the previous logits kept at each iteration, at least 0 and below 1.
        tolerance: How far a marginal may be off in an iteration because of work left out: 0 works everything out, and
            so do devices. Calls whose gradients are wanted leave out work in their backward pass only
            (docs/algorithm.md, section 8).
        filter: Bilateral kernel approximated on a "lattice", or "exact" over all pairs of pixels, in O(N²) time
            (docs/accuracy.md).
        image_range: (low, high) of the levels of images, such as (0, 1): θ_β is then in 255ths of high - low, as for
            photos of 8 bits. None: θ_β is in the image's own levels.
        learn_theta: Train θ_α, θ_β and θ_γ as well, by their logarithms, so that they stay above 0: one for each axis
            or channel where they are given so. The backward pass then takes about twice as long, and needs a third
            to twice as much memory on top, more for textured images; in 16 bits (`storage`) none.
        crf: Any other kernels and regions, and how they are solved; it takes the place of all arguments from
            `num_iterations` to `spatial`, of `damping`, `tolerance`, `filter` and `image_range`. Its weights must be
            numbers; times I, they are the weights at the start.
        upsampling: How logits smaller than the image are brought to its size, "joint-bilateral" (along its edges, as
            `crfrnn.torch.upsample` does) or "bilinear"; an attribute too. None is "bilinear" too,
            with an `InputWarning`.
        return_probabilities: Return softmax(a) instead of the logits a; of one channel, those of the foreground.
        deterministic: Give the same bits in every run, on a GPU too, where sums in any order may be faster
            (docs/gpu.md). The CPU always does; so do all with `torch.use_deterministic_algorithms(True)`.
        storage: torch.float16 or torch.bfloat16 to keep marginals in 16 bits, at half the memory and a rounding of
            2^-9; this does not change the precision of computing. On the CPU these are the marginals that wait for the
            gradient, and results are the same; other devices keep messages so too. None keeps them as computed. Not
            for filter="exact".
        count_vertices: On a GPU, wait once in every call for the number of lattice vertices and have room for these
            alone, at about a third of the memory (docs/gpu.md). Such a call cannot be recorded as a CUDA graph.
        threads: Threads of a call on the CPU; None takes torch.get_num_threads().
    Attributes:
        crf: The specification; it may be replaced at any time by one whose kernels have the same names. Its θ are the
            present ones, its weights those at the start (docs/tuning.md makes parameters of a trained layer).
        theta_alpha, theta_beta, theta_gamma, image_range, normalization, damping, tolerance: The specification's
            values; setting one replaces the specification. Reading a θ that is trained makes a GPU wait.
        num_iterations: That of its solver; setting it replaces the specification. `torch.compile` compiles once for
            each specification and reuses that when it comes back; new values of weights need no compilation.
        spatial_ker_weights: W_s, trainable.
        bilateral_ker_weights: W_b, trainable. With a `crf` there is one for each kernel and region, by its `names`.
        compatibility_matrix: M, trainable.
        log_thetas: With learn_theta, the logarithm of each θ by its name, trainable; else empty.
    References: Zheng et al. 2015, algorithm 1.
    """

    _version = 2

    def __init__(
        self,
        num_classes: int,
        num_iterations: int = 5,
        theta_alpha: Deviation = 160.0,
        theta_beta: Deviation = 3.0,
        theta_gamma: Deviation = 3.0,
        spatial_weight: float = 3.0,
        bilateral_weight: float = 5.0,
        normalization: Normalization = "after",
        spatial: SpatialKernel = "grid",
        *,
        weights: Trained = "full",
        compatibility: Trained = "full",
        damping: float = 0.0,
        tolerance: float = MeanField.tolerance,
        filter: Filter = "lattice",
        image_range: Sequence[float] | None = None,
        learn_theta: bool = False,
        crf: CRF | None = None,
        upsampling: Method | None = None,
        return_probabilities: bool = False,
        deterministic: bool = True,
        storage: torch.dtype | None = None,
        count_vertices: bool = False,
        threads: int | None = None,
    ) -> None:
        super().__init__()
        if whole_number(num_classes, "num_classes") < 1:
            raise ValueError(f"num_classes={num_classes} must be at least 1")
        whole_number(num_iterations, "num_iterations")
        for name, choice in (("weights", weights), ("compatibility", compatibility)):
            one_of(choice, get_args(Trained), name)
        thread_count(threads)
        short = CRFParameters(
            theta_alpha=theta_alpha,
            theta_beta=theta_beta,
            theta_gamma=theta_gamma,
            spatial_weight=finite_number(spatial_weight, "spatial_weight"),
            bilateral_weight=finite_number(bilateral_weight, "bilateral_weight"),
            normalization=normalization,
            iterations=num_iterations,
            spatial=spatial,
            damping=damping,
            tolerance=tolerance,
            filter=filter,
            image_range=image_range,
        )
        self.num_classes = num_classes
        self.log_thetas = nn.ParameterDict()
        self.crf = crf = alone(crf, short, CRFParameters(iterations=5))
        if upsampling is not None:
            one_of(upsampling, get_args(Method), "upsampling")
        self.upsampling = upsampling
        self.return_probabilities = flag(return_probabilities, "return_probabilities")
        self.deterministic = flag(deterministic, "deterministic")
        self.storage = check_storage(storage, crf)
        self.count_vertices = flag(count_vertices, "count_vertices")
        self.threads = threads
        classes = num_classes_of(num_classes)
        for name, term in zip(crf.names, crf.terms, strict=True):
            start = finite_number(term.weight, f"{name}_weight")
            self.register_parameter(f"{name}_ker_weights", nn.Parameter(_identity(classes, weights) * start))
        agreement = -1.0 if crf.compatibility is None else finite_number(crf.compatibility, "compatibility")
        self.compatibility_matrix = nn.Parameter(agreement * _identity(classes, compatibility))
        if flag(learn_theta, "learn_theta"):
            for name, theta in trained_thetas(crf).items():
                self.log_thetas[name] = nn.Parameter(torch.tensor(theta).log())

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *others: Any) -> None:
        """Refuse weights of the official PyTorch port, which have the same names and the opposite compatibility.

        A state of this layer says so by its version, unless it went through a format that keeps tensors only.
        """
        matrix = state_dict.get(f"{prefix}compatibility_matrix")
        if local_metadata.get("version", 1) < self._version and matrix is not None and _rewards_agreement(matrix):
            errors: list[str] = others[-1]
            errors.append(
                f"{prefix}compatibility_matrix has a diagonal of mean {float(matrix.diagonal().mean()):.3g}, above 0 "
                "as in weights of the official PyTorch port (crfasrnn_pytorch): it adds the compatibility, and this "
                "layer subtracts it. Give -compatibility_matrix, convert the file with `crfrnn convert`, or load it "
                "into crfrnn.compat.crfasrnn.crfrnn.CrfRnn"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load a layer that an earlier version saved whole, with its CRF in single attributes or without upsampling."""
        if "_crf" not in state:
            names = [each.name for each in fields(CRFParameters) if each.name in state]
            numbers = {name: state.pop(name) for name in names}
            state["_crf"] = CRFParameters(iterations=state.pop("num_iterations"), **numbers).crf
        state.setdefault("upsampling", None)
        state.setdefault("count_vertices", False)
        state.setdefault("_doubts", Doubts())
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if "log_thetas" not in self._modules:
            self.log_thetas = nn.ParameterDict()

    def forward(
        self,
        logits: Tensor,
        image: Tensor | None,
        mask: Tensor | None = None,
        spacing: float | Sequence[float] | None = None,
        given: Mapping[str, Own] | None = None,
    ) -> Tensor:
        """Refined logits, or probabilities.

        Args:
            logits: (B, C, *spatial), higher is likelier. Computed in float64 if they are, else in float32.
            image: (B, K, *spatial) in the units of theta_beta, 0 to 255 for the default, or in the `image_range`.
            mask: (B, *spatial) weight of each pixel; those of weight 0 neither send nor receive messages.
            spacing: Distance between neighbouring pixels of all images of the batch, a number or one for each axis as
                (x, y[, z]); θ_α and θ_γ are then in its unit. None: they are in pixels.
            given: For kernels over `Given(name)`, by name: features (B, d, *spatial), divided by their deviations, or
                the kernel itself, a function or module from values (B, channels, *spatial) to as many. For its
                norm it is also called with one channel. For regions, by name: integer ids (B, *spatial), where a
                negative id is in no segment, or memberships (B, S, *spatial) from 0 to 1, which get gradients.
        Returns: (B, C, *spatial) in the logits' dtype.
        Warns: crfrnn.InputWarning: once, on the CPU and not where it is compiled, if levels are far from θ_β, logits
            look like probabilities or energies, or both seem swapped.
        Raises: ValueError: if shapes do not fit, scores on the CPU are not finite, or tensors are on several devices.
        """
        if isinstance(logits, Tensor) and logits.ndim > 1 and logits.shape[1] != self.num_classes:
            raise ValueError(
                f"logits have shape {tuple(logits.shape)}, with {logits.shape[1]} classes on axis 1; this CrfRnn was "
                f"made for {self.num_classes} classes: expected (batch, {self.num_classes}, *spatial)"
            )
        if _exports_to_onnx():
            raise ValueError(NO_ONNX)
        scores = at_image_size(logits, image, self.upsampling, self.deterministic, self.threads)
        refined = refine(
            self._crf,
            Scene(scores, image, mask, given_mapping(given), spacing),
            [getattr(self, f"{name}_ker_weights") for name in self._crf.names],
            self.compatibility_matrix,
            self.return_probabilities,
            Execution(self.threads, self.deterministic, self.storage, self.count_vertices),
            {name: log.exp() for name, log in self.log_thetas.items()},
        )
        if not torch.compiler.is_compiling():
            look(self._doubts, self._crf, scores, image, {})
        return refined

    def __prepare_scriptable__(self) -> NoReturn:
        """What torch.jit.script asks for."""
        raise TypeError(NO_SCRIPT)

    def _learned_thetas(self) -> dict[str, Any]:
        return {name: log.detach().exp().tolist() for name, log in self.log_thetas.items()}

    def _set_learned_thetas(self) -> None:
        for name, log in self.log_thetas.items():
            log.data.copy_(torch.tensor(self._crf.thetas[name]).log())

    def extra_repr(self) -> str:
        described = [str(self.num_classes), f"num_iterations={self.num_iterations}"]
        for kernel in self.crf.kernels:
            described.append(f"{kernel.features} on {kernel.filter}")
        described += map(repr, self.crf.regions)
        if self.upsampling is not None:
            described.append(f"upsampling={self.upsampling!r}")
        return ", ".join(described)


def _rewards_agreement(matrix: Tensor) -> bool:
    """Whether a full compatibility looks like one that is added to the logits."""
    return matrix.ndim == 2 and matrix.device.type != "meta" and float(matrix.diagonal().mean()) > 0


def _identity(num_classes: int, trained: str) -> Tensor:
    """The identity as a C×C matrix, its diagonal or one number."""
    if trained == "full":
        return torch.eye(num_classes)
    return torch.ones(num_classes if trained == "per-class" else ())
