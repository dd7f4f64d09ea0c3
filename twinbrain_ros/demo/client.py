"""The loop's person at the keyboard: sets modes, gives instructions, watches what happens. One rclpy node."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from twinbrain_ros.action import GoTo
from twinbrain_ros.data.episode_info import FAILURE, SUCCESS
from twinbrain_ros.data.messages import from_time
from twinbrain_ros.demo.scene import scene_from_message
from twinbrain_ros.evaluation.results import Ticks
from twinbrain_ros.evaluation.tally import OUTCOMES, ChunkTally
from twinbrain_ros.msg import ActionChunk, ChunkStatus, ControlMode
from twinbrain_ros.msg import SceneState as SceneStateMessage
from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.robot.robot_file import Camera, RobotFile
from twinbrain_ros.sim.state import SceneState
from twinbrain_ros.srv import LabelEpisode, ResetScene, SetMode, StartEpisode

# How long one wait for messages may last before the processes are looked at again [s].
TICK_S = 0.05
CALL_TIMEOUT_S = 10.0
GO_TO_TIMEOUT_S = 60.0
ASK_AGAIN_S = 0.3
# Without an answer for so long [s], a node is asked where it is.
SILENT_S = 2.0

# Deep: the counts must be complete even if this process is held up for a while.
EVENTS = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)

_LEADS_TO = {
    Transition.TRANSITION_CONFIGURE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_ACTIVATE: State.PRIMARY_STATE_ACTIVE,
    Transition.TRANSITION_DEACTIVATE: State.PRIMARY_STATE_INACTIVE,
}

ImageHandler = Callable[[str, Image | CompressedImage], None]


class LoopError(RuntimeError):
    """The loop did not do what it was asked to; the message says which part, what was asked, what it said."""


class LoopClient:
    """Talks to the nodes of one loop from the main thread: every wait spins, nothing runs in the background.

    `watch` is called in every wait and may raise, as when a node died.
    """

    def __init__(self, robot: RobotFile, watch: Callable[[], None]) -> None:
        self._watch = watch
        self._context = rclpy.Context()
        # Ctrl-C shall end waits by KeyboardInterrupt; rclpy's own handlers would end its context first.
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("twinbrain_demo", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

        self.tally = ChunkTally()
        self.scene: SceneState | None = None
        self.scene_message: SceneStateMessage | None = None
        self.last_chunk: ActionChunk | None = None
        self.mode: ControlMode | None = None
        self.faults: list[str] = []  # why the controller stopped the arm by itself
        self._counters: dict[str, tuple[int, str]] = {}
        self._diagnostics: dict[str, DiagnosticStatus] = {}
        self._on_scene: Callable[[SceneState], None] | None = None
        self._image_subscriptions: list[Any] = []

        topics = robot.topics
        self._instruction = self.node.create_publisher(String, topics.instruction, qos.LATCHED)
        self.node.create_subscription(ActionChunk, topics.action_chunk, self._chunk, EVENTS)
        self.node.create_subscription(ChunkStatus, topics.chunk_status, self._status, EVENTS)
        self.node.create_subscription(ControlMode, topics.control_mode, self._control_mode, qos.LATCHED)
        self.node.create_subscription(SceneStateMessage, "scene_state", self._scene, EVENTS)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, EVENTS)
        self._reset: Any = self.node.create_client(ResetScene, "reset_scene")
        self._mode: Any = self.node.create_client(SetMode, "set_mode")
        self._release: Any = self.node.create_client(Trigger, "reset")
        self._start: Any = self.node.create_client(StartEpisode, "episode/start")
        self._label: Any = self.node.create_client(LabelEpisode, "episode/label")
        self._stop: Any = self.node.create_client(Trigger, "episode/stop")
        self._go_to: Any = ActionClient(self.node, GoTo, "go_to")
        self._lifecycle: dict[str, Any] = {}
        self._states: dict[str, Any] = {}

    def __enter__(self) -> LoopClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    # -- what arrives

    def _chunk(self, message: ActionChunk) -> None:
        self.last_chunk = message
        self.tally.on_chunk(message.inference_time_s)

    def _status(self, message: ChunkStatus) -> None:
        self.tally.on_status(
            OUTCOMES[message.outcome],
            message.reason,
            from_time(message.observation_stamp),
            from_time(message.first_command_stamp),
        )

    def _control_mode(self, message: ControlMode) -> None:
        if message.latched and not self.stopped:
            self.faults.append(message.reason)
        self.mode = message

    @property
    def stopped(self) -> bool:
        """Whether the controller has stopped the arm by itself and waits for a reset."""
        return self.mode is not None and bool(self.mode.latched)

    def _scene(self, message: SceneStateMessage) -> None:
        self.scene_message = message
        self.scene = scene_from_message(message)
        if self._on_scene is not None:
            self._on_scene(self.scene)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        stamp = from_time(message.header.stamp)
        for status in message.status:
            self._diagnostics[status.name] = status
            self._counters.update({pair.key: (stamp, pair.value) for pair in status.values})

    def now_ns(self) -> int:
        """The time that messages are stamped with."""
        return int(self.node.get_clock().now().nanoseconds)

    def counter(self, key: str, since_ns: int) -> int | None:
        """A counter from /diagnostics, None unless a node has reported it after `since_ns`."""
        stamp, value = self._counters.get(key, (-1, ""))
        return int(value) if stamp >= since_ns else None

    def ticks(self) -> Ticks | None:
        """How regularly the controller came to its turns, as it says itself; None if it has not said yet."""
        found = {key: self._counters.get(key, (0, ""))[1] for key in Ticks.KEYS}
        if not all(found.values()):
            return None
        return Ticks(*(float(found[key]) for key in Ticks.KEYS))

    def complaints(self, node: str = "") -> list[str]:
        """What a node reports as an error now; of all nodes, each with its name, if none is given."""
        return [
            status.message if node else f"{name}: {status.message}"
            for name, status in sorted(self._diagnostics.items())
            if node in name and _number(status.level) >= _number(DiagnosticStatus.ERROR)
        ]

    # -- waiting and asking

    def spin_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Take in messages until `condition` holds; False if it does not within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() >= deadline:
                return False
            self._watch()
            self._executor.spin_once(timeout_sec=TICK_S)
        return True

    def take_new_tally(self) -> ChunkTally:
        """The counts since the last call, and start again at zero."""
        tally, self.tally = self.tally, ChunkTally()
        return tally

    def watch_scene(self, handler: Callable[[SceneState], None] | None) -> None:
        """Call `handler` with every scene state that arrives, or no more for None."""
        self._on_scene = handler

    def watch_images(self, cameras: Iterable[Camera], handler: ImageHandler) -> None:
        """Call `handler(name, image)` for images of these cameras, which the simulator sends."""
        for camera in cameras:
            kind, topic = convert.image_type(camera), camera.image_topic
            self._image_subscriptions.append(
                self.node.create_subscription(
                    kind, topic, lambda message, name=camera.name: handler(name, message), qos.SENSOR_IN
                )
            )

    def ignore_images(self) -> None:
        """No more images."""
        while self._image_subscriptions:
            self.node.destroy_subscription(self._image_subscriptions.pop())

    def _call(
        self, client: Any, request: Any, timeout_s: float, done: Callable[[], Any] = lambda: None
    ) -> Any:
        """Call a service and wait for its answer.

        done: asked now and then while there is none; what it gives counts as the answer. Of two processes
            that have just met, one may not be heard by the other yet: an answer gets lost, for good.

        Raises:
            LoopError: the service is not there in time, or does not answer in time.
        """
        name = client.srv_name
        if not self.spin_until(client.service_is_ready, timeout_s):
            raise LoopError(f"service {name}: not there after {timeout_s:g} s")
        future, end = client.call_async(request), time.monotonic() + timeout_s
        while not self.spin_until(future.done, min(SILENT_S, max(end - time.monotonic(), 0.0))):
            found = done()
            if found is None and time.monotonic() < end:
                continue
            client.remove_pending_request(future)
            if found is None:
                raise LoopError(f"service {name}: no answer within {timeout_s:g} s")
            return found
        return future.result()

    def change_state(self, node: str, transition: int, label: str, timeout_s: float) -> None:
        """Put a lifecycle node through a transition (a constant of lifecycle_msgs/Transition).

        Raises:
            LoopError: the node refuses, or does not answer in time; with what it reports on /diagnostics.
        """
        if node not in self._lifecycle:
            self._lifecycle[node] = self.node.create_client(ChangeState, f"{node}/change_state")
            self._states[node] = self.node.create_client(GetState, f"{node}/get_state")
        request = ChangeState.Request()
        request.transition.id = transition
        answer = self._call(
            self._lifecycle[node], request, timeout_s, lambda: self._arrived(node, transition)
        )
        if not answer.success:
            self.spin_until(lambda: bool(self.complaints(node)), 1.0)
            reasons = "; ".join(self.complaints(node)) or f"cannot {label}, no reason on /diagnostics"
            raise LoopError(f"{node}: {reasons}")

    def _arrived(self, node: str, transition: int) -> ChangeState.Response | None:
        """The answer that got lost, if the node is where a transition leads to, else None."""
        client = self._states[node]
        future = client.call_async(GetState.Request())
        if not self.spin_until(future.done, SILENT_S):
            client.remove_pending_request(future)
            return None
        there = future.result().current_state.id == _LEADS_TO.get(transition)
        return ChangeState.Response(success=True) if there else None

    def reset_scene(self, seed: int, task: str, pose: str = "") -> str:
        """Draw a scene, the arm in a pose (""; home); returns its instruction once it is seen on the topic.

        Raises:
            LoopError: the simulator refuses, or does not answer in time.
        """
        episode = self.scene_message.episode if self.scene_message else 0
        request = ResetScene.Request(seed=seed, task=task, pose=pose)
        answer = self._call(self._reset, request, CALL_TIMEOUT_S)
        if not answer.success:
            raise LoopError(f"reset_scene(seed {seed}, task {task!r}): {answer.message}")

        def is_new() -> bool:
            return self.scene_message is not None and self.scene_message.episode != episode

        if not self.spin_until(is_new, CALL_TIMEOUT_S):
            raise LoopError(f"scene_state: no new episode seen within {CALL_TIMEOUT_S:g} s of reset_scene")
        return str(answer.instruction)

    def release(self) -> None:
        """Reset the controller if it has stopped the arm, as the person at the arm would.

        Raises:
            LoopError: it stays stopped.
        """
        if not self.stopped:
            return
        answer = self._call(self._release, Trigger.Request(), CALL_TIMEOUT_S)
        if not answer.success or not self.spin_until(lambda: not self.stopped, CALL_TIMEOUT_S):
            raise LoopError(f"reset: {answer.message}")

    def set_mode(self, mode: int, reason: str) -> None:
        """Ask the controller for a mode (a constant of ControlMode), again and again if it cannot be yet.

        Raises:
            LoopError: the controller still refuses after CALL_TIMEOUT_S, or does not answer in time.
        """
        request = SetMode.Request(mode=mode, source="twinbrain demo", reason=reason)
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while not (answer := self._call(self._mode, request, CALL_TIMEOUT_S)).success:
            if time.monotonic() > deadline:
                raise LoopError(f"set_mode({mode}): {answer.message}")
            # The arm was put elsewhere just now, or its joint states are too old for a moment.
            self.spin_until(lambda: False, ASK_AGAIN_S)

    def go_to(self, pose: str) -> None:
        """Let the arm go to a pose, and wait until it is there.

        Raises:
            LoopError: it does not get there in time; with what the controller says.
        """
        if not self.spin_until(self._go_to.server_is_ready, CALL_TIMEOUT_S):
            raise LoopError(f"action go_to: not there after {CALL_TIMEOUT_S:g} s")
        refusal, deadline = "", time.monotonic() + CALL_TIMEOUT_S
        while time.monotonic() < deadline:
            handle = self._answer(self._go_to.send_goal_async(GoTo.Goal(pose=pose)), CALL_TIMEOUT_S)
            result = self._answer(handle.get_result_async(), GO_TO_TIMEOUT_S).result
            if result.success:
                return
            refusal = result.message
            if not refusal.startswith("cannot start"):
                break
            # The joint states can be too old, or the arm was put elsewhere just now: in a moment they agree.
            self.spin_until(lambda: False, ASK_AGAIN_S)
        raise LoopError(f"go_to({pose!r}): {refusal}")

    def _answer(self, future: Any, timeout_s: float) -> Any:
        if not self.spin_until(future.done, timeout_s):
            raise LoopError(f"action go_to: no answer within {timeout_s:g} s")
        return future.result()

    def start_episode(self, name: str, task: str, seed: int) -> None:
        """Begin to record an episode; raises LoopError if the recorder refuses."""
        self._ask(self._start, StartEpisode.Request(name=name, task=task, seed=seed))

    def label_episode(self, success: bool, text: str) -> None:
        """Say what the simulator's truth says of the episode; raises LoopError if the recorder refuses."""
        outcome = SUCCESS if success else FAILURE
        self._ask(self._label, LabelEpisode.Request(outcome=outcome, text=text, source="simulator"))

    def stop_episode(self) -> None:
        """End the recording of the episode; raises LoopError if it is not whole."""
        self._ask(self._stop, Trigger.Request())

    def _ask(self, client: Any, request: Any) -> None:
        answer = self._call(client, request, CALL_TIMEOUT_S)
        if not answer.success:
            raise LoopError(f"service {client.srv_name}: {answer.message}")

    def instruct(self, text: str) -> None:
        """Publish an instruction."""
        self._instruction.publish(String(data=text))


def _number(level: bytes | int) -> int:
    """A diagnostic level as a number; rclpy gives it as one byte."""
    return level[0] if isinstance(level, bytes) else level
