"""Numbers as they are printed."""

from __future__ import annotations

import math

from ecgray.report.words import number


def test_a_number_loses_a_leading_zero_and_no_other() -> None:
    shown = {0.7794: ".779", -0.25: "-.250", 1.0: "1.000", 10.5: "10.500", 20.031: "20.031", 100.0: "100.000"}
    assert {value: number(value) for value in shown} == shown
    assert (number(0.5, 1), number(0, 0), number(10, 1), number(math.nan)) == (".5", "0", "10.0", "\u2013")
