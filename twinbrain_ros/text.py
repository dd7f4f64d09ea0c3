"""Texts from outside, as they are shown to people: escaped and no longer than a line or two."""

from __future__ import annotations

MOST_CHARACTERS = 200


def shown(text: str, most: int = MOST_CHARACTERS) -> str:
    """A text in quotes, line breaks and what cannot be seen escaped; of a long one its beginning and length.

    >>> shown("rgb8")
    "'rgb8'"
    """
    if len(text) <= most:
        return repr(text)
    return f"{text[:most]!r}... ({len(text)} characters)"
