"""``python -m distill``: the command line."""

import sys

from distill.cli.main import main

sys.exit(main())
