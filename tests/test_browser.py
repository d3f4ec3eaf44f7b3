"""Aim's page and the report as a browser shows them: headless Chromium, where there is one."""

import functools
import html
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest

import aim_score
import checkpoint
from car_racing import make_env
from driving_pictures import record
from html_report import ShownLap, write_report
from page_options import ADDRESS
from policies import load_policy
from scoring import Score, TrackResult
from tests.helpers import finish, start
from tests.trainings import SCRIPTS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
CHART = 'metric.name="1_mean_return"'
PICTURE = r'<img[^>]+src="data:image/(?:png|gif)'
SCORE = Score([TrackResult(0, 912.5, 785, 280, 0, 1.0, True), TrackResult(1, 887.5, 1000, 279, 1, 0.99, False)])


def dom_of(url, awaited=""):
    """The page's DOM, once its scripts have run and fetched.

    The time that a page is given is the browser's own, which does not stand still for all that the page fetches. So a
    page on which what is awaited, a regular expression, is not found is loaded again; the last try's is returned.
    """
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    for budget in (30_000, 60_000, 120_000, 240_000):
        tried = [*command, f"--virtual-time-budget={budget}", url]
        dom = subprocess.run(tried, capture_output=True, text=True, timeout=240, check=True).stdout
        if re.search(awaited, html.unescape(dom), re.DOTALL):
            break
    return dom


def words_of(dom):
    """What a person can read on the page."""
    visible = re.sub(r"<(script|style)\b.*?</\1>", " ", dom, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", visible)))


def wait_for(port, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((ADDRESS, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"Aim's page did not come: {process.poll()}")


@pytest.fixture(scope="module", params=SCRIPTS)
def page(request, whole_run, tmp_path_factory):
    """Of a short real training that was scored: a function that shows a path in Aim, the run's hash, the port."""
    place = tmp_path_factory.mktemp("page")
    shutil.copytree(whole_run(request.param)[0] / ".aim", place / ".aim")
    best = checkpoint.load(whole_run(request.param)[0] / "checkpoints" / "small" / "best")
    aim_score.add_score(place, best, SCORE)
    with socket.create_server((ADDRESS, 0)) as free:
        port = free.getsockname()[1]
    process = start("aim_page.py", "--port", port, cwd=place)

    @functools.cache
    def show(path, awaited):
        return dom_of(f"http://{ADDRESS}:{port}/{path}", awaited)

    try:
        wait_for(port, process)
        yield show, best.meta["aim_run"], port
    finally:
        process.terminate()
        finish(process, timeout=60)


def test_the_run_and_its_score_are_in_the_table_of_runs(page):
    words = words_of(page[0]("runs", "score"))
    assert "small" in words
    assert 'subset="score"' in words
    assert "900" in words


def test_charts_begin_with_return_and_laps(page):
    show, run_hash, _ = page
    words = words_of(show(f"runs/{run_hash}/metrics", "2_lap_finish_rate"))
    titles = re.findall(r'(\S+) subset="(\w+)"', words)
    assert titles[:2] == [("1_mean_return", "eval"), ("1_mean_return", "score")]
    assert titles[2:4] == [("2_lap_finish_rate", "eval"), ("2_lap_finish_rate", "score")]
    assert ("return", "episode") in titles


def test_driving_pictures_are_shown(page):
    show, run_hash, _ = page
    dom = show(f"runs/{run_hash}/images", f"{PICTURE}.*{PICTURE}")
    assert "driven_lines" in dom
    assert "track 1000: " in words_of(dom)
    assert len(re.findall(PICTURE, dom)) >= 2


def test_prepared_bookmarks_show_charts_and_pictures(page):
    show, _, port = page
    paths = {}
    for kind in ("apps", "dashboards"):
        with urllib.request.urlopen(f"http://{ADDRESS}:{port}/api/{kind}/") as answer:
            paths[kind] = json.load(answer)
    explorers = {one["id"]: one["type"] for one in paths["apps"]}
    bookmarks = {one["name"]: f"{explorers[one['app_id']]}/{one['app_id']}" for one in paths["dashboards"]}
    assert set(bookmarks) == {"Learning", "Driving", "Compare"}
    for name in ("Learning", "Compare"):
        assert CHART in words_of(show(bookmarks[name], CHART))
    driving = show(bookmarks["Driving"], PICTURE)
    assert 'images.name = "driven_lines"' in words_of(driving)
    assert re.search(PICTURE, driving)


def test_the_report_is_shown_without_a_network(whole_run, tmp_path):
    best = checkpoint.load(whole_run("train_ppo.py")[0] / "checkpoints" / "small" / "best")
    policy, view = load_policy(best)
    trajectory = record(policy, make_env(view), 0, keeps_pictures=False)
    write_report(tmp_path / "index.html", [best], [SCORE], [ShownLap("Worst track", trajectory, b"film")])
    dom = dom_of((tmp_path / "index.html").as_uri())
    words = words_of(dom)
    assert "900.0 ± 12.5" in words
    assert "Worst track" in words
    assert dom.count("<svg") >= 2
    assert "<video" in dom
    assert not re.findall(r'(?:src|href)="(?!data:|#)', dom), "nothing is fetched"
