"""MONAI's users on `crfrnn.compat.monai`: golden outputs, gradients, and what MONAI's own does to its callers."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crfrnn import reference
from crfrnn.plausibility import InputWarning
from errors import raises_saying
from tolerances import GOLDEN

torch = pytest.importorskip("torch", reason="needs the torch extra")

from crfrnn.compat import monai as monai_module  # noqa: E402
from crfrnn.compat.monai import CRF, CRFd, PHLFilter  # noqa: E402

pytestmark = pytest.mark.torch

SHAPES = {1: (11,), 2: (5, 7), 3: (3, 4, 5)}


@pytest.fixture(scope="module")
def monai_crf():
    """MONAI's inputs and outputs by number of spatial axes."""
    with np.load(Path(__file__).parent.parent / "golden" / "monai_crf.npz") as archive:
        golden = {name: torch.from_numpy(array) for name, array in archive.items()}
    return {
        axes: {name[3:]: tensor for name, tensor in golden.items() if name.startswith(f"{axes}d")} for axes in (1, 2, 3)
    }


def assert_same(ours, theirs):
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert (ours - theirs).abs().max() <= GOLDEN


def example(axes, dtype=torch.float32, classes=3, channels=2, batch=2):
    generator = torch.Generator().manual_seed(axes)
    logits = torch.randn(batch, classes, *SHAPES[axes], generator=generator, dtype=dtype)
    return logits, torch.rand(batch, channels, *SHAPES[axes], generator=generator, dtype=dtype)


class TestGoldenOutputs:
    @pytest.mark.parametrize("axes", [1, 2, 3])
    def test_default(self, monai_crf, axes):
        golden = monai_crf[axes]
        assert_same(CRF()(golden["logits"], golden["reference"]), golden["default"])

    @pytest.mark.parametrize("axes", [1, 2, 3])
    def test_everything_given(self, monai_crf, axes):
        golden = monai_crf[axes]
        crf = CRF(3, 0.7, 1.3, 3.0, 0.25, 2.0, 1.5, golden["compat"])
        assert_same(crf(golden["logits"], golden["reference"]), golden["custom"])

    @pytest.mark.parametrize("axes", [1, 2, 3])
    def test_filters(self, monai_crf, axes):
        """MONAI's loop, written with the filter as it writes it."""
        golden = monai_crf[axes]
        logits, levels = golden["logits"], golden["reference"]
        grids = torch.meshgrid(*[torch.arange(length) for length in logits.shape[2:]], indexing="ij")
        places = torch.stack(len(logits) * [torch.stack(grids).float()])
        q = torch.softmax(logits, dim=1)
        for _ in range(5):
            bilateral = PHLFilter.apply(q, torch.cat([places / 5, levels / 0.5], dim=1))
            q = torch.softmax(logits + 3 * (bilateral + PHLFilter.apply(q, places, [5.0] * axes)), dim=1)
        assert_same(q, golden["default"])


class TestCRF:
    def test_attributes_count_at_the_call(self, monai_crf):
        golden = monai_crf[2]
        crf = CRF()
        crf.iterations, crf.bilateral_weight, crf.gaussian_weight = 3, 0.7, 1.3
        crf.bilateral_spatial_sigma, crf.bilateral_color_sigma, crf.gaussian_spatial_sigma = 3.0, 0.25, 2.0
        crf.update_factor, crf.compatibility_matrix = 1.5, golden["compat"]
        assert_same(crf(golden["logits"], golden["reference"]), golden["custom"])

    def test_no_iterations_are_softmax(self):
        logits, levels = example(2)
        torch.testing.assert_close(CRF(iterations=0)(logits, levels), torch.softmax(logits, dim=1))

    def test_sigmas_by_axis_run_as_the_axes_do(self):
        """Far along one axis and hardly along the other: what pixels hear is the same along the former."""
        logits, levels = example(2)
        for sigmas, along, across in (((1e-2, 50.0), 3, 2), ((50.0, 1e-2), 2, 3)):
            refined = CRF(1, bilateral_weight=0.0, gaussian_spatial_sigma=sigmas)(logits, levels)
            heard = refined.log() - logits
            heard = heard - heard.mean(dim=1, keepdim=True)
            assert heard.std(dim=along).max() < 0.1 * heard.std(dim=across).max()

    def test_every_item_of_a_batch_by_itself(self):
        logits, levels = example(3)
        whole = CRF()(logits, levels)
        for index in range(2):
            alone = CRF()(logits[index : index + 1], levels[index : index + 1])[0]
            torch.testing.assert_close(alone, whole[index], atol=1e-6, rtol=0)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
    def test_dtypes(self, dtype):
        logits, levels = example(2)
        refined = CRF()(logits.to(dtype), levels.to(dtype))
        assert refined.dtype == dtype
        torch.testing.assert_close(refined.float(), CRF()(logits, levels), atol=2e-2, rtol=0)

    def test_results_are_contiguous(self):
        """Some losses of torch have no backward pass for others."""
        for axes in (1, 2, 3):
            assert CRF()(*example(axes)).is_contiguous()

    def test_any_layout_integers_and_many_classes(self):
        logits, _ = example(2, classes=40)
        levels = torch.randint(0, 255, (2, 3, 5, 7), dtype=torch.uint8)
        crf = CRF(bilateral_color_sigma=40.0)
        expected = crf(logits, levels.float())
        assert expected.shape == logits.shape
        last = logits.to(memory_format=torch.channels_last)
        torch.testing.assert_close(crf(last, levels), expected)

    def test_inputs_stay_as_they_are(self):
        logits, levels = example(2)
        copies = logits.clone(), levels.clone()
        CRF()(logits, levels)
        assert torch.equal(logits, copies[0])
        assert torch.equal(levels, copies[1])

    def test_state_of_monai_loads(self):
        """MONAI's has none; a network with a CRF in it loads strictly."""
        assert CRF().state_dict() == {}
        assert set(CRF(update_factor=torch.nn.Parameter(torch.ones(())))._parameters) == {"update_factor"}


class TestGradients:
    @pytest.mark.parametrize("axes", [1, 2, 3])
    def test_all_that_is_trained(self, axes):
        logits, levels = example(axes, torch.float64)
        small = tuple(slice(min(length, 3)) for length in SHAPES[axes])
        logits, levels = logits[:1, :, *small], levels[:1, :, *small]
        trained = [torch.tensor(value, dtype=torch.float64) for value in (0.8, 1.2, 1.5)]
        compatibility = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        inputs = [tensor.requires_grad_() for tensor in (logits.contiguous(), *trained, compatibility)]

        def refined(logits, bilateral, gaussian, factor, compatibility, levels=levels):
            crf = CRF(2, bilateral, gaussian, 2.0, 0.7, 3.0, factor, compatibility)
            return crf(logits, levels)

        assert torch.autograd.gradcheck(refined, inputs, eps=1e-6, atol=1e-5)
        if axes < 3:  # voxels of the small cube lie on borders of simplices, where the lattice has no derivative
            image = [levels.contiguous().requires_grad_()]
            assert torch.autograd.gradcheck(lambda levels: refined(*inputs, levels), image, eps=1e-6, atol=1e-5)

    def test_training_lowers_the_loss(self):
        logits, levels = example(2)
        target = logits.argmax(dim=1)
        crf = CRF(
            bilateral_weight=torch.nn.Parameter(torch.tensor(1.0)),
            compatibility_matrix=torch.nn.Parameter(-torch.eye(3)),
        )
        optimiser = torch.optim.Adam(crf.parameters(), lr=0.1)
        assert len(list(crf.parameters())) == 2
        losses = []
        for _ in range(20):
            loss = torch.nn.functional.nll_loss(crf(logits, levels).log(), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.7 * losses[0]


class TestPHLFilter:
    def test_weighted_means_on_a_lattice(self):
        """Against the lattice in plain NumPy."""
        values, features = example(2, torch.float64, classes=4, channels=3)
        sigmas = [0.5, 2.0, 1.0]
        filtered = PHLFilter.apply(values, features, sigmas)
        for index in range(2):
            rows = (features[index] / torch.tensor(sigmas)[:, None, None]).reshape(3, -1).T.numpy()
            lattice = reference.Lattice(rows)
            expected = lattice.filter(values[index].reshape(4, -1).T.numpy()) / lattice.filter(np.ones((35, 1)))
            np.testing.assert_allclose(filtered[index].reshape(4, -1).T, expected, rtol=1e-9)

    def test_features_stay_as_they_are(self):
        values, features = example(2)
        copy = features.clone()
        once, twice = PHLFilter.apply(values, features, [2.0, 3.0]), PHLFilter.apply(values, features, [2.0, 3.0])
        assert torch.equal(features, copy)
        assert torch.equal(once, twice)

    @pytest.mark.parametrize("axes", [1, 2, 3])
    def test_gradients(self, axes):
        values, features = example(axes, torch.float64)
        assert torch.autograd.gradcheck(
            lambda values, features, sigmas: PHLFilter.apply(values, features, sigmas),
            [
                values[:1].requires_grad_(),
                features[:1].contiguous().requires_grad_(),
                torch.tensor([0.5, 0.7], dtype=torch.float64, requires_grad=True),
            ],
            eps=1e-7,
            atol=1e-5,
        )

    @pytest.mark.parametrize("sigmas", [[5, 3, 3], (5.0, 3.0), torch.tensor([5.0, 3.0, 3.0])])
    def test_surplus_sigmas_are_left_out(self, sigmas):
        """As MONAI does, whose tests give three of them for one feature."""
        values, features = example(1)
        expected = PHLFilter.apply(values, features[:, :1], [5.0])
        with pytest.warns(InputWarning, match=f"{len(sigmas)} for 1 features: the last ones count not"):
            assert torch.equal(PHLFilter.apply(values, features[:, :1], sigmas), expected)


class TestCRFd:
    @pytest.mark.parametrize("axes", [1, 2, 3])
    def test_channel_first_without_a_batch(self, axes):
        logits, levels = example(axes)
        meta = {"affine": np.eye(4)}
        data = {"pred": logits[0], "other": logits[1], "image": levels[0], "image_meta_dict": meta}
        refined = CRFd(["pred", "other"], "image", iterations=2)(data)
        torch.testing.assert_close(refined["pred"], CRF(2)(logits[:1], levels[:1])[0])
        torch.testing.assert_close(refined["other"], CRF(2)(logits[1:], levels[:1])[0])
        assert data["pred"].data_ptr() == logits.data_ptr()
        assert refined["image"] is data["image"]
        assert refined["image_meta_dict"] is meta
        arrays = CRFd("pred", "image", iterations=2)({name: np.asarray(data[name]) for name in ("pred", "image")})
        assert isinstance(arrays["pred"], np.ndarray)
        np.testing.assert_array_equal(arrays["pred"], refined["pred"])

    def test_output_keys_missing_keys_and_devices(self):
        logits, levels = example(2)
        data = {"pred": logits[0], "image": levels[0]}
        expected = CRF(2)(logits[:1], levels[:1])[0]
        refined = CRFd("pred", "image", output_key="refined", iterations=2)(data)
        assert refined["pred"] is data["pred"]
        torch.testing.assert_close(refined["refined"], expected)
        lenient = CRFd(["pred", "aux"], "image", ["a", "b"], allow_missing_keys=True, device="cpu", iterations=2)(data)
        torch.testing.assert_close(lenient["a"], expected)
        assert "b" not in lenient
        assert CRFd("pred", "image", allow_missing_keys=True)({}) == {}
        given = {name: np.asarray(each) for name, each in data.items()}
        arrays = CRFd("pred", "image", device="cpu", iterations=2)(given)
        np.testing.assert_array_equal(arrays["pred"], expected)
        with raises_saying(KeyError, "aux"):
            CRFd(["pred", "aux"], "image")(data)
        with raises_saying(ValueError, "output_key=['a']", "as many as keys=['pred', 'aux']"):
            CRFd(["pred", "aux"], "image", output_key=["a"])

    def test_meta_tensors(self):
        data = pytest.importorskip("monai.data", reason="needs MONAI")
        logits, levels = example(2)
        affine = torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0]))
        given = {
            "pred": data.MetaTensor(logits[0], affine=affine, meta={"filename_or_obj": "a.nii"}),
            "image": data.MetaTensor(levels[0]),
        }
        refined = CRFd("pred", "image")(given)["pred"]
        assert isinstance(refined, data.MetaTensor)
        assert torch.equal(refined.affine, given["pred"].affine)
        assert refined.meta["filename_or_obj"] == "a.nii"
        assert torch.equal(refined.as_tensor(), CRF()(logits[:1], levels[:1])[0])


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "facts"),
        [
            ({"bilateral_color_sigma": 0}, ["bilateral_color_sigma=0", "above 0"]),
            ({"gaussian_spatial_sigma": float("nan")}, ["gaussian_spatial_sigma=nan"]),
            ({"bilateral_spatial_sigma": [5, -5]}, ["bilateral_spatial_sigma=[5, -5]"]),
            ({"iterations": -1}, ["iterations=-1"]),
        ],
    )
    def test_numbers(self, options, facts):
        with raises_saying(ValueError, *facts):
            CRF(**options)

    def test_tensors(self):
        logits, levels = example(2)
        crf = CRF()
        with raises_saying(ValueError, "reference_tensor", "(2, 2, 7, 5)", "input_tensor of shape (2, 3, 5, 7)"):
            crf(logits, levels.mT)
        with raises_saying(ValueError, "reference_tensor", "(1, 2, 5, 7)", "same batch"):
            crf(logits, levels[:1])
        with raises_saying(ValueError, "input_tensor", "(3, 7)", "1 to 3 spatial axes"):
            crf(logits[0, :, 0], levels)
        with raises_saying(TypeError, "input_tensor", "ndarray", "torch.Tensor"):
            crf(logits.numpy(), levels)
        with raises_saying(TypeError, "input_tensor is torch.int64", ".float()"):
            crf(logits.long(), levels)
        crf.compatibility_matrix = torch.eye(4)
        with raises_saying(ValueError, "compatibility_matrix", "(4, 4)", "(3, 3)"):
            crf(logits, levels)

    def test_filters(self):
        values, features = example(2)
        with raises_saying(ValueError, "features", "(2, 2, 7, 5)", "input of shape (2, 3, 5, 7)"):
            PHLFilter.apply(values, features.mT)
        for sigmas in ([1.0], [1.0, 0.0], [1.0, float("nan")], 2.0):
            with raises_saying(ValueError, f"sigmas={sigmas}", "2 numbers above 0"):
                PHLFilter.apply(values, features, sigmas)

    def test_a_missing_key(self):
        with raises_saying(KeyError, "image"):
            CRFd("pred", "image")({"pred": torch.zeros(2, 3)})

    def test_a_missing_extra_is_named(self):
        program = "import sys; sys.modules['torch'] = None; import crfrnn.compat.monai"
        process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert process.returncode == 1
        assert "crfrnn.compat.monai needs PyTorch" in process.stderr
        assert "pip install 'crfrnn[torch]'" in process.stderr


INSTALLED = """
import crfrnn.compat.monai as ours
ours.install()
from monai.networks.blocks import CRF
from monai.networks.layers import PHLFilter
import monai.networks.blocks.crf, monai.networks.layers.filtering as filtering
print(CRF is ours.CRF, monai.networks.blocks.crf.PHLFilter is PHLFilter is ours.PHLFilter, filtering.Other)
"""


def run(program, folder):
    """A program in a process of its own, with a folder to import from."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{program}"],
        capture_output=True,
        text=True,
        check=False,
    )


class TestInstall:
    def test_takes_the_place_of_two_names(self, tmp_path):
        """In a package laid out as MONAI's is."""
        files = {
            "monai/__init__.py": "",
            "monai/networks/__init__.py": "",
            "monai/networks/layers/__init__.py": "from .filtering import PHLFilter",
            "monai/networks/layers/filtering.py": "class PHLFilter: pass\nOther = 'theirs'",
            "monai/networks/blocks/__init__.py": "from .crf import CRF",
            "monai/networks/blocks/crf.py": "from monai.networks.layers.filtering import PHLFilter\nclass CRF: pass",
        }
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        ended = run(INSTALLED, tmp_path)
        assert ended.stdout == "True True theirs\n", ended.stderr

    def test_in_monai(self):
        pytest.importorskip("monai", reason="needs MONAI")
        program = INSTALLED.replace("filtering.Other", "filtering.BilateralFilter.__module__")
        ended = run(f"sys.modules['tensorflow'] = None; {program}", "")  # MONAI imports it where it is: ten seconds
        assert ended.stdout.endswith("True True monai.networks.layers.filtering\n"), ended.stderr

    def test_without_monai(self, tmp_path):
        ended = run("sys.modules['monai'] = None; import crfrnn.compat.monai as ours; ours.install()", tmp_path)
        assert (
            "ImportError: crfrnn.compat.monai.install() puts names into MONAI, which is not installed" in ended.stderr
        )


def test_one_lattice_a_kernel_and_item(monkeypatch):
    """Not one an iteration."""
    from crfrnn.inference import terms

    built = []
    build = terms.build_kernel

    def counted(*arguments):
        built.append(1)
        return build(*arguments)

    monkeypatch.setattr(terms, "build_kernel", counted)
    logits, levels = example(2)
    monai_module.CRF(iterations=7)(logits.requires_grad_(), levels).sum().backward()
    assert len(built) == 2 * 2


def test_one_channel_is_the_foreground_of_two_classes():
    torch.manual_seed(3)
    logits, image = torch.randn(2, 1, 6, 7), 100 * torch.rand(2, 3, 6, 7)
    both = torch.cat([torch.zeros_like(logits), logits], dim=1)
    matrix = torch.tensor([[1.0, 0.2], [0.4, 0.7]])
    for compatibility in (None, matrix):
        crf = CRF(iterations=3, compatibility_matrix=compatibility)
        torch.testing.assert_close(crf(logits, image), crf(both, image)[:, 1:], rtol=0, atol=1e-6)
    with raises_saying(ValueError, "(1, 1)", "(2, 2)"):
        CRF(compatibility_matrix=torch.zeros(1, 1))(logits, image)
