#!/usr/bin/env python3
"""Questions about scenes of the embedded simulator, as a file for `twinbrain questions`.

Usage: .venv/bin/python scripts/simulator_questions.py --out out/questions

They are of the kinds that the demo's VLM was taught on (`training/questions.py`), about the front view of
1,000 frames of scenes that neither training nor evaluation has. Every answer follows from the simulator.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from twinbrain_ros.brain import backbone
from twinbrain_ros.brain.config import TwinBrainConfig
from twinbrain_ros.resources import demo_checkpoint
from twinbrain_ros.training.config import DataConfig
from twinbrain_ros.training.dataset import Demonstrations
from twinbrain_ros.training.demonstrations import generate
from twinbrain_ros.training.questions import QuestionMaker

FIRST_SEED = 9_000_000  # training's begin at 10,000,000, evaluation's end at 1,000,000
FRAMES = 1_000
SEED = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="of questions.jsonl and its pictures"
    )
    parser.add_argument("--count", type=int, default=1_000, metavar="N", help="questions (default: 1000)")
    args = parser.parse_args()
    config = TwinBrainConfig.load(demo_checkpoint())
    shards = generate(
        config.robot, DataConfig(FRAMES, FRAMES, FIRST_SEED, workers=1), args.out / "demonstrations"
    )
    data = Demonstrations(shards, config.cameras, backbone.patch_layout(config.vlm_config()).factor)
    rng = np.random.default_rng(SEED)
    drawn = QuestionMaker(data, config.cameras, front_share=1.0).draw(
        rng, rng.integers(0, data.size, args.count)
    )
    lines = []
    for i, question in enumerate(drawn):
        picture = f"{question.camera}_{question.row:04d}.png"
        image = data.arrays[f"image_{question.camera}"][question.row]
        cv2.imwrite(str(args.out / picture), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        kind = " ".join(question.text.split()[:2])
        category = "left of" if kind == "is the" else kind
        entry = {"id": i, "image": picture, "question": question.text, "answer": question.answer}
        lines.append(json.dumps(entry | {"category": category}) + "\n")
    (args.out / "questions.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"{len(lines)} questions: {args.out / 'questions.jsonl'}")


if __name__ == "__main__":
    main()
