"""Times a twin's way from pixels to a chunk beside the plain way, on the same weights and inputs.

Both are timed in turns, so that a busy machine is busy for both. Then each stage is timed on its own, and set
against the least time that this device would need for its arithmetic and its weights.
"""

from __future__ import annotations

import copy
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from twinbrain_ros.brain.asymot import LeftMemory
from twinbrain_ros.brain.config import TwinBrainConfig
from twinbrain_ros.brain.devices import describe, find_device
from twinbrain_ros.brain.engine import TwinEngine
from twinbrain_ros.brain.expert import ActionExpert, Context
from twinbrain_ros.brain.graphs import CapturedCall, GraphPool
from twinbrain_ros.brain.plain import plain_chunk
from twinbrain_ros.brain.prompt import collate
from twinbrain_ros.brain.realtime import Target
from twinbrain_ros.brain.twin import Prepared
from twinbrain_ros.evaluation.host_reads import HostReads
from twinbrain_ros.evaluation.machine import machine_facts, package_versions
from twinbrain_ros.evaluation.roofline import Work, count_work, measure_peaks, synchronize
from twinbrain_ros.evaluation.statistics import Summary, percentile
from twinbrain_ros.evaluation.workload import Workload, random_twin, random_workload, twin_as

# How far ours may be from the plain way: in float32 absolute, in bfloat16 as a share of the actions' range.
# Measured on the preset `mid`: 2e-6, and 0.3 % of the range; larger twins round more often.
FLOAT32_BOUND = 1e-3
BFLOAT16_SHARE = 0.05
WARM_UP = 2
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class BenchOptions:
    """What is measured: device as torch names it, "float32" or "bfloat16", how many turns, CPU threads,
    whether CUDA graphs are used (None: where the device can), and whether chunks with a guide are timed."""

    device: str = "cpu"
    dtype: str = "float32"
    rounds: int = 15
    threads: int = 1
    graphs: bool | None = None
    guided: bool = False


class _Contest:
    """The plain way and ours on the same weights, and what ours is made of.

    On a CPU the plain way is in float32 as a whole. On a GPU its brains have the type of ours, as the
    reference runs there, and its action head is in float32.
    """

    def __init__(self, config: TwinBrainConfig, options: BenchOptions) -> None:
        self.device = find_device(options.device)
        dtype = DTYPES[options.dtype]
        on_cpu = self.device.type == "cpu"
        self.reference = random_twin(config, self.device, torch.float32 if on_cpu else dtype)
        self.model = twin_as(self.reference, dtype)
        self.head = self._head()
        self.load: Workload = random_workload(self.model)
        self.engine = TwinEngine(self.model, options.graphs)
        self.exact = [collate([p], 0).to(self.device) for p in self.load.prompts]
        self.prepared = self.prepare(self.engine)

    def _head(self) -> tuple[nn.Module | None, ActionExpert]:
        """State encoder and expert of the plain way, in float32."""
        encoder, expert = self.reference.state_encoder, self.reference.expert
        if next(expert.parameters()).dtype == torch.float32:
            return encoder, expert
        return None if encoder is None else copy.deepcopy(encoder).float(), copy.deepcopy(expert).float()

    def prepare(self, engine: TwinEngine) -> Prepared:
        def make() -> Any:
            return tuple(collate([p], 0, engine.bucket).to(self.device) for p in self.load.prompts)

        return engine.prepare("bench", make)

    def plain(self) -> Tensor:
        load, (left, right) = self.load, self.exact
        return plain_chunk(
            self.reference, load.images, load.views, load.state, (left, right), load.noise, self.head
        )

    def ours(self) -> Tensor:
        pixels = self.engine.see(self.load.images, self.load.views)
        prepared = self.prepare(self.engine)
        memory = self.engine.remember(pixels, prepared)
        return self.engine.chunk(pixels, prepared, memory, self.load.state, self.load.noise)

    def guided(self, engine: TwinEngine) -> Tensor:
        """As `ours`, drawn to another draw of noise; by this engine."""
        load, prepared = self.load, self.prepare(engine)
        pixels = engine.see(load.images, load.views)
        memory = engine.remember(pixels, prepared)
        steps = torch.linspace(1, 0, load.noise.shape[1], device=self.device)
        target = Target(load.noise.flip(1), steps, 1)
        return engine.chunk_towards(pixels, prepared, memory, load.state, load.noise, target)

    def stages(self) -> dict[str, Callable[[], Any]]:
        """What `ours` does, stage by stage, each on what those before it made. On CUDA each is a graph."""
        model, load, prepared = self.model, self.load, self.prepared
        names = tuple(c.name for c in model.config.cameras)
        made: dict[str, Any] = {}
        found: dict[str, Callable[[], Any]] = {}
        pool = GraphPool(self.device) if self.engine.graphs else None

        def add(name: str, run: Callable[[], Any]) -> Any:
            made[name] = run()
            found[name] = CapturedCall(lambda: _tensors(run()), [], pool) if pool else run
            return made[name]

        eager = TwinEngine(model, graphs=False)
        pixels = add("preprocess", lambda: eager.see(load.images, load.views))
        left = add("vision_left", lambda: model.image_features(model.left, pixels, model.config.left_cameras))
        right = add("vision_right", lambda: model.image_features(model.right, pixels, names))
        memory = add("left_prefill", lambda: model.read_left(left[0], left[1], prepared.left))
        hidden = add(
            "right_prefill", lambda: model.read_right(right[0], right[1], load.state, prepared, memory)
        )
        context = add("context", lambda: model.expert_context(hidden, load.state, prepared))
        moment, at = model.expert.schedule(ends=model.expert.ends())[0]
        add("expert_step", lambda: model.expert.velocity(context, load.noise, moment, at))
        return found


def _tensors(value: Any) -> list[Tensor]:
    """The tensors of what a stage made."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, LeftMemory):
        return _tensors(list(value.pairs.values()))
    if isinstance(value, Context):
        return _tensors([value.keys, value.values])
    parts = value.values() if isinstance(value, dict) else value
    return [tensor for part in parts for tensor in _tensors(part)]


@torch.no_grad()
def bench_policy(config: TwinBrainConfig, options: BenchOptions) -> dict[str, Any]:
    """Everything measured, ready for JSON; times in milliseconds, sizes in bytes.

    `ours_ms` and `plain_ms` are wall times of a chunk, `cpu_ms` medians of processor time on a CPU; `agrees`
    says whether the actions are within `difference_bound`. Raises CheckpointError or ValueError for a config
    that cannot be run.
    """
    if config.left_brain == "none":
        raise ValueError("left_brain: found 'none', expected a twin: it is measured against a plain twin")
    device = find_device(options.device)
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(options.threads)
    try:
        contest = _Contest(config, options)
        return {
            "device": describe(device),
            "dtype": options.dtype,
            "plain_dtype": str(next(contest.reference.parameters()).dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "rounds": options.rounds,
            "graphs": contest.engine.graphs,
            **_inputs(contest),
            "load_average": os.getloadavg()[0],
            **_agreement(contest, options.dtype),
            **(turns := _turns(contest, options.rounds)),
            **(_guided(contest, options) if options.guided else {}),
            **(roofline := _roofline(contest, options)),
            "times_roofline": turns["ours_ms"]["p50"] / roofline["roofline_ms"],
            "peak_bytes": _peak_bytes(device),
            "operations": _operations(contest),
            "machine": machine_facts(),
            "versions": package_versions(("torch", "transformers")),
        }
    finally:
        torch.set_num_threads(threads)


def _inputs(contest: _Contest) -> dict[str, Any]:
    config, load = contest.model.config, contest.load
    lengths = [len(p.ids) for p in load.prompts]
    padded = [side.embeds.shape[1] for side in (contest.prepared.left, contest.prepared.right)]
    return {
        "views": [{"name": v.name, "width": v.steps[-1][1], "height": v.steps[-1][0]} for v in load.views],
        "conditioning": config.conditioning,
        "deepstack": config.deepstack,
        "interaction_interval": config.interaction_interval,
        "left_visibility": config.left_visibility,
        "denoise_steps": config.expert.denoise_steps,
        "prompt_lengths": dict(zip(("left", "right"), lengths, strict=True)),
        "padded_lengths": dict(zip(("left", "right"), padded, strict=True)),
        "parameters": sum(p.numel() for p in contest.model.parameters()),
    }


def _agreement(contest: _Contest, dtype: str) -> dict[str, Any]:
    """Whether both give the same actions; the runs also warm both up."""
    for _ in range(WARM_UP):
        plain, ours = contest.plain().double(), contest.ours().double()
    span = float(plain.max() - plain.min())
    bound = _bound(dtype, span)
    difference = float((ours - plain).abs().max())
    return {
        "max_difference": difference,
        "action_range": span,
        "difference_bound": bound,
        "agrees": difference <= bound,  # false of a difference that is not a number
    }


def _turns(contest: _Contest, rounds: int) -> dict[str, Any]:
    """Wall times of both, and medians of the processor time that this process had."""
    runs: dict[str, Callable[[], Any]] = {"plain": contest.plain, "ours": contest.ours}
    wall, cpu = _timed_in_turns(runs, rounds, contest.device)
    median = {name: Summary.of(times).p50 or 0.0 for name, times in wall.items()}
    out: dict[str, Any] = {f"{name}_ms": Summary.of(wall[name]).to_json() for name in ("ours", "plain")}
    out["ratio"] = median["plain"] / median["ours"]
    if contest.device.type == "cpu":
        busy = {name: Summary.of(times).p50 or 0.0 for name, times in cpu.items()}
        out["cpu_ms"] = busy
        out["cpu_ratio"] = busy["plain"] / busy["ours"]
    return out


def _guided(contest: _Contest, options: BenchOptions) -> dict[str, Any]:
    """Wall times of chunks with a guide, as ours runs and one operation at a time; whether both agree."""
    eager = TwinEngine(contest.model, graphs=False)
    runs: dict[str, Callable[[], Any]] = {
        "guided": lambda: contest.guided(contest.engine),
        "guided_eager": lambda: contest.guided(eager),
    }
    for _ in range(WARM_UP):
        found, wanted = (run().double() for run in runs.values())
    span = float(wanted.max() - wanted.min())
    difference = float((found - wanted).abs().max())
    wall, _ = _timed_in_turns(runs, options.rounds, contest.device)
    return {
        **{f"{name}_ms": Summary.of(times).to_json() for name, times in wall.items()},
        "guided_difference": difference,
        "guided_agrees": difference <= _bound(options.dtype, span),
    }


def _bound(dtype: str, span: float) -> float:
    """How far two ways may be apart whose actions span so much."""
    return FLOAT32_BOUND if dtype == "float32" else BFLOAT16_SHARE * span


def _timed_in_turns(
    runs: dict[str, Callable[[], Any]], rounds: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Milliseconds of wall and of processor time, a list of `rounds` for each run."""
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            synchronize(device)
            start, busy = time.perf_counter(), time.process_time()
            run()
            synchronize(device)
            wall[name].append(1e3 * (time.perf_counter() - start))
            cpu[name].append(1e3 * (time.process_time() - busy))
    return wall, cpu


def _roofline(contest: _Contest, options: BenchOptions) -> dict[str, Any]:
    """Times of the stages, and the least times this device allows them."""
    stages = contest.stages()
    wall, _ = _timed_in_turns(stages, options.rounds, contest.device)
    peaks = measure_peaks(contest.device, DTYPES[options.dtype])
    work = _work_of_stages(contest)
    steps = contest.model.config.expert.denoise_steps
    least = {name: peaks.least_ms(w) for name, w in work.items()}
    total = sum(ms * (steps if name == "expert_step" else 1) for name, ms in least.items())
    return {
        "stages_ms": {name: percentile(times, 50) for name, times in wall.items()},
        "roofline_ms": total,
        "roofline": {
            "peak_flops": peaks.flops,
            "peak_bandwidth": peaks.bandwidth,
            "stages": {
                name: {"flops": w.flops, "weight_bytes": w.bytes, "ms": least[name]}
                for name, w in work.items()
            },
        },
    }


def _work_of_stages(contest: _Contest) -> dict[str, Work]:
    # Graphs cannot be looked into; the same stages run one operation at a time.
    graphs, contest.engine.graphs = contest.engine.graphs, False
    try:
        return {name: count_work(run, contest.model) for name, run in contest.stages().items()}
    finally:
        contest.engine.graphs = graphs


def _operations(contest: _Contest) -> dict[str, dict[str, int]]:
    """How many operations that are not views, and how many host reads, a chunk is made of."""
    eager = TwinEngine(contest.model, graphs=False)
    load, prepared = contest.load, contest.prepared

    def ours() -> None:
        pixels = eager.see(load.images, load.views)
        eager.chunk(pixels, prepared, eager.remember(pixels, prepared), load.state, load.noise)

    eager.prepare("bench", lambda: (contest.exact[0], contest.exact[1]))
    counts = {}
    runs: Sequence[tuple[str, Callable[[], Any]]] = (("ours", ours), ("plain", contest.plain))
    for name, run in runs:
        with HostReads() as counted:
            run()
        counts[name] = {"operations": counted.operations, "host_reads": sum(counted.reads.values())}
    return counts


def _peak_bytes(device: torch.device) -> int:
    """Most memory held at once, with both ways' weights: the GPU's by torch, else this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
