"""What the symbols and names in WFDB annotation files mean: the one table for all databases.

Beat symbols: https://physionet.org/physiobank/annotations.shtml. Rhythm names, and which database uses them:

| meaning here | names |
|---|---|
| normal | N (mitdb, afdb, ltafdb, edb, Icentia11K), NSR (vfdb), SR |
| afib | AFIB (mitdb, afdb, ltafdb, vfdb, Icentia11K), AF (cudb) |
| aflut | AFL (mitdb, afdb, Icentia11K) |
| noise | NOISE (vfdb; the rhythm before goes on below it, unseen) |
| other | AB atrial and B ventricular bigeminy, T ventricular trigeminy, BI, BII, B3 heart block of degree 1 to 3, SAB sinoatrial block, SBR sinus bradycardia, AT, PAT, SVT, SVTA supraventricular and VT ventricular tachycardia, VFL ventricular flutter, VF, VFIB ventricular fibrillation, ASYS asystole, IVR, AIVR idioventricular, VER ventricular escape, HGEA high grade ventricular ectopic activity, J, NOD junctional, P, PM paced, PREX pre-excitation |

Sources: the pages "Annotations in the VFDB" and "MIT-BIH Arrhythmia Database Directory" (tables of rhythms) of
PhysioNet, and the names that the files of ltafdb, cudb and edb hold.
"""  # noqa: E501

from __future__ import annotations

import re
from collections.abc import Mapping

from ecgray.errors import plain

# Every symbol that WFDB counts as a QRS complex; all other symbols (~ | x " [ ] + ...) are no beats.
BEAT_SYMBOLS: dict[str, str] = (
    dict.fromkeys("NLRejnB", "normal")
    | dict.fromkeys("AJS", "pac")
    | {"a": "aberrated"}
    | dict.fromkeys("VEr", "pvc")
    | dict.fromkeys("Q?/fF!", "undefined")
)

_OTHER = (
    "AB B T BI BII B3 BIII SAB SBR AT PAT SVT SVTA VT VFL VF VFIB ASYS IVR AIVR VER HGEA J NOD P PM PREX"  # as above
)
RHYTHM_NAMES: dict[str, str] = (
    dict.fromkeys(_OTHER.split(), "other")
    | dict.fromkeys(("N", "NSR", "SR"), "normal")
    | dict.fromkeys(("AFIB", "AF"), "afib")
    | {"AFL": "aflut", "NOISE": "noise"}
)
"""Name as ``rhythm_name`` gives it -> one of RHYTHMS. A name that is not here counts as other, and is told."""

EVENTS = frozenset(("MISSB", "PSE", "M", "MB", "AUX"))
"""Texts of rhythm marks that begin no rhythm: a missed beat, a pause and the like (ltafdb)."""

DETECTORS = ("qrs", "ecg", "wqrs", "gqrs", "sqrs", "xqrs", "jqrs", "nqrs", "pqrs", "epltd", "hamilton")
"""Suffixes of files that a detector wrote: it marks every beat as N, which says where one is and not of which kind."""

MINUTES = ("apn",)
"""Suffixes of files whose N and A are minutes without and with apnea (apnea-ecg), and no beats."""

_TOLD = 10
"""Names that one line tells."""

_BLANK = "\0\t\n\v\f\r \x01\x02\x03\x04\x05\x06\x07\x08"


def rhythm_name(text: str) -> str:
    """The name in the text of a rhythm mark, as RHYTHM_NAMES has it: "( afib\\0 " is AFIB, ")" is empty."""
    return text.strip(_BLANK).strip("()").strip(_BLANK).upper()


def misunderstood(symbols: Mapping[str, int]) -> list[str]:
    """One line each on the rhythm names, other texts of rhythm marks and annotation types that no table here knows, the
    most frequent of each first. ``symbols``: counts as ``AnnotationFile.counts`` gives them."""
    texts = {
        text.removeprefix("+ "): count
        for text, count in symbols.items()
        if text.startswith("+ ") and (name := rhythm_name(text[2:])) and name not in RHYTHM_NAMES.keys() | EVENTS
    }
    named = {text: count for text, count in texts.items() if text.lstrip().startswith("(")}
    types = {text: count for text, count in symbols.items() if re.fullmatch(r"type \d+", text)}
    others = {text: count for text, count in texts.items() if text not in named}
    told = (
        _line(named, ("rhythm name", "rhythm names"), "as other"),
        _line(others, ("text of a rhythm mark", "texts of rhythm marks"), "as no rhythm"),
        _line(types, ("annotation type", "annotation types"), "as no beat"),
    )
    return [line for line in told if line]


def _line(found: Mapping[str, int], what: tuple[str, str], instead: str) -> str:
    if not found:
        return ""
    most = sorted(found.items(), key=lambda one: (-one[1], one[0]))
    listed = ", ".join(f"{plain(text, 40)} {count:,}" for text, count in most[:_TOLD])
    more = f" and {len(most) - _TOLD} more" if len(most) > _TOLD else ""
    words = f"1 {what[0]} was not understood and counts" if len(found) == 1 else f"{len(found)} {what[1]} were not"
    return f"{words}{'' if len(found) == 1 else ' understood and count'} {instead}: {listed}{more}"
