"""The page about a score: what it says is what was scored, and it needs nothing but itself."""

import base64
import io
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from PIL import Image

from checkpoint import Checkpoint
from driving_pictures import Trajectory
from film import FILM_H, FILM_W, SMALL, new_film
from html_report import ShownLap, tracks_to_show, write_report
from scoring import Score, TrackResult

VOID = {"meta", "img", "br", "path", "use", "rect"}


class Page(HTMLParser):
    """The page's table rows, the sources of its pictures and films, and whether every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.sources, self.tags, self._open = [], [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def score_of(*returns):
    return Score(
        [TrackResult(track, value, 700 + track, 290, 10, 0.97, lap_finished=value > 900) for track, value in returns]
    )


FIRST = score_of((3, 930.0), (4, 250.5), (5, 920.0), (6, 925.0))
SECOND = score_of((3, 931.0), (4, 900.5), (5, 910.0), (6, 926.0))


def loaded_at(path):
    meta = {"agent": "sac", "steps": 62000, "frames": 248000, "command": "python train.py", "config": {"pad": 2}}
    return Checkpoint(path, meta, {}, {})


@pytest.fixture
def lap(tmp_path):
    tiles = np.array([[(0, 0), (10, 0), (10, 10), (0, 10)], [(10, 0), (20, 0), (20, 10), (10, 10)]], np.float64)
    line = np.array([(2.0, 5.0), (10.0, 5.0), (18.0, 5.0)])
    trajectory = Trajectory(FIRST.results[1], tiles, np.array([False, True]), line, np.array([0.0, 50.0, 99.0]), [], 4)
    path = tmp_path / "lap.mp4"
    with new_film(path, SMALL) as add_frame:
        for shade in range(0, 250, 25):
            add_frame(np.full((FILM_H, FILM_W, 3), shade, np.uint8))
    return ShownLap("Worst track", trajectory, path.read_bytes())


def test_the_page_says_what_was_scored_and_stands_alone(tmp_path, lap):
    write_report(tmp_path / "out" / "index.html", [loaded_at(tmp_path / "a")], [FIRST], [lap])
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    figures = dict(row for row in page.rows if len(row) == 2)
    assert figures["mean return"].startswith(f"{FIRST.mean:.1f} ± ")
    assert [figures[name] for name in ("median", "worst", "best")] == ["922.5", "250.5", "930.0"]
    assert [figures[name] for name in ("laps finished", "frames a lap")] == ["75%", "705"]
    assert [figures[f"{name} of training"] for name in ("steps", "frames")] == ["62,000", "248,000"]
    tracks = [row for row in page.rows if row[0].isdigit()]
    assert [row[0] for row in tracks] == ["4", "5", "6", "3"], "the worst first"
    assert tracks[0] == ["4", "250.5", "704", "10"]
    assert "python train.py" in text
    assert page.tags.count("svg") == 2
    assert "#010203" not in text
    assert "currentColor" in text
    # Nothing comes from elsewhere: not a script, not a style, not a picture.
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    assert not re.search(r"@import|url\((?!#|\"#)", text)


def test_its_map_and_its_film_are_inside(tmp_path, lap):
    write_report(tmp_path / "index.html", [loaded_at(tmp_path / "a")], [FIRST], [lap])
    sources = Page((tmp_path / "index.html").read_text(encoding="utf-8")).sources
    contents = {
        kind: base64.b64decode(data) for kind, data in (one.split(";base64,") for one in sources if one[0] == "d")
    }
    png, mp4 = contents["data:image/png"], contents["data:video/mp4"]
    assert Image.open(io.BytesIO(png)).size == (320, 320)
    (tmp_path / "film.mp4").write_bytes(mp4)
    film = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    assert (film.get(cv2.CAP_PROP_FRAME_COUNT), film.get(cv2.CAP_PROP_FRAME_WIDTH)) == (10, 560)
    assert film.get(cv2.CAP_PROP_FPS) == 50


def test_several_policies_are_compared_track_by_track(tmp_path):
    paths = [tmp_path / name for name in "ab"]
    write_report(tmp_path / "index.html", [loaded_at(path) for path in paths], [FIRST, SECOND], [])
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    difference = next(row for row in page.rows if row[0] == str(paths[1]) and len(row) == 4)
    assert difference[1] == "+160.5"  # the mean of 1, 650, -10 and 1
    assert difference[3] == "3 of 4"
    assert next(row for row in page.rows if row[0] == "4") == ["4", "250.5", "704", "10", "900.5", "704", "10"]


ODD = ("<script>alert(1)</script>", r"lr$\frac$", "_hidden", "b\udcff", "\u4e2d", "&amp;")


@pytest.mark.parametrize("odd", ODD)
def test_a_strangers_words_are_only_words(tmp_path, recwarn, odd):
    loaded = [loaded_at(tmp_path / name / "best") for name in ("plain", odd)]
    for one in loaded:
        one.meta.update(command=f"<img src=http://x/y> {odd}", steps="<b>", frames=None, config={"<i>": odd})
    write_report(tmp_path / "index.html", loaded, [FIRST, SECOND], [])
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert {"script", "img", "b", "i"}.isdisjoint(page.tags)
    name = str(loaded[1].path).encode("utf-8", "backslashreplace").decode()
    assert next(row[-1] for row in page.rows if row[0] == "") == name
    assert [row for row in page.rows if row[0].endswith(" of training")] == [
        ["steps of training", "-", "-"],
        ["frames of training", "-", "-"],
    ]
    assert page.tags.count("svg") == 2
    assert not recwarn.list


def test_the_worst_the_median_and_the_best_are_shown_each_once():
    assert tracks_to_show(FIRST) == {4: "Worst track", 6: "Median track", 3: "Best track"}
    assert tracks_to_show(score_of((3, 1.0))) == {3: "Worst track"}
    assert tracks_to_show(score_of((3, 1.0), (4, 0.0))) == {4: "Worst track", 3: "Best track"}
    assert tracks_to_show(score_of((3, 2.0), (4, 0.0), (5, 1.0))) == {
        4: "Worst track",
        5: "Median track",
        3: "Best track",
    }


def test_equal_returns_have_a_chart_too(tmp_path):
    write_report(tmp_path / "index.html", [loaded_at(tmp_path)], [score_of((3, 900.0), (4, 900.0))], [])
