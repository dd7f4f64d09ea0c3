"""A claims protocol small enough for tests, and results that no run has made."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from twinbrain_ros.claims import running
from twinbrain_ros.claims.protocol import Protocol, Run, build_protocol
from twinbrain_ros.resources import share_dir

SHIPPED = share_dir() / "config" / "claims.yaml"


def small_values(**changes: Any) -> dict[str, Any]:
    """The shipped protocol with few frames, a few steps and hardly any episodes."""
    values: dict[str, Any] = copy.deepcopy(yaml.safe_load(SHIPPED.read_text()))
    recipe = values["recipe"]
    recipe["data"] |= {"first_seed": 10_000_000, "frames": 120, "frames_per_shard": 60, "workers": 1}
    recipe["policy"] |= {"steps": 6, "batch_size": 4, "warmup_steps": 2, "save_every_steps": 3}
    values |= {"seeds": [0, 1], "rates": [0.001, 0.002], "questions": 100}
    values["demonstrations"]["many"]["frames"], values["demonstrations"]["few"]["frames"] = 30, 10
    del values["demonstrations"]["ungrounded"]
    values["sweep"]["batches"] = 1
    values["evaluation"] = {
        "episodes": {"seen": 2, "held_out": 2, "relation": 1},
        "first_seed": 700_000,
        "max_seconds": 1.0,
    }
    values["plan"] = [
        {"demonstrations": "many", "variants": ["twin", "single"]},
        {"demonstrations": "few", "variants": ["twin"]},
    ]
    return values | changes


def small_protocol(**changes: Any) -> Protocol:
    return build_protocol(small_values(**changes), "small")


def pretend_trained(out: Path, run: Run, flow: float) -> None:
    """A run's first result, as if it had been trained."""
    where = running.folder(out, run)
    where.mkdir(parents=True, exist_ok=True)
    twin = run.variant != "single"
    brains = {"acting": {"all": [60, 100], "where is": [10, 40]}}
    kept = {"kept": {"all": [90, 100], "where is": [35, 40]}} if twin else {}
    found = {
        "held_out_flow": flow,
        "questions": {**brains, **kept},
        "parameters": {"total": 20, "trainable": 10},
        "cost": {"stretches": 1, "wall_s": 2.0, "processor_s": 1.0, "steps": 20, "median_step_s": 0.1},
    }
    (where / running.TRAINED).write_text(json.dumps(found))


def pretend_evaluated(out: Path, run: Run, share: float, split: str = "seen", count: int = 40) -> None:
    """A run's episodes, a share of which succeeded; the scenes are those of every other run."""
    rng = np.random.default_rng([run.seed, len(run.variant)])
    episodes = [
        {"split": split, "task": ("pick", "put")[i % 2], "seed": i, "success": bool(rng.random() < share),
         "wrong_object": i == 0}
        for i in range(count)
    ]  # fmt: skip
    where = running.folder(out, run)
    where.mkdir(parents=True, exist_ok=True)
    (where / running.EVALUATED).write_text(json.dumps({"episodes": episodes}))
