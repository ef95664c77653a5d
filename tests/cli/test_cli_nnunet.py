"""Probabilities of a part of a volume, as nnU-Net 1 writes them."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest

import crfrnn
from commands import status

nibabel = pytest.importorskip("nibabel")
SHAPE, CROP = (8, 12, 14), ((1, 7), (2, 11), (0, 13))
SLICES = tuple(slice(*part) for part in CROP)
OPTIONS = "--theta-alpha 3 --theta-beta 20 --theta-gamma 1 --tolerance 0"


@pytest.fixture
def probabilities(tmp_path, rng, monkeypatch) -> np.ndarray:
    """case.npz with those of the crop, and case_0000.nii.gz with the whole volume."""
    monkeypatch.chdir(tmp_path)
    found = rng.dirichlet([1, 1, 1], SHAPE).transpose(3, 0, 1, 2).astype(np.float32)
    volume = rng.normal(100, 30, SHAPE).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume.T, np.eye(4)), "case_0000.nii.gz")
    np.savez("case.npz", softmax=found[(slice(None), *SLICES)])
    return found


def write_properties(**changed: object) -> None:
    """What nnU-Net 1 keeps of a case, with its arrays, numbers and dictionaries."""
    properties = {
        "original_size_of_raw_data": np.array(SHAPE),
        "itk_spacing": (1.0, 1.0, 1.0),
        "crop_bbox": [[np.int64(first), np.int64(last)] for first, last in CROP],
        "classes": np.array([0.0, 1.0]),
        "use_nonzero_mask_for_norm": OrderedDict([(0, True)]),
        **changed,
    }
    with open("case.pkl", "wb") as handle:
        pickle.dump(properties, handle)


@pytest.mark.parametrize("tiles", ["", "--tile 6 --overlap 14"])
def test_a_crop_is_put_back(probabilities, tiles):
    write_properties()
    assert status(f"refine case.npz case_0000.nii.gz -o out.npy {OPTIONS} {tiles}") == 0
    whole = np.zeros_like(probabilities)
    whole[0] = 1
    whole[(slice(None), *SLICES)] = probabilities[(slice(None), *SLICES)]
    volume = np.asarray(nibabel.load("case_0000.nii.gz").dataobj).T
    expected = crfrnn.refine(
        whole, volume, input="probabilities", theta_alpha=3, theta_beta=20, theta_gamma=1, tolerance=0
    )
    np.testing.assert_allclose(np.load("out.npy"), expected, atol=1e-5)


def run() -> None:
    raise AssertionError("code of a file ran")


class Harmful:
    def __reduce__(self):
        return run, ()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"crop_bbox": [[0, 9], [2, 11], [0, 13]]}, "places the crop at 0:9"),
        ({"crop_bbox": [[0, 6], [2, 11]]}, "places the crop at 0:6 × 2:11"),
        ({"crop_bbox": None}, "does not say where nnU-Net cut its crop"),
        ({"more": Harmful()}, "which is no array or number"),
    ],
)
def test_crops_that_cannot_be_placed(probabilities, changed, said, capsys):
    write_properties(**changed)
    assert status("refine case.npz case_0000.nii.gz -o out.npy") == 1
    assert said in capsys.readouterr().err


def test_a_crop_whose_place_is_not_known(probabilities, capsys):
    assert status("refine case.npz case_0000.nii.gz -o out.npy") == 1
    assert "if nnU-Net 1 cropped the scores, put its .pkl beside them" in capsys.readouterr().err
