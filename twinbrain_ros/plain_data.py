"""Dataclasses from plain data, as JSON and YAML have it: strictly, each key of its declared type."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from twinbrain_ros.text import SHOWN_CHARACTERS

T = TypeVar("T")


class PlainDataError(ValueError):
    """Plain data that is not what a dataclass declares; names the key, what was found and is expected."""


def build(cls: type[T], values: Any, where: str) -> T:
    """A dataclass from a mapping; unknown, missing and mistyped keys are named, after `where`.

    Fields are of plain types, dataclasses, tuples of either, dictionaries, or one of these or None. Raises
    PlainDataError; what the dataclass itself raises passes.
    """
    if not isinstance(values, dict):
        raise PlainDataError(f"{where}: found {_short(values)}, expected a mapping")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise PlainDataError(f"{where}: unknown key {key!r}, expected some of {sorted(fields)}")
    out = {}
    for name, spec in fields.items():
        if name in values:
            out[name] = _value(hints[name], values[name], f"{where}: {name}")
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise PlainDataError(f"{where}: key {name!r} is missing")
    return cls(**out)


def _value(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, types.UnionType):  # only ever "or None"
        return None if value is None else _value(typing.get_args(hint)[0], value, where)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    if typing.get_origin(hint) is tuple:
        return _tuple(typing.get_args(hint), value, where)
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise PlainDataError(f"{where}: found {_short(value)}, expected a mapping")
        inner = typing.get_args(hint)[1]
        return value if inner is Any else {k: _value(inner, v, f"{where}: {k}") for k, v in value.items()}
    accepted = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise PlainDataError(f"{where}: found {_short(value)}, expected {getattr(hint, '__name__', hint)}")
    return float(value) if hint is float else value


def _tuple(hints: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    """Of as many as there are (`tuple[X, ...]`), or of just so many."""
    if not isinstance(value, list | tuple):
        raise PlainDataError(f"{where}: found {_short(value)}, expected a list")
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(value)
    elif len(value) != len(hints):
        raise PlainDataError(f"{where}: found {len(value)} entries, expected {len(hints)}")
    return tuple(_value(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True)))


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= SHOWN_CHARACTERS else shown[:SHOWN_CHARACTERS] + "..."
