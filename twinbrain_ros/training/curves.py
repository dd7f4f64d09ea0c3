"""The loss curves of a run as one picture."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

TITLES = {"vlm": "teaching the VLM to see", "policy": "training the policy"}
OTHER = ("step", "samples_per_s", "waited_share", "score")


def draw_losses(out: Path) -> None:
    """loss.png from the logs of a run's stages, log scale; figures of trials on a scale of their own."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    logs = {
        name: [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]
        for name in TITLES
        if (out / f"{name}.jsonl").is_file()
    }
    logs = {name: log for name, log in logs.items() if log}
    if not logs:
        return
    figure, axes = plt.subplots(
        1, len(logs), figsize=(5 * len(logs), 3.6), constrained_layout=True, squeeze=False
    )
    for axis, (name, log) in zip(axes[0], logs.items(), strict=True):
        keys = dict.fromkeys(k for row in log for k in row if k not in OTHER and not k.startswith("rate"))
        shares = [k for k in keys if k.startswith("success")]
        for key in (k for k in keys if k not in shares):
            rows = [r for r in log if key in r]
            axis.plot([r["step"] for r in rows], [r[key] for r in rows], label=key)
        axis.set_yscale("log")
        axis.set(title=TITLES[name], xlabel="step", ylabel="loss")
        axis.grid(alpha=0.3)
        if shares:
            other = axis.twinx()
            for key in shares:
                rows = [r for r in log if key in r]
                other.plot([r["step"] for r in rows], [r[key] for r in rows], "o--", markersize=3, label=key)
            other.set(ylim=(0, 1.02), ylabel="success")
            other.legend(loc="lower right", fontsize=8)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(fontsize=8)
    figure.savefig(out / "loss.png", dpi=110)
    plt.close(figure)
