"""Reading a configuration mapping strictly: every key known, every other refused, every type checked."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any


class StrictMapping:
    """A mapping from a file whose errors name file, key path, what was found and what was expected.

    Args:
        value: what the file holds at this place.
        source: the file, for messages.
        keys: the keys the mapping must have.
        path: where in the file this mapping is, such as ``arm.limits``.
        error: the exception class to raise.
        optional: the keys it may have besides; ask `has` before reading one.
    """

    def __init__(
        self,
        value: Any,
        source: str,
        keys: tuple[str, ...],
        path: str = "",
        error: type[ValueError] = ValueError,
        optional: tuple[str, ...] = (),
    ) -> None:
        self.source = source
        self.path = path
        self.error = error
        expected = f"the keys {', '.join(keys)}" + (f"; optional: {', '.join(optional)}" if optional else "")
        if not isinstance(value, Mapping):
            raise self.fail("", value, f"a mapping with {expected}")
        known = (*keys, *optional)
        for key in (key for key in value if key not in known):
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.6)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise error(f"{source}: unknown key '{self._join(str(key))}': {hint}expected {expected}")
        for key in keys:
            if key not in value:
                raise error(f"{source}: missing key '{self._join(key)}': expected {expected}")
        self._value: Mapping[str, Any] = value

    def _join(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path and key else self.path or key

    def fail(self, key: str, found: Any, expected: str) -> ValueError:
        """Return (do not raise) the error for the value at ``key``."""
        shown = repr(found)
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        place = self._join(key) or "(top level)"
        return self.error(f"{self.source}: '{place}' is {shown}, expected {expected}")

    def raw(self, key: str) -> Any:
        """Return the unchecked value."""
        return self._value[key]

    def has(self, key: str) -> bool:
        """Whether an optional key is there."""
        return key in self._value

    def mapping(self, key: str, keys: tuple[str, ...], optional: tuple[str, ...] = ()) -> StrictMapping:
        """Return a nested mapping with ``keys``, and maybe ``optional`` ones."""
        return StrictMapping(self._value[key], self.source, keys, self._join(key), self.error, optional)

    def text(self, key: str, choices: tuple[str, ...] = ()) -> str:
        """Return a non-empty string, one of ``choices`` if given."""
        value = self._value[key]
        if not isinstance(value, str) or not value or (choices and value not in choices):
            raise self.fail(key, value, f"one of {', '.join(choices)}" if choices else "a non-empty string")
        return value

    def number(self, key: str, lower: float = -math.inf, upper: float = math.inf) -> float:
        """Return a finite number within [lower, upper]."""
        value = self._value[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.fail(key, value, "a finite number")
        if not lower <= value <= upper:
            raise self.fail(key, value, f"a number within [{lower:g}, {upper:g}]")
        return float(value)

    def integer(self, key: str, lower: int, upper: int) -> int:
        """Return an integer within [lower, upper]."""
        value = self._value[key]
        if isinstance(value, bool) or not isinstance(value, int) or not lower <= value <= upper:
            raise self.fail(key, value, f"an integer within [{lower}, {upper}]")
        return value

    def texts(self, key: str, length: int | None = None) -> tuple[str, ...]:
        """Return a list of different non-empty strings, of ``length`` entries if given."""
        value = self._value[key]
        wanted = f"{length} " if length is not None else ""
        good = isinstance(value, list) and all(isinstance(entry, str) and entry for entry in value) and value
        if not good or len(set(value)) != len(value) or (length is not None and len(value) != length):
            raise self.fail(key, value, f"a list of {wanted}different non-empty strings")
        return tuple(value)

    def numbers(self, key: str, length: int) -> tuple[float, ...]:
        """Return a list of ``length`` finite numbers."""
        value = self._value[key]
        good = isinstance(value, list) and len(value) == length
        if not good or any(
            isinstance(entry, bool) or not isinstance(entry, int | float) or not math.isfinite(entry)
            for entry in value
        ):
            raise self.fail(key, value, f"a list of {length} finite numbers")
        return tuple(float(entry) for entry in value)

    def topic(self, key: str) -> str:
        """Return a relative topic name."""
        return self._relative(key, self.text(key))

    def topics(self, key: str) -> tuple[str, ...]:
        """Return a relative topic name, or a list of different ones."""
        names = self.texts(key) if isinstance(self._value[key], list) else (self.text(key),)
        return tuple(self._relative(key, name) for name in names)

    def _relative(self, key: str, topic: str) -> str:
        if topic.startswith(("/", "~")) or any(char.isspace() for char in topic):
            raise self.fail(key, topic, "a relative topic name without spaces")
        return topic
