"""The embedded simulator in the shapes of SimplerEnv's WidowX tasks, as a worker: one picture of 640x480, the
tool's pose, no truth.

PYTHON simpler_shapes.py --suite simpler-ms3 --task T --limit N --connect PATH
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from twinbrain_ros.benchmarks.tabletop import TASKS, Tabletop
from twinbrain_ros.benchmarks.worker import answer

CAMERA = "3rd_view_camera"


class SimplerShapes(Tabletop):
    """Its front camera under the benchmark's name."""

    ROBOT = "wx250s_bridge"

    def describe(self) -> dict[str, Any]:
        (shape,) = super().describe()["cameras"].values()
        return super().describe() | {"cameras": {CAMERA: shape}}

    def _observation(self) -> dict[str, Any]:
        observation = super()._observation()
        (image,) = observation["images"].values()
        return observation | {"images": {CAMERA: image}}


def main() -> int:
    parser = argparse.ArgumentParser()
    for option in ("--suite", "--task", "--connect"):
        parser.add_argument(option, required=True)
    parser.add_argument("--limit", type=int, required=True)
    args = parser.parse_args()
    return answer(lambda: SimplerShapes(TASKS["put"], args.limit), args.connect)


if __name__ == "__main__":
    sys.exit(main())
