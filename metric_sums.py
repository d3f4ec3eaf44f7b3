"""Means of an agent's metrics, summed where it learns."""

import torch


class MetricSums:
    """Metrics that are summed on the device, so that no update waits for a GPU; the last of `sums` counts updates."""

    def __init__(self, names: tuple[str, ...], device: torch.device, dtype: torch.dtype) -> None:
        self.names = names
        self.sums = torch.zeros(len(names) + 1, device=device, dtype=dtype)
        self._one = torch.ones((), device=device, dtype=dtype)

    def add(self, **metrics: torch.Tensor) -> None:
        """Add an update's metrics, one scalar for each name."""
        self.sums += torch.stack([*(metrics[name].detach() for name in self.names), self._one])

    def pop(self) -> dict[str, float]:
        """The means since the last call, by name; empty where nothing was added. Waits for the GPU."""
        *totals, n_updates = self.sums.tolist()
        self.sums.zero_()
        return {name: total / n_updates for name, total in zip(self.names, totals, strict=True) if n_updates}
