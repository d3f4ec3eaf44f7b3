"""Show the runs in Aim's page, on this machine only and to no other site's page: `make ui`.

`aim up` answers whoever asks: its CORS rule allows every origin every method, and it looks at no Host header. So a web
page that is open in the same browser could delete runs, or make Aim evaluate a query of its own (CVE-2025-5321: a query
can run code). Here the same application stands behind `guarded`.
"""

import startup

if __name__ == "__main__":
    startup.begin()  # before the other imports, which open files and may fail

from page_options import ADDRESS, PageOptions, parsed_flags

if __name__ == "__main__":
    parsed_flags(__doc__ or "")  # a mistake is answered before the imports below, which take seconds

import os
import subprocess
import sys
from pathlib import Path

import uvicorn
from aim.cli.utils import build_db_upgrade_command
from aim.sdk.index_manager import RepoIndexManager
from aim.sdk.repo import Repo
from aim.sdk.run_status_manager import RunStatusManager
from aim.web.configs import AIM_ENV_MODE_KEY, AIM_UI_MOUNTED_REPO_PATH
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from settings import SettingError, fail
from startup import complain, one_line

# The names under which a browser on this machine, or at the other end of `ssh -L`, reaches that address.
HOSTS = (ADDRESS, "localhost")


def guarded(app: ASGIApp) -> ASGIApp:
    """An application that answers its own page only.

    A Host that does not mean this machine gets the status 400: a foreign name that resolves to 127.0.0.1 (DNS
    rebinding) makes another site's page look like our own to the browser. What another site's page asks for gets 403.
    """
    return TrustedHostMiddleware(SameOriginOnly(app), allowed_hosts=list(HOSTS), www_redirect=False)


class SameOriginOnly:
    """Refuses what a browser asks for on behalf of another site, links and frames included.

    A link counts, too: Aim's page takes a query from its address. A browser says so by itself (Fetch Metadata,
    https://www.w3.org/TR/fetch-metadata/), and no page can change that. Older browsers send the Origin alone.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or is_same_origin(Headers(scope=scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            refusal = PlainTextResponse("Another site's page asked for this. Type the address in.\n", status_code=403)
            await refusal(scope, receive, send)


def is_same_origin(headers: Headers) -> bool:
    """Whether a request comes from this page itself, from the address line or from a program that is no browser."""
    # "none": typed in, or a bookmark. "same-site" would be another port of this machine.
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or origin == f"http://{headers.get('host')}"


def make_app() -> ASGIApp:
    """Aim's application for the repository that the environment names, guarded. The server's processes call this."""
    from aim.web.run import app  # It reads the environment when it is imported.

    return guarded(app)


def bookmarks() -> list[tuple[str, str]]:
    """The prepared bookmarks, by name, with their paths; none where Aim's database does not take them."""
    try:
        from aim_bookmarks import add_bookmarks  # Aim's database is opened when this is imported.

        return add_bookmarks()
    except Exception as error:  # SQLAlchemy's and SQLite's; the page works without
        complain(f"Aim's database takes no bookmarks ({type(error).__name__}); the page works without them")
        return []


def serve(options: PageOptions) -> None:
    """Show a repository's runs until Ctrl-C. As `aim up` does, but for the guard.

    Raises:
        SettingError: if Aim cannot open the repository, or cannot bring its database up to date.
    """
    try:
        repo = Repo.from_path(str(options.directory))
    except Exception as error:  # whatever Aim's parts raise at files that are no repository's
        raise SettingError(f"--repo {options.repo}: Aim cannot open its repository ({one_line(str(error))})") from None
    os.environ[AIM_ENV_MODE_KEY] = "prod"
    os.environ[AIM_UI_MOUNTED_REPO_PATH] = repo.path
    if subprocess.run(build_db_upgrade_command(), check=False).returncode:
        raise SettingError(f"--repo {options.repo}: Aim cannot bring its database up to date; see above")
    RepoIndexManager.get_index_manager(repo).start()
    RunStatusManager(repo).start()
    page = f"http://{ADDRESS}:{options.port}"
    print(f"Aim's page: {page}, in a few seconds. Ctrl-C ends it.", flush=True)
    for name, path in bookmarks():
        print(one_line(f"  {name + ':':9} {page}/{path}"), flush=True)
    uvicorn.run(
        "aim_page:make_app",
        factory=True,
        app_dir=str(Path(__file__).parent),
        host=ADDRESS,
        port=options.port,
        workers=2,  # as many as `aim up` has
        log_level="error",
    )


def main() -> None:
    try:
        serve(PageOptions(**parsed_flags(__doc__ or "")))
    except SettingError as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
