"""``python -m ecgray``: the command line where no ``ecgray`` is on the path, as under a debugger."""

import sys

from ecgray.cli import main

sys.exit(main())
