"""How texts from outside are shown."""

from __future__ import annotations

from twinbrain_ros.text import shown


def test_a_text_is_shown_in_quotes_and_on_one_line() -> None:
    assert shown("rgb8") == "'rgb8'"
    assert shown("\n[FATAL] fake\x00\u202e") == r"'\n[FATAL] fake\x00\u202e'"


def test_of_a_long_text_the_beginning_and_the_length_are_shown() -> None:
    assert shown("a" * 200) == repr("a" * 200)
    assert shown("b" * 1_000_000, 5) == "'bbbbb'... (1000000 characters)"
    assert len(shown("\x00" * 1_000_000)) < 900
