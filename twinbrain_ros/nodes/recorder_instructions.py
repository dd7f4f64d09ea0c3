"""Which instruction a recorder writes beside an episode, and whether it has to listen for it itself."""

from __future__ import annotations

from typing import Any

from twinbrain_ros.text import sentence

# A policy that starts together with the recorder is found within this time.
ALONE_S = 3.0


class EpisodeInstructions:
    """What the policy follows; where there is none, what was said.

    Who says an instruction may wait for one listener only. While a policy tells what it follows, the recorder
    therefore does not listen to what is said.

    Attributes:
        followed: the last instruction of the present episode; "" if there was none.
        refused: one that came after it and was refused, and why; else "".
    """

    def __init__(self, now_s: float) -> None:
        self._policy_s = now_s  # when there was a policy last; at first there may be one
        self._now = self.followed = self.refused = ""

    def listens(self, policy: bool, now_s: float) -> bool:
        """Whether to listen to what is said; policy: whether one tells what it follows; now_s: steady [s]."""
        if policy:
            self._policy_s = now_s
        return now_s - self._policy_s >= ALONE_S

    def begin(self) -> None:
        """An episode begins: of what was before, only what still holds counts."""
        self.followed = self._now

    def on_said(self, text: str) -> None:
        """Somebody has said it, and there is no policy."""
        self._now = self.followed = text.strip()
        self.refused = ""

    def on_in_force(self, message: Any) -> None:
        """A policy has taken an instruction, or refused one."""
        self._now = message.text
        self.followed = message.text or self.followed
        self.refused = sentence(f"{message.refused}: {message.reason}") if message.refused else ""
