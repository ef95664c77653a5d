"""The parts of `python -m benchmarks` that need no photos: other ways to refine scores, tables and plots."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from repository import ROOT

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchmetrics", reason="needs the train extra")
for module in ("scipy", "kornia"):
    pytest.importorskip(module, reason="needs the bench extra")
pytestmark = pytest.mark.torch

sys.path.insert(0, str(ROOT))
from benchmarks import pamr, plots, quality, report  # noqa: E402
from benchmarks.bilateral_solver import bilateral_grid, bilateral_solver, smoothness  # noqa: E402
from benchmarks.cases import CASES  # noqa: E402
from benchmarks.child import SIDES  # noqa: E402
from benchmarks.measure import MODULES  # noqa: E402
from benchmarks.volume import fitted, scores_from  # noqa: E402

GRID = {"sigma_spatial": 4, "sigma_luma": 8, "sigma_chroma": 8}


def photo_and_logits(classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Two halves of different colour with a little noise, and noisy logits that favour class 0 left, class 1 right."""
    rng = np.random.default_rng(0)
    image = np.full((20, 30, 3), 60, np.uint8)
    image[:, 15:] = (200, 120, 40)
    image += rng.integers(0, 4, image.shape, dtype=np.uint8)
    logits = rng.normal(size=(classes, 20, 30)).astype(np.float32)
    logits[0, :, :15] += 1
    logits[1, :, 15:] += 1
    return image, logits


def test_pamr_weights_are_a_mean() -> None:
    image, _ = photo_and_logits()
    weights = pamr.affinities(torch.from_numpy(image).movedim(-1, 0).float(), pamr.DILATIONS, 0.1)
    assert weights.shape == (8 * len(pamr.DILATIONS), 20, 30)
    torch.testing.assert_close(weights.sum(0), torch.ones(20, 30))


def test_pamr_on_a_flat_photo_is_the_mean_of_the_neighbours() -> None:
    probabilities = torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(0))
    refined = pamr.pamr(probabilities, torch.full((3, 9, 11), 0.3), dilations=(1, 2), iterations=1)
    around = probabilities[:, 2:7:2, 3:8:2].sum((1, 2)) + probabilities[:, 3:6, 4:7].sum((1, 2))
    torch.testing.assert_close(refined[:, 4, 5], (around - 2 * probabilities[:, 4, 5]) / 16)


def test_bilateral_smoothness_is_a_laplacian() -> None:
    image, _ = photo_and_logits()
    splat, blur = bilateral_grid(image, 4, 8, 8)
    assert splat.shape == (blur.shape[0], 600)
    np.testing.assert_array_equal(splat.sum(axis=0), 1)
    assert abs(blur - blur.T).sum() == 0
    matrix = smoothness(splat, blur)
    np.testing.assert_allclose(matrix.sum(axis=1), 0, atol=1e-9)
    assert np.linalg.eigvalsh(matrix.toarray()).min() > -1e-9


def test_bilateral_grid_keeps_colours_apart() -> None:
    """No row of the blur reaches from one half into the other, whose cells differ by many steps of colour."""
    image, _ = photo_and_logits()
    splat, blur = bilateral_grid(image, 4, 8, 8)
    left = np.broadcast_to(np.arange(30) < 15, (20, 30)).ravel()
    assert not (((splat @ left) > 0) & ((splat @ ~left) > 0)).any()
    assert (blur[splat @ left > 0][:, splat @ ~left > 0]).nnz == 0


@pytest.mark.parametrize("smoothing", [0.0, 10.0])
def test_bilateral_solver_keeps_constants(smoothing: float) -> None:
    image, _ = photo_and_logits()
    targets = np.stack([np.full((20, 30), value) for value in (0.25, 0.75)])
    confidence = np.random.default_rng(1).uniform(0.1, 1, (20, 30))
    np.testing.assert_allclose(bilateral_solver(targets, confidence, image, **GRID, smoothing=smoothing), targets)


def test_bilateral_solver_solves() -> None:
    """Against the dense solution of the same system for pixels."""
    image, logits = photo_and_logits()
    confidence = np.random.default_rng(1).uniform(0.5, 1, (20, 30))
    found = bilateral_solver(logits, confidence, image, **GRID, smoothing=2.0)
    splat, blur = bilateral_grid(image, 4, 8, 8)
    matrix = 2 * smoothness(splat, blur).toarray() + np.diag(splat @ confidence.ravel())
    solved = np.linalg.solve(matrix, splat @ (logits * confidence).reshape(3, -1).T)
    np.testing.assert_allclose(found.reshape(3, -1).T, splat.T @ solved, atol=1e-3)


@pytest.mark.parametrize("method", quality.METHODS, ids=lambda method: method.name)
def test_methods_sharpen(method: quality.Method) -> None:
    """Each gives probabilities that are right more often than the noisy ones."""
    if MODULES[method.side].startswith("pydensecrf"):
        pytest.importorskip("pydensecrf")
    image, logits = photo_and_logits()
    result = SIDES[method.side](logits, image, method.settings)()
    assert result.shape == logits.shape
    np.testing.assert_allclose(result.sum(axis=0), 1, atol=2e-3)
    truth = np.broadcast_to(np.arange(30) >= 15, (20, 30))
    assert np.mean(result.argmax(axis=0) == truth) > np.mean(logits.argmax(axis=0) == truth)


CHOSEN = [method for method in quality.METHODS if "θ" not in method.name and method.side != "pydensecrf"]


@pytest.mark.parametrize("method", CHOSEN, ids=lambda method: f"{method.name} {method.text}")
def test_settings_come_from_the_candidates(method: quality.Method) -> None:
    subsampled = {"subsample": 4} if "subsample" in method.settings else {}
    assert (method.side, method.settings | subsampled) in [(each.side, each.settings) for each in quality.CANDIDATES]


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_settings_are_the_best_in_the_results(path: Path) -> None:
    cases = json.loads(path.read_text()).get("cases", {})
    if "quality-settings" not in cases:
        pytest.skip("no settings were tried there")
    rows = cases["quality-settings"]["rows"]
    for name in {row["method"] for row in rows}:
        best = max((row for row in rows if row["method"] == name), key=lambda row: row["mean_iou"])
        assert best["settings"] in [method.text for method in quality.METHODS if method.name == name]


def test_volume_in_the_wanted_shape() -> None:
    volume = np.arange(5 * 4 * 3).reshape(5, 4, 3)
    found = fitted(volume, (3, 4, 6))
    assert found.shape == (3, 4, 6)
    np.testing.assert_array_equal(found[:, :, 1:4], volume[1:4])
    np.testing.assert_array_equal(found[:, :, 0], volume[1:4, :, 0])
    np.testing.assert_array_equal(found[:, :, 5], volume[1:4, :, 2])


def test_scores_of_a_volume() -> None:
    image = np.zeros((9, 9, 9))
    image[:, :, 3:] = 150
    image[:, :, 6:] = 300
    organ = np.zeros((9, 9, 9), np.uint8)
    organ[:, 5:] = 1
    labels = scores_from(image, organ).argmax(axis=0)
    assert [labels[4, 0, x] for x in (0, 4, 8)] == [0, 1, 2]
    assert (labels[:, 8] == 3).all()


def test_sides_and_cases_are_complete() -> None:
    assert SIDES.keys() == MODULES.keys()
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(side in report.NAMES for case in CASES if case.measure.__name__ == "compare" for side in case.sides)


THETA = {"photo": "p", "thetas": (80.0, 13.0, 3.0)}
MEASURES = {"mean_iou": 0.6, "edge_mean_iou": 0.4}
ROWS: dict[str, list[dict]] = {
    "quality": [
        {"method": "scores", "settings": "", "photos": 40, **MEASURES},
        {"method": "PAMR", "settings": "", "photos": 40, "mean_iou": 0.65, "edge_mean_iou": 0.45}
        | {"gain": (0.01, 0.08), "seconds": {"1": 0.5, "2": 0.25}},
    ],
    "quality-settings": [{"method": "PAMR", "settings": "width 0.1", "photos": 20, **MEASURES}],
    "tolerance": [
        {"over_photos": 222, "thetas": (80.0, 13.0, 3.0), "tolerance": 1e-4, "largest": 2e-4, "changed": 5}
        | {name: {"mean": 1e-5, "percentile": 9e-5} for name in ("largest_of_a_photo", "of_a_pixel")}
        | {"pixels": 10_000}
    ],
    "tolerance-error": [
        THETA | {"tolerance": tolerance, "seconds": 0.1, "largest": tolerance, "changed": 0.0}
        for tolerance in (0.0, 1e-4, 1e-2)
    ],
    "tolerance-time": [
        {"axis": axis, "value": value, "seconds": {"dense": 0.1 * value, "lazy": 0.05}}
        for axis in ("iterations", "pixels")
        for value in (1, 2)
    ],
    "activity": [THETA | {"iteration": 1, "evaluated": 0.5, "classes": 21}],
    "volume": [
        THETA
        | {"errors": {}, "difference": 1e-6, "seconds": {"crfrnn": 1.0, "pydensecrf_volume": 4.0}}
        | {"ratios": {"pydensecrf_volume": 4.0}}
    ],
}
EXPECTED = {
    "quality": "| PAMR |  | 65.00 | 45.00 | +5.00 (+1.00 to +8.00) | 500 ms | 250 ms |",
    "quality-settings": "| PAMR | width 0.1 | 60.00 | 40.00 |",
    "tolerance": "| 80/13/3 | 0.0001 | **2.0e-04** | 1.0e-05 | 9.0e-05 | 1.0e-05 | 9.0e-05 | 5 of 10,000 (0.05 %) |",
    "tolerance-error": "| p | 80/13/3 | 0.0001 | 1.0e-04 | 0 % | 100 ms |",
    "tolerance-time": "| iterations | 2 | 200 ms | 50 ms |",
    "activity": "| p | 80/13/3 | 1 | 50.0 % | 21 |",
    "volume": "| p | 80/13/3 | 1000 ms | 4000 ms | **4.00×** | 1.0e-06 |",
}


@pytest.mark.parametrize("name", ROWS)
def test_tables(name: str) -> None:
    text = report.case_text({"title": "T", "note": "N.", "commit": "c", "rows": ROWS[name]})
    lines = text.splitlines()
    assert EXPECTED[name] in lines
    columns = {line.count("|") for line in lines if line.startswith("|")}
    assert len(columns) == 1, "a row has more or fewer cells than the header"


@pytest.mark.parametrize("name", sorted(plots.PLOTS.keys() & ROWS.keys()))
def test_plots(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the bench extra")
    file, plot = plots.PLOTS[name]
    plot(ROWS[name], tmp_path / file)
    assert (tmp_path / file).stat().st_size > 1000


def test_activity_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the bench extra")
    image, _ = photo_and_logits()
    plots.draw_activity(image, np.ones((3, 20, 30), bool), tmp_path / "activity.png")
    assert (tmp_path / "activity.png").stat().st_size > 1000
