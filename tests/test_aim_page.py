"""`make ui`: what Aim's page answers to, and what it does not start on."""

import asyncio
import socket

import aim
import pytest
from aim.web.configs import AIM_UI_MOUNTED_REPO_PATH

from aim_page import guarded, make_app
from page_options import ADDRESS, PageOptions
from settings import SettingError

OWN = "127.0.0.1:43800"
# What Chromium and Firefox send for the page's own requests, and for an address that the user types in.
OWN_REQUESTS = (
    {"host": OWN},
    {"host": OWN, "sec-fetch-site": "none"},
    {"host": OWN, "sec-fetch-site": "same-origin", "origin": f"http://{OWN}"},
    {"host": "localhost:9000", "origin": "http://localhost:9000"},  # through ssh -L 9000:127.0.0.1:43800
)
# What they send for another site's page: its script, its link, its picture, its frame, its form.
FOREIGN_REQUESTS = (
    {"host": OWN, "origin": "https://evil.example"},
    {"host": OWN, "origin": "null"},
    {"host": OWN, "origin": "http://127.0.0.1:8888", "sec-fetch-site": "same-site"},
    {"host": OWN, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    {"host": OWN, "sec-fetch-site": "cross-site", "sec-fetch-dest": "image"},
    {"host": OWN, "sec-fetch-site": "same-origin", "origin": "http://localhost:43800"},
)
FOREIGN_HOSTS = ("evil.example", "evil.example:43800", "127.0.0.1.evil.example", "", "127.0.0.1@evil.example")


def ask(app, headers, method="GET", path="/", kind="http"):
    """Call an ASGI application as a server would; what it sends."""
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "root_path": "",
        "raw_path": path.encode(),
        "query_string": b"",
        "scheme": "http",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "server": (ADDRESS, 43800),
        "client": (ADDRESS, 50000),
        "http_version": "1.1",
    }
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


def status_of(*args, **kwargs):
    return ask(*args, **kwargs)[0]["status"]


@pytest.fixture
def answering():
    """A guarded application that answers everything with 200."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return guarded(app)


@pytest.mark.parametrize("headers", OWN_REQUESTS)
def test_the_page_itself_is_answered(answering, headers):
    assert status_of(answering, headers) == 200


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("headers", FOREIGN_REQUESTS)
def test_another_sites_page_is_refused(answering, headers, method):
    assert status_of(answering, headers, method) == 403


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_a_foreign_host_is_refused(answering, host):
    """A name of the attacker's that resolves to this machine."""
    assert status_of(answering, {"host": host, "sec-fetch-site": "same-origin", "origin": f"http://{host}"}) == 400


def test_another_sites_websocket_is_closed(answering):
    sent = ask(answering, FOREIGN_REQUESTS[0], kind="websocket")
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_aims_own_page_is_behind_the_guard(tmp_path, monkeypatch):
    """Aim's application, whose own rule for other origins lets them delete runs."""
    run = aim.Run(repo=str(tmp_path), log_system_params=False, capture_terminal_logs=False)
    run.close()
    monkeypatch.setenv(AIM_UI_MOUNTED_REPO_PATH, str(tmp_path))
    app, path = make_app(), f"/api/runs/{run.hash}/"
    for headers in FOREIGN_REQUESTS:
        assert status_of(app, headers, "DELETE", path) == 403
    assert aim.Repo.from_path(str(tmp_path)).list_all_runs() == [run.hash]
    assert status_of(app, OWN_REQUESTS[0], "GET", "/api/projects/") == 200


def test_a_place_without_a_repository_is_refused(tmp_path):
    with pytest.raises(SettingError, match="no Aim repository is there; train first"):
        PageOptions(repo=str(tmp_path))


def test_a_taken_port_is_refused(tmp_path):
    (tmp_path / ".aim").mkdir()
    with socket.create_server((ADDRESS, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match=f"--port {port} cannot be had .Address already in use.; name another"):
            PageOptions(repo=str(tmp_path), port=port)
