"""Runs planned episodes on a running loop and collects what happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from twinbrain_ros.data.frames import FrameError
from twinbrain_ros.data.messages import from_time, image_from_message
from twinbrain_ros.demo.client import LoopError
from twinbrain_ros.demo.loop import Loop
from twinbrain_ros.demo.plan import EpisodePlan
from twinbrain_ros.evaluation.records import EpisodeRecord
from twinbrain_ros.evaluation.results import RunResults
from twinbrain_ros.evaluation.sheet import Filmstrip
from twinbrain_ros.msg import ControlMode
from twinbrain_ros.robot.poses import HOME
from twinbrain_ros.sim.state import SceneState
from twinbrain_ros.sim.tasks import Goal, Judge

if TYPE_CHECKING:
    from sensor_msgs.msg import CompressedImage, Image

RETARGET_AFTER_S = 2.0
# The policy must have seen the new scene and read the new instruction before the arm is let go.
FIRST_CHUNK_TIMEOUT_S = 10.0
# Enough images to choose evenly spaced ones from, few enough to forget about their memory.
CAPTURE_INTERVAL_S = 0.2


@dataclass
class Recording:
    """Results and the first episodes' films; complete up to the moment the run ends, however it does."""

    results: RunResults = field(default_factory=RunResults)
    films: list[tuple[EpisodeRecord, Filmstrip]] = field(default_factory=list)


class _Episode:
    """Judges one episode from the scene states that arrive."""

    def __init__(self, goal: Goal) -> None:
        self._judge = Judge(goal)
        self.wrong_object = False

    def on_scene(self, scene: SceneState) -> None:
        outcome = self._judge.update(scene)
        self.wrong_object = self.wrong_object or outcome.wrong_object

    def retarget(self, goal: Goal) -> None:
        """From now on judge by the new goal; what is in the air already is not held against the policy."""
        self._judge = Judge(goal)

    @property
    def success(self) -> bool:
        return self._judge.outcome.success


class EpisodeRunner:
    """Runs episodes one after another.

    `films`: of so many episodes, from the first, the cameras' images are kept.
    """

    def __init__(self, loop: Loop, max_seconds: float, films: int) -> None:
        self._loop = loop
        self._client = loop.client
        self._max_seconds = max_seconds
        self._films = films
        self._cameras = {camera.name: camera for camera in loop.robot.cameras}
        self._started = 0.0
        self._film: Filmstrip | None = None
        self._last_capture: dict[str, float] = {}

    def run(
        self, plans: Sequence[EpisodePlan], recording: Recording, report: Callable[[EpisodeRecord], None]
    ) -> None:
        """Run the episodes into `recording`, calling `report` after each; then count the frames.

        Raises:
            LoopError: the loop does not do what it is asked to.
            NodeDied: a node ended.
        """
        results = recording.results
        self._client.take_new_tally()
        if self._films:
            self._client.watch_images(self._cameras.values(), self._on_image)
        for plan in plans:
            if plan.index == self._films:
                self._client.ignore_images()
            film = Filmstrip() if plan.index < self._films else None
            try:
                record = self._run_episode(plan, film)
            finally:
                results.faults = list(self._client.faults)
                results.chunks.add(self._client.take_new_tally())
            results.records.append(record)
            if film is not None:
                recording.films.append((record, film))
            report(record)
        results.frames = self._loop.count_frames()
        results.ticks = self._client.ticks()
        results.chunks.add(self._client.take_new_tally())

    def _run_episode(self, plan: EpisodePlan, film: Filmstrip | None) -> EpisodeRecord:
        client = self._client
        client.release()
        client.reset_scene(plan.seed, plan.goal.task, self._loop.from_pose)
        if self._loop.from_pose:
            client.go_to(HOME)
        self._instruct_and_wait(plan.goal.instruction())
        executed_before = client.tally.outcomes["executed"]
        episode = _Episode(plan.goal)
        if self._loop.records:
            client.start_episode(plan.bag, plan.goal.task, plan.seed)
        client.set_mode(ControlMode.AUTONOMY, f"episode {plan.index + 1}")
        self._started = time.monotonic()
        self._film, self._last_capture = film, {}
        client.watch_scene(episode.on_scene)
        try:
            self._wait(episode, plan)
        finally:
            client.watch_scene(None)
            self._film = None
        duration_s = time.monotonic() - self._started
        if self._loop.records:
            client.label_episode(episode.success, "wrong object" if episode.wrong_object else "")
        client.set_mode(ControlMode.HOLD, f"episode {plan.index + 1} is over")
        if self._loop.records:
            client.stop_episode()
        return EpisodeRecord(
            index=plan.index,
            task=plan.goal.task,
            seed=plan.seed,
            instruction=plan.final_goal.instruction(),
            first_instruction=plan.goal.instruction(),
            success=episode.success,
            wrong_object=episode.wrong_object,
            duration_s=round(duration_s, 3),
            chunks_executed=client.tally.outcomes["executed"] - executed_before,
        )

    def _wait(self, episode: _Episode, plan: EpisodePlan) -> None:
        """Until success or the time is over; publishes the new instruction on the way if there is one."""
        remaining_s = self._max_seconds
        if plan.retarget is not None:
            self._client.spin_until(lambda: False, min(RETARGET_AFTER_S, remaining_s))
            episode.retarget(plan.retarget)
            self._client.instruct(plan.retarget.instruction())
            remaining_s -= RETARGET_AFTER_S
        if remaining_s > 0:
            self._client.spin_until(lambda: episode.success or self._client.stopped, remaining_s)

    def _instruct_and_wait(self, text: str) -> None:
        """Publish the instruction; wait for a chunk that follows it and was predicted from the new scene."""
        client = self._client
        scene = client.scene_message
        drawn_ns = from_time(scene.header.stamp) if scene is not None else 0
        client.instruct(text)

        def chunk_is_new() -> bool:
            chunk = client.last_chunk
            return (
                chunk is not None
                and chunk.instruction == text
                and from_time(chunk.observation_stamp) >= drawn_ns
            )

        if not client.spin_until(chunk_is_new, FIRST_CHUNK_TIMEOUT_S):
            reasons = "; ".join(client.complaints()) or "no node complains on /diagnostics"
            raise LoopError(
                f"no action chunk for {text!r} within {FIRST_CHUNK_TIMEOUT_S:g} s of publishing it: {reasons}"
            )

    def _on_image(self, camera: str, message: Image | CompressedImage) -> None:
        if self._film is None:
            return
        now_s = time.monotonic() - self._started
        last_s = self._last_capture.get(camera)
        if last_s is not None and now_s - last_s < CAPTURE_INTERVAL_S:
            return
        try:
            image = image_from_message(message, self._cameras[camera])
        except FrameError:
            return  # the policy node reports it; the sheet just lacks it
        self._last_capture[camera] = now_s
        self._film.add(camera, now_s, image.copy())
