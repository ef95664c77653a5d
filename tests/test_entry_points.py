"""The tolerance comes to the native core from wherever it may be given, and what knows none has the default."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

import crfrnn
from crfrnn import CRF, CRFParameters, MeanField, _native, mean_field, mean_field_with_marginals, pairwise_terms, refine
from crfrnn.cli import main
from crfrnn.compat.pydensecrf.densecrf import DenseCRF2D

SHAPE = (9, 12)
GIVEN = CRFParameters(tolerance=0.01)
DEFAULT = MeanField().tolerance


@pytest.fixture
def tolerances(monkeypatch):
    """Those of the calls of the native core."""
    found = []
    for name, native in (each for each in vars(_native).items() if each[0].startswith("mean_field")):
        if "vjp" not in name:
            monkeypatch.setattr(_native, name, lambda *a, native=native: found.append(a[9]) or native(*a))
    return found


@pytest.fixture
def scores(rng):
    return rng.normal(size=(3, *SHAPE)).astype(np.float32)


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (*SHAPE, 3), np.uint8)


def test_numpy(scores, image, tolerances):
    terms = pairwise_terms(image, GIVEN)
    mean_field(scores, terms, tolerance=0.01)
    refine(scores, image, GIVEN)
    refine(scores.astype(np.float64), image, GIVEN.crf, return_labels=True)
    refine(scores, image, CRF.from_text(GIVEN.crf.text), return_activity=True)
    crfrnn.refine_tiled(scores, image, GIVEN, tile=100)
    assert tolerances == [0.01] * 5
    mean_field(scores, terms)
    refine(scores, image)
    refine(scores, image, "deeplab")
    assert tolerances[5:] == [DEFAULT] * 3
    mean_field_with_marginals(scores, terms)
    assert tolerances[8:] == [0]


def test_files_and_the_command_line(scores, image, tolerances, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("scores.npy", scores)
    np.save("image.npy", image)
    for number, parameters in enumerate((GIVEN, GIVEN.crf)):
        crfrnn.save_parameters(f"{number}.json", parameters)
        refine(scores, image, f"{number}.json")
    for options in (
        "--parameters 0.json",
        "--parameters 1.json",
        "--tolerance 0.01",
        "--parameters 1.json --tolerance 0",
    ):
        assert main(f"refine scores.npy image.npy -o out.npy {options}".split()) == 0
    assert tolerances == [0.01] * 5 + [0]


@pytest.mark.parametrize(
    "content",
    [
        '{"theta_beta": 13, "damping": 0.2, "class_threshold": 0.01}',
        '{"type": "CRF", "kernels": [], "solver": {"type": "MeanField", "iterations": 3, "damping": 0.2}}',
    ],
)
def test_files_of_earlier_versions(tmp_path, content):
    (tmp_path / "p.json").write_text(content)
    parameters = crfrnn.load_parameters(tmp_path / "p.json")
    crf = parameters if isinstance(parameters, CRF) else parameters.crf
    assert (crf.solver.damping, crf.solver.tolerance) == (0.2, DEFAULT)


@pytest.mark.parametrize("made", [MeanField(3, 0.2), CRFParameters(iterations=3, damping=0.2)])
def test_pickles_of_earlier_versions(made):
    """They are the fields by name, without this one."""
    state = made.__getstate__()
    loaded = type(made).__new__(type(made))
    state = {name: value for name, value in state.items() if name != "tolerance"}
    loaded.__setstate__(state) if hasattr(loaded, "__setstate__") else vars(loaded).update(state)
    assert loaded == made
    assert hash(loaded) == hash(made)
    assert replace(loaded, iterations=4).tolerance == DEFAULT
    assert pickle.loads(pickle.dumps(loaded)) == made


def test_pydensecrf(scores, image, tolerances):
    crf = DenseCRF2D(SHAPE[1], SHAPE[0], 3)
    crf.setUnaryEnergy(-scores.reshape(3, -1))
    crf.addPairwiseGaussian(3, 3)
    crf.inference(5)
    assert set(tolerances) == {DEFAULT}
    crf.tolerance = 0
    crf.inference(5)
    assert tolerances[-1] == 0
    assert DenseCRF2D(SHAPE[1], SHAPE[0], 3).tolerance == DEFAULT


@pytest.mark.torch
def test_torch_leaves_out_work_where_no_gradient_is_wanted(scores, image, tolerances):
    torch = pytest.importorskip("torch")
    from crfrnn.torch import CrfRnn
    from crfrnn.torch import mean_field as torch_mean_field

    logits, planes = torch.from_numpy(scores)[None], torch.from_numpy(image).movedim(-1, 0)[None]
    layer = CrfRnn(3, tolerance=0.01)
    refined = layer(logits, planes)
    refined.sum().backward()
    with torch.no_grad():
        layer(logits, planes)
    torch_mean_field(logits, planes, parameters=GIVEN)
    torch_mean_field(logits.clone().requires_grad_(), planes, parameters=GIVEN)
    assert tolerances == [0, 0.01, 0.01, 0]
    layer.tolerance = 0.02
    with torch.inference_mode():
        layer(logits, planes)
        CrfRnn(3, crf=GIVEN.crf)(logits, planes)
        CrfRnn(3)(logits, planes)
    assert tolerances[4:] == [0.02, 0.01, DEFAULT]


@pytest.mark.torch
def test_monai(scores, image, tolerances):
    torch = pytest.importorskip("torch")
    from crfrnn.compat import monai

    monai.CRF()(torch.from_numpy(scores)[None], torch.from_numpy(image).movedim(-1, 0)[None].float())
    assert tolerances == [DEFAULT]
