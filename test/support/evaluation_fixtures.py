"""Episode records to test with."""

from __future__ import annotations

from twinbrain_ros.evaluation.records import EpisodeRecord


def record(index: int, task: str = "pick", success: bool = True, **changes: object) -> EpisodeRecord:
    values: dict[str, object] = {
        "index": index,
        "task": task,
        "seed": 100 + index,
        "instruction": "pick up the red block",
        "first_instruction": "pick up the red block",
        "success": success,
        "wrong_object": False,
        "duration_s": 5.5,
        "chunks_executed": 12,
    }
    return EpisodeRecord(**{**values, **changes})  # type: ignore[arg-type]
