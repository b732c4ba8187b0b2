"""``python -m ecgray.cli``."""

import sys

from ecgray.cli import main

sys.exit(main())
