"""Which signal is an ECG lead, told by its name, and when two names are the same lead.

Names as PhysioNet's databases, polysomnographies and monitors spell them. Case, blanks and punctuation do not count.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from functools import lru_cache

from ecgray.databases.record import RecordRefused

_ECG_WORD = re.compile(r"(?:ecg|ekg|holter|electrocardio)")
_LEAD = re.compile(
    r"i{1,3}|(?:lead|derivation|d|l)[1-4]|a?v[rlf]|v[1-9]?[rlm]?|(?:mod|m)v[1-9]|v[xyz]"
    r"|ml(?:i{1,3}|[1-5])|mcl?[1-6]|c[cmbrhls][1-7]|nehb[daj]|[ae]s|ai"
)
# Words beside the name of a lead that leave it one.
_BESIDE = {"lead", "leads", "derivation", "mod", "modified", "limb", "chest", "channel", "signal", "mv", "raw", "ref"}

_OTHER_WORDS = """
    resp respiration respiratory rsp rr rip imp impedance breath breathing nasal oral airflow flow flw thor thorax
    thoracic abdo abd abdomen abdominal chest sum snore mic effort cannula therm thermistor ribcage torace addome flusso
    pneumo paw volume vol
    abp art ao bp nbp nibp cvp pap icp cpp lap rap lvp rvp pcwp pcw uap uvp uac uvc umb fem press pressure blood map co
    sv pleth bvp pulse sp so2 osat ox o2 o2sat sat co2 etco2 capno nirs
    eeg eog emg loc roc chin leg legs plm tib lat rat ecog meg seeg bis erg eng sx dx
    gyr mag imu pos position posture body activity actigraphy motion pcg scg bcg icg dzdt z0 sound phono gsr eda scr scl
    emfi vibration light lux force
    his hra rva abl egm uc toco fhr mhr
"""
_NUMBER_WORDS = """
    hr hrv heartrate rate bpm temp temperature tskin annotation annotations annot event events mark marker markers
    trigger trig status sync stim stimulus button battery batt clock time timestamp counter dc quality sqi tag
"""
_NUMBERS = set(_NUMBER_WORDS.split())
_OTHER = _NUMBERS | set(_OTHER_WORDS.split())
_START_WORDS = "eeg eog emg resp pleth ppg acc temp annot snor capno gyro oxi spo sao abp posi"
_OTHER_START = tuple(_START_WORDS.split())
_EEG = re.compile(r"(?:(?:fp|af|f|fc|ft|c|cp|t|tp|p|po|o|a|m|e)(?:z|\d{1,2})){1,2}")
_EEG_ALONE = re.compile(r"fp[12z]|[fcpo]z|f[3478]|c[34]|[to][12]|t[3-8]|p[34]|[am][12]|e[12]|[fcpo][z1-8][am][12]")
_INSIDE = re.compile(r"cs(?:\d{2}|\d+ \d+)")


@lru_cache(maxsize=4096)  # the records of a database name their signals alike
def lead_key(name: str) -> str:
    """What two spellings of one lead share: the name without case, blanks, and a comma behind it."""
    return "".join(name.casefold().split()).rstrip(",;")


@lru_cache(maxsize=4096)
def is_ecg(name: str) -> bool | None:
    """Whether a signal of this name is an ECG lead; None where the name does not tell."""
    words = re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", name.strip()).casefold())
    bare = [word for word in words if word not in _BESIDE] or words
    other = any(_is_other(word) for word in bare)
    if any(_ECG_WORD.match(word) for word in words):
        # "EEG EKG-REF" is the ECG of an EEG machine; "ECG HR" and "ECG resp" are made of an ECG.
        return not any(word in _NUMBERS or word.startswith("resp") for word in words)
    if _INSIDE.fullmatch(" ".join(words)):
        return False
    if bare and all(_EEG.fullmatch(word) for word in bare) and (len(bare) > 1 or _EEG_ALONE.fullmatch(bare[0])):
        return False  # C3-M2, Fpz-Cz, O1
    if bare and not other and (all(_LEAD.fullmatch(word) for word in bare) or _LEAD.fullmatch("".join(bare))):
        return True
    numbered = len(bare) == 2 and bare[0] in ("abdomen", "thorax") and bare[1].isdigit()
    return False if other and not numbered else None  # Abdomen_1 is a lead over the womb, Abdomen a belt


def are_ecg(names: Sequence[str]) -> list[bool | None]:
    """``is_ecg`` of all signals of a record, which together tell more: beside C1, C2, C5 or C6, the names C3 and C4 are
    no places on the head, but on the chest."""
    keys = [lead_key(name) for name in names]
    chest = bool({"c1", "c2", "c5", "c6"} & set(keys)) and "cz" not in keys
    return [
        True if chest and re.fullmatch(r"c[1-6]", one) else is_ecg(name) for one, name in zip(keys, names, strict=True)
    ]


def find_lead(given: Sequence[str], wanted: str) -> int:
    """Where the lead ``wanted`` stands among ``given``: the one that is spelled so, else the one that is but for case
    and blanks.

    Raises RecordRefused where there is none, or several that differ in case alone.
    """
    if wanted in given:
        return list(given).index(wanted)
    places = [place for place, name in enumerate(given) if lead_key(name) == lead_key(wanted)]
    if not places:
        ecg = next((name for name, told in zip(given, are_ecg(given), strict=True) if told is not False), given[0])
        raise RecordRefused(
            f"it has no lead {wanted}; its leads are {', '.join(given)[:200]}",
            f"take a lead that they have, as --lead {shlex.quote(ecg[:60])}",
        )
    if len({given[place] for place in places}) > 1:
        spelled = ", ".join(given[place] for place in places)[:200]
        raise RecordRefused(f"its leads {spelled} differ in case alone, and none is spelled {wanted}; name one of them")
    return places[0]


def lead_for_beats(names: Sequence[str]) -> int | None:
    """The lead whose beats are found best: MLII, else II, else another known ECG lead, else one of unknown name; None
    where none can be an ECG lead."""
    told = are_ecg(names)
    for wanted in ("mlii", "ii"):
        for place, name in enumerate(names):
            words = [word for word in re.findall(r"[^\W_]+", name.casefold()) if word not in ("ecg", "ekg", "lead")]
            if words == [wanted] and told[place]:
                return place
    return next((place for want in (True, None) for place, ecg in enumerate(told) if ecg is want), None)


def _is_other(word: str) -> bool:
    stem = word.rstrip("0123456789") or word
    return word in _OTHER or stem in _OTHER or word.startswith(_OTHER_START) or word.endswith("eye")
