"""Texts from outside are shown short, in one line, and without what steers a terminal."""

from __future__ import annotations

import pytest

from twinbrain_ros.text import SENTENCE_CHARACTERS, SHOWN_CHARACTERS, sentence, shown

WILD = ("a\nb", "\x1b[31mred\x07", "left\u202eright", "\x00", "\u2028", "\x9b2J", "a\r[FATAL] fake")


@pytest.mark.parametrize("text", WILD)
def test_what_steers_a_terminal_is_escaped(text: str) -> None:
    for result in (shown(text), sentence(text)):
        assert result.isprintable() and "\\" in result


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\n" * 1_000_000, "\U000e0001" * 150, "\x1b" * 201])
def test_a_long_text_is_cut_and_its_length_is_told(text: str) -> None:
    assert len(shown(text)) < SHOWN_CHARACTERS + 40
    assert len(sentence(text)) <= SENTENCE_CHARACTERS or len(text) <= SENTENCE_CHARACTERS
    assert f"({len(text)} characters)" in shown(text)


def test_what_is_short_and_plain_stays_as_it_is() -> None:
    assert shown("pick up the red block") == "'pick up the red block'"
    assert sentence("front: Größe is 3, expected 'a\\nb'") == "front: Größe is 3, expected 'a\\nb'"


def test_a_sentence_keeps_its_beginning_and_its_end() -> None:
    result = sentence(f"front: encoding is {'q' * 100_000!r}, expected 'rgb8' (robot file)")
    assert result.startswith("front: encoding is 'qqq") and result.endswith("expected 'rgb8' (robot file)")


@pytest.mark.parametrize("text", [*WILD, "x" * 5000, "\n" * 599, "\U000e0001" * 5000])
def test_a_sentence_of_a_sentence_is_the_same(text: str) -> None:
    assert sentence(sentence(text)) == sentence(text)


def test_of_a_long_text_the_beginning_is_shown() -> None:
    assert shown("a" * 200) == repr("a" * 200)
    assert shown("b" * 1_000_000, 5) == "'bbbbb'... (1000000 characters)"
