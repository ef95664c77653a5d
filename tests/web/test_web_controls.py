"""Controls of the page: one for each field of the specification, and back again."""

from dataclasses import fields, replace
from typing import Any

import pytest

from crfrnn import CRF, PRESETS, Bilateral, CRFParameters, FrankWolfe, Kernel, MeanField, Spatial
from crfrnn.web.controls import Control, adjustable, adjusted, controls, values_of

KNOWN = {each.name: each for each in controls()}
OWN = CRF([Kernel(Spatial(2), [[1, 0], [0, 2]]), Kernel(Bilateral(30, 20), [3, 4])], [[-1, 0], [0, -1]])


def shown(start: CRFParameters | CRF) -> dict[str, Any]:
    values = values_of(start)
    return {name: control.shown(values.get(name)) for name, control in KNOWN.items()}


def test_every_parameter_has_one_and_words() -> None:
    assert [*KNOWN] == [each.name for each in fields(CRFParameters)]
    for control in KNOWN.values():
        assert control.help
        assert "--" not in control.help


@pytest.mark.parametrize("name", PRESETS)
def test_presets_come_back_as_they_were(name: str) -> None:
    assert adjusted(PRESETS[name], shown(PRESETS[name]), KNOWN) == PRESETS[name]


@pytest.mark.parametrize("control", KNOWN.values(), ids=lambda control: control.name)
def test_ends_of_sliders_are_taken_and_what_is_beyond_is_not(control: Control) -> None:
    if control.step is None:
        pytest.skip("no slider")
    start = CRFParameters()
    for value in (control.low, control.high):
        if control.name == "strength":
            start = CRFParameters(solver="frank-wolfe")
        found = adjusted(start, {**shown(start), control.name: value}, KNOWN)
        assert getattr(found, control.name) == pytest.approx(value)
    for value in (control.low - 1, control.high + 1, float("nan"), "3", None, True):
        with pytest.raises(ValueError, match=control.name):
            control.read(value)


def test_words_and_lines_are_checked() -> None:
    with pytest.raises(ValueError, match="filter='best' is unknown; use lattice, exact"):
        KNOWN["filter"].read("best")
    assert KNOWN["image_range"].read(" ") is None
    assert KNOWN["image_range"].read("0,1") == [0, 1]
    for text in ("secret.npy", "a,b", 3):
        with pytest.raises(ValueError, match="image_range"):
            KNOWN["image_range"].read(text)
    with pytest.raises(ValueError, match=r"iterations=2\.5 must be a whole number"):
        KNOWN["iterations"].read(2.5)


def test_sliders_reach_what_a_model_has() -> None:
    wide = replace(OWN, kernels=[Kernel(Spatial(80)), Kernel(Bilateral(900, 60))])
    found = {each.name: each for each in controls(wide)}
    assert found["theta_gamma"].high == 160
    assert found["theta_alpha"].high == 1800
    assert found["theta_beta"].high == 120


def test_a_crf_of_its_own_weights_keeps_them() -> None:
    assert "spatial_weight" not in adjustable(OWN)
    assert adjusted(OWN, shown(OWN), KNOWN) == OWN
    moved = adjusted(OWN, {**shown(OWN), "theta_beta": 7.0, "iterations": 3, "spatial_weight": 9.0}, KNOWN)
    assert moved == replace(
        OWN,
        kernels=[OWN.kernels[0], replace(OWN.kernels[1], features=Bilateral(30, 7))],
        solver=MeanField(iterations=3),
    )
    solved = adjusted(OWN, {**shown(OWN), "solver": "frank-wolfe", "strength": 0.5}, KNOWN)
    assert solved.solver == FrankWolfe(strength=0.5)
    with pytest.raises(ValueError, match="this solver has no strength"):
        adjusted(OWN, {**shown(OWN), "strength": 0.5}, KNOWN)
