"""That steps of a device ask nothing of it and send it nothing, known without one; `-m gpu` tries it on a card.

See `test_a_gpu_is_never_waited_for` and `test_cuda_graphs` in test_device_ops.py.
"""

import weakref
from collections import Counter

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from crfrnn.inference.backend import Inputs  # noqa: E402
from crfrnn.torch.gpu import lattice, meanfield  # noqa: E402
from specified import THETAS, specified  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture
def no_values(monkeypatch):
    """Tensors of shapes alone, where reading a value is an error, and Triton kernels that do nothing."""
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton.runtime.jit.JITFunction, "__getitem__", lambda kernel, grid: lambda *_, **__: None)
    lattice._constants.cache_clear()
    with FakeTensorMode():
        yield
    lattice._constants.cache_clear()


def learned():
    return {name: torch.empty(1) for name in THETAS}


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("spatial", ["grid", "lattice"])
def test_no_size_and_no_step_depends_on_values(no_values, spatial, deterministic):
    """What a GPU would be waited for; counting added vertices, which has to wait, shows that it would be seen."""
    from crfrnn.torch.gpu import triton_steps

    logits, image = torch.empty(2, 4, 6, 7), torch.empty(2, 3, 6, 7)
    couplings = [torch.empty(()), torch.empty(4, 4)]

    def there_and_back(rounds):
        crf, execution = specified(
            spatial=spatial,
            neighbour_rounds=rounds,
            iterations=2,
            damping=0.1,
            class_threshold=0.2,
            deterministic=deterministic,
        )
        inputs = Inputs(logits, image, torch.empty(2, 6, 7), thetas=learned())
        refined, record = meanfield.forward(crf, inputs, couplings, True, execution, triton_steps)
        return meanfield.vjp(crf, inputs, refined, record, couplings, execution, True, triton_steps)

    found = there_and_back(0)
    assert (found.logits.shape, found.couplings[1].shape) == (logits.shape, (4, 4))
    assert (found.image.shape, found.mask.shape) == (image.shape, (2, 6, 7))
    assert {name: theta.shape for name, theta in found.thetas.items()} == dict.fromkeys(THETAS, (1,))
    with pytest.raises(DataDependentOutputException):
        there_and_back(1)


class NoHostNumbers(TorchDispatchMode):
    """What copies numbers of the host to a tensor is an error: a GPU would be waited for, and no graph be recorded."""

    def __init__(self, *known):
        super().__init__()
        self.known = list(known)

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        result = operator(*arguments, **(options or {}))
        packet = operator.overloadpacket
        if packet is torch.ops.aten.lift_fresh:  # a number alone can be an argument of a kernel
            assert not result.ndim, f"{operator} from the host"
            return result
        if packet is torch.ops.aten.copy_:
            assert any(arguments[1] is each for each in self.known), f"{operator} from the host"
        self.known += result if isinstance(result, list | tuple) else [result]
        return result


def test_numbers_of_the_host_are_noticed(no_values):
    numbers = torch.empty(3)
    with NoHostNumbers(numbers):
        numbers[:2] = 4.0  # by a kernel
        numbers[:2] = torch.zeros(2)
        with pytest.raises(AssertionError, match="copy_"):
            numbers[0] = 4.0
        with pytest.raises(AssertionError, match="lift_fresh"):
            torch.tensor([1.0, 2.0])


@pytest.mark.parametrize("spatial", ["grid", "lattice"])
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("storage", [None, torch.float16])
def test_nothing_is_copied_from_the_host(no_values, spatial, deterministic, storage):
    """But constants, in the first call."""
    from crfrnn.torch.gpu import triton_exact, triton_steps

    crf, execution = specified(
        normalization="symmetric",
        spatial=spatial,
        iterations=2,
        damping=0.1,
        class_threshold=0.2,
        deterministic=deterministic,
        storage=storage,
    )
    logits, image, mask = torch.empty(2, 21, 6, 7), torch.empty(2, 3, 6, 7), torch.empty(2, 6, 7)
    couplings, thetas = [torch.empty(()), torch.empty(21, 21)], learned()

    def there_and_back():
        for given in (None, mask):
            inputs = Inputs(logits, image, given, thetas={} if given is None else thetas)
            refined, record = meanfield.forward(crf, inputs, couplings, True, execution, triton_steps)
            meanfield.vjp(crf, inputs, refined, record, couplings, execution, given is not None, triton_steps)

    there_and_back()
    with NoHostNumbers(logits, image, mask, *couplings, *thetas.values()):
        there_and_back()
        triton_exact.exact_filter(logits.flatten(2), image.flatten(2))


def test_constants_in_graphs_stay(monkeypatch):
    """A graph reads them at every replay."""
    recording = [True]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: recording[0])
    monkeypatch.setattr(lattice, "_recorded", {})
    lattice._constants.cache_clear()
    with FakeTensorMode():
        place = torch.device("cuda", 0)
        recorded = lattice.constants((1.5,), torch.float32, place)
        recording[0] = False
        for number in range(300):
            lattice.constants((float(number),), torch.float32, place)
        assert lattice._constants.cache_info().currsize < 300
        assert lattice.constants((1.5,), torch.float32, place) is recorded
    lattice._constants.cache_clear()


class Memory(TorchDispatchMode):
    """The most bytes that tensors made inside hold at a time."""

    def __init__(self):
        super().__init__()
        self.held, self.now, self.most = Counter(), 0, 0

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        result = operator(*arguments, **(options or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if not self.held[storage._cdata]:
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                self.held[storage._cdata] += 1
                weakref.finalize(tensor, self.release, storage._cdata, storage.nbytes())
        return result

    def release(self, storage, size):
        self.held[storage] -= 1
        if not self.held[storage]:
            self.now -= size


@pytest.mark.parametrize(
    ("vertices", "storage", "kept", "bytes_a_pixel"),
    [(0.67, None, 0, 700), (1.85, None, 0, 1000), (0.67, torch.bfloat16, 0, 510), (0.67, None, 5, 1360)],
)
def test_memory_where_vertices_are_counted(no_values, monkeypatch, vertices, storage, kept, bytes_a_pixel):
    """A photo of 21 classes, by vertices a pixel and bytes that tensors hold, the result's among them.

    A sort has as much again as it sorts, which tensors do not show; but then no rows are there yet.
    """
    from crfrnn.torch.gpu import triton_steps

    pixels = 366 * 500
    monkeypatch.setattr(lattice, "_counted", lambda number: round(vertices * pixels))
    crf, execution = specified(iterations=max(2, kept), storage=storage)
    logits, image = torch.empty(1, 21, 366, 500), torch.empty(1, 3, 366, 500)
    couplings = [torch.empty(()), torch.empty(())]

    def most(execution):
        with Memory() as memory:
            inputs = Inputs(logits, image)
            _, record = meanfield.forward(crf, inputs, couplings, kept > 0, execution, triton_steps)
            if kept:
                meanfield.vjp(crf, inputs, logits, record, couplings, execution, False, triton_steps)
        return memory.most / pixels

    counted = most(execution._replace(count_vertices=True))
    assert counted <= bytes_a_pixel
    assert counted < most(execution) / 1.5
