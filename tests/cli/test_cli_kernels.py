"""Parameters files of any kernels: written and read, and refined with from the command line."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import crfrnn
from crfrnn.cli import main
from crfrnn.crf import CRF, Bilateral, Exact, Features, Given, Kernel, Lattice, MeanField, Spatial
from crfrnn.memory import tile_bytes
from crfrnn.tiles import image_lattices
from errors import raises_saying
from kernel_lists import CRFS, scene

COMMAND = "refine scores.npy image.npy -o out.npy --parameters p.json"


@pytest.fixture
def one(rng, tmp_path: Path, monkeypatch):
    """Scores and image in the files of a working folder."""
    monkeypatch.chdir(tmp_path)
    one = scene(rng, np.float32, (12, 15)).item(0)
    np.save("scores.npy", one.logits)
    np.save("image.npy", one.image)
    return one


def written(crf: CRF) -> str:
    crfrnn.save_parameters("p.json", crf)
    return COMMAND


@pytest.mark.parametrize("crf", CRFS.values(), ids=CRFS)
def test_what_is_written_is_read_again(tmp_path: Path, crf):
    crfrnn.save_parameters(tmp_path / "p.json", crf, {"data": "größer"})
    content = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert list(content) == ["type", "kernels", "compatibility", "solver", "notes"]
    assert crfrnn.load_parameters(tmp_path / "p.json") == crf
    content.pop("type")
    (tmp_path / "p.json").write_text(json.dumps(content))
    assert crfrnn.load_parameters(tmp_path / "p.json") == crf


FEATURES = {"type": "Spatial", "theta_gamma": 2}
KERNEL = {"type": "Kernel", "features": FEATURES}


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ({"kernels": [KERNEL | {"features": {"type": "Spatiel"}}]}, ["type='Spatiel' is unknown", "'Spatial'"]),
        ({"kernels": [KERNEL | {"features": {"theta_gamma": 2}}]}, ["type=None is unknown", "'Bilateral'"]),
        ({"kernels": [KERNEL | {"features": {"type": [2]}}]}, ["type=(2,) is unknown"]),
        ({"kernels": [KERNEL | {"theta_alpha": 2}]}, ["Kernel has no 'theta_alpha'", "features, weight"]),
        ({"kernels": [KERNEL], "iterations": 5}, ["CRF has no 'iterations'", "solver"]),
        ({"kernels": [KERNEL], "type": "Kernel"}, ["Kernel has no 'kernels'"]),
        ({"kernels": [{"type": "Kernel"}]}, ["Kernel needs 'features'"]),
        ({"kernels": [KERNEL | {"features": {"type": "Given"}}]}, ["Given needs 'name'"]),
        ({"kernels": [FEATURES]}, ["kernels[0] is a Spatial", "Kernel(…)"]),
        ({"kernels": KERNEL}, ["kernels is a Kernel"]),
        ({"kernels": 5}, ["kernels is 5"]),
        ({"kernels": ""}, ["kernels is ''"]),
        ({"kernels": None}, ["kernels is None"]),
        ({"kernels": [KERNEL | {"weight": "5"}]}, ["weight", "real numbers"]),
        ({"kernels": [KERNEL | {"weight": True}]}, ["weight=true", "a number"]),
        ({"kernels": [KERNEL | {"weight": None}]}, ["weight", "real numbers"]),
        ({"kernels": [KERNEL | {"weight": [[1, 2], [3]]}]}, ["weight"]),
        ({"kernels": [KERNEL | {"features": FEATURES | {"theta_gamma": -1}}]}, ["theta_gamma=-1", "above 0"]),
        ({"kernels": [KERNEL | {"features": FEATURES | {"theta_gamma": {"type": "Grid"}}}]}, ["theta_gamma"]),
        ({"kernels": [KERNEL | {"filter": "grid"}]}, ["filter is 'grid'"]),
        ({"kernels": [KERNEL | {"filter": {"type": "Lattice", "neighbour_rounds": 9}}]}, ["neighbour_rounds=9"]),
        ({"kernels": [KERNEL | {"normalization": "both"}]}, ["normalization='both'"]),
        ({"kernels": [KERNEL], "solver": {"type": "MeanField", "iterations": 2.5}}, ["iterations=2.5"]),
        ({"kernels": [KERNEL], "solver": {"type": "MeanField", "iterations": True}}, ["iterations=true", "a number"]),
        ({"kernels": [KERNEL], "solver": {"type": "Grid"}}, ["solver is a Grid"]),
        ({"kernels": [KERNEL], "compatibility": [[1, 2, 3]]}, ["compatibility has shape (1, 3)"]),
    ],
)
def test_wrong_files(tmp_path: Path, content, facts):
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(content))
    with raises_saying(ValueError, f"{path}: ", *facts):
        crfrnn.load_parameters(path)


@pytest.mark.parametrize("name", ["three", "spatial", "two bilateral", "lattice and exact", "empty", "nothing but 0"])
def test_refine(one, name):
    assert main(written(CRFS[name]).split()) == 0
    np.testing.assert_array_equal(np.load("out.npy"), crfrnn.refine(one.logits, one.image, CRFS[name]))


def test_options_of_the_solver_replace_those_of_the_file(one):
    options = "--iterations 1 --damping 0.3 --class-threshold 0.01 --tolerance 0.001 --compatibility=-2"
    assert main(f"{written(CRFS['three'])} {options}".split()) == 0
    other = replace(CRFS["three"], compatibility=-2, solver=MeanField(1, 0.3, 0.01, 0.001))
    np.testing.assert_array_equal(np.load("out.npy"), crfrnn.refine(one.logits, one.image, other))


def test_contrast_is_that_of_every_kernel(one, capsys):
    assert main(f"{written(CRFS['three'])} --theta-beta contrast".split()) == 0
    assert "θ_β" in capsys.readouterr().out
    levels = crfrnn.contrast_theta_beta(one.image)
    expected = crfrnn.refine(one.logits, one.image, CRFS["three"].with_thetas(theta_beta=levels))
    np.testing.assert_array_equal(np.load("out.npy"), expected)


@pytest.mark.parametrize(
    ("option", "fact"),
    [
        ("--theta-alpha 3", "--theta-alpha"),
        ("--theta-beta 3", "--theta-beta"),
        ("--spatial-weight 3", "--spatial-weight"),
        ("--normalization none", "--normalization"),
        ("--spatial lattice", "--spatial"),
        ("--neighbour-rounds 1", "--neighbour-rounds"),
        ("--filter exact", "--filter"),
        ("--iterations=-1", "--iterations -1"),
    ],
)
def test_options_that_name_one_of_two_kernels_are_refused(one, option, fact, capsys):
    with pytest.raises(SystemExit) as caught:
        main(f"{written(CRFS['three'])} {option}".split())
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert fact in said
    assert "iterations" in option or "change the kernels in the parameters file" in said
    assert not Path("out.npy").exists()


def test_tiles(one):
    """Small enough that one tile sees what counts."""
    crf = CRF([Kernel(Spatial(1.1)), Kernel(Bilateral(1.3, 40)), Kernel(Bilateral(0.7, 80), 2)], solver=MeanField(2))
    assert main(f"{written(crf)} --tile 8 --overlap 30".split()) == 0
    np.testing.assert_allclose(np.load("out.npy"), crfrnn.refine(one.logits, one.image, crf), atol=1e-5)


@pytest.mark.parametrize("option", ["", "--tile 8", "--tile 8 --overlap 3", "--memory 1GB", "--device cpu"])
def test_features_that_files_do_not_give(one, option, capsys):
    with pytest.raises(SystemExit) as caught:
        main(f"{written(CRFS['given'])} {option}".split())
    assert caught.value.code == 2
    assert "Given(name='learned') needs features" in capsys.readouterr().err


@pytest.mark.parametrize("overlap", [None, 3])
def test_tiles_of_kernels_without_a_reach(one, overlap):
    crf = CRF([Kernel(Given("learned")), Kernel(Spatial(2))])
    with raises_saying(ValueError, "Given(name='learned')", "no reach in pixels", "as a whole"):
        crfrnn.refine_tiled(one.logits, one.image, crf, tile=8, overlap=overlap)


def test_contrast_without_a_kernel_that_has_it(one, capsys):
    assert main(f"{written(CRFS['spatial'])} --theta-beta contrast".split()) == 1
    assert "no kernel has theta_beta" in capsys.readouterr().err


def test_the_search_is_for_two_kernels(one, capsys):
    written(CRFS["three"])
    assert main(["tune", ".", "-o", "q.json", "--scores", ".", "--parameters", "p.json"]) != 0
    assert "a spatial and a bilateral kernel" in capsys.readouterr().err


@dataclass(frozen=True)
class Patch(Features):
    """Features over the image that the package does not have."""

    reads_image: ClassVar[bool] = True
    name: ClassVar[str] = "patch"


def test_every_lattice_over_the_image_takes_memory():
    kernels = [Kernel(Bilateral(8.0, 3.0))] * 3
    assert image_lattices(CRF(kernels)) == 3
    assert image_lattices(CRFS["lattice and exact"]) == image_lattices(CRFS["nothing but 0"]) == 0
    assert image_lattices(CRF([Kernel(Patch(), filter=each) for each in (Lattice(), Exact())])) == 1
    assert tile_bytes(1, 4, 5, 4, 3) > 2 * tile_bytes(1, 4, 5, 4)
