"""A policy's deterministic action as a file that needs none of this project's code: ONNX or TorchScript.

Either takes `obs`, uint8 (batch, channels, 84, 84), and gives `action`, float32 (batch, 3) in [-1, 1], for a batch of
any size.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

INPUT, OUTPUT = "obs", "action"
# The first with layer normalisation, so that runtimes of 2022 and later take it.
OPSET = 17


def can_write_onnx() -> bool:
    """Whether the package is installed that torch's exporter needs."""
    return find_spec("onnx") is not None


def write_onnx(network: nn.Module, obs_shape: tuple[int, ...], path: Path) -> None:
    """Write a network as ONNX.

    Args:
        network: from observations, uint8 (batch, *obs_shape), to actions (batch, action_dim).
        obs_shape: shape of one observation.
        path: the file.

    Raises:
        ImportError: if the package `onnx` is missing.
        OSError, RuntimeError: if the file cannot be written.
    """
    any_batch = {name: {0: "batch"} for name in (INPUT, OUTPUT)}
    torch.onnx.export(
        network.eval(),
        (_example(obs_shape),),
        path,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_axes=any_batch,
        opset_version=OPSET,
        dynamo=False,  # the other exporter needs onnxscript too
    )


def write_torchscript(network: nn.Module, obs_shape: tuple[int, ...], path: Path) -> None:
    """Write a network as TorchScript, for `torch.jit.load`; arguments and errors as for `write_onnx`, without `onnx`.

    Loading such a file runs no Python code.
    """
    torch.jit.trace(network.eval(), _example(obs_shape)).save(path)


def _example(obs_shape: tuple[int, ...]) -> torch.Tensor:
    # Not one observation alone: a batch of one could be taken for an axis that is always 1.
    return torch.zeros((2, *obs_shape), dtype=torch.uint8)
