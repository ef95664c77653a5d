"""pydensecrf's DenseCRF and DenseCRF2D.

Arrays of any real dtype and memory layout are taken; nothing keeps or changes them. Every kernel is built once, when it
is added. The GIL is free meanwhile, all processors that `crfrnn.default_threads()` counts are used, and the result does
not depend on their number.
"""

# ruff: noqa: N802
import warnings
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.arrays import Shape, float_array, image_array, num_points
from crfrnn.compat.pydensecrf.arguments import agreement, count, deviations, layout, positive_count
from crfrnn.compat.pydensecrf.eigen import MatrixXf
from crfrnn.compat.pydensecrf.unary import ConstUnary, LogisticUnary, Unary
from crfrnn.crf import MeanField, Normalization
from crfrnn.inference.energy import divergence
from crfrnn.inference.meanfield import mean_field, message
from crfrnn.inference.regularization import logarithm
from crfrnn.inference.terms import PairwiseTerm, checked_couplings
from crfrnn.kernels.features import bilateral_features, spatial_features
from crfrnn.kernels.lattice import PermutohedralLattice
from crfrnn.memory import lattice_bytes, require_memory

Float32 = NDArray[np.float32]


class KernelType(IntEnum):
    """The part of a kernel that learning would have changed; inference does not depend on it."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(IntEnum):
    """How kernels are normalised. NO_NORMALIZATION leaves raw sums: pydensecrf finds a mean norm and never uses it."""

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


CONST_KERNEL, DIAG_KERNEL, FULL_KERNEL = KernelType
NO_NORMALIZATION, NORMALIZE_BEFORE, NORMALIZE_AFTER, NORMALIZE_SYMMETRIC = NormalizationType
NORMALIZATIONS: dict[int, Normalization] = {
    NO_NORMALIZATION: "none",
    NORMALIZE_BEFORE: "before",
    NORMALIZE_AFTER: "after",
    NORMALIZE_SYMMETRIC: "symmetric",
}
SUM_ERROR = 1e-5
"""How far marginals may be from a sum of 1, for rounding."""
# pydensecrf takes 8-bit images alone. At 128 deviations from one level to the next no kernel reaches from one to the
# other; smaller deviations say the same in numbers that lattices cannot count.
SMALLEST_SRGB = 2**-7


class DenseCRF:
    """A dense CRF over any points.

    Args:
        nvar: Number of points, at least 1.
        nlabels: Number of classes, at least 1.
    Attributes:
        tolerance: How far a marginal may be off in an iteration because of work left out, as in `crfrnn.MeanField`;
            may be set at any time. With 0 `inference` works everything out, as pydensecrf does.
    """

    tolerance: float = MeanField.tolerance

    def __init__(self, nvar: int, nlabels: int) -> None:
        self._num_points = positive_count(nvar, "nvar")
        self._num_labels = positive_count(nlabels, "nlabels")
        self._scores: Float32 | None = None
        self._terms: list[PairwiseTerm] = []
        # Marginals that klDivergence was last asked about, and their message: the next step is mostly from there.
        self._heard: tuple[Float32, Float32] | None = None

    def setUnaryEnergy(self, u: ArrayLike, f: ArrayLike | None = None) -> None:
        """Set the energies of all labels at all points, lower is likelier; without any, all are 0.

        Args:
            u: (nlabels, nvar) energies, -log p; (nlabels, *spatial) does as well. Infinite ones count as very large,
                with a warning.
            f: None, or features (features, nvar); u then holds their weights (nlabels, features).
        Raises:
            TypeError: if they do not hold real numbers.
            ValueError: if shapes do not fit, or a value is NaN.
        """
        self.setUnary(ConstUnary(u) if f is None else LogisticUnary(u, f))

    def setUnary(self, u: Unary) -> None:
        """Set the energies of all labels at all points.

        Raises: ValueError: if they are for other labels or points.
        """
        if not isinstance(u, ConstUnary | LogisticUnary):
            raise TypeError(
                f"setUnary takes a ConstUnary or a LogisticUnary, not a {type(u).__name__}; setUnaryEnergy takes arrays"
            )
        labels, *spatial = u.scores.shape
        if (labels, num_points(tuple(spatial))) != (self._num_labels, self._num_points):
            turned = (*spatial, labels) == (self._num_labels, self._num_points)
            last = spatial[-1] == self._num_labels and u.scores.size == self._num_labels * self._num_points
            raise ValueError(
                f"the unary has shape {u.scores.shape}; expected {(self._num_labels, self._num_points)}, labels first"
                f"{': transpose it' if turned else ': move the last axis to the front' if last else ''}"
            )
        self._check_layout(u.layout, "the unary")
        self._scores = u.scores.reshape(labels, -1)

    def addPairwiseEnergy(
        self,
        features: ArrayLike,
        compat: ArrayLike,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a Gaussian kernel over features.

        Args:
            features: (d, nvar) for d up to 16, divided by their standard deviations.
            compat: A number w rewards agreement: w times the kernel's message is added to the logits. A vector
                (nlabels,) or a matrix (nlabels, nlabels) is a penalty, subtracted from them; only its symmetric part
                counts.
            kernel: A `KernelType`; inference does not depend on it.
            normalization: A `NormalizationType`.
        Raises:
            TypeError: if an array does not hold real numbers.
            ValueError: if shapes do not fit, or values are not finite.
            MemoryError: if the lattice would not fit into memory.
        """
        given = float_array(features, "features", np.float32)
        if given.ndim < 2 or num_points(given.shape[1:]) != self._num_points:
            turned = given.ndim == 2 and given.shape[0] == self._num_points
            raise ValueError(
                f"features have shape {given.shape}; expected (d, {self._num_points}) for {self._num_points} points"
                f"{': transpose them' if turned else ''}"
            )
        self._check_layout(layout(features), "features")
        self._add(given.reshape(len(given), -1).T, agreement(compat, self._num_labels), kernel, normalization)

    def inference(self, niter: int) -> MatrixXf:
        """Marginals (nlabels, nvar) after this many iterations of mean field.

        Raises: MemoryError: if there is not enough memory.
        """
        return self._solved(self._unary(), self._terms, count(niter, "niter")).view(MatrixXf)

    def startInference(self) -> tuple[MatrixXf, MatrixXf, MatrixXf]:
        """Marginals before the first iteration, and two values that `stepInference` takes but does not need."""
        return self.inference(0), MatrixXf(), MatrixXf()

    def stepInference(self, Q: MatrixXf, tmp1: MatrixXf, tmp2: MatrixXf) -> None:
        """One iteration of mean field from the marginals Q, into Q."""
        if not isinstance(Q, np.ndarray) or Q.dtype.kind != "f" or not Q.flags.writeable:
            raise TypeError("Q is changed in place: give what startInference returned, or a writable array of floats")
        received = self._message(self._checked(Q))
        self._heard = None
        Q[...] = self._solved(self._unary() - received, [], 0)

    def klDivergence(self, Q: ArrayLike) -> float:
        """Kullback-Leibler divergence of marginals Q to this CRF, up to a constant (docs/algorithm.md, eq. 7)."""
        q = self._checked(Q)
        received = self._message(q)
        self._heard = (q.copy(), received)
        return divergence(q, self._unary(), received)

    def _message(self, q: Float32) -> Float32:
        """What an iteration subtracts from the logits if the marginals are q, both (nlabels, nvar)."""
        heard = self._heard  # once, as other threads may change it
        if heard is not None and np.array_equal(heard[0], q):
            return heard[1]
        if q.min() >= 0 and np.abs(q.sum(axis=0) - 1).max() <= SUM_ERROR:
            # One iteration of the native core from logits whose softmax is q: a = log q - message.
            logits = logarithm(q)
            return logits - self._solved(logits, self._terms, 1, return_probabilities=False)
        couplings = [np.asarray(matrix, q.dtype) for matrix in checked_couplings(q.shape, self._terms, None)[0]]
        return message(np.ascontiguousarray(q.T), self._terms, couplings).T

    def _solved(
        self, logits: Float32, terms: list[PairwiseTerm], iterations: int, return_probabilities: bool = True
    ) -> Float32:
        return mean_field(
            logits,
            terms,
            iterations=iterations,
            tolerance=self.tolerance,
            return_probabilities=return_probabilities,
        )

    def _unary(self) -> Float32:
        if self._scores is None:
            shape = (self._num_labels, self._num_points)
            require_memory(4 * num_points(shape), f"energies of {self._num_labels} labels at {self._num_points} points")
            self._scores = np.zeros(shape, np.float32)
        return self._scores

    def _checked(self, Q: ArrayLike) -> Float32:
        """Marginals as float32 (nlabels, nvar)."""
        given = float_array(Q, "Q", np.float32)
        if given.shape != (self._num_labels, self._num_points):
            raise ValueError(f"Q has shape {given.shape}; expected {(self._num_labels, self._num_points)}")
        return given

    def _add(self, rows: Any, weight: ArrayLike, kernel: int, normalization: int) -> None:
        """Add a kernel over the rows of features of all points."""
        _warn_of_mix_up(kernel, "kernel", NormalizationType, "which has no effect")
        _warn_of_mix_up(normalization, "normalization", KernelType, "whose number counts")
        count(kernel, "kernel")
        if normalization not in NORMALIZATIONS:
            raise ValueError(
                f"normalization={normalization!r} is unknown; use {', '.join(NormalizationType.__members__)}"
            )
        normalized = NORMALIZATIONS[normalization]
        self._heard = None
        self._terms.append(PairwiseTerm(PermutohedralLattice(rows), weight, normalized))

    def _check_layout(self, layout: Shape | None, name: str) -> None:
        """Raise a ValueError if an array (rows, points) was flattened from a shape other than (rows, *this grid)."""


class DenseCRF2D(DenseCRF):
    """A dense CRF over the pixels of an image, row by row.

    Args:
        w: Width, which comes first: `DenseCRF2D(image.shape[1], image.shape[0], nlabels)`.
        h: Height.
        nlabels: Number of classes.
    """

    def __init__(self, w: int, h: int, nlabels: int) -> None:
        self._shape = (positive_count(h, "h"), positive_count(w, "w"))
        super().__init__(num_points(self._shape), nlabels)

    def addPairwiseGaussian(
        self,
        sxy: float | tuple[float, float],
        compat: ArrayLike,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add the spatial kernel.

        Args:
            sxy: Standard deviation in pixels, or one for x and one for y.
            compat: See `addPairwiseEnergy`, for kernel and normalization too.
        Raises:
            ValueError: if sxy or compat do not fit.
            MemoryError: if the lattice would not fit into memory.
        """
        theta = deviations(sxy, 2, "sxy", "axes, x and y")
        weight = agreement(compat, self._num_labels)
        self._require_memory(2)
        self._add(spatial_features(self._shape, theta), weight, kernel, normalization)

    def addPairwiseBilateral(
        self,
        sxy: float | tuple[float, float],
        srgb: float | tuple[float, ...],
        rgbim: ArrayLike,
        compat: ArrayLike,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add the bilateral kernel.

        Args:
            sxy: Standard deviation in pixels, or one for x and one for y.
            srgb: Standard deviation in the image's own levels, or one for each channel.
            rgbim: (h, w, channels), or (h, w) if grey, of any real dtype.
            compat: See `addPairwiseEnergy`, for kernel and normalization too.
        Raises:
            TypeError: if rgbim does not hold real numbers.
            ValueError: if shapes do not fit, or rgbim is not finite.
            MemoryError: if the lattice would not fit into memory.
        """
        given = np.shape(rgbim)
        self._check_layout((1, *given[:2]), "rgbim")
        if given[:2] != self._shape or len(given) > 3:
            first = given[1:] == self._shape
            raise ValueError(
                f"rgbim has shape {given}; expected {self._shape} or ({self._shape[0]}, {self._shape[1]}, channels)"
                f"{': move its first axis to the end' if first else ''}"
            )
        image = image_array(rgbim, self._shape)
        channels = image.shape[-1]
        theta = deviations(sxy, 2, "sxy", "axes, x and y")
        levels = deviations(srgb, channels, "srgb", "channels of rgbim")
        if image.dtype.kind in "biu" and image.dtype.itemsize == 1:
            levels = tuple(max(level, SMALLEST_SRGB) for level in levels)
        weight = agreement(compat, self._num_labels)
        self._require_memory(2 + channels)
        features = bilateral_features(image, theta, levels, shape=self._shape, dtype=np.float32)
        self._add(features, weight, kernel, normalization)

    def _check_layout(self, layout: Shape | None, name: str) -> None:
        if layout is None or layout[1:] == self._shape:
            return
        height, width = self._shape
        if layout[1:] == (width, height):
            raise ValueError(
                f"{name} is {width} high and {height} wide, but this DenseCRF2D is {height} high and {width} wide; the "
                f"width comes first: DenseCRF2D({height}, {width}, {self._num_labels})"
            )
        if layout[:-1] == self._shape:
            raise ValueError(
                f"{name} was flattened from shape {layout}, which mixes pixels with what its last axis holds; move "
                "that to the front before: array.transpose(2, 0, 1).reshape(array.shape[2], -1)"
            )

    def _require_memory(self, num_features: int) -> None:
        height, width = self._shape
        points = height * width
        require_memory(
            4 * points * num_features + lattice_bytes(points, num_features, 4),
            f"a pairwise energy on an image {width} wide and {height} high",
        )


def _warn_of_mix_up(value: int, name: str, other: type[IntEnum], effect: str) -> None:
    if isinstance(value, other):
        warnings.warn(f"{name}={value.name} is a {other.__name__}, {effect}, as in pydensecrf", stacklevel=4)
