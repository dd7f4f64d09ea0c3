"""What happened to action chunks, counted from the events on the topics.

One tally serves live topics and recorded ones: it is fed with plain values, not with messages.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NANOSECONDS_PER_MILLISECOND = 1e6

# The outcomes of a chunk, in the order of the constants in msg/ChunkStatus.
OUTCOMES = ("executed", "stale", "refused", "discarded")

# Reasons carry numbers, so that hardly two are the same: a few tell what is wrong, others are only counted.
KEPT_REASONS = 5
OTHER_REASONS = "other reasons"


@dataclass
class ChunkTally:
    """Chunks and their outcomes over a stretch of time.

    Latencies are [ms]: `observation_to_command_ms` from the observation's stamp to the publication of the
    first command of each executed chunk, `inference_ms` of every published chunk.
    """

    published: int = 0
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    observation_to_command_ms: list[float] = field(default_factory=list)
    inference_ms: list[float] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)

    def on_chunk(self, inference_time_s: float) -> None:
        """Count one published chunk."""
        self.published += 1
        self.inference_ms.append(inference_time_s * 1e3)

    def on_status(self, outcome: str, reason: str, observation_ns: int, first_command_ns: int) -> None:
        """Count what became of one chunk; stamps [ns] are read for executed ones only.

        Raises:
            ValueError: `outcome` is none of OUTCOMES.
        """
        if outcome not in self.outcomes:
            raise ValueError(f"outcome: found {outcome!r}, expected one of {', '.join(OUTCOMES)}")
        self.outcomes[outcome] += 1
        if outcome == "executed":
            latency_ns = first_command_ns - observation_ns
            self.observation_to_command_ms.append(latency_ns / NANOSECONDS_PER_MILLISECOND)
        elif outcome == "refused":
            self._refused(reason, 1)

    def add(self, other: ChunkTally) -> None:
        """Add another stretch to this one."""
        self.published += other.published
        self.observation_to_command_ms += other.observation_to_command_ms
        self.inference_ms += other.inference_ms
        for outcome, count in other.outcomes.items():
            self.outcomes[outcome] += count
        for reason, count in other.refusals.items():
            self._refused(reason, count)

    def _refused(self, reason: str, count: int) -> None:
        if reason not in self.refusals and len(self.refusals) >= KEPT_REASONS:
            reason = OTHER_REASONS
        self.refusals[reason] = self.refusals.get(reason, 0) + count

    def counts(self) -> dict[str, int]:
        """Published chunks and each outcome."""
        return {"published": self.published, **self.outcomes}
