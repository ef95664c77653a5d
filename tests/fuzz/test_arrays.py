"""Any array in any form at every public call: no crash, no hang, and an error in our words or a right result.

`make fuzz` tries more of the same examples by chance.
"""

from collections import Counter
from collections.abc import Iterator

import pytest
from search import search
from worker import Worker

from cases import CALLS

EACH = 30


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    pytest.importorskip("torch", reason="needs the torch extra")
    with Worker() as process:
        yield process


@pytest.mark.torch
@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str, worker: Worker) -> None:
    counts: Counter[str] = Counter()
    found = search(name, CALLS[name], worker, EACH, counts, set())
    assert found is None, f"{found[1].signature}\n{found[1].seen}\nof {found[0]}"
    assert counts["right"] > 0, f"no call went through: {counts}"
