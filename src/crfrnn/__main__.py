"""`python -m crfrnn` is the command `crfrnn`."""

import sys

from crfrnn.cli import main

sys.exit(main())
