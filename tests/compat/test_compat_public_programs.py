"""The programs of docs/compatibility.md, which `experiments.compatibility` holds, and what the page says of them."""

import importlib.util
import re
import warnings

import numpy as np
import pytest
from experiments import compatibility

from crfrnn.plausibility import InputWarning
from repository import ROOT
from tolerances import GOLDEN

WARN = {"satellite_tile", "spectral_bands", "alpha_channel"}


@pytest.fixture(scope="module")
def scene():
    return compatibility.scene()


@pytest.mark.parametrize("program", compatibility.PROGRAMS, ids=lambda program: program.__name__)
@pytest.mark.filterwarnings("ignore::crfrnn.plausibility.InputWarning")
class TestPrograms:
    def test_run_on_our_modules(self, program, scene, recwarn):
        q = program(compatibility.modules_of("crfrnn.compat.pydensecrf"), scene)
        np.testing.assert_allclose(q.sum(axis=0), 1, atol=1e-5)
        assert len(np.unique(q.argmax(axis=0))) > 1

    def test_warn_where_they_are_odd_and_nowhere_else(self, program, scene):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            program(compatibility.modules_of("crfrnn.compat.pydensecrf"), scene)
        assert any(issubclass(each.category, InputWarning) for each in seen) == (program.__name__ in WARN)

    @pytest.mark.skipif(importlib.util.find_spec("pydensecrf") is None, reason="compares with pydensecrf2")
    def test_do_what_they_do_on_pydensecrf(self, program, scene):
        probability, labels = compatibility.difference(program, scene)
        # Sums that are not normalised are hundreds, times 20: work left out shows where they nearly cancel.
        assert probability <= (5 * GOLDEN if program is compatibility.text_mask else GOLDEN)
        assert labels <= 1e-3


def test_the_page_has_a_row_for_each():
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    first, last = (re.escape(mark) for mark in compatibility.MARKS)
    rows = re.search(f"{first}(.*?){last}", page, re.DOTALL).group(1)
    for program in compatibility.PROGRAMS:
        assert program.__doc__.strip().rstrip(".") in rows
