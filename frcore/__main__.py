"""`python -m frcore` is the same as `frcore`."""

import sys

from frcore.cli.main import main

sys.exit(main())
