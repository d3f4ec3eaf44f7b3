"""Metrics as CSV and as TensorBoard's events."""

import csv
import struct

import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter

import aim_export
from aim_export import write_csv, write_tensorboard
from aim_reader import Metric, TrackedRun

METRICS = (
    Metric("mean_return", "eval", ((100, -20.5), (200, 910.25))),
    Metric("lonely, name", "", ((7, 1e-9),)),
)
RUN = TrackedRun("run", "0123", {}, METRICS)


def events_in(path):
    """The events of a file, by the record format that TensorFlow describes: length, checksum, data, checksum."""
    data, place = path.read_bytes(), 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        record = data[place + 12 : place + 12 + length]
        checksum = crc32c(record)
        masked = ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
        assert struct.unpack_from("<I", data, place + 12 + length) == (masked,)
        yield Event.FromString(record)
        place += length + 16


def test_every_point_is_a_line(tmp_path):
    path = write_csv(RUN, tmp_path / "a.b")
    assert path == tmp_path / "a.b.csv"
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["subset", "metric", "step", "value"],
        ["eval", "mean_return", "100", "-20.5"],
        ["eval", "mean_return", "200", "910.25"],
        ["", "lonely, name", "7", "1e-09"],
    ]


def test_every_point_is_an_event(tmp_path):
    directory = write_tensorboard(RUN, tmp_path / "run")
    (file,) = directory.iterdir()
    points = [
        (event.summary.value[0].tag, event.step, event.summary.value[0].simple_value)
        for event in events_in(file)
        if event.summary.value
    ]
    assert [point[1:] for point in points] == [(100, -20.5), (200, 910.25), (7, pytest.approx(1e-9))]
    assert [point[0] for point in points[:2]] == ["eval/mean_return"] * 2


def test_an_export_takes_the_place_of_the_one_before(tmp_path):
    first = write_tensorboard(RUN, tmp_path / "run")
    write_tensorboard(RUN, tmp_path / "run")
    (file,) = first.iterdir()
    assert len([event for event in events_in(file) if event.summary.value]) == 3


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    class Full(RecordWriter):
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(aim_export, "RecordWriter", Full)
    with pytest.raises(OSError, match="No space left"):
        write_tensorboard(RUN, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
