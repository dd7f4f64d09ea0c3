"""A function of tensors as a CUDA graph: one launch in place of thousands.

A graph replays addresses. Recorded on the wrong device or stream it holds nothing, replays without an error
and leaves its last results standing: so a recording is checked before it is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

WARM_UP_RUNS = 3  # libraries choose kernels and allocate workspaces in the first ones
# How far a replay may be from a run without a graph, as a share of the largest value: kernels that sum in
# another order round otherwise, in bfloat16 layer by layer.
TOLERANCE = 0.05
_broken: list[torch.cuda.CUDAGraph] = []  # torch goes on pointing at them
EMPTY = "The CUDA Graph is empty"  # how torch's warning of it begins


class GraphError(ValueError):
    """A recording that does not compute what its function computes."""


class GraphPool:
    """Where the graphs of one device are recorded: a stream, and memory that they share.

    Only what is needed inside a graph lies in that memory. Inputs and outputs lie outside of it, so graphs
    that are replayed one after the other, in any order, leave each other's results alone.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        warnings.filterwarnings("error", message=EMPTY, category=UserWarning)
        with torch.cuda.device(device):
            # Warm-up and recording are on the same one: what libraries allocate per stream is there before.
            self.stream = torch.cuda.Stream()
            self.handle = torch.cuda.graph_pool_handle()

    def give_up(self, graph: torch.cuda.CUDAGraph) -> None:
        """Ends a recording into this pool that has failed; later ones have other memory.

        Where the recording cannot be ended, torch leaves its allocator in the belief that it goes on, and
        with a pointer to the graph (aten/src/ATen/cuda/CUDAGraph.cpp, capture_end): every later recording in
        the process would fail.
        """
        try:
            graph.capture_end()
        except (RuntimeError, UserWarning):
            with suppress(RuntimeError):  # it was told after all
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self.handle)
            _broken.append(graph)
        self.handle = torch.cuda.graph_pool_handle()


class CapturedCall:
    """`function` recorded once on copies of its inputs, replayed on whatever is copied into them.

    What it returns is overwritten by the next call. The function must be free of host reads and of shapes
    that depend on values, and its inputs must keep their shapes and types.

    lent: indices of inputs that are outputs of another recorded call: they stay where they are and are read
    there, without a copy. fixed: indices of inputs whose values never change: they are copied only when
    another tensor is given. Raises GraphError if the recording is empty or computes something else, and
    whatever the function raises.
    """

    def __init__(
        self,
        function: Callable[..., Sequence[Tensor]],
        inputs: Sequence[Tensor],
        pool: GraphPool,
        lent: Collection[int] = (),
        fixed: Collection[int] = (),
    ) -> None:
        self._pool = pool
        self._fixed = {i: inputs[i] for i in fixed}
        stream = pool.stream
        with torch.cuda.device(pool.device):
            current = torch.cuda.current_stream()
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                with _ordinary():
                    self._inputs = [t if i in lent else t.clone() for i, t in enumerate(inputs)]
                for _ in range(WARM_UP_RUNS):
                    results = function(*self._inputs)
                with _ordinary():
                    self._outputs = [torch.empty_like(t) for t in results]
                with _other_values(self._inputs):
                    expected = [t.clone() for t in function(*self._inputs)]
                del results
                self.graph = self._record(function)
                self._check(expected)
            current.wait_stream(stream)

    def _record(self, function: Callable[..., Sequence[Tensor]]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # while it is recorded, cached memory cannot be given to it
        # Another thread may answer a question meanwhile, and allocate: not this recording's error.
        try:
            graph.capture_begin(pool=self._pool.handle, capture_error_mode="thread_local")
            torch._foreach_copy_(self._outputs, list(function(*self._inputs)))
        except BaseException:
            self._pool.give_up(graph)
            raise
        try:
            graph.capture_end()
        except UserWarning as empty:
            raise GraphError(f"CUDA graph: found none of the work in it, expected all: {empty}") from empty
        return graph

    def _check(self, expected: Sequence[Tensor]) -> None:
        """Replays on other values than it was recorded with, where no result stands yet."""
        with _other_values(self._inputs):
            for own, other in zip(self._outputs, expected, strict=True):
                _spoil(own, other)
            self.graph.replay()
        for i, (own, wanted) in enumerate(zip(self._outputs, expected, strict=True)):
            if not _agrees(own, wanted):
                raise GraphError(
                    f"CUDA graph: found an output ({i} of {len(expected)}, {list(own.shape)}) that is not "
                    "computed again when it is replayed, expected the values of a run without a graph"
                )

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        with torch.cuda.device(self._pool.device):
            for i, (own, given) in enumerate(zip(self._inputs, inputs, strict=True)):
                if own.data_ptr() == given.data_ptr() or self._fixed.get(i) is given:
                    continue
                own.copy_(given, non_blocking=True)
                if i in self._fixed:
                    self._fixed[i] = given
            self.graph.replay()
        return self._outputs


@contextmanager
def _ordinary() -> Iterator[None]:
    """Tensors made here may be written to, and gradients may pass them, in and out of inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield


@contextmanager
def _other_values(tensors: Sequence[Tensor]) -> Iterator[None]:
    """The tensors hold other values until the block is left. Indices and masks stay what they are."""
    kept = [t.clone() for t in tensors]
    try:
        for tensor in tensors:
            if tensor.is_floating_point():
                tensor.mul_(0.5)
            elif tensor.dtype == torch.uint8:
                tensor.bitwise_not_()
        yield
    finally:
        for tensor, value in zip(tensors, kept, strict=True):
            tensor.copy_(value)


def _spoil(tensor: Tensor, expected: Tensor) -> None:
    """Fills a tensor with what it must not hold anywhere."""
    if tensor.is_floating_point():
        tensor.fill_(float("nan"))
    elif tensor.dtype == torch.uint8:
        tensor.copy_(expected.bitwise_xor(128))
    else:
        tensor.copy_(expected.bitwise_not())


def _agrees(found: Tensor, expected: Tensor) -> bool:
    if not found.numel():
        return True
    found, expected = (t.float() if t.dtype in (torch.uint8, torch.bool) else t for t in (found, expected))
    sound = expected.isfinite()
    largest = expected.where(sound, torch.zeros_like(expected)).abs().amax()
    near = (found - expected).abs() <= TOLERANCE * largest
    return bool((near | (~sound & ~found.isfinite())).all())
