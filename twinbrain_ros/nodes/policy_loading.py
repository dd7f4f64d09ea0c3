"""How the policy node comes to its policy: loads it, says how far it is, and makes it ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from twinbrain_ros.data.views import TrainedView
from twinbrain_ros.nodes.asking import Generalist
from twinbrain_ros.nodes.policy_worker import Policy
from twinbrain_ros.resources import demo_checkpoint
from twinbrain_ros.robot.robot_file import RobotFile

# By the share of it that is done, 0 to 1.
Progress = Callable[[float], None]
# With a line for the log.
Say = Callable[[str], None]
LoadPolicy = Callable[[str, str, int, str, Progress, Say], Policy]
MakeGeneralist = Callable[[Policy], Generalist | None]
TELL_S = 5.0
WEIGHTS = "*.safetensors"


def views_of(policy: Policy) -> Mapping[str, TrainedView]:
    """What a policy was trained to see of each camera; other policies than ours do not say."""
    views: Mapping[str, TrainedView] = getattr(policy, "views", {})
    return views


def load_policy(
    checkpoint: str, device: str, threads: int, dtype: str, progress: Progress, say: Say
) -> Policy:
    """Loads a TwinBrain checkpoint ("" is the demo's). Imports torch, and therefore only here.

    Before the weights are read `say` gets what they need and what the device has, later whatever makes a
    chunk come late.

    Raises:
        ValueError: the checkpoint, the device or the dtype cannot be used.
    """
    directory = Path(checkpoint).expanduser() if checkpoint else demo_checkpoint()
    if not directory.is_dir():  # said at once, not after seconds of importing
        raise ValueError(f"{directory}: not a directory, expected a TwinBrain checkpoint")
    from twinbrain_ros.brain.devices import find_device

    find_device(device)
    import torch

    from twinbrain_ros.brain.policy import TwinBrainPolicy

    torch.set_num_threads(threads)
    return TwinBrainPolicy.from_pretrained(
        directory, device=device, dtype=dtype or None, progress=progress, tell=say
    )


def generalist_of(policy: Policy) -> Generalist | None:
    """The left brain of a TwinBrain policy, to be asked; None for any other policy."""
    from twinbrain_ros.brain.generalist import Generalist
    from twinbrain_ros.brain.policy import TwinBrainPolicy

    return Generalist(policy) if isinstance(policy, TwinBrainPolicy) else None


class Loading:
    """The loading of one policy. `run` belongs to a thread of its own, all else to the node's.

    Args:
        load: gives the policy of `wanted`: checkpoint, device, threads, dtype.
        say: a line for the log.
    """

    def __init__(self, load: LoadPolicy, wanted: tuple[str, str, int, str], say: Say) -> None:
        self._load, self._wanted, self._say = load, wanted, say
        directory = Path(wanted[0]).expanduser() if wanted[0] else demo_checkpoint()
        size = sum(file.stat().st_size for file in directory.glob(WEIGHTS)) if directory.is_dir() else 0
        self._what = f"{directory} ({size / 1e9:.2f} GB) on {wanted[1]}" if size else f"{directory}"
        self._stage, self._share = f"loading {self._what}", 0.0
        self._started_s = self._told_s = time.monotonic()
        say(self._stage)

    def run(
        self,
        robot: RobotFile,
        settings: Mapping[str, float],
        sizes: Mapping[str, tuple[int, int]],
        guided: bool = False,
    ) -> Policy:
        """Loads the policy, holds it against the robot, and makes its first call as quick as the later ones.

        Args:
            settings: its attributes, by name.
            sizes: of the cameras' images, height and width [pixels].
            guided: chunks will have guides.
        Raises:
            ValueError: it cannot be loaded, or was not made for this robot.
        """
        policy = self._load(*self._wanted, self._on_progress, self._say)
        policy.take_robot(robot)
        for name, value in settings.items():
            setattr(policy, name, value)
        self._stage, self._share = f"warming up {policy.name}", 0.0
        policy.warm_up(sizes, guided)
        return policy

    def _on_progress(self, share: float) -> None:
        self._share = share

    def __str__(self) -> str:
        done = f", {self._share:.0%} of the weights" if self._share else ""
        return f"{self._stage}{done}, for {time.monotonic() - self._started_s:.0f} s"

    def look(self) -> None:
        """Says now and then how far it is."""
        if time.monotonic() - self._told_s >= TELL_S:
            self._told_s = time.monotonic()
            self._say(str(self))

    def done(self, policy: Policy) -> None:
        """Says that it is ready."""
        self._say(f"ready: {policy.name}, after {time.monotonic() - self._started_s:.1f} s")
