"""Seeded mutations of file contents that know the file's structure: bytes, text, JSON, NPY, Parquet, safetensors."""

from __future__ import annotations

import ast
import copy
import io
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Rng = np.random.Generator
Mutator = Callable[[Rng, bytes], bytes]

NUMBERS = (
    "0", "-1", "1", "2", "7", "255", "256", "32767", "-32768", "65536", "2147483647", "2147483648", "-2147483649",
    "4294967296", "9223372036854775807", "9223372036854775808", "1e308", "1e400", "-1e-320", "nan", "inf", "-inf",
    "0x10", "1_000", "9" * 30, "9" * 5000, "1.5", ".", "+", "-", "",
)  # fmt: skip
PATHS = (
    "../../etc/passwd", "/etc/passwd", "/etc/hostname", "..", ".", "/", "~/x", "outside.dat", "linked.dat",
    "../outside/secret.dat", "file:///etc/passwd", "http://127.0.0.1:1/x", "a\x00b", "/dev/zero", "/proc/self/mem",
    "x" * 300, "a/b/c", "C:\\x", "r.dat", "~",
)  # fmt: skip
WORDS = (
    "16", "212", "516", "524", "8", "80", "310", "16+24", "16x2", "16:3", "212+4000000000", "16x999999999", "mV", "V",
    "uV", "mmHg", "200(0)/mV", "1e-300(0)/mV", "0/mV", "200(99999999999)/mV", "#", "\n", "\r\n", ",", ";", '"', "\t",
    "\ufeff", "é", "\x00", "\u2028", "N", "A", "~", "record", "label", "patient", "start", "true", "null", "[]", "{}",
)  # fmt: skip
NOTES = (
    "(AFIB", "(N", ")", "(N)", "", "(" * 200, "\x00\x00", "## time resolution: 0", "## time resolution: 1e9",
    "## time resolution: 99999999999999999999.9", "## time resolution: 360",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 250, 10**6, 2**31, 2**63, 10**30, -(2**63), 0.5, -0.0, 1e308, float("nan"),
    float("inf"), "", "x", "0", "a\nb", "é", "../../etc/passwd", "/etc/passwd", "../outside/secret.dat", "shard-00000",
    "shard-99999999999", "shard-x", [], {}, [[]], [1, 2], [None], {"name": "x"}, {"name": []}, "resnet", "beat", "I8",
)  # fmt: skip


def random_bytes(rng: Rng, content: bytes) -> bytes:
    """One to four edits anywhere: flips, boundary values, cuts, repeats, insertions."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        size = len(data)
        at = int(rng.integers(0, size + 1))
        # Headers and ends are where structure lies.
        if rng.random() < 0.5:
            at = (
                min(int(rng.integers(0, 128)), size) if rng.random() < 0.6 else max(size - int(rng.integers(0, 128)), 0)
            )
        length = int(2 ** rng.uniform(0, 10))
        match int(rng.integers(9)):
            case 0 if at < size:
                data[at] ^= 1 << int(rng.integers(8))
            case 1 if at < size:
                data[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))]))
            case 2:
                del data[at:]
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = bytes(data[at : at + length])
            case 5:
                data[at:at] = rng.bytes(length)
            case 6:
                data[at : at + length] = bytes(length)
            case 7:
                form = str(rng.choice(["<H", "<I", "<Q"]))
                bits = struct.calcsize(form) * 8
                value = int(rng.choice(np.array([0, 1, bits - 1, bits, 2**15, 2**16 - 1, 2**31], object)))
                if rng.random() < 0.3:
                    value = 2**bits - 1 - int(rng.integers(3))
                data[at : at + bits // 8] = struct.pack(form, value % 2**bits)
            case _:
                data += rng.bytes(length) if rng.random() < 0.5 else bytes(length)
    return bytes(data)


def text(rng: Rng, content: bytes) -> bytes:
    """Tokens and lines replaced, doubled, dropped and exchanged; now and then bytes below that."""
    if rng.random() < 0.15:
        return random_bytes(rng, content)
    lines = content.decode("latin-1").split("\n")
    for _ in range(int(rng.integers(1, 4))):
        number = int(rng.integers(len(lines)))
        line = lines[number]
        match int(rng.integers(10)):
            case 0:
                del lines[number]
            case 1:
                lines.insert(number, lines[int(rng.integers(len(lines)))])
            case 2:
                other = int(rng.integers(len(lines)))
                lines[number], lines[other] = lines[other], lines[number]
            case 3:
                lines[number] = line[: int(rng.integers(len(line) + 1))]
            case 4:
                at = int(rng.integers(len(line) + 1))
                lines[number] = line[:at] + str(rng.choice(WORDS)) + line[at:]
            case _:
                separator = "," if "," in line else " "
                parts = line.split(separator)
                kind = (NUMBERS, PATHS, WORDS)[int(rng.choice(3, p=[0.55, 0.2, 0.25]))]
                parts[int(rng.integers(len(parts)))] = kind[int(rng.integers(len(kind)))]
                lines[number] = separator.join(parts)
        lines = lines or [""]
    changed = "\n".join(lines)
    if rng.random() < 0.05:
        changed = changed.replace("\n", str(rng.choice(["\r\n", "\r", "\n\n", "\x00", " "])))
    return changed.encode("utf-8" if rng.random() < 0.7 else "latin-1", "replace")


def annotations(rng: Rng, content: bytes) -> bytes:
    """Words of type and interval, with SKIP and AUX fields whole, torn, and longer than the file."""
    if rng.random() < 0.3:
        return random_bytes(rng, content)
    words = list(np.frombuffer(content[: len(content) // 2 * 2], "<u2"))
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(len(words) + 1)) if rng.random() < 0.8 else max(len(words) - 1, 0)
        kind = int(rng.choice([0, 1, 5, 14, 22, 28, 42, 49, 50, 58, 59, 60, 61, 62, 63, int(rng.integers(64))]))
        word = kind << 10 | int(rng.choice([0, 1, 2, 3, 255, 256, 1023, int(rng.integers(1024))]))
        match int(rng.integers(5)):
            case 0:
                words[at:at] = [word]
            case 1 if at < len(words):
                words[at] = word
            case 2:
                words[at : at + int(rng.integers(1, 4))] = []
            case 3:
                high, low = (int(rng.choice([0, 1, 0x7FFF, 0x8000, 0xFFFF])) for _ in range(2))
                words[at:at] = [59 << 10, high, low]
            case _:
                note = str(rng.choice(NOTES))
                raw = note.encode("latin-1")
                raw += bytes(len(raw) % 2)
                own = [int(rng.choice([22, 28, 1])) << 10 | int(rng.choice([0, 1, 9]))]
                words[at:at] = [*own, 63 << 10 | len(note) % 1024, *np.frombuffer(raw, "<u2")]
    return np.array(words, dtype="<u2").tobytes()


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside a JSON value."""
    found = []
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            found.append((value, key))
            found += _places(value[key])
    return found


def json_values(rng: Rng, values: Any) -> Any:
    """One to three places of a JSON value changed, removed, doubled or exchanged."""
    values = copy.deepcopy(values)
    for _ in range(int(rng.integers(1, 4))):
        places = _places(values)
        if not places:
            return VALUES[int(rng.integers(len(VALUES)))]
        holder, key = places[int(rng.integers(len(places)))]
        match int(rng.integers(8)):
            case 0:
                del holder[key]
            case 1:
                other, there = places[int(rng.integers(len(places)))]
                holder[key] = copy.deepcopy(other[there])
            case 2 if isinstance(holder, dict):
                holder[str(rng.choice(["", "x", "name", "schema", "__class__", "step", key + " "]))] = holder[key]
            case 3 if isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
                scale = float(rng.choice([-1, 0, 0.5, 2, 1000, 1e9]))
                holder[key] = type(holder[key])(scale * holder[key])
            case 4 if isinstance(holder[key], list):
                holder[key] = holder[key] * int(rng.integers(2, 5))
            case _:
                holder[key] = copy.deepcopy(VALUES[int(rng.integers(len(VALUES)))])
    return values


def json_text(rng: Rng, content: bytes) -> bytes:
    if rng.random() < 0.2:
        return random_bytes(rng, content)
    if rng.random() < 0.03:
        return (b"[" * 100_000, b'{"a":' * 20_000, b"", b"null", b"[]", b"9" * 5000)[int(rng.integers(6))]
    return json.dumps(json_values(rng, json.loads(content))).encode()


def json_lines(rng: Rng, content: bytes) -> bytes:
    lines = content.splitlines()
    if rng.random() < 0.5 or not lines:
        return text(rng, content)
    number = int(rng.integers(len(lines)))
    lines[number] = json.dumps(json_values(rng, json.loads(lines[number]))).encode()
    return b"\n".join(lines) + b"\n"


def npy(rng: Rng, content: bytes) -> bytes:
    """The array's header and its values, each beyond what the other says."""
    choice = rng.random()
    if choice < 0.25:
        return random_bytes(rng, content)
    if choice < 0.3:
        stream = io.BytesIO()
        (np.savez if rng.random() < 0.5 else np.savez_compressed)(stream, np.zeros(int(rng.integers(0, 100_000))))
        return stream.getvalue()
    array = np.load(io.BytesIO(content), allow_pickle=False)
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    body = array.tobytes()
    if choice < 0.6:
        key = str(rng.choice(list(header)))
        sides = [-1, 0, 1, 2**31, 2**40, 2**62, 2**63, 10**30, 1.5, "1", None]
        options: dict[str, tuple[Any, ...]] = {
            "descr": ("|O", "<f8", "<i2", ">i2", "|S5", "|V0", "<U3", "x", 5, [("a", "<i8")], None, "<i8"),
            "fortran_order": (True, 1, "x"),
            "shape": ((), (array.size,), array.shape[::-1], *((*array.shape[:-1], side) for side in sides), "x"),
        }
        header[key] = options[key][int(rng.integers(len(options[key])))]
        if rng.random() < 0.05:
            header = ast.literal_eval("{'x': 1}")
    elif array.size:
        values = array.copy().reshape(-1)
        for _ in range(int(rng.integers(1, 5))):
            at = int(rng.integers(values.size))
            info = np.iinfo(values.dtype)
            values[at] = rng.choice(np.array([info.min, info.max, 0, 1, max(-1, info.min), 5, 255 & info.max], object))
        if rng.random() < 0.2:
            rng.shuffle(values)
        body = values.tobytes()
        if rng.random() < 0.3:
            count = int(rng.integers(array.shape[0] + 1))
            header["shape"] = (count, *array.shape[1:])
            body = array[:count].tobytes()
    line = repr(header).encode()
    line += b" " * (-(len(line) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line) % 65536) + line + body


def parquet(rng: Rng, content: bytes) -> bytes:
    """Columns missing, of other types, with nulls; values beyond every bound; rows doubled and gone."""
    if rng.random() < 0.3:
        return random_bytes(rng, content)
    table = pq.read_table(io.BytesIO(content))
    for _ in range(int(rng.integers(1, 3))):
        if not table.num_columns:
            break
        number = int(rng.integers(table.num_columns))
        name, column = table.column_names[number], table.column(number)
        match int(rng.integers(7)):
            case 0:
                table = table.remove_column(number)
            case 1:
                names = list(table.column_names)
                names[number] = str(rng.choice([*table.column_names, "x", "probability_x", "probability_"]))
                table = table.rename_columns(names)
            case 2:
                table = table.take(rng.integers(0, max(table.num_rows, 1), int(rng.integers(0, table.num_rows + 3)))
                                   % max(table.num_rows, 1) if table.num_rows else [])  # fmt: skip
            case 3:
                other = int(rng.integers(table.num_columns))
                table = table.set_column(number, name, table.column(other))
            case 4:
                meta = dict(table.schema.metadata or {})
                for key in meta:
                    if rng.random() < 0.7:
                        meta[key] = json_text(rng, meta[key])
                table = table.replace_schema_metadata(meta if rng.random() < 0.8 else None)
            case _:
                table = table.set_column(number, name, _other_values(rng, column))
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


def _other_values(rng: Rng, column: Any) -> Any:
    values = column.to_pylist()
    for _ in range(int(rng.integers(1, 4))):
        if not values:
            break
        at = int(rng.integers(len(values)))
        if isinstance(values[at], list) and values[at] and rng.random() < 0.7:
            inner = list(values[at])
            inner[int(rng.integers(len(inner)))] = _number(rng, column.type.value_type)
            values[at] = inner
        elif rng.random() < 0.2:
            values[at] = None
        else:
            values[at] = _number(rng, column.type)
    try:
        return pa.chunked_array([pa.array(values, column.type)])
    except (pa.ArrowException, TypeError, OverflowError, ValueError):
        return pa.chunked_array([pa.array([str(value) for value in values])])


def _number(rng: Rng, kind: Any) -> Any:
    if pa.types.is_integer(kind):
        high = 2 ** (kind.bit_width - 1) - 1
        return (0, -1, 1, 2, 10**6 % high, high, -high - 1)[int(rng.integers(7))]
    if pa.types.is_floating(kind):
        return (0.0, -1.0, float("nan"), float("inf"), 1e308, 1e-320)[int(rng.integers(6))]
    if pa.types.is_boolean(kind):
        return bool(rng.integers(2))
    return VALUES[int(rng.integers(len(VALUES)))]


def safetensors(rng: Rng, content: bytes) -> bytes:
    """The JSON header, the tensors' bytes, or the file's length."""
    choice = rng.random()
    if choice < 0.3:
        return random_bytes(rng, content)
    size = struct.unpack("<Q", content[:8])[0]
    header, body = json.loads(content[8 : 8 + size]), bytearray(content[8 + size :])
    if choice < 0.75:
        names = list(header)
        name = str(rng.choice(names))
        match int(rng.integers(6)):
            case 0:
                header = json_values(rng, header)
            case 1:
                del header[name]
            case 2:
                header[str(rng.choice(["x", "", "a/b", "optimiser/x/y", "network/x", name + "/z", "x/y/z"]))] = (
                    header.pop(name)
                )
            case 3 if "shape" in header[name]:
                header[name]["shape"] = header[name]["shape"][::-1]
            case 4 if "dtype" in header[name]:
                header[name]["dtype"] = str(rng.choice(["I32", "U8", "F16", "BOOL", "F64", "I64", "BF16", "F8_E4M3"]))
            case _:
                other = str(rng.choice(names))
                header[name], header[other] = header[other], header[name]
    elif body:
        for _ in range(int(rng.integers(1, 6))):
            at = int(rng.integers(len(body)))
            body[at : at + 4] = struct.pack("<f", float(rng.choice([np.nan, np.inf, 0, -1e38])))
    line = json.dumps(header).encode()
    return struct.pack("<Q", len(line)) + line + bytes(body)
