"""`crfrnn.torch` in the processes of others: data loader workers, distributed training, many Python threads."""

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
import torch.distributed as dist  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

from crfrnn.torch import CrfRnn  # noqa: E402

pytestmark = pytest.mark.torch


def example(index):
    generator = torch.Generator().manual_seed(index)
    logits = torch.randn(3, 12, 10, generator=generator)
    return logits, 255 * torch.rand(3, 12, 10, generator=generator)


def network():
    """A layer after a trained one, the same in every process."""
    torch.manual_seed(0)
    return Network()


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scores = torch.nn.Conv2d(3, 3, 1)
        self.crf = CrfRnn(3, 2, theta_alpha=5.13, theta_beta=61.7, threads=2)

    def forward(self, logits, image):
        return self.crf(self.scores(logits), image)


def loss(model, indices):
    logits, image = (torch.stack(tensors) for tensors in zip(*map(example, indices), strict=True))
    return model(logits, image).square().mean()


class Refined(Dataset):
    """Examples that a worker refines; the layer comes along with the data set."""

    def __init__(self):
        self.crf = CrfRnn(3, theta_alpha=5.13, theta_beta=61.7, threads=2)

    def __len__(self):
        return 6

    @torch.no_grad()
    def __getitem__(self, index):
        logits, image = example(index)
        return self.crf(logits[None], image[None])[0]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_data_loader_workers(start):
    """Forked after this process has used its threads: there a pool that outlived its calls would hang."""
    if start not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"this system does not {start} processes")
    data = Refined()
    expected = [data[index] for index in range(len(data))]
    loss(network(), range(4)).backward()
    loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context=start, timeout=100)
    for actual, alone in zip(torch.cat(list(loader)), expected, strict=True):
        assert torch.equal(actual, alone)


def train(rank, folder):
    """One of two processes: its half of the examples, then the gradients that both agreed on."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = DistributedDataParallel(network())
    loss(model, range(2 * rank, 2 * rank + 2)).backward()
    torch.save([parameter.grad for parameter in model.parameters()], f"{folder}/{rank}.pt")
    del model
    gc.collect()  # a model that is alive when its process ends aborts it at times, with any layer in it
    dist.destroy_process_group()


def test_distributed_training_in_two_processes(tmp_path):
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this torch has no gloo")
    torch.multiprocessing.spawn(train, (str(tmp_path),), nprocs=2)
    alone = network()
    loss(alone, range(4)).backward()
    for rank in range(2):
        for gradient, parameter in zip(torch.load(tmp_path / f"{rank}.pt"), alone.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad)


def test_many_python_threads_at_once():
    """Their handles come and go at the same time."""
    model = network()
    parameters = list(model.parameters())

    def gradients(index):
        return torch.autograd.grad(loss(model, [index, index + 1]), parameters)

    expected = [gradients(index) for index in range(4)]
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(gradients, list(range(4)) * 8))
    for index, found in enumerate(actual):
        assert all(torch.equal(a, b) for a, b in zip(found, expected[index % 4], strict=True))
