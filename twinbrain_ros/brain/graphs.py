"""A function of tensors as a CUDA graph: one launch in place of thousands."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

WARM_UP_RUNS = 3  # libraries choose kernels and allocate workspaces in the first ones


class CapturedCall:
    """`function` recorded once on copies of its inputs, replayed on whatever is copied into them.

    What it returns is overwritten by the next call. The function must be free of host reads and of shapes
    that depend on values, and its inputs must keep their shapes and types. Inputs at the indices `lent` are
    outputs of another recorded call: they stay where they are and are read there, without a copy.
    """

    def __init__(
        self,
        function: Callable[..., Sequence[Tensor]],
        inputs: Sequence[Tensor],
        lent: Collection[int] = (),
    ) -> None:
        self._inputs = [t if i in lent else t.clone() for i, t in enumerate(inputs)]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        # Another thread may answer a question meanwhile, and allocate: not this recording's error.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self._outputs = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        for own, given in zip(self._inputs, inputs, strict=True):
            if own.data_ptr() != given.data_ptr():
                own.copy_(given, non_blocking=True)
        self.graph.replay()
        return self._outputs
