"""Bringing the loop up and down, and counting its camera frames."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lifecycle_msgs.msg import Transition

from twinbrain_ros.demo.client import LoopClient, LoopError
from twinbrain_ros.demo.processes import NodeGroup, node_command
from twinbrain_ros.evaluation.results import FrameCounts
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.sim.follower_kinds import DEFAULT

NODES = ("policy_node", "controller_node", "sim_node")
SIM, RECORDER = "sim_node", "recorder_node"

# Loading PyTorch and a checkpoint on a busy two-core machine is what takes long.
CONFIGURE_TIMEOUT_S = 120.0
ACTIVATE_TIMEOUT_S = 30.0
# After the cameras stop, how long the last frame and the 1 Hz counters may take.
SETTLE_S = 5.0

# The whole loop shares a few cores with whatever else runs there, and no hand is near this arm: a pause of
# the machine is no fault of it. Beside a real arm the controller's own defaults hold.
PATIENT_WATCHDOGS = {
    "joints_timeout_s": 1.0,
    "overrun_s": 1.0,
    "policy_timeout_s": 1.5,
    "observation_timeout_s": 1.5,
}

_CONFIGURE = (Transition.TRANSITION_CONFIGURE, "configure", CONFIGURE_TIMEOUT_S)
_ACTIVATE = (Transition.TRANSITION_ACTIVATE, "activate", ACTIVATE_TIMEOUT_S)
_DEACTIVATE = (Transition.TRANSITION_DEACTIVATE, "deactivate", ACTIVATE_TIMEOUT_S)


class Loop:
    """The running nodes, by way of the client that talks to them."""

    def __init__(
        self, robot: RobotFile, client: LoopClient, pids: Mapping[str, int], from_pose: str = ""
    ) -> None:
        """pids: of the nodes' processes, by name, in the order they are to be brought up."""
        self.from_pose = from_pose
        self.robot = robot
        self.client = client
        self.pids = pids
        self._baseline: dict[str, dict[str, int]] | None = None

    @property
    def records(self) -> bool:
        """Whether episodes can be recorded."""
        return RECORDER in self.pids

    def bring_up(self, before_counting: Callable[[], None] = lambda: None) -> None:
        """Configure and activate all nodes, wait until the policy speaks, and start counting frames.

        `before_counting` is called while the cameras are still, just before they start for good.

        Raises:
            LoopError: a node refuses, or the policy gives no chunk.
        """
        for node in self.pids:
            self.client.change_state(node, *_CONFIGURE)
        for node in self.pids:
            self.client.change_state(node, *_ACTIVATE)
        first_instruction = self.client.reset_scene(0, "pick")
        self.client.instruct(first_instruction)
        if not self.client.spin_until(lambda: self.client.last_chunk is not None, ACTIVATE_TIMEOUT_S):
            reasons = "; ".join(self.client.complaints()) or "no node complains on /diagnostics"
            raise LoopError(f"no action chunk within {ACTIVATE_TIMEOUT_S:g} s of activation: {reasons}")
        # Frames sent before the policy was discovered reached nobody. They are no loss, so counting starts at
        # a moment when nothing is on its way.
        self._baseline = self._settled_counts()
        before_counting()
        self.client.change_state(SIM, *_ACTIVATE)

    def count_frames(self) -> FrameCounts:
        """Frames since `bring_up`. Stops the cameras for good.

        Raises:
            LoopError: a node does not report its counters.
        """
        if self._baseline is None:
            raise LoopError("frames: counting has not started")
        final = self._settled_counts()
        return FrameCounts(
            {
                camera: {what: count - self._baseline[camera][what] for what, count in counts.items()}
                for camera, counts in final.items()
            }
        )

    def _settled_counts(self) -> dict[str, dict[str, int]]:
        """Stop the cameras, let the last frames and counters arrive, and read the counters per camera."""
        self.client.change_state(SIM, *_DEACTIVATE)
        stopped_ns = self.client.now_ns()  # counters that were reported before this are not final

        # Until everything that was sent has arrived, apart from what nobody could have received.
        unheard = {camera: c["sent"] - c["received"] for camera, c in (self._baseline or {}).items()}

        def all_there() -> bool:
            return all(
                c["sent"] is not None
                and c["received"] is not None
                and c["used"] is not None
                and c["sent"] - c["received"] == unheard.get(camera, 0)
                for camera, c in self._counts(stopped_ns).items()
            )

        self.client.spin_until(all_there, SETTLE_S)
        counts = self._counts(stopped_ns)
        missing = [
            f"frames_{what}/{camera}" for camera, c in counts.items() for what, n in c.items() if n is None
        ]
        if missing:
            raise LoopError(
                f"/diagnostics: no {', '.join(missing)} within {SETTLE_S:g} s of stopping the cameras"
            )
        return {camera: {what: n for what, n in c.items() if n is not None} for camera, c in counts.items()}

    def _counts(self, since_ns: int) -> dict[str, dict[str, int | None]]:
        return {
            camera.name: {
                what: self.client.counter(f"frames_{what}/{camera.name}", since_ns)
                for what in ("sent", "received", "used")
            }
            for camera in self.robot.cameras
        }


@dataclass(frozen=True)
class LoopSettings:
    """What a loop is made of.

    Attributes:
        execution_steps: steps of each chunk to execute; None for the robot file's.
        strategy: how chunks follow one another, as `control/strategies.py` names it.
        delay_s: how late every chunk is to come at least [s].
        command_hz: of the controller; 0: the robot file's.
        seed: of the policy's noise.
        follower: the trajectory controller that is simulated, as `sim/follower_kinds.py` names it.
        log_dir: where the nodes' output goes.
        from_pose: where the arm lies before each episode, which begins with its way home; "": at home.
        record: directory of the episodes' bags; None records nothing.
        modules: other Python modules to run as a node than `twinbrain_ros.nodes.<node>`.
    """

    robot: RobotFile
    checkpoint: Path
    log_dir: Path
    execution_steps: int | None = None
    strategy: str = "receding_horizon"
    delay_s: float = 0.0
    command_hz: float = 0.0
    seed: int = 0
    follower: str = DEFAULT
    record: Path | None = None
    from_pose: str = ""
    modules: Mapping[str, str] = field(default_factory=dict)

    @property
    def nodes(self) -> tuple[str, ...]:
        """In the order they are brought up: who listens comes before who speaks."""
        return NODES if self.record is None else (RECORDER, *NODES)

    def command(self, node: str) -> list[str]:
        """The command line of a node."""
        # The policy makes a new chunk as often as the controller has executed one.
        steps: dict[str, object] = (
            {} if self.execution_steps is None else {"execution_steps": self.execution_steps}
        )
        own: dict[str, dict[str, object]] = {
            "policy_node": {
                "checkpoint": self.checkpoint.resolve(),
                "seed": self.seed % 2**31,
                "real_time": self.strategy == "real_time",
                "inject_delay_s": float(self.delay_s),
                **steps,
            },
            "controller_node": {
                "strategy": self.strategy,
                "command_hz": float(self.command_hz),
                **PATIENT_WATCHDOGS,
                **steps,
            },
            SIM: {"follower": self.follower},
            RECORDER: {"directory": self.record.resolve() if self.record else ""},
        }
        module = self.modules.get(node, f"twinbrain_ros.nodes.{node}")
        return node_command(module, node, {"robot": self.robot.path, "autostart": False, **own[node]})


@contextmanager
def running_loop(settings: LoopSettings) -> Iterator[Loop]:
    """Start the nodes as processes and the client; leaving ends them all.

    The environment must have what `local_ros_environment` gives before this is entered.
    """
    with NodeGroup(settings.log_dir) as nodes:
        pids = {
            node: nodes.start(node, settings.command(node), os.environ).popen.pid for node in settings.nodes
        }
        with LoopClient(settings.robot, nodes.check) as client:
            yield Loop(settings.robot, client, pids, settings.from_pose)
