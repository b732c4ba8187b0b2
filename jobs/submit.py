"""Submit one of these jobs from the laptop and follow it to its end: `python jobs/submit.py pretrain RECIPE ...`."""

import sys
from pathlib import Path

from ecgray.errors import EcgrayError
from ecgray.operations.submit import submit

if __name__ == "__main__":
    try:
        sys.exit(submit(sys.argv[1:], Path(__file__).absolute().parent))
    except EcgrayError as error:
        print(f"ecgray: {error}", file=sys.stderr)
        sys.exit(2)
