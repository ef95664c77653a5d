"""Importing TensorFlow without what it tells of itself."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

LEVEL = "TF_CPP_MIN_LOG_LEVEL"
"""The variable that says from which level on TensorFlow logs; who sets it sees what it asks for."""
ERRORS = "3"
"""The level beyond errors, which are exceptions as well."""
REMARKS = re.compile(rb"(WARNING: All log messages before absl|I0000 |To enable the following instructions: ).*\n?")
"""What it logs before it heeds its level."""


@contextmanager
def without_remarks() -> Iterator[None]:
    """Leave out of stderr what TensorFlow's native code tells while it is loaded; everything else comes afterwards."""
    if LEVEL in os.environ or "tensorflow" in sys.modules:
        yield
        return
    os.environ[LEVEL] = ERRORS
    try:
        stderr = os.dup(2)
    except OSError:  # there is none
        yield
        return
    with tempfile.TemporaryFile() as told:
        os.dup2(told.fileno(), 2)
        try:
            yield
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(stderr, 2)
            told.seek(0)
            left = b"".join(line for line in told if not REMARKS.match(line))
            if left:
                os.write(stderr, left)
            os.close(stderr)
