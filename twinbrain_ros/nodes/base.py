"""What every node of this package has in common: lifecycle, parameters, diagnostics and a clean end."""

from __future__ import annotations

import inspect
import queue
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, cast

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile

from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.answers import Answers
from twinbrain_ros.nodes.health import Health, Level
from twinbrain_ros.nodes.parameters import COMMON, Declared, declare, refuse_while_configured
from twinbrain_ros.robot.robot_file import RobotFile, load_robot
from twinbrain_ros.text import sentence

DIAGNOSTICS_PERIOD_S = 1.0
LOOK_S = 0.1
HEARD_S = 0.3
CLOCK_WITHIN_S = 2.0

Result = TypeVar("Result")


class TwinBrainNode(LifecycleNode):
    """A lifecycle node that owns its transitions; subclasses fill in four hooks.

    | hook | transition | may fail by |
    |---|---|---|
    | `setup(robot)` | configure | raising: the node stays unconfigured and up, and says why |
    | `start()` | activate | raising: the node stays inactive |
    | `stop()` | deactivate, shutdown | not |
    | `teardown()` | cleanup, shutdown, failed configure | not; called with whatever `setup` left |

    Topics and services made in `setup` and timers made in `start` through the helpers below go away by
    themselves. Everything runs in the thread that spins.
    """

    parameters: ClassVar[tuple[Declared, ...]] = ()
    # Those of `parameters` that take effect at run time; the others are read at configure.
    live: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, name: str, **node_arguments: Any) -> None:
        super().__init__(name, **node_arguments)
        # While a transition takes its time (`meanwhile`), the state can be asked for.
        group = ReentrantCallbackGroup()
        for service in _lifecycle_services(self):
            service.callback_group = group
            group.add_entity(service)
        self.health = Health(time.monotonic)
        self.phase = "unconfigured"
        self.robot: RobotFile | None = None
        self._made: list[tuple[Callable[[Any], Any], Any]] = []
        self._timers_made: list[Any] = []
        declared = (*COMMON, *self.parameters)
        declare(self, declared)
        self._at_configure = {parameter.name for parameter in declared} - self.live
        self.add_on_set_parameters_callback(self._judge_changes)
        self.add_post_set_parameters_callback(lambda changes: self._guarded(self._take_changes)(changes))
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        self._born_s = time.monotonic()
        # Not the ROS clock: a simulation that is paused or reset must not silence the watchdogs.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer(DIAGNOSTICS_PERIOD_S, self._diagnose)

    # Hooks ------------------------------------------------------------------------------------------

    def setup(self, robot: RobotFile) -> None:
        """Makes everything that is needed to run; nothing moves yet."""

    def start(self) -> None:
        """Begins to do the node's work."""

    def stop(self) -> None:
        """Ends it, leaving everything that this node drives at rest."""

    def teardown(self) -> None:
        """Gives up what `setup` made, apart from what the helpers made."""

    def check(self) -> None:
        """Looks for problems that make no event, such as a silent camera; called before each report."""

    def check_change(self, values: dict[str, Any]) -> None:
        """May raise ValueError to refuse new values of `live` parameters; called while configured."""

    def take_change(self) -> None:
        """Lets new values of `live` parameters take effect; called while configured."""

    def condition(self) -> str:
        """One line for /diagnostics while there is no problem."""
        return self.phase

    # Helpers ----------------------------------------------------------------------------------------

    def value(self, name: str) -> Any:
        """A parameter's value."""
        return self.get_parameter(name).value

    def now_ns(self) -> int:
        """The node's clock [ns]."""
        return int(self.get_clock().now().nanoseconds)

    def advertise(self, kind: type, topic: str, profile: QoSProfile) -> Any:
        """A publisher that lasts until cleanup."""
        publisher: Any = self.create_publisher(kind, topic, profile)
        self._made.append((self.destroy_publisher, publisher))
        return publisher

    def subscribe(
        self,
        kind: type,
        topic: str,
        callback: Callable[..., None],
        profile: QoSProfile,
        informed: bool = False,
    ) -> None:
        """A subscription that lasts until cleanup; informed: the callback is given the message's information
        too (a mapping: who sent it, when)."""
        guarded = self._guarded(callback)

        def on_informed(message: Any, information: Any) -> None:  # rclpy goes by the number of parameters
            guarded(message, information)

        taken = on_informed if informed else guarded
        subscription = self.create_subscription(kind, topic, taken, profile)
        self._made.append((self.destroy_subscription, subscription))

    def serve(self, kind: type, name: str, callback: Callable[[Any, Any], None]) -> Answers:
        """A service that lasts until cleanup; its response type has `success` and `message`.

        What it gives holds an answer back that the callback does not have yet.
        """
        guarded = self._guarded(callback)

        def answer(request: Any, response: Any) -> Any:
            guarded(request, response)
            return response

        service: Any = self.create_service(kind, name, answer)
        self._made.append((self.destroy_service, service))
        return Answers(service)

    def wait_until_heard(self) -> None:
        """Until whoever listens has what was published last, but not long: the process may end next."""
        for publisher in self.publishers if self.context.ok() else ():
            publisher.wait_for_all_acked(Duration(seconds=HEARD_S))

    def keep(self, destroy: Callable[[Any], Any], made: Any) -> None:
        """Something else that lasts until cleanup, and how it is destroyed."""
        self._made.append((destroy, made))

    def when_done(self, future: Any, callback: Callable[[Any], None]) -> None:
        """Calls back with the result of a future of this node, such as a service's answer."""
        future.add_done_callback(self._guarded(lambda done: callback(done.result())))

    def every(self, period_s: float, callback: Callable[[], None]) -> None:
        """A timer that lasts until deactivation; it runs by a steady clock."""
        self._timers_made.append(self._timer(period_s, callback))

    def meanwhile(self, work: Callable[[], Result], look: Callable[[], None]) -> Result:
        """Does what takes long in a thread of its own; calls (lifecycle, parameters) are answered meanwhile.

        Only for `setup`, before anything is subscribed to: nothing but the node's own callbacks runs.

        Args:
            work: its result is returned, and what it raises is raised.
            look: called now and then while it works.
        """
        done: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                done.put((work(), None))
            except BaseException as error:
                done.put((None, error))

        # A daemon, so that what hangs cannot keep the process from ending.
        threading.Thread(target=run, name="setup", daemon=True).start()
        usual, own = self.executor, SingleThreadedExecutor(context=self.context)
        own.add_node(self)
        try:
            while done.empty():
                own.spin_once(timeout_sec=LOOK_S)
                look()
        finally:
            own.remove_node(self)
            own.shutdown()
            if usual is not None:
                usual.add_node(self)
        result, error = done.get()
        if error is not None:
            raise error
        return cast(Result, result)

    def clock_problem(self) -> str:
        """Why the node has no time; "" if it has."""
        waited = time.monotonic() - self._born_s > CLOCK_WITHIN_S
        if waited and self.value("use_sim_time") and not self.now_ns():
            return "use_sim_time is true, and nothing has arrived on /clock: expected a simulator there"
        return ""

    def watch(self, period_s: float, callback: Callable[[], None]) -> None:
        """A timer that lasts until cleanup; it runs by a steady clock."""
        self._made.append((self.destroy_timer, self._timer(period_s, callback)))

    def _timer(self, period_s: float, callback: Callable[[], None]) -> Any:
        run = self._guarded(callback)
        # rclpy asks for it before every call, and works it out every time if it is not there.
        run.__signature__ = inspect.Signature()  # type: ignore[attr-defined]
        return self.create_timer(period_s, run, clock=self._steady)

    def report(self, cause: str, message: str, level: Level = Level.ERROR, anew: bool = False) -> None:
        """Notes a problem; on its first time, or anew, it goes to the log and, at once, to /diagnostics."""
        message = sentence(message)
        if not self.health.report(cause, message, level, anew):
            return
        # Two calls, not one chosen: rclpy ties a severity to the line that logs.
        if level is Level.ERROR:
            self.get_logger().error(message)
        else:
            self.get_logger().warning(message)
        self.publish_diagnostics()

    def publish_diagnostics(self) -> None:
        """Publishes the node's condition now."""
        summary = self.health.summary(self.condition())
        name = self.get_fully_qualified_name().lstrip("/")
        status = DiagnosticStatus(
            level=bytes([summary.level]),
            name=name,
            message=summary.message,
            hardware_id=self.robot.name if self.robot else "",
            values=[KeyValue(key="state", value=self.phase)]
            + [KeyValue(key=key, value=value) for key, value in sorted(summary.values.items())],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _diagnose(self) -> None:
        if problem := self.clock_problem():
            self.report("clock", problem)
        else:
            self.health.clear("clock")
        self.check()
        self.publish_diagnostics()

    def _guarded(self, callback: Callable[..., Any]) -> Callable[..., None]:
        """The same, but an unexpected exception in it is a problem to report, not the end of the node."""
        cause = f"internal/{getattr(callback, '__name__', 'callback')}"

        def run(*arguments: Any) -> None:
            try:
                callback(*arguments)
            except Exception as error:
                self.get_logger().debug(traceback.format_exc())
                reason = f"internal error in {cause}: {type(error).__name__}: {error}"
                self._end("on_fault", lambda: self.on_fault(reason))
                self.report(cause, reason)

        return run

    def on_fault(self, reason: str) -> None:
        """Called when a callback failed unexpectedly; a node that moves something stops it here."""

    # Parameters -------------------------------------------------------------------------------------

    def _judge_changes(self, changes: list[Any]) -> SetParametersResult:
        result = refuse_while_configured(self._at_configure, self.phase, changes)
        values = {change.name: change.value for change in changes if change.name in self.live}
        if not result.successful or not values or self.robot is None:
            return result
        try:
            self.check_change(values)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return result

    def _take_changes(self, changes: list[Any]) -> None:
        if self.robot is not None and any(change.name in self.live for change in changes):
            self.take_change()

    # Transitions ------------------------------------------------------------------------------------

    def autostart(self) -> bool:
        """Configures and activates if the parameter says so; True unless that failed."""
        if not self.value("autostart"):
            return True
        for transition in (self.trigger_configure, self.trigger_activate):
            if transition() != TransitionCallbackReturn.SUCCESS:
                return False
        return True

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.phase = "configuring"
        try:
            self.robot = load_robot(self.value("robot"))
            self.setup(self.robot)
        except Exception as error:
            self._clean()
            return self._failed("configure", "unconfigured", error)
        return self._arrived("inactive", mended="configure")

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self.start()
        except Exception as error:
            self._halt()
            return self._failed("activate", "inactive", error)
        return self._arrived("active", mended="activate")

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._halt()
        return self._arrived("inactive")

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._clean()
        return self._arrived("unconfigured")

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._halt_and_clean()

    def _halt_and_clean(self) -> TransitionCallbackReturn:
        if self.phase == "active":
            self._halt()
        self._clean()
        return self._arrived("finalized")

    def _failed(self, transition: str, phase: str, error: Exception) -> TransitionCallbackReturn:
        # Expected errors say by themselves what is wrong; of others the kind helps.
        expected = isinstance(error, (ValueError, FileNotFoundError))
        kind = "" if expected else f"{type(error).__name__}: "
        self.get_logger().debug(traceback.format_exc())
        self.phase = phase
        self.report(transition, f"cannot {transition}: {kind}{error}")
        return TransitionCallbackReturn.FAILURE

    def _arrived(self, phase: str, mended: str = "") -> TransitionCallbackReturn:
        self.phase = phase
        if mended:
            self.health.clear(mended)
        self.get_logger().info(phase)
        self.publish_diagnostics()
        return TransitionCallbackReturn.SUCCESS

    def _halt(self) -> None:
        self._end("stop", self.stop)
        while self._timers_made:
            self.destroy_timer(self._timers_made.pop())

    def _clean(self) -> None:
        self._end("teardown", self.teardown)
        while self._made:
            destroy, made = self._made.pop()
            destroy(made)
        self.robot = None

    def _end(self, what: str, hook: Callable[[], None]) -> None:
        """Ending must go through to its end whatever happens on the way."""
        try:
            hook()
        except Exception as error:
            self.get_logger().debug(traceback.format_exc())
            self.report(f"internal/{what}", f"internal error in {what}: {type(error).__name__}: {error}")

    def close(self) -> None:
        """Brings the node to its end from any state; nothing is driven any more afterwards."""
        if self.phase == "finalized":
            return
        try:
            self.trigger_shutdown()
        except RuntimeError:  # rclpy's, where a signal came in the middle of another transition
            self._halt_and_clean()

    def destroy_node(self) -> None:
        """Takes the node out of the graph, its lifecycle services too."""
        super().destroy_node()
        # rclpy leaves these to the last reference; until then clients take the node for ready, and wait.
        self._state_machine.destroy_when_not_in_use()


def _lifecycle_services(node: LifecycleNode) -> list[Any]:
    """rclpy (9.1) has no other way to them: a LifecycleNode does not take a callback group for them."""
    names = ("change_state", "get_state", "get_available_states", "get_available_transitions")
    return [getattr(node, f"_service_{name}") for name in (*names, "get_transition_graph")]
