"""A run's metrics out of Aim, in files that other tools read: CSV, and TensorBoard's events."""

import csv
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from aim_reader import TrackedRun
from output_file import replacing

# TensorBoard reads files of such names.
EVENTS = "events.out.tfevents.0.aim"
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

    Written in this thread, and whole or not at all: tensorboardX's own writer waits for ever where the disk is full.

    Raises:
        OSError: if it cannot be written.
    """
    with replacing(stem / EVENTS) as new_path, closing(RecordWriter(str(new_path))) as writer:
        writer.write(Event(file_version="brain.Event:2").SerializeToString())
        for metric in run.metrics:
            tag = f"{metric.subset}/{metric.name}" if metric.subset else metric.name
            for step, value in metric.points:
                point = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
                writer.write(Event(step=step, summary=point).SerializeToString())
    return stem


EXPORTS: Mapping[str, Callable[[TrackedRun, Path], Path]] = {"csv": write_csv, "tensorboard": write_tensorboard}
