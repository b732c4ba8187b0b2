"""jobs/submit.py on clusters that do not answer for a while: a job is begun once, and followed to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ecgray.errors import EcgrayError
from ecgray.operations import submit as submission

LOG = "step 1\nstep 2\nstep 3\n"
BUSY = RuntimeError("Request failed with status code 500: RPC error: Deadline Exceeded")


JOBS = Path(__file__).parents[2] / "jobs"


class Client:
    """A cluster that is asked for one job. tails: how much of the log is told each time it is followed, and how that
    ends; statuses: what is told of the job, each error and each answer once, the last one for ever."""

    def __init__(self, tails: list[tuple[int, Exception | None]], statuses: list[Any]) -> None:
        self.tails, self.statuses = tails, statuses
        self.begun: list[dict[str, Any]] = []
        self.refusals: list[Exception] = []

    def submit_job(self, **asked: Any) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.begun.append(asked)

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        told, error = self.tails.pop(0)
        for first in range(0, told, 5):
            yield LOG[first : min(first + 5, told)]
        if error is not None:
            raise error

    def get_job_status(self, job: str) -> Any:
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if isinstance(status, Exception):
            raise status
        return SimpleNamespace(value=status, is_terminal=lambda: status in ("SUCCEEDED", "FAILED", "STOPPED"))

    def get_job_logs(self, job: str) -> str:
        return LOG


def run(monkeypatch: pytest.MonkeyPatch, client: Client) -> int:
    import ray.job_submission

    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # what is set by default would stay for other tests
    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", lambda address: client)
    monkeypatch.setattr(submission.time, "sleep", lambda seconds: None)
    code: int = submission.submit(["pretrain", "weimann2021_beat", "--out", "a run"], JOBS)
    return code


@pytest.mark.parametrize("end", ["SUCCEEDED", "FAILED", "STOPPED"])
def test_a_job_is_followed_to_its_end_although_the_cluster_is_busy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: str
) -> None:
    tails = [(0, ConnectionError("no way")), (9, None), (16, BUSY), (12, None)]  # the last is cut short at its end
    client = Client(tails, ["RUNNING", BUSY, "RUNNING", BUSY, BUSY, "RUNNING", end])
    assert run(monkeypatch, client) == (0 if end == "SUCCEEDED" else 1)
    assert capsys.readouterr().out == LOG and not client.tails


def test_what_is_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client([(len(LOG), None)], ["SUCCEEDED"])
    assert run(monkeypatch, client) == 0
    (asked,) = client.begun
    assert asked["entrypoint"] == "python jobs/pretrain.py weimann2021_beat --out 'a run'"
    assert Path(asked["runtime_env"]["working_dir"]) == Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("statuses", "begun"), [([BUSY, "SUCCEEDED"], 1), (["RUNNING", "SUCCEEDED"], 0)], ids=["not begun", "answer lost"]
)
def test_a_job_is_begun_once(monkeypatch: pytest.MonkeyPatch, statuses: list[Any], begun: int) -> None:
    client = Client([(len(LOG), None)], statuses)
    client.refusals = [RuntimeError("No available agent to submit job, please try again later.")]
    assert run(monkeypatch, client) == 0
    assert len(client.begun) == begun and not client.refusals


def test_a_cluster_that_answers_no_more_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "PATIENCE_S", 0.0)
    with pytest.raises(EcgrayError) as ended:
        run(monkeypatch, Client([(0, BUSY)], [BUSY]))
    said = str(ended.value)
    assert "Deadline Exceeded" in said and "ray dashboard" in said and "\n" not in said


def test_a_job_that_is_never_taken_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "PATIENCE_S", 0.0)
    client = Client([], [RuntimeError("Job pretrain-1 does not exist")])
    client.refusals = [RuntimeError("No available agent to submit job, please try again later.")]
    with pytest.raises(EcgrayError, match="got: No available agent"):
        run(monkeypatch, client)


def test_a_word_that_is_no_job_is_refused() -> None:
    with pytest.raises(EcgrayError, match="got train; give one of evaluate, finetune, ingest, predict, pretrain"):
        submission.submit(["train"], JOBS)
