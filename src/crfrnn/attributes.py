"""What a layer's attributes say of its CRF: `layer.theta_beta`, read from its specification and set in it."""

from dataclasses import fields, replace
from typing import Any

from crfrnn.crf import CRF, MeanField, Normalization, Spatial, thetas_of
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


def _theta(name: str) -> Any:
    def read(layer: "CrfAttributes") -> Deviation:
        found = [kernel.features for kernel in layer.crf.kernels if name in thetas_of(kernel.features)]
        if not found:
            raise AttributeError(f"no kernel of this layer has a {name}: {', '.join(layer.crf.names)}")
        theta: Deviation = getattr(found[0], name)
        return theta

    def write(layer: "CrfAttributes", theta: Any) -> None:
        layer.crf = layer.crf.with_thetas(**{name: theta})

    return property(read, write, doc=f"{name} of the first kernel that has one; setting it sets that of all.")


def _of_solver(name: str) -> Any:
    def read(layer: "CrfAttributes") -> Any:
        return getattr(layer.crf.solver, name)

    def write(layer: "CrfAttributes", value: Any) -> None:
        layer.crf = replace(layer.crf, solver=replace(layer.crf.solver, **{name: value}))

    return property(read, write, doc=f"{name} of the solver.")


class CrfAttributes:
    """A layer with a CRF. Setting an attribute replaces the specification.

    Attributes:
        crf: The specification; it may be replaced at any time by one whose kernels have the same names.
    """

    _crf: CRF

    theta_alpha = _theta("theta_alpha")
    theta_beta = _theta("theta_beta")
    theta_gamma = _theta("theta_gamma")
    num_iterations = _of_solver("iterations")
    damping = _of_solver("damping")
    tolerance = _of_solver("tolerance")

    @property
    def crf(self) -> CRF:
        return self._crf

    @crf.setter
    def crf(self, crf: Any) -> None:
        given, before = checked_crf(crf), self.__dict__.get("_crf")
        if before is not None and given.names != before.names:
            raise ValueError(
                f"this layer has weights for the kernels {', '.join(before.names)}, and the new CRF has "
                f"{', '.join(given.names) or 'none'}: make a new layer"
            )
        self._crf = given

    @property
    def normalization(self) -> Normalization:
        """Of the first kernel; setting it sets that of all."""
        return self.crf.kernels[0].normalization

    @normalization.setter
    def normalization(self, normalization: Normalization) -> None:
        self.crf = replace(
            self.crf, kernels=[replace(kernel, normalization=normalization) for kernel in self.crf.kernels]
        )

    @property
    def spatial(self) -> str:
        """How the spatial kernel is filtered: "grid", "lattice" or "exact"."""
        return _filter(self.crf, of_spatial=True)

    @property
    def filter(self) -> str:
        """How the bilateral kernel is filtered: "lattice" or "exact"."""
        return _filter(self.crf, of_spatial=False)


def _filter(crf: CRF, of_spatial: bool) -> str:
    for kernel in crf.kernels:
        if isinstance(kernel.features, Spatial) is of_spatial:
            return type(kernel.filter).__name__.lower()
    raise AttributeError(f"this layer has no such kernel: {', '.join(crf.names)}")
