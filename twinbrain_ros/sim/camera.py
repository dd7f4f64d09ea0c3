"""A camera that casts one ray per pixel: the same bytes on every machine, and no OpenGL anywhere.

Surfaces are shaded by their normal (Lambert) under one fixed light plus ambient light; there are no shadows,
textures or random numbers, so an image is a function of the scene alone.
"""

from __future__ import annotations

import mujoco
import numpy as np

from twinbrain_ros.robot.robot_file import Camera
from twinbrain_ros.sim.model import VISUAL_GROUP, focal_length

_LIGHT = np.array([0.35, 0.25, 0.90])
_LIGHT /= np.linalg.norm(_LIGHT)
_AMBIENT = 0.45
_DIFFUSE = 0.60
_BACKGROUND = np.array([150.0, 165.0, 180.0], dtype=np.float32)
_FAR_M = 3.0


class RayCamera:
    """Renders one camera of the model. Not thread-safe: its buffers are kept between images."""

    def __init__(self, model: mujoco.MjModel, camera: Camera) -> None:
        self.camera = camera
        self._id = model.camera(camera.name).id
        directions = _ray_directions(camera.width, camera.height, float(model.cam_fovy[self._id]))
        self._x, self._y, self._z = (np.ascontiguousarray(column) for column in directions.T)
        self._rays = np.empty_like(directions)
        self._count = camera.width * camera.height
        self._geom = np.full(self._count, -1, dtype=np.int32)
        self._distance = np.zeros(self._count)
        self._normal = np.zeros(3 * self._count)
        self._groups = np.zeros(6, dtype=np.uint8)
        self._groups[VISUAL_GROUP] = 1

    def render(self, model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
        """Return the image, uint8 RGB [height, width, 3], of the current ``geom_xpos`` and ``cam_xpos``."""
        self._cast(model, data)
        normal = self._normal.reshape(self._count, 3)
        light = normal[:, 0] * _LIGHT[0] + normal[:, 1] * _LIGHT[1] + normal[:, 2] * _LIGHT[2]
        np.maximum(light, 0.0, out=light)
        shade = (255.0 * (_AMBIENT + _DIFFUSE * light)).astype(np.float32)
        palette = np.concatenate([model.geom_rgba[:, :3], [[0.0, 0.0, 0.0]]])  # last: what index -1 takes
        pixels = palette.astype(np.float32)[self._geom] * shade[:, None]
        pixels[self._geom < 0] = _BACKGROUND
        np.minimum(pixels, 255.0, out=pixels)
        return (pixels + 0.5).astype(np.uint8).reshape(self.camera.height, self.camera.width, 3)

    def segment(self, model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
        """Return the geom each pixel shows, int32 [height, width], -1 for none."""
        self._cast(model, data)
        return self._geom.reshape(self.camera.height, self.camera.width).copy()

    def _cast(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        rotation = data.cam_xmat[self._id].reshape(3, 3)
        # Written out: a BLAS product may round differently on another machine.
        for axis in range(3):
            row = rotation[axis]
            self._rays[:, axis] = self._x * row[0] + self._y * row[1] + self._z * row[2]
        mujoco.mj_multiRay(
            model,
            data,
            data.cam_xpos[self._id],
            self._rays.reshape(-1),
            self._groups,
            True,
            -1,
            self._geom,
            self._distance,
            self._normal,
            self._count,
            _FAR_M,
        )


def _ray_directions(width: int, height: int, fovy_deg: float) -> np.ndarray:
    """Return unit rays [width * height, 3] through pixel centres, row-major; x right, y up, -z ahead."""
    focal = focal_length(height, fovy_deg)
    columns, rows = np.meshgrid(np.arange(width) + 0.5 - 0.5 * width, np.arange(height) + 0.5 - 0.5 * height)
    rays = np.stack([columns.ravel(), -rows.ravel(), np.full(width * height, -focal)], axis=1)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)
