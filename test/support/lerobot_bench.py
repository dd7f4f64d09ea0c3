"""How many samples of LeRobot video a process makes per second.

OMP_NUM_THREADS=1 PYTHONPATH=. .venv/bin/python test/support/lerobot_bench.py FOLDER
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import lerobot_fixtures as fixtures
import numpy as np
import torch

from twinbrain_ros.brain.config import CameraInput
from twinbrain_ros.robot.robot_file import load_robot
from twinbrain_ros.training.mixture import MixtureEntry, MixtureSource

CASES = [
    ("v2.1", 320, 240, "libx264", 2),
    ("v2.1", 640, 480, "libx264", 2),
    ("v3.0", 640, 480, "libx264", 2),
    ("v3.0", 640, 480, "libx264", 30),
    ("v3.0", 320, 240, "libsvtav1", 2),
    ("v3.0", 640, 480, "libsvtav1", 2),
]
EPISODES, LENGTH, BATCH, BATCHES, SEEN = 12, 60, 16, 12, 224


def film(height: int, width: int) -> list[np.ndarray]:
    """A texture that moves by two pixels per frame, with a camera's noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (height // 8, width // 8 + 100, 3), dtype=np.uint8)
    wide = cv2.resize(coarse, (width + 800, height), interpolation=cv2.INTER_CUBIC).astype(int)
    noise = [rng.normal(0, 1, (height, width, 1)).round().astype(int) for _ in range(LENGTH)]
    return [np.clip(wide[:, 2 * i : 2 * i + width] + n, 0, 255).astype(np.uint8) for i, n in enumerate(noise)]


class Filmed(fixtures.Episode):
    pictures: list[np.ndarray]

    def images(self, camera: int, height: int, width: int) -> list[np.ndarray]:
        return self.pictures[::-1] if camera else self.pictures


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    cameras = [CameraInput(name, SEEN, SEEN) for name in ("front", "wrist")]
    for version, width, height, codec, gop in CASES:
        root = folder / f"{version}_{width}_{codec}_{gop}"
        if not root.exists():
            pictures, episodes = film(height, width), []
            for seed in range(EPISODES):
                plain = fixtures.arm_episode(LENGTH, seed)
                episodes.append(Filmed(plain.state, plain.action))
                episodes[-1].pictures = pictures
            options = {"crf": "23"} if codec == "libx264" else {"preset": "12"}
            layout = fixtures.Layout(version, height=height, width=width, gop=gop, episodes_per_file=6)
            layout.codec, layout.options = codec, options
            fixtures.write_dataset(root, episodes, layout)
        source = MixtureSource([MixtureEntry(str(root))], load_robot("wx250s"), cameras, 8)
        source.batch(0, 999, BATCH)
        wall, cpu = time.perf_counter(), time.process_time()
        for step in range(BATCHES):
            source.batch(0, step, BATCH)
        rates = [BATCHES * BATCH / (clock - start) for clock, start in _clocks(wall, cpu)]
        print(f"{root.name}: {rates[0]:.0f} samples/s, {rates[1]:.0f} per second of CPU")


def _clocks(wall: float, cpu: float) -> list[tuple[float, float]]:
    return [(time.perf_counter(), wall), (time.process_time(), cpu)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
