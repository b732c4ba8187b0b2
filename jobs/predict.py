"""`ecgray predict` as a job, alone or under `ray job submit`: the same words as the command line."""

import sys

from ecgray.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
