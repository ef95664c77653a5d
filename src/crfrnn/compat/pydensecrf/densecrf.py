"""pydensecrf's DenseCRF and DenseCRF2D.

Arrays of any real dtype and memory layout are taken; nothing keeps or changes them. Every kernel is built once, when it
is added. The GIL is free meanwhile, all processors that `crfrnn.default_threads()` counts are used, and the result does
not depend on their number.
"""

# ruff: noqa: N802
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.arrays import Shape, float_array, image_array, num_points, real_shape
from crfrnn.compat.pydensecrf.arguments import (
    agreement,
    check_levels,
    copied_bytes,
    count,
    first_deviations,
    layout,
    positive_count,
)
from crfrnn.compat.pydensecrf.constants import (
    CONST_KERNEL,
    DIAG_KERNEL,
    FULL_KERNEL,
    NO_NORMALIZATION,
    NORMALIZE_AFTER,
    NORMALIZE_BEFORE,
    NORMALIZE_SYMMETRIC,
    KernelType,
    NormalizationType,
    checked_normalization,
)
from crfrnn.compat.pydensecrf.eigen import MatrixXf
from crfrnn.compat.pydensecrf.many_features import lattice
from crfrnn.compat.pydensecrf.unary import ConstUnary, LogisticUnary, Unary
from crfrnn.crf import MeanField
from crfrnn.inference.energy import divergence
from crfrnn.inference.meanfield import mean_field, message
from crfrnn.inference.regularization import logarithm
from crfrnn.inference.terms import PairwiseTerm, checked_couplings
from crfrnn.kernels.features import bilateral_features, spatial_features
from crfrnn.memory import lattice_bytes, require_memory
from crfrnn.plausibility import warn_of_input
from crfrnn.terms import speaking

__all__ = [
    "CONST_KERNEL",
    "DIAG_KERNEL",
    "FULL_KERNEL",
    "NORMALIZE_AFTER",
    "NORMALIZE_BEFORE",
    "NORMALIZE_SYMMETRIC",
    "NO_NORMALIZATION",
    "ConstUnary",
    "DenseCRF",
    "DenseCRF2D",
    "KernelType",
    "LogisticUnary",
    "NormalizationType",
    "Unary",
]

Float32 = NDArray[np.float32]


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
        self._undefined: NDArray[np.bool_] | None = None
        self._terms: list[PairwiseTerm] = []
        # Marginals that klDivergence was last asked about, and their message: the next step is mostly from there.
        self._heard: tuple[Float32, Float32] | None = None

    def setUnaryEnergy(self, u: ArrayLike, f: ArrayLike | None = None) -> None:
        """Set the energies of all labels at all points, lower is likelier; without any, all are 0.

        Args:
            u: (nlabels, nvar) energies, -log p; (nlabels, *spatial) does as well. Infinite ones count as very large,
                with a warning; NaN and -inf make probabilities NaN, with a warning.
            f: None, or features (features, nvar); u then holds their weights (nlabels, features).
        Raises:
            TypeError: if they do not hold real numbers.
            ValueError: if shapes do not fit.
            MemoryError: if a copy would not fit into memory.
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
        self._scores, self._undefined = u.scores.reshape(labels, -1), u.undefined

    @speaking({"standard deviation (theta)": "standard deviation"})
    def addPairwiseEnergy(
        self,
        features: ArrayLike,
        compat: ArrayLike,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a Gaussian kernel over features.

        Args:
            features: (d, nvar), divided by their standard deviations. More than 16 are worked out slowly, in NumPy,
                with a warning.
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
        shape = real_shape(features, "features")
        if len(shape) < 2 or shape[0] == 0 or num_points(shape[1:]) != self._num_points:
            turned = len(shape) == 2 and shape[0] == self._num_points
            raise ValueError(
                f"features have shape {shape}; expected (d, {self._num_points}) for {self._num_points} points"
                f"{': transpose them' if turned else ''}"
            )
        self._check_layout(layout(features), "features")
        weight = agreement(compat, self._num_labels)
        self._require_memory(shape[0], copied_bytes(features, shape))
        rows = float_array(features, "features", np.float32).reshape(shape[0], -1).T
        self._add(rows, weight, kernel, normalization)

    def inference(self, niter: int) -> Float32:
        """Marginals (nlabels, nvar) after this many iterations of mean field.

        Raises: MemoryError: if there is not enough memory.
        """
        iterations = count(niter, "niter")
        q = self._solved(self._unary(), self._terms, iterations)
        if self._undefined is not None:
            q[:, self._reached(self._undefined, iterations)] = np.nan
        return q

    def startInference(self) -> tuple[Float32, Float32, Float32]:
        """Marginals before the first iteration, and two values that `stepInference` takes but does not need."""
        return self.inference(0), MatrixXf(), MatrixXf()

    def stepInference(self, Q: Float32, tmp1: Any, tmp2: Any) -> None:
        """One iteration of mean field from the marginals Q, into Q."""
        if not isinstance(Q, np.ndarray) or Q.dtype.kind != "f" or not Q.flags.writeable:
            raise TypeError("Q is changed in place: give what startInference returned, or a writable array of floats")
        q = self._checked(Q)
        undefined = np.asarray(np.isnan(q).any(axis=0))
        received = self._message(np.where(undefined, np.float32(0), q) if undefined.any() else q)
        self._heard = None
        Q[...] = self._solved(self._unary() - received, [], 0)
        if undefined.any():
            Q[:, self._reached(undefined, 1)] = np.nan
        if self._undefined is not None:
            Q[:, self._undefined] = np.nan

    def klDivergence(self, Q: ArrayLike) -> float:
        """Kullback-Leibler divergence of marginals Q to this CRF, up to a constant (docs/algorithm.md, eq. 7)."""
        q = self._checked(Q)
        if self._undefined is not None or np.isnan(q).any():
            return float("nan")
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
        couplings = [np.asarray(matrix, q.dtype) for matrix in checked_couplings(q, self._terms, None)[0]]
        return message(np.ascontiguousarray(q.T), self._terms, couplings).T

    def _reached(self, undefined: NDArray[np.bool_], iterations: int) -> NDArray[np.bool_]:
        """Points (nvar,) that have heard of undefined ones after so many iterations."""
        for _ in range(iterations):
            sent, undefined = undefined, undefined.copy()
            for term in self._terms:
                undefined |= term.kernel.filter(sent.astype(np.float32)) > 0
            if (undefined == sent).all():
                break
        return undefined

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
        normalized = checked_normalization(kernel, normalization)
        self._heard = None
        self._terms.append(PairwiseTerm(lattice(rows), weight, normalized))

    def _check_layout(self, layout: Shape | None, name: str) -> None:
        """Say so if an array (rows, points) was flattened from a shape other than (rows, *this grid)."""

    def _require_memory(self, num_features: int, copies: int = 0) -> None:
        """Raise a MemoryError if there is no room for the rows of so many features, copies, and their lattice."""
        points = self._num_points
        require_memory(
            copies + 4 * points * num_features + lattice_bytes(points, num_features, 4),
            f"a pairwise energy over {num_features} features of {self._points_in_words()}",
        )

    def _points_in_words(self) -> str:
        return f"{self._num_points} points"


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
        # What has shown that height and width are swapped, and whether that matters: most methods know points only.
        self._swapped: str | None = None
        self._needs_shape = False

    @speaking({"(theta)": "(sxy)"})
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
        self._need_shape()
        theta = first_deviations(sxy, 2, "sxy", "axes, x and y")
        weight = agreement(compat, self._num_labels)
        self._require_memory(2)
        self._add(spatial_features(self._shape, theta), weight, kernel, normalization)

    @speaking({"image holds": "rgbim holds", "(theta)": "(sxy or srgb)"})
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
        self._need_shape()
        given = real_shape(rgbim, "rgbim")
        if given[:2] != self._shape or len(given) > 3:
            first = given[1:] == self._shape
            raise ValueError(
                self._swapped_in_words("rgbim")
                if given[:2] == self._shape[::-1]
                else f"rgbim has shape {given}; expected {self._shape} or ({self._shape[0]}, {self._shape[1]}, "
                f"channels){': move its first axis to the end' if first else ''}"
            )
        channels = given[2] if len(given) == 3 else 1
        theta = first_deviations(sxy, 2, "sxy", "axes, x and y")
        levels = first_deviations(srgb, channels, "srgb", "channels of rgbim")
        weight = agreement(compat, self._num_labels)
        self._require_memory(2 + channels)
        image = image_array(rgbim, self._shape)
        check_levels(image, levels, "srgb")
        if image.dtype.kind in "biu" and image.dtype.itemsize == 1:
            levels = tuple(max(level, SMALLEST_SRGB) for level in levels)
        features = bilateral_features(image, theta, levels, shape=self._shape, dtype=np.float32)
        self._add(features, weight, kernel, normalization)

    def _need_shape(self) -> None:
        self._needs_shape = True
        if self._swapped is not None:
            raise ValueError(self._swapped)

    def _check_layout(self, layout: Shape | None, name: str) -> None:
        if layout is None or layout[1:] == self._shape:
            return
        if layout[1:] == self._shape[::-1]:
            self._swapped = self._swapped_in_words(name)
            if self._needs_shape:
                raise ValueError(self._swapped)
            warn_of_input(
                f"{self._swapped}. Kernels of your own do not depend on it; addPairwiseGaussian and "
                "addPairwiseBilateral do"
            )
        elif layout[:-1] == self._shape:
            raise ValueError(
                f"{name} was flattened from shape {layout}, which mixes pixels with what its last axis holds; move "
                "that to the front before: array.transpose(2, 0, 1).reshape(array.shape[2], -1)"
            )

    def _swapped_in_words(self, name: str) -> str:
        height, width = self._shape
        return (
            f"{name} is {width} high and {height} wide, but this DenseCRF2D is {height} high and {width} wide; the "
            f"width comes first: DenseCRF2D({height}, {width}, {self._num_labels})"
        )

    def _points_in_words(self) -> str:
        height, width = self._shape
        return f"an image {width} wide and {height} high"
