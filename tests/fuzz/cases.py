"""All strategies by the names of their properties."""

import examples_compat  # noqa: F401
import examples_torch  # noqa: F401
from examples import EXAMPLES as OF_ARRAYS
from examples_files import EXAMPLES as FILES

CALLS = {**OF_ARRAYS}
"""Of calls: the modules imported here have put theirs there as well."""
EXAMPLES = CALLS | FILES
