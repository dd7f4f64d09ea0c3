"""What could not be used, counted by cause: nothing is skipped without being named."""

from __future__ import annotations


class Problems:
    """Sentences by cause, each with how often it applied."""

    def __init__(self) -> None:
        self._seen: dict[str, list[str | int]] = {}

    def add(self, cause: str, sentence: str) -> None:
        """Notes one; of a cause the first sentence is kept."""
        entry = self._seen.setdefault(cause, [sentence, 0])
        entry[1] = int(entry[1]) + 1

    def sentences(self) -> tuple[str, ...]:
        """In the order of their first time."""
        return tuple(
            f"{sentence} ({count} times)" if int(count) > 1 else str(sentence)
            for sentence, count in self._seen.values()
        )
