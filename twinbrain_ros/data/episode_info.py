"""What is known of an episode beside its messages: kept as JSON in the bag's metadata."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SUCCESS, FAILURE = "success", "failure"
OUTCOMES = (SUCCESS, FAILURE)
JUDGE = "judge"  # sources of machine labels begin with it
VERSION = 1


class InfoError(ValueError):
    """A label or an episode's information that cannot be used; names the field, found and expected."""


@dataclass(frozen=True)
class Verdict:
    """Whether the task was done, as somebody says.

    Attributes:
        outcome: SUCCESS, FAILURE, or "" if only a score is given.
        score: 0 to 1, None if only an outcome is given.
        text: free words.
        source: who says so: a person, `simulator`, or `judge: <question>`.
        at_ns: when [ns]; 0 if it was said after the fact.
    """

    outcome: str
    score: float | None = None
    text: str = ""
    source: str = ""
    at_ns: int = 0

    def __post_init__(self) -> None:
        if self.outcome not in ("", *OUTCOMES):
            raise InfoError(f"label.outcome: found {self.outcome!r}, expected one of {list(OUTCOMES)} or ''")
        if self.score is not None and not 0.0 <= self.score <= 1.0:
            raise InfoError(f"label.score: found {self.score!r}, expected a number from 0 to 1")
        if not self.outcome and self.score is None and not self.text:
            raise InfoError("label: found nothing, expected an outcome, a score or a text")

    @property
    def by_machine(self) -> bool:
        return self.source.startswith(JUDGE)


@dataclass(frozen=True)
class TopicCounts:
    """Messages of a topic in an episode: received, of these written, and lost on the way to the recorder."""

    received: int = 0
    written: int = 0
    lost: int = 0

    @property
    def missing(self) -> int:
        """How many were sent and are not in the bag, for whatever reason."""
        return self.lost + self.received - self.written


@dataclass(frozen=True)
class EpisodeInfo:
    """An episode.

    Attributes:
        robot: name of the robot file; robot_file, urdf: the texts of both, as they were.
        namespace: of the arm's topics, "" for none.
        policy: what drove, as `policy_status` named it; "" if it did not.
        task, seed: what episodes of two policies are matched by; seed None: not known.
        instruction: the last one that the policy followed; without a policy, the last one that was given.
        refused: one that came after it and was refused, escaped and shortened, and why; else "".
        note: whatever was given at the start.
        started_ns, ended_ns: [ns]; ended: why it ended.
        versions: of the software, by name.
        counts: by topic.
        verdicts: in the order they were given; of the same source the last one counts.
    """

    robot: str = ""
    robot_file: str = ""
    urdf: str = ""
    namespace: str = ""
    policy: str = ""
    task: str = ""
    seed: int | None = None
    instruction: str = ""
    refused: str = ""
    note: str = ""
    started_ns: int = 0
    ended_ns: int = 0
    ended: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, TopicCounts] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()

    @property
    def label(self) -> Verdict | None:
        """What a person (or a simulator's truth) says last."""
        return next((verdict for verdict in reversed(self.verdicts) if not verdict.by_machine), None)

    @property
    def judged(self) -> Verdict | None:
        """What a machine says last."""
        return next((verdict for verdict in reversed(self.verdicts) if verdict.by_machine), None)

    @property
    def missing(self) -> dict[str, int]:
        """Messages that were sent and are not in the bag, by topic; only topics that miss some."""
        return {topic: counts.missing for topic, counts in self.counts.items() if counts.missing}

    def with_verdict(self, verdict: Verdict) -> EpisodeInfo:
        """The same with one verdict more; an earlier one of its source is replaced."""
        others = tuple(entry for entry in self.verdicts if entry.source != verdict.source)
        return dataclasses.replace(self, verdicts=(*others, verdict))

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EpisodeInfo:
        """Reads what `to_json` wrote; {} gives an episode of which nothing is known.

        Raises:
            InfoError: it was written by a later version, or holds something else.
        """
        if not values:
            return cls()
        version = values.get("version")
        if version != VERSION:
            raise InfoError(f"episode information: found version {version!r}, expected {VERSION}")
        known = {entry.name for entry in dataclasses.fields(cls)}
        try:
            given = {name: value for name, value in values.items() if name in known}
            given["counts"] = {
                topic: TopicCounts(**counts) for topic, counts in given.get("counts", {}).items()
            }
            given["verdicts"] = tuple(Verdict(**verdict) for verdict in given.get("verdicts", ()))
            return cls(**given)
        except (TypeError, AttributeError) as error:
            raise InfoError(f"episode information: found what cannot be read: {error}") from error
