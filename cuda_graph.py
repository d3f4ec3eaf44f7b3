"""A function on the GPU, recorded once and replayed as a whole."""

import warnings
from collections.abc import Callable
from typing import Any

import torch


class CudaGraph:
    """A function of tensors, recorded as a CUDA graph: one launch where there were hundreds.

    It must change parameters, optimisers and sums in place, and its inputs must keep their shapes. What it returns, a
    tensor or nothing, holds until the next call. CUDA asks for a few calls without recording first, on a stream of
    their own, in which everything is allocated that is allocated once.
    """

    N_WARM_UPS = 3

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._output: Any = None
        self._n_calls = 0
        self._inputs: list[torch.Tensor] = []
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: torch.Tensor) -> Any:
        self._n_calls += 1
        if self._n_calls <= self.N_WARM_UPS:
            return self._warm_up(inputs)
        if self._graph is None:
            self._inputs = [tensor.clone() for tensor in inputs]
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._output = self._function(*self._inputs)
        for recorded, given in zip(self._inputs, inputs, strict=True):
            recorded.copy_(given)
        self._graph.replay()
        return self._output

    def _warm_up(self, inputs: tuple[torch.Tensor, ...]) -> Any:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), warnings.catch_warnings():
            # Adam warns that it is capturable while nothing is captured, as in these calls.
            warnings.filterwarnings("ignore", message=".*capturable=True.*")
            output = self._function(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return output
