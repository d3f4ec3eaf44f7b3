"""Films: what was filmed can be read back, under any name, and nothing is left of one that failed."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from film import FILM_H, FILM_W, new_film


def grey(level):
    return np.full((FILM_H, FILM_W, 3), level, np.uint8)


@pytest.mark.parametrize("name", ["12:30.mp4", "a b%d.mp4", "-y.mp4"])
def test_a_film_of_any_name_shows_its_frames(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    levels = range(0, 250, 25)
    with new_film(Path(name)) as add_frame:
        for level in levels:
            add_frame(grey(level))
    video = cv2.VideoCapture(str(tmp_path / name))
    shown = [float(video.read()[1].mean()) for _ in levels]
    assert not video.read()[0]
    video.release()
    assert shown == pytest.approx(list(levels), abs=4.0)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_film_that_is_broken_off_leaves_the_older_one(tmp_path):
    (tmp_path / "drive.mp4").write_text("older")

    def film_until_crash():
        with new_film(tmp_path / "drive.mp4") as add_frame:
            add_frame(grey(0))
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        film_until_crash()
    assert (tmp_path / "drive.mp4").read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["drive.mp4"]


def test_what_ffmpeg_complains_about_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("film.FORMATS", {".mp4": ["-c:v", "no_such_codec"]})
    with pytest.raises(OSError, match="ffmpeg: ") as error, new_film(tmp_path / "drive.mp4"):
        pass
    assert error.value.filename == str(tmp_path / "drive.mp4")
    assert list(tmp_path.iterdir()) == []
