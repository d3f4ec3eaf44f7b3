"""A function on a GPU, recorded and replayed."""

import pytest
import torch

from cuda_graph import CudaGraph


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_recorded_function_does_what_the_function_does():
    """Over more calls than there are warm-ups, each with inputs of its own."""
    total, expected = torch.zeros(3, device="cuda"), torch.zeros(3, device="cuda")

    def add(a: torch.Tensor, b: torch.Tensor) -> None:
        total.add_(a * b)

    recorded = CudaGraph(add)
    for call in range(2 * CudaGraph.N_WARM_UPS + 1):
        a, b = torch.full((3,), float(call), device="cuda"), torch.arange(3.0, device="cuda")
        recorded(a, b)
        expected += a * b
    torch.cuda.synchronize()
    assert torch.equal(total, expected)
