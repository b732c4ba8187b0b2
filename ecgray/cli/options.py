"""How the words of a command look in its help, and what is said of a wrong one: rules for tyro, which parses them.

Help names a kind of value by one word (INT, NUMBER, TEXT, PATH) and a default only where there is one. A wrong word
becomes one line: what must hold, what was got, how to go on.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from ecgray.errors import EcgrayError, quoted, unknown

REGISTRY = ConstructorRegistry()
_KINDS: dict[Any, tuple[str, str]] = {int: ("INT", "a whole number"), float: ("NUMBER", "a number")}
"""Type of a number -> (its word in the help, what it must be)."""
_NONE = "None"
"""Takes a value back to none where it may be left out."""


def wrong_word(event: Any, verb: str, known: Callable[[], list[str]]) -> EcgrayError | None:
    """What is said of ``event``, one of tyro's parse errors; None for one of a kind that this does not know.

    known: the options of the command, for near matches.
    """
    kind, name = type(event).__name__, _name(getattr(event, "argument", None))
    see = f"see ecgray {verb} --help."
    if kind == "InstantiationFailure":
        said = " ".join(str(event.message).split())
        if event.argument is None:
            return EcgrayError(said)  # what a config itself refuses is one line already
        if not said.startswith("must "):
            said = f"must be {event.argument.lowered.metavar}, got other words"
        return EcgrayError(f"{name} {said}; {see}")
    if kind == "InvalidChoice":
        choices = [choice for choice in event.choices if choice != _NONE]
        near = get_close_matches(event.value[:100], choices, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"take one of them, or {see}"
        return EcgrayError(f"{name} must be one of {', '.join(choices)}, got {quoted(event.value)}; {hint}")
    if kind == "BadValue":
        return EcgrayError(f"{name} must be followed by {event.argument.lowered.metavar}, got less; {see}")
    if kind in ("MissingArgs", "UnrecognizedArgs"):
        if tokens := getattr(event, "tokens", None) or getattr(event, "unrecognized_tokens", None):
            return _unrecognised(tokens, verb, known())
        lacking = " and ".join(_name(one.arg) for one in event.missing_arguments)
        return EcgrayError(f"ecgray {verb} must be given {lacking}, got none; {see}")
    return None


def _unrecognised(tokens: list[str], verb: str, known: list[str]) -> EcgrayError:
    given = next((token for token in tokens if token.startswith("-")), tokens[0])
    word = given.partition("=")[0].replace("_", "-")
    if not word.startswith("-"):
        return EcgrayError(
            f"ecgray {verb} must be given options after its first words, got {quoted(given)}; see ecgray {verb} --help."
        )
    named = [option for option in known if option.rpartition(".")[2] == word.rpartition(".")[2].removeprefix("--")]
    if named:  # the field of another part, or without its part
        return EcgrayError(f"The option must be a known name, got {quoted(word)}; did you mean {' or '.join(named)}?")
    return unknown("option", word, known, see=f"ecgray {verb} --help")


def _name(argument: Any) -> str:
    if argument is None:
        return ""
    return str(argument.field.intern_name.upper() if argument.is_positional() else argument.lowered.name_or_flags[-1])


def description_of(command: Any) -> str:
    """What a command is for, by its docstring, in lines that fit the terminal (tyro joins those that begin with a
    letter)."""
    paragraphs = (inspect.getdoc(command) or "").replace("``", "").split("\n\n")
    columns = shutil.get_terminal_size().columns
    fill = partial(textwrap.fill, width=columns, subsequent_indent="  ", break_on_hyphens=False)
    return "\n\n".join(map(fill, paragraphs))


def options_of(command: Any, default: Any, prefix: str = "") -> Iterator[str]:
    """The options of a command: of the fields of its class, nested ones by their dotted names."""
    hints = typing.get_type_hints(command, include_extras=True)
    for name in (field.name for field in dataclasses.fields(command)):
        hint = hints[name]
        annotations = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
        if tyro.conf.Positional in annotations:
            continue
        given = [one.name for one in annotations if getattr(one, "name", None) is not None]
        dotted = ".".join(part for part in (prefix, *(given or [name])) if part)
        value = getattr(default, name, None)
        inner = type(value) if dataclasses.is_dataclass(value) else _plain(hint)
        if dataclasses.is_dataclass(inner):
            yield from options_of(inner, value, dotted)
        else:
            yield f"--{dotted.replace('_', '-')}"


def _plain(hint: Any) -> Any:
    """The type without annotations and without None."""
    if typing.get_origin(hint) is Annotated:
        return _plain(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [one for one in typing.get_args(hint) if one is not type(None)]
        return _plain(inner[0]) if len(inner) == 1 else hint
    return hint


@REGISTRY.struct_rule
def _in_words(info: StructTypeInfo) -> StructConstructorSpec | None:
    """A dataclass as tyro reads it, its fields with the words of this module."""
    if _reading or not dataclasses.is_dataclass(info.type):
        return None
    _reading.append(info.type)
    try:
        spec = ConstructorRegistry.get_struct_spec(info)
    finally:
        _reading.pop()
    if not isinstance(spec, StructConstructorSpec):
        return None
    return dataclasses.replace(spec, fields=tuple(_worded(field) for field in spec.fields))


_reading: list[Any] = []
"""The class that tyro is asked about by the rule itself."""


def _worded(field: StructFieldSpec) -> StructFieldSpec:
    annotations = typing.get_args(field.type)[1:] if typing.get_origin(field.type) is Annotated else ()
    plain = _plain(field.type)
    if dataclasses.is_dataclass(plain) or dataclasses.is_dataclass(field.default):
        return dataclasses.replace(field, helptext=_prose(field.helptext))
    kind = _kind(plain)
    if tyro.conf.Positional in annotations and typing.get_origin(plain) is not typing.Literal:
        kind = field.name.upper() + (" ..." if typing.get_origin(plain) is tuple else "")
        kind = f"[{kind}]" if field.default is None else kind
    hint = _default(field.helptext) if field.default is not tyro.MISSING else None
    words = tyro.conf.arg(metavar=None if plain is bool else kind, help_behavior_hint=hint)
    worded: Any = Annotated[(field.type, words, *annotations)]
    return dataclasses.replace(field, type=worded, helptext=_prose(field.helptext))


def _kind(plain: Any) -> str:
    """The word for values of a type: INT, NUMBER, TEXT, PATH, the choices, several of one."""
    inner = typing.get_args(plain)
    if typing.get_origin(plain) is typing.Literal:
        return "{" + ",".join(map(str, inner)) + "}"
    if typing.get_origin(plain) is tuple:
        return f"{_kind(inner[0])} ..." if inner[-1] is Ellipsis else " ".join(map(_kind, inner))
    return _KINDS[plain][0] if plain in _KINDS else "PATH" if plain is Path else "TEXT"


def _prose(helptext: Any) -> Any:
    """The help of a field without the marks of docstrings. It is lazy where tyro reads it from the source."""
    if callable(helptext):
        return lambda: _prose(helptext())
    return re.sub(r"(?<!\n)\n(?!\n)", " ", helptext.replace("``", "")) if helptext else helptext


def _default(helptext: Any) -> Callable[[str], str]:
    """The hint at a default, by its text: none where there is none, or where the help says it itself."""

    def hint(value: str) -> str:
        said = (helptext() if callable(helptext) else helptext) or ""
        return "" if value in ("", "''", _NONE, "False") or "(default" in said else f"(default: {value})"

    return hint


@REGISTRY.primitive_rule
def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if info.type not in _KINDS:
        return None
    kind, what = _KINDS[info.type]

    def read(words: list[str]) -> Any:
        try:
            return info.type(words[0])
        except ValueError:
            raise ValueError(f"must be {what}, got {quoted(words[0])}") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind,
        instance_from_str=read,
        is_instance=lambda value: type(value) in (info.type, int),
        str_from_instance=lambda value: [f"{value:g}" if type(value) is float else str(value)],
    )


@REGISTRY.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """What may be none: given as anything else, or as None."""
    inner = _plain(info.type)
    if info.type_origin not in (typing.Union, types.UnionType) or inner is info.type:
        return None
    found = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(inner, info.markers))
    if not isinstance(found, PrimitiveConstructorSpec):
        return None
    spec: PrimitiveConstructorSpec[Any] = found
    return dataclasses.replace(
        spec,
        choices=None if spec.choices is None else (*spec.choices, _NONE),
        instance_from_str=lambda words: None if words == [_NONE] else spec.instance_from_str(words),
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: [_NONE] if value is None else spec.str_from_instance(value),
    )
