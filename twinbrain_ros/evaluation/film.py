"""A few moments of an episode, as its cameras saw them."""

from __future__ import annotations

import cv2
import numpy as np

from twinbrain_ros.data.bag import Bag, Message
from twinbrain_ros.data.messages import NS_PER_S
from twinbrain_ros.data.problems import Problems
from twinbrain_ros.data.recorded import camera_topics, recorded_image
from twinbrain_ros.evaluation.figures import Film
from twinbrain_ros.robot.robot_file import Camera, RobotFile

MOMENTS = 6
EDGE = 192  # longer edge of a picture [pixels]
JPEG_QUALITY = 80


class FilmReader:
    """Chooses the pictures nearest to a few evenly spaced moments, and decodes only these.

    Attributes:
        cameras: by the topic of whose messages `offer` is to be told.
    """

    def __init__(self, bag: Bag, robot: RobotFile, namespace: str, problems: Problems) -> None:
        self._bag, self._problems = bag, problems
        # Not of what was before the episode, which may be another scene.
        begins_ns = bag.episode.started_ns
        first_ns = begins_ns if bag.start_ns <= begins_ns <= bag.end_ns else bag.start_ns
        self._moments = [int(ns) for ns in np.linspace(first_ns, bag.end_ns, MOMENTS)]
        self._nearest: dict[tuple[str, int], Message] = {}
        self.cameras = camera_topics(bag, robot, namespace)

    def offer(self, message: Message) -> None:
        """An image that may be one of them."""
        for i, moment_ns in enumerate(self._moments):
            known = self._nearest.get((message.topic, i))
            if known is None or abs(message.log_ns - moment_ns) < abs(known.log_ns - moment_ns):
                self._nearest[message.topic, i] = message

    def develop(self) -> Film | None:
        """The film; None without any picture."""
        if not self._nearest:
            return None
        images = {
            camera.name: tuple(self._jpeg(topic, camera, i) for i in range(MOMENTS))
            for topic, camera in self.cameras.items()
        }
        return Film(tuple((ns - self._bag.start_ns) / NS_PER_S for ns in self._moments), images)

    def _jpeg(self, topic: str, camera: Camera, i: int) -> bytes | None:
        message = self._nearest.get((topic, i))
        if message is None:
            return None
        try:
            image = recorded_image(self._bag.decode(message), camera)
        except ValueError as error:
            self._problems.add(f"{topic}/film", f"{topic}: {error}")
            return None
        scale = EDGE / max(image.shape[:2])
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        smaller = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
        done, packed = cv2.imencode(".jpg", smaller[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        return packed.tobytes() if done else None
