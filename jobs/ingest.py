"""`ecgray ingest` as a job: `python jobs/ingest.py ...` alone, or under `ray job submit`. Same words as the command line."""

import sys

from ecgray.cli import main

if __name__ == "__main__":
    sys.exit(main(["ingest", *sys.argv[1:]]))
