"""`crfrnn.torch.CrfRnn` and `mean_field`: values and gradients against the oracles, inputs of every kind, errors."""

import copy
import io
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

from crfrnn import CRFParameters, reference
from crfrnn.crf import Bilateral, Grid, Spatial
from tolerances import GOLDEN, assert_close, tolerance

torch = pytest.importorskip("torch", reason="needs the torch extra")
from crfrnn.torch import CrfRnn, kept, mean_field  # noqa: E402

pytestmark = pytest.mark.torch

SHAPES = [((13,), 1), ((6, 7), 3), ((3, 4, 5), 2)]
KINDS = ["full", "per-class", "scalar"]


def batch(rng, spatial, channels, classes=4, size=2, dtype=torch.float64):
    """Random logits (B, C, *spatial) and an image (B, K, *spatial) whose neighbouring pixels are alike."""
    logits = torch.from_numpy(rng.normal(size=(size, classes, *spatial)))
    image = torch.from_numpy(rng.uniform(0, 255, size=(size, channels, *spatial)))
    return logits.to(dtype), image.to(dtype)


def layer(rng, classes=4, **options):
    """A float64 layer with random weights; deviations small enough for tiny images.

    They are no round numbers: on the border of two simplices rounding decides which vertices a point touches, and
    with that how far it sees, so that no two implementations need to agree there.
    """
    options = {"theta_alpha": 5.13, "theta_beta": 61.7, "theta_gamma": 1.57, "tolerance": 0, **options}
    made = CrfRnn(classes, **options).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.from_numpy(np.asarray(rng.normal(size=tuple(parameter.shape))))
    return made


def truth(crf, logits, image, mask=None):
    """Refined logits of one image by reference.py."""
    spatial = logits.shape[1:]
    grid = np.stack([axis.ravel() for axis in np.indices(spatial)[::-1]], axis=1)
    colours = image.reshape(len(image), -1).T
    smooth, similar = crf.crf.kernels
    theta_gamma = smooth.features.theta_gamma
    bilateral = np.concatenate([grid / similar.features.theta_alpha, colours / similar.features.theta_beta], axis=1)
    if isinstance(smooth.filter, Grid):
        kernel = reference.GridGaussian(spatial, theta_gamma)
    else:
        kernel = reference.Lattice(grid / theta_gamma)
    flat = None if mask is None else mask.ravel()
    W_s, W_b, M = (parameter.detach().numpy() for parameter in crf.parameters())
    terms = [
        reference.Term(kernel, W_s, smooth.normalization, flat),
        reference.Term(reference.Lattice(bilateral), W_b, similar.normalization, flat),
    ]
    refined, _ = reference.mean_field(
        logits.reshape(len(logits), -1),
        terms,
        iterations=crf.num_iterations,
        compatibility=M,
        damping=crf.crf.solver.damping,
    )
    return refined.reshape(logits.shape)


def assert_true(crf, logits, image, mask=None):
    with torch.no_grad():
        refined = crf(logits, image, mask)
    assert refined.dtype == logits.dtype
    bound = tolerance(refined.numpy().dtype).mean_field
    for index in range(len(logits)):
        one_mask = None if mask is None else mask[index].numpy()
        expected = truth(crf, logits[index].double().numpy(), image[index].double().numpy(), one_mask)
        assert_close(refined[index], expected, bound)


@pytest.mark.parametrize(("spatial", "channels"), SHAPES)
@pytest.mark.parametrize("kernel", ["grid", "lattice"])
def test_equals_the_reference_in_every_dimension(rng, spatial, channels, kernel):
    assert_true(layer(rng, spatial=kernel), *batch(rng, spatial, channels))


@pytest.mark.parametrize("normalization", ["after", "before", "symmetric"])
def test_normalisations_mask_and_damping(rng, normalization):
    logits, image = batch(rng, (6, 7), 3)
    mask = torch.from_numpy(rng.integers(0, 3, size=(2, 6, 7)) / 2)
    assert_true(layer(rng, normalization=normalization, damping=0.25), logits, image, mask)


@pytest.mark.parametrize("weights", KINDS)
@pytest.mark.parametrize("compatibility", KINDS)
def test_every_kind_of_weight_and_its_gradients(rng, weights, compatibility):
    crf = layer(rng, 3, weights=weights, compatibility=compatibility, num_iterations=2, damping=0.1)
    logits, image = batch(rng, (3, 4), 2, classes=3)
    assert_true(crf, logits, image)
    names = [name for name, _ in crf.named_parameters()]

    def refined(logits, *parameters):
        return torch.func.functional_call(crf, dict(zip(names, parameters, strict=True)), (logits, image))

    arguments = (logits.requires_grad_(), *(parameter.detach().requires_grad_() for parameter in crf.parameters()))
    assert torch.autograd.gradcheck(refined, arguments)


def test_gradients_with_a_mask_in_a_volume(rng):
    crf = layer(rng, 2, num_iterations=2, spatial="lattice", normalization="symmetric")
    logits, image = batch(rng, (2, 3, 2), 1, classes=2)
    mask = torch.from_numpy(rng.integers(0, 2, size=(2, 2, 3, 2)).astype(bool))
    assert torch.autograd.gradcheck(lambda logits: crf(logits, image, mask), (logits.requires_grad_(),))


def test_original_layer_and_its_four_gradients(crfrnn_layer):
    """That port adds the compatibility where we, like Keras, subtract it: M and its gradient change sign."""
    golden = {name: torch.from_numpy(array) for name, array in crfrnn_layer.items()}
    crf = CrfRnn(21, spatial="lattice")
    crf.load_state_dict(
        {
            "spatial_ker_weights": golden["spatial_ker_weights"],
            "bilateral_ker_weights": golden["bilateral_ker_weights"],
            "compatibility_matrix": -golden["compatibility_matrix"],
        }
    )
    logits = golden["logits"][None].requires_grad_()
    output = crf(logits, golden["image_bgr_mean_subtracted"][None])
    assert (output[0] - golden["output"]).abs().max() <= GOLDEN
    output.backward(golden["cotangent"][None])
    for name, gradient in [
        ("logits", logits.grad[0]),
        ("spatial_ker_weights", crf.spatial_ker_weights.grad),
        ("bilateral_ker_weights", crf.bilateral_ker_weights.grad),
        ("compatibility_matrix", -crf.compatibility_matrix.grad),
    ]:
        assert (gradient - golden[f"grad_{name}"]).abs().max() <= GOLDEN, name


def test_starts_as_published():
    crf = CrfRnn(3)
    assert torch.equal(crf.spatial_ker_weights, 3 * torch.eye(3))
    assert torch.equal(crf.bilateral_ker_weights, 5 * torch.eye(3))
    assert torch.equal(crf.compatibility_matrix, -torch.eye(3))
    assert crf.num_iterations == 5
    assert [kernel.features for kernel in crf.crf.kernels] == [Spatial(3.0), Bilateral(160.0, 3.0)]


def test_every_image_of_a_batch_is_refined_like_alone(rng):
    crf = layer(rng)
    logits, image = batch(rng, (6, 7), 3, size=5)
    together = crf(logits, image)
    for index in range(5):
        assert torch.equal(together[index], crf(logits[index : index + 1], image[index : index + 1])[0])


def test_the_number_of_threads_changes_no_bit(rng):
    logits, image = batch(rng, (40, 50), 3, size=3, dtype=torch.float32)
    crf = layer(rng).float()
    results = []
    for threads in (1, 2, 3, 7, None):
        crf.threads = threads
        given = logits.clone().requires_grad_()
        crf.zero_grad()
        refined = crf(given, image)
        refined.square().sum().backward()
        results.append([refined.detach(), given.grad, *(parameter.grad for parameter in crf.parameters())])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(rng, dtype):
    logits, image = batch(rng, (6, 7), 3, dtype=dtype)
    crf = layer(rng).float()
    refined = crf(logits, image)
    assert refined.dtype == dtype
    assert torch.equal(refined, crf(logits.float(), image.float()).to(dtype))
    assert crf.to(dtype)(logits, image).dtype == dtype


@pytest.mark.parametrize("classes", [2, 4, 21])
@pytest.mark.parametrize("storage", [torch.float16, torch.bfloat16])
def test_marginals_kept_in_16_bits(rng, classes, storage):
    logits, image = batch(rng, (17, 23), 3, classes, dtype=torch.float32)
    cotangent = torch.from_numpy(rng.normal(size=logits.shape)).float()
    exact = layer(rng, classes, damping=0.2).float()
    rounded = copy.deepcopy(exact)
    rounded.storage = storage

    def run(crf):
        leaf = logits.clone().requires_grad_()
        refined = crf(leaf, image)
        kept_sizes = {each.kept.itemsize for records in kept._entries.values() for each in records}
        refined.backward(cotangent)
        return refined.detach(), kept_sizes, [leaf.grad, *(parameter.grad for parameter in crf.parameters())]

    expected, whole, gradients = run(exact)
    found, half, rounded_gradients = run(rounded)
    assert torch.equal(found, expected)
    assert (whole, half) == ({4}, {2})
    for ours, true in zip(rounded_gradients, gradients, strict=True):
        error = (ours - true).abs().max() / true.abs().max()
        assert 0 < error < 1e-2


@pytest.mark.parametrize("classes", [4, 70])
def test_autocast_leaves_float32_alone(rng, classes):
    logits, image = batch(rng, (6, 7), 3, classes, dtype=torch.float32)
    crf = layer(rng, classes, num_iterations=1).float()
    expected = crf(logits, image)
    assert_true(crf, logits, image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(crf(logits, image), expected)
        scores = torch.nn.functional.conv2d(logits, torch.eye(classes)[:, :, None, None])
        assert crf(scores, image).dtype == scores.dtype == torch.bfloat16


def test_gradients_that_are_not_finite_pass_through(rng):
    """Loss scaling finds an overflow by them; an error would end the training."""
    logits, image = batch(rng, (3, 4), 3)
    refined = layer(rng)(logits.requires_grad_(), image)
    refined.backward(torch.full_like(refined, torch.inf))
    assert not logits.grad.isfinite().all()


def test_memory_layout_and_image_types_do_not_matter(rng):
    crf = layer(rng).float()
    logits, image = batch(rng, (6, 7), 3, dtype=torch.float32)
    image = image.round()
    expected = crf(logits, image)
    assert torch.equal(crf(logits.contiguous(memory_format=torch.channels_last), image.mT.contiguous().mT), expected)
    assert torch.equal(crf(logits, image.to(torch.uint8)), expected)
    assert torch.equal(crf(logits, image.to(torch.int64)), expected)


def test_inputs_are_left_as_they_were(rng):
    logits, image = batch(rng, (6, 7), 3)
    before = logits.clone(), image.clone()
    layer(rng)(logits.requires_grad_(), image).sum().backward()
    assert torch.equal(logits.detach(), before[0])
    assert torch.equal(image, before[1])


def test_iterations_may_change_at_any_time(rng):
    crf = layer(rng)
    logits, image = batch(rng, (6, 7), 3)
    for iterations in (0, 1, 10):
        crf.num_iterations = iterations
        assert_true(crf, logits, image)


def test_probabilities(rng):
    crf = layer(rng)
    logits, image = batch(rng, (6, 7), 3)
    expected = torch.softmax(crf(logits, image), dim=1)
    crf.return_probabilities = True
    torch.testing.assert_close(crf(logits, image), expected)


@pytest.mark.parametrize("weights", KINDS)
def test_copies_behave_alike(rng, weights):
    crf = layer(rng, weights=weights)
    logits, image = batch(rng, (6, 7), 3)
    expected = crf(logits, image)
    file = io.BytesIO()
    torch.save(crf.state_dict(), file)
    file.seek(0)
    loaded = layer(rng, weights=weights)
    loaded.load_state_dict(torch.load(file))
    for other in (copy.deepcopy(crf), pickle.loads(pickle.dumps(crf)), loaded):
        assert torch.equal(other(logits, image), expected)


def test_training_finds_the_weights_that_made_the_target(rng):
    logits, image = batch(rng, (6, 7), 3)
    target = layer(rng)(logits, image).detach()
    student = layer(rng)
    optimizer = torch.optim.Adam(student.parameters(), 0.05)
    losses = []
    for _ in range(40):
        loss = (student(logits, image) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_function_takes_parameters_and_tensors_in_their_place(rng):
    logits, image = batch(rng, (6, 7), 3)
    crf = layer(rng, normalization="symmetric", num_iterations=3, theta_alpha=(5.0, 4.0), damping=0.2)
    numbers = {
        "theta_alpha": (5.0, 4.0),
        "theta_beta": 61.7,
        "theta_gamma": 1.57,
        "normalization": "symmetric",
        "iterations": 3,
        "damping": 0.2,
        "tolerance": 0,
    }
    expected = crf(logits, image)
    weights = dict(
        zip(("spatial_weight", "bilateral_weight", "compatibility"), map(torch.detach, crf.parameters()), strict=True)
    )
    given = mean_field(logits, image, None, CRFParameters(**numbers), **weights)
    assert torch.equal(given, expected)
    fixed = CRFParameters(**numbers, **{name: tensor.numpy() for name, tensor in weights.items()})
    assert torch.equal(mean_field(logits, image, parameters=fixed), expected)
    potts = mean_field(logits, image, parameters=CRFParameters(**numbers, spatial_weight=0.1, bilateral_weight=0))
    minus = CRFParameters(**numbers, spatial_weight=[0.1] * 4, bilateral_weight=0, compatibility=-np.eye(4))
    torch.testing.assert_close(potts, mean_field(logits, image, parameters=minus))


GOOD = torch.zeros(2, 4, 5, 6), torch.zeros(2, 3, 5, 6)
NAN = GOOD[0].clone()
NAN[1, 2, 3, 4] = torch.nan


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            (GOOD[0][:, :3], GOOD[1]),
            ValueError,
            r"\(2, 3, 5, 6\), with 3 classes on axis 1.* made for 4 classes: expected \(batch, 4, \*spatial\)",
        ),
        ((torch.zeros(2, 4), GOOD[1]), ValueError, r"shape \(2, 4\); expected \(batch, classes, \*spatial\)"),
        ((GOOD[0].long(), GOOD[1]), TypeError, r"logits are torch.int64; .*\.float\(\)"),
        ((GOOD[0].numpy(), GOOD[1]), TypeError, "logits is a ndarray; expected a torch.Tensor"),
        ((GOOD[0][:0], GOOD[1][:0]), ValueError, r"\(0, 4, 5, 6\), which holds nothing"),
        ((NAN, GOOD[1]), ValueError, r"logits\[1\] holds 1 NaN .* at \[2, 3, 4\]"),
        ((NAN.nan_to_num(torch.inf), GOOD[1]), ValueError, r"logits\[1\] holds 1 infinite"),
        ((GOOD[0], GOOD[1].mT), ValueError, r"image has shape \(2, 3, 6, 5\); expected \(2, channels, 5, 6\)"),
        ((GOOD[0], GOOD[1][0]), ValueError, r"image has shape \(3, 5, 6\); expected \(2, channels, 5, 6\)"),
        ((GOOD[0], GOOD[1][:1]), ValueError, r"image has shape \(1, 3, 5, 6\); expected \(2, channels, 5, 6\)"),
        ((GOOD[0], GOOD[1][:, :0]), ValueError, "at least one channel"),
        ((GOOD[0], GOOD[1] + 0j), TypeError, "image is torch.complex64; expected real"),
        ((GOOD[0], GOOD[1] / 0), ValueError, "image holds 90 NaN"),
        ((GOOD[0], torch.zeros(2, 17, 5, 6)), ValueError, "a lattice takes at most 16"),
        ((*GOOD, torch.ones(2, 1, 5, 6)), ValueError, r"mask has shape \(2, 1, 5, 6\); expected \(2, 5, 6\)"),
        ((*GOOD, -torch.ones(2, 5, 6)), ValueError, "mask .*-1"),
    ],
)
def test_bad_input_is_named(arguments, error, words):
    with pytest.raises(error, match=words):
        CrfRnn(4)(*arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": 0}, "num_classes=0 must be at least 1"),
        ({"theta_beta": 0}, "theta_beta=0 must be .* above 0"),
        ({"normalization": "both"}, "normalization='both' is unknown"),
        ({"weights": "diagonal"}, "weights='diagonal' is unknown; use 'full', 'per-class', 'scalar'"),
        ({"num_iterations": -1}, "num_iterations=-1 must be at least 0"),
        ({"spatial_weight": torch.ones(4)}, r"spatial_weight has shape \(4,\); expected a number"),
        ({"bilateral_weight": math.nan}, "bilateral_weight is nan; expected a finite number"),
        ({"threads": 0}, "threads=0 must be at least 1"),
    ],
)
def test_bad_options_are_named_when_the_layer_is_made(options, words):
    with pytest.raises(ValueError, match=words):
        CrfRnn(**{"num_classes": 4, **options})


def test_options_that_do_not_fit_the_image_are_named():
    with pytest.raises(ValueError, match=r"theta_beta=\(1.0, 2.0\) has 2 values, but there are 3 image channels"):
        CrfRnn(4, theta_beta=(1.0, 2.0))(*GOOD)
    with pytest.raises(ValueError, match=r"bilateral_weight has shape \(3,\).* 4 classes"):
        mean_field(*GOOD, bilateral_weight=torch.ones(3))
    with pytest.raises(
        TypeError, match="parameters must be CRFParameters, a CRF, the name of a preset or a parameters file, got dict"
    ):
        mean_field(*GOOD, parameters={})
    with pytest.raises(ValueError, match="class_threshold is not available"):
        mean_field(GOOD[0].clone().requires_grad_(), GOOD[1], parameters=CRFParameters(class_threshold=0.01))


def test_another_device_is_named():
    """A stand-in for a tensor on a GPU, which the machine that tests may lack."""

    class Elsewhere(torch.Tensor):
        device = torch.device("cuda:0")

    with pytest.raises(ValueError, match="image is on cuda:0, but logits are on cpu; move all"):
        CrfRnn(4)(GOOD[0], GOOD[1].as_subclass(Elsewhere))


def test_shapes_can_be_inferred_without_data():
    crf = CrfRnn(4).to("meta")
    assert crf(GOOD[0].to("meta"), GOOD[1].to("meta")).shape == GOOD[0].shape


def test_missing_torch_is_an_error_that_names_the_extra():
    code = "import sys; sys.modules['torch'] = None; import crfrnn; import crfrnn.torch"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "pip install 'crfrnn[torch]'" in result.stderr
