"""What a user of the page works on: the same numbers as the package's functions."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the models extra")
pytest.importorskip("safetensors", reason="needs the models extra")

import crfrnn
from crfrnn import CRFParameters, pairwise_terms
from crfrnn.demo import read_example
from crfrnn.files.classes import VOID
from crfrnn.models import Model, load_model, with_crf
from crfrnn.models.crf import crf_of_layer
from crfrnn.segment import segment
from crfrnn.web import desk as desks
from crfrnn.web import drawn
from crfrnn.web.desk import Desk, energies, opened_desk, refined, visible, with_scores, with_scribbles

pytestmark = pytest.mark.torch
SHORT = CRFParameters(theta_alpha=20, theta_beta=10, iterations=3)


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return read_example("chelsea")[::3, ::3].copy()


@pytest.fixture
def alone(model: Model, photo: np.ndarray) -> Desk:
    return opened_desk("cat.jpg", photo, model, "scribbles")


def stroke(label: int, *points: tuple[float, float], width: int = 3) -> dict[str, Any]:
    return {"label": label, "width": width, "points": [list(point) for point in points]}


def test_network_and_its_crf_are_those_of_segment(model: Model) -> None:
    """Of a photo that is reduced for the network, too."""
    photo = np.repeat(np.repeat(read_example("chelsea")[::6, ::6], 10, axis=0), 10, axis=1)
    desk = opened_desk("cat.jpg", photo, model, "network")
    assert max(desk.photo.shape) == 500
    found = refined(desk, desks.crf_of_model(model))
    truth = segment(photo, model)
    np.testing.assert_allclose(found.probabilities, truth.probabilities, atol=1e-5)
    assert np.mean(found.full_labels() != truth.labels) < 1e-4
    assert np.mean(desk.before() != found.labels) > 1e-3
    assert visible(found.labels)[0][1] == pytest.approx(
        np.bincount(truth.labels.ravel()).max() / truth.labels.size, abs=0.01
    )


def test_a_layer_gives_back_the_crf_it_was_made_of(model: Model) -> None:
    given = CRFParameters(theta_beta=7, spatial_weight=list(range(21)), compatibility=-0.5, solver="frank-wolfe").crf
    layer = with_crf(model, given).segmenter.crf
    assert layer is not None
    found = crf_of_layer(layer)
    assert found.solver == given.solver
    assert [kernel.features for kernel in found.kernels] == [kernel.features for kernel in given.kernels]
    np.testing.assert_allclose(found.kernels[0].weight, given.kernels[0].weight)
    np.testing.assert_allclose(found.kernels[1].weight, np.full(21, 5.0))
    np.testing.assert_allclose(found.compatibility, -0.5)


def test_scores_of_a_file(alone: Desk, photo: np.ndarray, rng: np.random.Generator) -> None:
    scores = rng.normal(size=(4, *photo.shape[:2])).astype(np.float32)
    desk = with_scores(with_scribbles(alone, [stroke(1, (5, 5))]), scores)
    assert not desk.is_drawn
    assert desk.classes.names == ("class 0", "class 1", "class 2", "class 3")
    found = refined(desk, SHORT)
    np.testing.assert_array_equal(found.probabilities, crfrnn.refine(scores, photo, SHORT))
    assert found.activity.iterations <= 3


def test_scribbles_alone(alone: Desk, photo: np.ndarray) -> None:
    """Only the classes that are drawn take part, with their own ids."""
    with pytest.raises(ValueError, match="draw scribbles of at least two classes"):
        refined(with_scribbles(alone, [stroke(8, (50, 30), (80, 60))]), SHORT)
    desk = with_scribbles(alone, [stroke(8, (50, 30), (80, 60)), stroke(0, (140, 5), (145, 60))])
    found = refined(desk, SHORT)
    assert found.ids.tolist() == [0, 8]
    assert set(np.unique(found.labels)) == {0, 8}
    assert found.labels[45, 65] == 8
    assert found.labels[30, 142] == 0
    places = np.full(photo.shape[:2], -1)
    places[desk.scribbles == 0], places[desk.scribbles == 8] = 0, 1
    unary = crfrnn.unary_from_labels(places, 2, desks.CERTAINTY, zero_unsure=False)
    np.testing.assert_array_equal(found.probabilities, crfrnn.refine(unary, photo, SHORT))
    np.testing.assert_array_equal(desk.before(), desk.scribbles)


def test_scribbles_over_scores(alone: Desk, photo: np.ndarray) -> None:
    scores = np.zeros((3, *photo.shape[:2]), np.float32)
    scores[0] = 4
    desk = with_scribbles(with_scores(alone, scores), [stroke(2, (20, 20), (60, 20), width=7)])
    assert desk.before()[20, 40] == 2
    assert desk.before()[60, 40] == 0
    evidence, ids = desk.evidence()
    assert ids.tolist() == [0, 1, 2]
    np.testing.assert_allclose(np.exp(evidence[:, 20, 40]), [0.005, 0.005, 0.99], rtol=1e-5)
    np.testing.assert_array_equal(evidence[:, 60, 40], [4, 0, 0])


def test_strokes_are_drawn_in_their_order(alone: Desk) -> None:
    strokes = [stroke(1, (10, 10), (90, 10), width=9), stroke(2, (50, 0), (50, 30)), stroke(VOID, (20, 10), width=5)]
    found = with_scribbles(alone, strokes).scribbles
    assert found[10, 80] == 1
    assert found[13, 80] == 1
    assert found[17, 80] == VOID
    assert found[10, 50] == 2
    assert found[10, 20] == VOID
    assert with_scribbles(alone, []).is_drawn is False


@pytest.mark.parametrize(
    ("strokes", "words"),
    [
        (None, "expected a list of scribbles, not None"),
        ([{}] * 501, "at most 500"),
        ([stroke(1, *[(1, 1)] * 1001)] * 50, "at most 50000 points together"),
        ([{}], "has a label, a width and points"),
        ([{"label": 1, "width": 3, "points": [[1, "x"]]}], "has a label, a width and points"),
        ([stroke(1)], "1 to 2000 points"),
        ([stroke(1, *[(1, 1)] * 2001)], "1 to 2000 points"),
        ([stroke(1, (float("nan"), 1))], "points on the photo"),
        ([stroke(1, (1e30, 1))], "points on the photo"),
        ([stroke(21, (1, 1))], "is of class 21; there are 0 to 20"),
        ([stroke(True, (1, 1))], "is of class True"),
        ([stroke(1, (1, 1), width=10**6)], "1000000 pixels wide"),
    ],
)
def test_hostile_strokes_are_refused(alone: Desk, strokes: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        with_scribbles(alone, strokes)


@pytest.mark.parametrize("solver", ["mean-field", "frank-wolfe"])
def test_energy_of_each_iteration(alone: Desk, photo: np.ndarray, rng: np.random.Generator, solver: Any) -> None:
    scores = rng.normal(size=(3, *photo.shape[:2])).astype(np.float32)
    parameters = CRFParameters(theta_alpha=20, theta_beta=10, iterations=4, solver=solver, tolerance=0)
    found = energies(with_scores(alone, scores), parameters)
    terms = pairwise_terms(photo, parameters)
    trace: Any = crfrnn.mean_field_trace(scores, terms, iterations=4)
    if solver == "frank-wolfe":
        trace = crfrnn.frank_wolfe_trace(scores, terms, parameters.crf.solver)
    np.testing.assert_allclose(found, [value for _, value in trace], rtol=1e-5)
    assert len(found) == 5
    assert found[-1] < found[0]


def test_what_would_take_minutes_is_refused(model: Model) -> None:
    desk = opened_desk("large.png", np.zeros((300, 300, 3), np.uint8), model, "scribbles")
    desk = with_scores(desk, np.zeros((2, 300, 300), np.float32))
    with pytest.raises(ValueError, match="takes minutes for 300×300"):
        refined(desk, CRFParameters(filter="exact"))


def test_the_legend_names_what_one_can_see(alone: Desk, photo: np.ndarray) -> None:
    scores = np.zeros((4, *photo.shape[:2]), np.float32)
    scores[1, :50] = 9
    scores[2, 50:] = 9
    scores[3, 0, 0] = 99
    found = refined(with_scores(alone, scores), CRFParameters(iterations=0))
    text = drawn.legend(found)
    assert text.count('class="class"') == 2
    assert "class 1 <small>50.0%" in text
    assert "class 2 <small>50.0%" in text
    assert "CRF" in drawn.times(found, ["<b>"])
    assert "&lt;b&gt;" in drawn.times(found, ["<b>"])


def test_labels_are_saved_in_the_size_of_the_photo(model: Model) -> None:
    import base64
    import io

    from PIL import Image

    desk = opened_desk("my cat.jpg", np.zeros((40, 1000, 3), np.uint8), model, "scribbles")
    scores = np.zeros((2, *desk.photo.shape[:2]), np.float32)
    scores[1, :, 250:] = 5
    file = drawn.downloaded(refined(with_scores(desk, scores), CRFParameters(iterations=0)))
    assert file["name"] == "my cat_labels.png"
    labels = np.asarray(Image.open(io.BytesIO(base64.b64decode(file["content"].partition(",")[2]))))
    assert labels.shape == (40, 1000)
    assert labels[:, :495].max() == 0
    assert labels[:, 505:].min() == 1
