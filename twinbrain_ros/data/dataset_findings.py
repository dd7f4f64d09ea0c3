"""What is wrong with a dataset: refused as a whole, or episodes left out, counted and named."""

from __future__ import annotations

from pathlib import Path

_NAMED = 5  # of many files at fault, so many are named


class DatasetError(ValueError):
    """A dataset that cannot be used; names file, episode and field, what was found and what was expected."""


class Findings:
    """What is wrong with single episodes: those left out, by reason, and those for which all is refused.

    skip_broken: leave out episodes with missing, short or contradictory files, instead of refusing the
    dataset.
    """

    def __init__(self, root: Path, skip_broken: bool = False) -> None:
        self.root = root
        self.skip_broken = skip_broken
        self.skipped: dict[str, dict[int, str]] = {}
        self._refused: list[str] = []

    def skip(self, reason: str, episode: int, sentence: str) -> None:
        """Leaves an episode out."""
        self.skipped.setdefault(reason, {}).setdefault(episode, sentence)

    def broken(self, reason: str, episode: int, sentence: str) -> None:
        """An episode that should not be like this."""
        if self.skip_broken:
            self.skip(reason, episode, sentence)
        else:
            self._refused.append(sentence)

    def check(self) -> None:
        """Raises DatasetError with the first of what was found broken."""
        if not self._refused:
            return
        more = len(self._refused) - _NAMED
        rest = f"; and {more} more" if more > 0 else ""
        raise DatasetError(
            f"{self.root}: {len(self._refused)} faults: {'; '.join(self._refused[:_NAMED])}{rest} "
            "(skip_broken: true leaves such episodes out)"
        )

    def episodes(self) -> set[int]:
        """Those left out, for whatever reason."""
        return {episode for found in self.skipped.values() for episode in found}

    def lines(self) -> list[str]:
        """One line for each reason: how many episodes, and the first of them."""
        out = []
        for reason, found in self.skipped.items():
            named = ", ".join(map(str, list(found)[:_NAMED])) + (", .." if len(found) > _NAMED else "")
            first = next(iter(found.values()))
            out.append(f"{len(found)} episodes left out, {reason}: {named} ({first})")
        return out
