"""Which phase of a put-on task a policy fails in: python scripts/trial_phases.py CHECKPOINT [options]

Plays trials of SimplerEnv's WidowX tasks in ManiSkill3 and tells of each how far it came, by what only the
simulator knows: reached (the closing gripper within reach of the thing), grasped, lifted, over (above the
target while held), placed (success at some step), kept (success at the last one); and how far the tool was
off the thing when it closed for the first time. In the end, how many trials of each task came so far.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from twinbrain_ros.benchmarks.expert import grasp_yaw
from twinbrain_ros.benchmarks.players import TwinPlayer
from twinbrain_ros.benchmarks.process import WorkerProcess, interpreter, suite_tasks, worker_command
from twinbrain_ros.benchmarks.profile import Profile, load_profile
from twinbrain_ros.benchmarks.trial import TrialKey, play
from twinbrain_ros.control.steps import StepExecutor
from twinbrain_ros.robot.actions import tool_state

SUITE = "simpler-ms3"
PHASES = ("reached", "grasped", "lifted", "over", "placed", "kept")
REACH_M, LIFT_M = 0.03, 0.03
# Moved-about scenes that are neither listed nor among demonstrations, of listed ones far from each other.
SCENES = [900_000 + 7 * k for k in range(6)]


@dataclass
class Track:
    """What a trial's observations tell."""

    came: set[str] = field(default_factory=set)
    start_z: float | None = None
    closing: str = "never closed"

    def __call__(self, observation: Mapping[str, Any], action: Mapping[str, Any] | None) -> None:
        state, truth = observation["state"], observation["truth"]
        source, target = truth["source_position"], truth["target_position"]
        self.start_z = float(source[2]) if self.start_z is None else self.start_z
        off = state["position"] - source
        beside = float(np.hypot(off[0], off[1]))
        near = beside < REACH_M and abs(off[2]) < REACH_M
        if action is not None and action["gripper"] < 0.5 and state["gripper"][0] > 0.9:
            if self.closing == "never closed":
                now = tool_state(state["position"], state["rotation"], 1.0)[5]
                turned = grasp_yaw(truth["source_rotation"], truth["source_size"], now)[0] - now
                self.closing = (
                    f"closed {1e3 * beside:.0f} mm beside, {1e3 * off[2]:+.0f} mm above, "
                    f"{np.degrees(turned):+.0f} degrees off"
                )
            if near:
                self.came.add("reached")
        if near and source[2] > self.start_z + LIFT_M:
            self.came.add("lifted")
            if np.hypot(*(target - source)[:2]) < REACH_M:
                self.came.add("over")


def trial(worker: WorkerProcess, key: TrialKey, limit: int, player: TwinPlayer, profile: Profile) -> Track:
    """Plays one."""
    track = Track()
    executor = StepExecutor(profile.chunks(), player.horizon, 0, profile.votes)
    result = play(
        worker, key, executor, player.codec, lambda ask: player.answer([ask])[0],
        limit=limit, horizon=player.horizon, watch=track,
    )  # fmt: skip
    told = {"grasped": result.grasped, "placed": result.success_any, "kept": result.success_last}
    track.came |= {name for name, yes in told.items() if yes}
    return track


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = suite_tasks(SUITE)
    tasks = [name for name, found in known.items() if found.benchmark]
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=tasks, metavar="TASK")
    parser.add_argument("--placements", nargs="+", type=int, default=SCENES, metavar="K")
    args = parser.parse_args()
    profile = load_profile("own")
    player = TwinPlayer.load(args.checkpoint, profile)
    for task in args.tasks:
        limit = known[task].task.limit
        command = worker_command(SUITE, task, limit, interpreter(SUITE, None))
        came: list[set[str]] = []
        with (
            tempfile.TemporaryDirectory() as folder,
            WorkerProcess(command, Path(folder) / "log", dict(os.environ)) as worker,
        ):
            player.check(worker.described)
            for placement in args.placements:
                track = trial(worker, TrialKey(task, placement, 0), limit, player, profile)
                came.append(track.came)
                reached = " ".join(name for name in PHASES if name in track.came) or "-"
                print(f"{task} {placement}: {reached}; {track.closing}", flush=True)
        counts = ", ".join(f"{name} {sum(name in one for one in came)}" for name in PHASES)
        print(f"{task}: of {len(came)}: {counts}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
