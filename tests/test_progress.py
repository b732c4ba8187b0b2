"""How far a work is: a line every minute where there is no terminal, and what makes a long one shorter."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable

import pytest

from ecgray import progress
from ecgray.progress import Progress, duration
from ecgray.training.messages import Hearing, Messages, Told

Terminal = Callable[..., tuple[int, str]]


class Clock:
    """The time of a test, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def strftime(self, form: str) -> str:
        return "12:00:00"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_a_line_every_minute_where_there_is_no_terminal(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("pretrain", 1000, "step") as shown:
        shown.say(loss="loss 1.250")
        for step in range(1, 152):
            shown.to(step)
            if step == 20:
                shown.say(best="best accuracy 0.500 at step 20")
            clock.now += 1.0
    assert capsys.readouterr().err.splitlines() == [
        "12:00:00 pretrain: step 6/1000, loss 1.250, 17 min left",
        "12:00:00 pretrain: step 66/1000, best accuracy 0.500 at step 20, loss 1.250, 16 min left",
        "12:00:00 pretrain: step 126/1000, best accuracy 0.500 at step 20, loss 1.250, 15 min left",
    ]


def test_a_short_work_and_one_that_is_not_shown_say_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for show, steps in ((True, 4), (False, 400)):
        with Progress("predict", steps, "record", show=show) as shown:
            for step in range(steps):
                shown.to(step)
                clock.now += 1.0
            if not show:
                shown.note("a line")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")


def test_what_needs_no_work_does_not_count_for_the_time_that_is_left(clock: Clock) -> None:
    shown = Progress("seed 1 of 3", 300, "epoch", show=False)
    shown.part = 100.0
    shown.to(0)
    clock.now += 40.0
    shown.to(40)  # an epoch a second, and then the seed ends early
    shown.skip(60)
    shown.base = 100.0
    clock.now += 10.0
    shown.to(10)
    assert shown.left_s() == pytest.approx(190.0)
    shown.to(-100)  # from an older checkpoint again: it is measured anew
    assert shown.left_s() is None


def test_the_duration_of_a_long_work_is_told_once(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[float, float]] = []

    def advice(left: float, rate: float) -> str:
        asked.append((left, rate))
        return "about 14 h"

    shown = Progress("pretrain", 100_000, "step")
    shown.advise(advice)
    for step in range(1, 40):
        shown.to(step)
        clock.now += 0.5
    assert asked == [(pytest.approx((100_000 - 11) / 2), pytest.approx(2.0))]  # after ten steps beside the first
    assert capsys.readouterr().err.count("about 14 h\n") == 1
    slow = Progress("pretrain", 100_000, "step")
    slow.advise(advice)
    for step in (1, 2):
        slow.to(step)
        clock.now += 30.0
    assert asked[1:] == [(pytest.approx((100_000 - 2) * 30), pytest.approx(1 / 30))]  # not later than after 20 s


def test_durations_in_words() -> None:
    said = {45.4: "45 s", 89: "89 s", 90: "2 min", 3600: "60 min", 5400: "1 h 30 min", 7200: "2 h", 50_400: "14 h"}
    assert {seconds: duration(seconds) for seconds in said} == said


class Wire(Messages):
    """Messages of a cluster, kept here."""

    kept: dict[str, str]

    def put(self, name: str, text: str) -> None:
        self.kept[name] = text

    def get(self, name: str) -> str | None:
        return self.kept.get(name)


def test_the_driver_shows_where_the_first_worker_is(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    wire = Wire("start")
    object.__setattr__(wire, "kept", {})
    told, shown = Told(wire, 50), Progress("pretrain", None, "step")
    hearing = Hearing(wire, shown)
    hearing.look()  # nothing said yet
    told.say(loss="loss 0.500")
    for step in range(1, 31):
        told.to(step)
        if step % 10 == 0:
            told.note(f"step {step}: validation loss 0.4")
        clock.now += 1.0
        hearing.look()
    told.draw()
    hearing.look()
    hearing.look()
    assert (shown.done, shown.total) == (30, 50)
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "validation" in line] == [
        f"12:00:00 step {step}: validation loss 0.4" for step in (10, 20, 30)
    ]
    assert any("pretrain: step" in line and "loss 0.500" in line for line in said)
    assert len(json.loads(wire.kept["progress"])["notes"]) == 3


def rows_of(said: str) -> list[str]:
    """What stood on the terminal, drawing by drawing."""
    return [row for row in re.split(r"[\r\n]|\x1b\[A", said) if row.strip()]


def test_a_bar_on_a_terminal_fits_it(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "BAR_S", 0.0)

    def work() -> int:
        progress.announce(True, "on the records of " + "many patients and " * 6 + "more")
        with Progress("seed 10 of 10", 200_000, "epoch") as shown:
            shown.say(speed="1,234,567 frames/s", loss="loss 1.234", best="best 0.547 (step 100000)")
            for done in range(100_000, 100_003):
                shown.to(done)
            shown.note("step 10: validation loss 1.0")
        progress.announce(True, "done: 3")
        return 0

    for columns in (80, 60):
        code, said = terminal(work, columns)
        rows = rows_of(said)
        assert code == 0 and max(map(len, rows)) <= columns
        assert rows[0].startswith("on the records of many patients") and rows[1].startswith("    ")
        bars = [row for row in rows if row.startswith("seed 10 of 10  50%|")]
        assert len(bars) >= 3
        assert re.search(r"\| \d+ \w+( \d+ min)? left, best 0\.547", bars[2])
        assert "step 10: validation loss 1.0" in rows and rows[-1] == "done: 3"


def test_a_process_behind_another_one_draws_no_bar(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_LINE_S", 0.0)

    def work() -> int:
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.setpgid(0, 0)  # as a job behind the shell's prompt
        with Progress("pretrain", 10, "step") as shown:
            shown.to(3)
        os._exit(0)

    code, said = terminal(work)
    assert code == 0 and re.fullmatch(r"\d\d:\d\d:\d\d pretrain: step 3/10\n", said)
