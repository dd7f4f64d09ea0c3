"""Texts from outside (instructions, encodings, names, reasons) made fit for a log, a message and a terminal.

They may be a megabyte long, break lines as if they were several messages, or steer a terminal. What is
shown of them is short, in one line, and made of characters that can be seen.
"""

from __future__ import annotations

SHOWN_CHARACTERS = 200
SENTENCE_CHARACTERS = 600
NAME_CHARACTERS = 100
NAME_EXPECTED = f"a name in one line of at most {NAME_CHARACTERS} characters, without {{, }} and <|"


def shown(text: object, most: int = SHOWN_CHARACTERS) -> str:
    """A text from outside in quotes, as `repr` has it: escaped, and only its beginning if it is long.

    Args:
        most: characters that are shown; how many there are is said where there are more.
    """
    full = str(text)
    quoted = repr(full[:most])
    if len(full) <= most and len(quoted) <= most + 2:
        return quoted
    return f"{quoted[: most + 1]}{quoted[0]}... ({len(full)} characters)"


def is_name(text: str) -> bool:
    """Whether a text can be a name that is said to a brain: no placeholder of a prompt and no role token."""
    odd = any(sign in text for sign in ("{", "}", "<|"))
    return bool(text.strip()) and len(text) <= NAME_CHARACTERS and text.isprintable() and not odd


def sentence(text: object, most: int = SENTENCE_CHARACTERS) -> str:
    """A message in one line: what cannot be seen is escaped, and of a long one the middle is left out.

    It changes nothing in what it has given before, so that it may stand wherever a message goes out.
    """
    full = str(text)
    if len(full) <= most:
        escaped = _escaped(full)
        if len(escaped) <= most:
            return escaped
    middle = f" ... ({len(full)} characters) ... "
    kept = most - len(middle)
    tail = kept // 3
    return _escaped(full[:most])[: kept - tail] + middle + _escaped(full[-most:])[-tail:]


def one_line(text: object) -> str:
    """The same in one line; YAML's errors show in several where they are."""
    return " ".join(str(text).split())


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text
    )
