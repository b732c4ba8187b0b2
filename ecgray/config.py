"""Configs: frozen dataclasses, nested by room, to JSON and back, with a hash.

A field whose class carries a ``table`` of names (a task, a model, an objective) is written with its
``name`` and read back by it, so that adding one needs no change here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from ecgray.errors import EcgrayError, quoted, unknown

T = TypeVar("T")
_BEYOND = 1e300
"""No setting is as large; NaN and infinity are none either."""


class Named:
    """Base of config classes chosen by name. ``table`` is set once per kind, ``name`` per class."""

    name: typing.ClassVar[str]
    table: typing.ClassVar[dict[str, type[Any]]]


def to_dict(config: Any) -> Any:
    """Plain JSON values of a config; classes chosen by name carry their ``name`` first."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        named = {"name": config.name} if isinstance(config, Named) else {}
        return named | {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, (tuple, list)):
        return [to_dict(value) for value in config]
    if isinstance(config, dict):
        return {str(key): to_dict(value) for key, value in config.items()}
    return config


def from_dict(cls: type[T], values: Any, where: str = "config") -> T:
    """The config of class ``cls`` from what ``to_dict`` gave.

    Raises EcgrayError for a field that does not exist (with near matches) and for a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise EcgrayError(
            f"{where} must be an object with fields, got {quoted(values)}; compare it with a fresh config.json."
        )
    values = dict(values)
    chosen: type[Any] = cls
    if issubclass(cls, Named):
        name = values.pop("name", None)
        if not isinstance(name, str) or name not in cls.table:
            raise unknown(f"{where}.name", str(name), cls.table)
        chosen = cls.table[name]
    hints = typing.get_type_hints(chosen)
    fields = {f.name for f in dataclasses.fields(chosen)}
    for key in values:
        if key not in fields:
            raise unknown(f"field of {where}", key, fields)
    required = {f.name for f in dataclasses.fields(chosen) if f.default is f.default_factory is dataclasses.MISSING}
    if lacking := sorted(required - values.keys()):
        raise EcgrayError(f"{where} must give {', '.join(lacking)}, got nothing; compare it with a fresh config.json.")
    return chosen(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _value(arguments[0], value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        inner = [a for a in arguments if a is not type(None)]
        for candidate in inner:
            try:
                return _value(candidate, value, where)
            except EcgrayError:
                if candidate is inner[-1]:
                    raise
    if dataclasses.is_dataclass(hint) or (isinstance(hint, type) and issubclass(hint, Named)):
        return from_dict(typing.cast(type[Any], hint), value, where)
    if origin is typing.Literal:
        if not any(type(value) is type(known) and value == known for known in arguments):
            raise unknown(where, str(value), map(str, arguments))
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_value(arguments[0], item, where) for item in value)
        if len(arguments) == len(value):
            return tuple(_value(a, item, where) for a, item in zip(arguments, value, strict=True))
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _BEYOND:
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise EcgrayError(f"{where} must be of type {hint}, got {quoted(value)}; compare it with a fresh config.json.")


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """What ``to_dict`` gave, as one level: {dotted name: value}."""
    if not isinstance(values, dict):
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def differing(old: Any, new: Any, free: Collection[str] = ()) -> list[str]:
    """ "name (old -> new)" of every dotted name, but those that are ``free``, in which two configs differ."""
    before, after = flatten(to_dict(old)), flatten(to_dict(new))
    return [
        f"{key} ({before.get(key)} -> {after.get(key)})"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key not in free
    ]


def with_values(config: T, values: Mapping[str, Any]) -> T:
    """``config`` with some fields replaced, by their dotted names; those of outer parts first.

    A part that is chosen by name (a task, an objective) may be given as its name alone and then has its defaults, which
    values of its own fields replace. Raises EcgrayError for a field that does not exist and a value of another type.
    """
    for name, value in sorted(values.items(), key=lambda item: item[0].count(".")):
        tree = to_dict(config)
        *outer, leaf = name.split(".")
        part = tree
        for key in outer:
            part = part.get(key) if isinstance(part, dict) else None
        if not isinstance(part, dict) or leaf not in part:
            raise unknown("field", name, flatten(tree))
        part[leaf] = {"name": value} if isinstance(part[leaf], dict) and isinstance(value, str) else value
        config = from_dict(type(config), tree)
    return config


def config_hash(config: Any) -> str:
    """SHA-256 (first 16 hex digits) of the config's canonical JSON: equal configs, equal hash, on any machine."""
    text = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
