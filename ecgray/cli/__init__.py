"""The command line: words to calls, nothing else. ``ecgray --help`` lists the verbs."""

import os
import sys
from collections.abc import Callable, Sequence

from ecgray.cli import data, lists, operations, runs, search
from ecgray.errors import EcgrayError, unknown


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 2 for what the user can mend, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not words or words[0] in ("-h", "--help"):
            print(_overview())
        elif words[0] == "--version":
            from ecgray import __version__

            print(f"ecgray {__version__}")
        elif words[0] in VERBS:
            VERBS[words[0]][1](words[1:])
        else:
            raise unknown("command", words[0], VERBS)
        sys.stdout.flush()  # what a closed pipe refuses is heard here, not while the interpreter ends
    except EcgrayError as error:
        print(f"ecgray: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has enough
        return 0
    except OSError as error:
        print(
            f"ecgray: {error.filename or 'a file'} must be readable and writable, got: {error.strerror or error}.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"ecgray: interrupted{f'; {interrupt}' if str(interrupt) else ''}.", file=sys.stderr)
        return 130
    return 0 if words else 2


def _overview() -> str:
    rows = "\n".join(f"  {verb:<12}{text}" for verb, (text, _) in VERBS.items())
    return f"usage: ecgray VERB ...   (ecgray VERB --help shows its words)\n\n{rows}"


VERBS: dict[str, tuple[str, Callable[[list[str]], None]]] = {
    "synthesise": ("write a synthetic database as WFDB files", data.synthesise),
    "ingest": ("files of a database to a shard set", data.ingest),
    "inspect": ("what shard sets hold", data.inspect),
    "label": ("what a task asks of given frames", data.label),
    "pretrain": ("pretrain a network by a recipe", runs.pretrain),
    "finetune": ("finetune it on labelled records, several seeds", runs.finetune),
    "evaluate": ("score a finetuning run on records it has not seen", runs.evaluate),
    "predict": ("what a finetuning run says of any recordings", runs.predict),
    "sweep": ("search for the settings whose network finetunes best", search.sweep),
    "report": ("the paper's table, ours beside it", runs.report),
    "runs": ("list the runs in a folder", operations.runs),
    "plan": ("what a pretraining takes on a cluster that is not there yet", operations.plan),
    "doctor": ("check this machine or cluster", operations.doctor),
    "recipes": ("list the recipes", lists.recipes),
    "databases": ("list the databases", lists.lister("databases", lists.databases)),
    "tasks": ("list the pretraining tasks", lists.lister("tasks", lists.tasks)),
    "spaces": ("list the search spaces", lists.lister("spaces", lists.spaces)),
    "models": ("list the networks", lists.lister("models", lists.models)),
}
