"""A run's metrics out of Aim, in files that other tools read: CSV, and TensorBoard's events."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from aim_reader import TrackedRun
from output_file import replacing

COLUMNS = ("subset", "metric", "step", "value")


def write_csv(run: TrackedRun, stem: Path) -> Path:
    """Write every point of every metric as a line of `<stem>.csv`, and return its path.

    Raises:
        OSError: if it cannot be written.
    """
    path = stem.with_name(f"{stem.name}.csv")
    with replacing(path) as new_path, new_path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for metric in run.metrics:
            writer.writerows((metric.subset, metric.name, step, value) for step, value in metric.points)
    return path


def write_tensorboard(run: TrackedRun, stem: Path) -> Path:
    """Write the metrics as TensorBoard events in the directory `stem`, tagged `subset/metric`, and return it.

    Raises:
        OSError: if it cannot be written, or holds events already, which TensorBoard would mix with these.
    """
    if stem.is_dir() and any(stem.glob("events.out.tfevents.*")):
        raise FileExistsError(f"{stem} holds events already")
    with SummaryWriter(str(stem)) as writer:
        for metric in run.metrics:
            tag = f"{metric.subset}/{metric.name}" if metric.subset else metric.name
            for step, value in metric.points:
                writer.add_scalar(tag, value, step)
    return stem


EXPORTS: Mapping[str, Callable[[TrackedRun, Path], Path]] = {"csv": write_csv, "tensorboard": write_tensorboard}
