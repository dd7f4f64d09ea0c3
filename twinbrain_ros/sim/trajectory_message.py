"""What a trajectory controller accepts: names, sizes, times."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.timing import to_ns
from twinbrain_ros.sim.trajectory_path import Knot

Array = NDArray[np.float64]
Rows = Sequence[Sequence[float]] | Array


class TrajectoryError(ValueError):
    """A refused trajectory; the message names what is wrong, what was found and what was expected."""


def knots_of(
    joints: Sequence[str],
    names: Sequence[str],
    positions: Rows,
    times_s: Sequence[float] | Array,
    velocities: Rows | None,
    accelerations: Rows | None,
) -> list[Knot]:
    """The points of a trajectory, columns in the order of `joints`.

    Stricter than the controllers in two things that would do harm: numbers that are not finite, which they
    hand on to the motors, and accelerations without velocities, for which they command 0.

    Raises:
        TrajectoryError: it is refused.
    """
    columns = _columns(joints, names)
    times_ns = _times(times_s)
    count, width = len(times_ns), len(columns)
    q = _rows("positions", positions, count, width, columns)
    v = [None] * count if velocities is None else _rows("velocities", velocities, count, width, columns, True)
    a = (
        [None] * count
        if accelerations is None
        else _rows("accelerations", accelerations, count, width, columns, True)
    )
    knots = []
    for index, (time_ns, here) in enumerate(zip(times_ns, q, strict=True)):
        assert here is not None
        if a[index] is not None and v[index] is None:
            raise TrajectoryError(f"point {index} has accelerations without velocities, expected both")
        knots.append(Knot(time_ns, here, v[index], a[index]))
    return knots


def _columns(joints: Sequence[str], names: Sequence[str]) -> list[int]:
    """The column of ``names`` for each joint."""
    given = list(names)
    if len(given) != len(joints) or set(given) != set(joints):
        raise TrajectoryError(f"joint names are {given}, expected each of {list(joints)} once, in any order")
    return [given.index(joint) for joint in joints]


def _times(times_s: Sequence[float] | Array) -> list[int]:
    if len(times_s) == 0:
        raise TrajectoryError("the trajectory has 0 points, expected at least 1")
    previous = -math.inf
    for index, time in enumerate(times_s):
        if not math.isfinite(time):
            raise TrajectoryError(f"time_from_start of point {index} is {time} s, expected a finite number")
        if time <= previous:
            raise TrajectoryError(
                f"time_from_start of point {index} is {time} s, expected more than the {previous} s before it"
            )
        previous = time
    return [to_ns(float(time)) for time in times_s]


def _rows(
    field: str, values: Rows, count: int, width: int, columns: list[int], may_lack: bool = False
) -> list[Array | None]:
    if len(values) != count:
        raise TrajectoryError(f"there are {len(values)} rows of {field}, expected {count}, one for each time")
    lengths = {len(row) for row in values}
    if lengths == {width}:
        array = np.asarray(values, dtype=np.float64)
        if np.all(np.isfinite(array)):
            return list(array[:, columns])
    rows: list[Array | None] = []
    for index, row in enumerate(values):
        if may_lack and len(row) == 0:
            rows.append(None)
            continue
        if len(row) != width:
            raise TrajectoryError(f"point {index} has {len(row)} {field}, expected {width}, one a joint")
        values_here = np.asarray(row, dtype=np.float64)
        for joint in np.flatnonzero(~np.isfinite(values_here)):
            found = values_here[joint]
            raise TrajectoryError(f"{field}[{joint}] of point {index} is {found}, expected a finite number")
        rows.append(values_here[columns])
    return rows
