"""The recorder's service episode/start: an episode begins as the arm is, or once it is in a pose."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from twinbrain_ros.data.episode_info import EpisodeInfo
from twinbrain_ros.data.recorder import RecorderError
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.nodes.pose_client import PoseClient
from twinbrain_ros.srv import StartEpisode


class EpisodeStart:
    """Serves episode/start. On the way to a pose everything else is answered, and the way can be cancelled.

    Args:
        check: whether an episode of a name can begin; raises ValueError or OSError if not.
        begin: begins one of a name, and gives its bag; raises likewise. `anew`: with nothing of what was
            before it.
    """

    def __init__(
        self,
        node: TwinBrainNode,
        check: Callable[[str], None],
        begin: Callable[[str, EpisodeInfo, bool], Path],
    ) -> None:
        self._node, self._can_begin, self._begin_episode = node, check, begin
        self._way = PoseClient(node)
        self._answers = node.serve(StartEpisode, "episode/start", self._on_start)

    @property
    def pose(self) -> str:
        """Where the arm is on its way to for an episode; empty if it is on none."""
        return self._way.pose

    def look(self) -> None:
        """To be called several times a second."""
        self._way.look()

    def cancel(self, reason: str) -> str:
        """Ends the way to a pose; what there is to say of it, empty if the arm is on none."""
        pose = self._way.pose
        self._way.cancel(reason)
        return f"cancelled on the way to {pose!r}: no episode has begun" if pose else ""

    def _on_start(self, request: StartEpisode.Request, response: StartEpisode.Response) -> None:
        if not self._done(response, partial(self._check, request.name)):
            return
        if not request.pose:
            self._begin(request, response)
            return
        self._answers.hold(response)
        self._way.begin(request.pose, partial(self._arrived, request, response))

    def _check(self, name: str) -> None:
        if self._way.pose:
            raise RecorderError(f"one is about to begin: the arm is on its way to {self._way.pose!r}")
        self._can_begin(name)

    def _arrived(self, request: StartEpisode.Request, response: StartEpisode.Response, problem: str) -> None:
        if problem:
            response.success = False
            response.message = f"no episode begins, the arm does not get to {request.pose!r}: {problem}"
            self._node.get_logger().warning(response.message)
        else:
            self._begin(request, response)
        self._answers.send(response)

    def _begin(self, request: StartEpisode.Request, response: StartEpisode.Response) -> None:
        seed = int(request.seed) if request.seed >= 0 else None
        info = EpisodeInfo(task=request.task, seed=seed, note=request.note)

        def begin() -> None:
            response.bag = str(self._begin_episode(request.name, info, bool(request.pose)))

        self._done(response, begin)

    def _done(self, response: StartEpisode.Response, act: Callable[[], None]) -> bool:
        """Whether it could be done; if not, the response says what stands against it."""
        try:
            act()
        except (ValueError, OSError) as error:
            response.success, response.message = False, str(error)
            self._node.get_logger().warning(response.message)
            return False
        response.success = True
        return True
