"""The policy node's parameters."""

from __future__ import annotations

from twinbrain_ros.nodes.parameters import Declared
from twinbrain_ros.robot.camera import STAMPS

PARAMETERS: tuple[Declared, ...] = (
    Declared("checkpoint", "", "Directory of a TwinBrain checkpoint; empty takes the demo's."),
    Declared("device", "cpu", "Where the policy runs, as torch names it: cpu, cuda, cuda:1."),
    Declared("dtype", "", "Type of the weights: float32, bfloat16; empty: bfloat16 on a GPU, else float32."),
    Declared("threads", 1, "Threads that torch may use on the CPU.", lower=1, upper=64),
    Declared(
        "execution_steps",
        0,
        "A new chunk is made every so many steps; 0 takes the robot file's.",
        unit="steps",
        lower=0,
        upper=1000,
    ),
    Declared(
        "left_period_s",
        0.0,
        "How old what the left brain remembers may be before it runs again; a new instruction does not "
        "wait for it. 0 runs it for every chunk.",
        unit="s",
        lower=0.0,
        upper=60.0,
    ),
    Declared(
        "real_time",
        False,
        "Make each chunk agree with the one it will replace (the controller's strategy real_time).",
    ),
    Declared(
        "guidance",
        1.0,
        "Most that a chunk is drawn to the one it will replace, with real_time; arXiv 2506.07339 takes 5.",
        unit="1",
        lower=0.0,
        upper=100.0,
    ),
    Declared(
        "inject_delay_s",
        0.0,
        "For experiments: chunks are held back until they are so late, as on a slower machine.",
        unit="s",
        lower=0.0,
        upper=10.0,
    ),
    Declared(
        "image_stamps",
        STAMPS[0],
        f"When an image was taken: {' or '.join(STAMPS)}; receipt is for cameras whose driver does not stamp "
        "its images, or by another clock. The robot file may say so of one camera.",
    ),
    Declared("seed", 0, "Seed of the noise that actions are integrated from.", lower=0, upper=2**31 - 1),
)
