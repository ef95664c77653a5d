"""What a layer's attributes say of its CRF: `layer.theta_beta`, read from its specification and set in it."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from crfrnn.crf import CRF, Bilateral, MeanField, Normalization, Spatial
from crfrnn.doubts import Doubts
from crfrnn.numbers import Deviation
from crfrnn.parameters import CRFParameters


def alone(crf: Any, short: CRFParameters, default: CRFParameters) -> CRF:
    """The CRF given to a layer, or the one that its other arguments describe; both together are an error.

    Raises: ValueError: if both are given.
    """
    if crf is None:
        return short.crf
    for each in fields(CRFParameters):
        value = getattr(short, each.name)
        if value != getattr(default, each.name):
            place = "its solver" if each.name in (own.name for own in fields(MeanField)) else "it"
            raise ValueError(f"{each.name}={value!r} does not go with crf=: leave it out here, and set it in {place}")
    return checked_crf(crf)


def checked_crf(crf: object) -> CRF:
    """What a layer takes as `crf`: a CRF, or its short form.

    Raises: TypeError: if it is something else.
    """
    if isinstance(crf, CRFParameters):
        return crf.crf
    if not isinstance(crf, CRF):
        raise TypeError(f"crf is a {type(crf).__name__}; expected CRF(…)")
    return crf


def trained_thetas(crf: CRF) -> dict[str, Deviation]:
    """The deviations at the start of a layer that trains them.

    Raises: ValueError: if there are none, or kernels that would share one begin with different ones.
    """
    if not crf.thetas:
        raise ValueError(f"learn_theta=True finds no θ in the kernels {', '.join(crf.names) or '(none)'}: leave it out")
    if crf.with_thetas(**crf.thetas) != crf:
        raise ValueError(
            "learn_theta=True trains one θ of each name for all kernels, but these begin with different ones: "
            f"{', '.join(str(kernel.features) for kernel in crf.kernels)}; give them the same, or fixed features "
            "under Given(…)"
        )
    return crf.thetas


def _require_numbers_of(learned: Mapping[str, Any], thetas: Mapping[str, Any]) -> None:
    """Raise a ValueError unless θ that are trained can take these values."""
    if thetas.keys() != learned.keys():
        raise ValueError(
            f"this layer trains {', '.join(learned)}, and the new CRF has {', '.join(thetas)}: make a new layer"
        )
    for name, numbers in learned.items():
        if np.shape(numbers) != np.shape(thetas[name]):
            raise ValueError(
                f"{name} is trained as {np.size(numbers)} numbers, and the new CRF has {np.size(thetas[name])}: make a "
                "new layer"
            )


def _theta(name: str) -> Any:
    def read(layer: "CrfAttributes") -> Deviation:
        thetas = layer.crf.thetas
        if name not in thetas:
            raise AttributeError(f"no kernel of this layer has a {name}: {', '.join(layer.crf.names)}")
        return thetas[name]

    def write(layer: "CrfAttributes", theta: Any) -> None:
        layer.crf = layer.crf.with_thetas(**{name: theta})

    return property(read, write, doc=f"{name} of the first kernel that has one; setting it sets that of all.")


def _of_solver(name: str) -> Any:
    def read(layer: "CrfAttributes") -> Any:
        return getattr(layer._crf.solver, name)

    def write(layer: "CrfAttributes", value: Any) -> None:
        solver = layer._crf.solver
        if name not in (each.name for each in fields(solver)):
            raise AttributeError(f"the solver of this layer, {type(solver).__name__}, has no {name}")
        layer._crf = replace(layer._crf, solver=replace(layer._crf.solver, **{name: value}))

    return property(read, write, doc=f"{name} of the solver.")


class CrfAttributes:
    """A layer with a CRF. Setting an attribute replaces the specification.

    Attributes:
        crf: The specification, with the present values of deviations that are trained; it may be replaced at any time
            by one whose kernels have the same names.
    """

    _crf: CRF
    _doubts: Doubts

    theta_alpha = _theta("theta_alpha")
    theta_beta = _theta("theta_beta")
    theta_gamma = _theta("theta_gamma")
    num_iterations = _of_solver("iterations")
    damping = _of_solver("damping")
    tolerance = _of_solver("tolerance")

    @property
    def crf(self) -> CRF:
        learned = self._learned_thetas()
        return self._crf.with_thetas(**learned) if learned else self._crf

    @crf.setter
    def crf(self, crf: Any) -> None:
        given, before = checked_crf(crf), self.__dict__.get("_crf")
        if before is not None and given.names != before.names:
            raise ValueError(
                f"this layer has weights for the kernels {', '.join(before.names)}, and the new CRF has "
                f"{', '.join(given.names) or 'none'}: make a new layer"
            )
        learned = self._learned_thetas()
        if learned:
            _require_numbers_of(learned, trained_thetas(given))
        self._crf = given
        self._doubts = Doubts()
        self._set_learned_thetas()

    def _learned_thetas(self) -> dict[str, Any]:
        """The present numbers of the deviations that are trained, by name."""
        return {}

    def _set_learned_thetas(self) -> None:
        """Set those to the specification's."""

    @property
    def image_range(self) -> tuple[float, float] | None:
        """(low, high) of the image's levels, of the first kernel that has it; setting it sets that of all."""
        found = (kernel.features for kernel in self._crf.kernels)
        return next((each.image_range for each in found if isinstance(each, Bilateral)), None)  # type: ignore[return-value]

    @image_range.setter
    def image_range(self, image_range: Any) -> None:
        self.crf = self.crf.with_image_range(image_range)

    @property
    def normalization(self) -> Normalization:
        """Of the first kernel; setting it sets that of all."""
        return self._crf.kernels[0].normalization

    @normalization.setter
    def normalization(self, normalization: Normalization) -> None:
        kernels = [replace(kernel, normalization=normalization) for kernel in self._crf.kernels]
        self._crf = replace(self._crf, kernels=kernels)

    @property
    def spatial(self) -> str:
        """How the spatial kernel is filtered: "grid", "lattice" or "exact"."""
        return _filter(self._crf, of_spatial=True)

    @property
    def filter(self) -> str:
        """How the bilateral kernel is filtered: "lattice" or "exact"."""
        return _filter(self._crf, of_spatial=False)


def _filter(crf: CRF, of_spatial: bool) -> str:
    for kernel in crf.kernels:
        if isinstance(kernel.features, Spatial) is of_spatial:
            return type(kernel.filter).__name__.lower()
    raise AttributeError(f"this layer has no such kernel: {', '.join(crf.names)}")
