"""Prepared bookmarks, in a process of its own: Aim binds its database to a repository when it is imported."""

import json
import subprocess
import sys

import aim

from aim_bookmarks import BOOKMARKS
from tests.helpers import ROOT

SCRIPT = """
import json, os, subprocess, sys
from aim.cli.utils import build_db_upgrade_command
from aim.web.configs import AIM_ENV_MODE_KEY, AIM_UI_MOUNTED_REPO_PATH

os.environ[AIM_ENV_MODE_KEY] = "prod"
os.environ[AIM_UI_MOUNTED_REPO_PATH] = sys.argv[1]
subprocess.run(build_db_upgrade_command(), check=True)
from aim_bookmarks import Dashboard, ExploreState, add_bookmarks, get_contexted_session

found = [add_bookmarks(), add_bookmarks()]
with get_contexted_session() as session:
    session.query(Dashboard).filter(Dashboard.name == "Driving").first().is_archived = True
    session.query(Dashboard).filter(Dashboard.name == "Compare").first().description = "mine"
    session.commit()
found.append(add_bookmarks())
with get_contexted_session() as session:
    count = session.query(Dashboard).count()
    descriptions = [one.description for one in session.query(Dashboard)]
    states = {one.uuid: json.loads(one.state) for one in session.query(ExploreState)}
print(json.dumps({"found": found, "count": count, "descriptions": descriptions, "states": states}))
"""


def test_bookmarks_are_made_once_and_stay_as_the_user_leaves_them(tmp_path):
    aim.Repo.from_path(str(tmp_path), init=True)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / ".aim")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    first, second, third = told["found"]
    assert [name for name, _ in first] == [bookmark.name for bookmark in BOOKMARKS]
    assert second == first
    assert third == [pair for pair in first if pair[0] != "Driving"], "a bookmark that was removed does not come back"
    assert told["count"] == len(BOOKMARKS)
    assert "mine" in told["descriptions"]
    for (_, path), bookmark in zip(first, BOOKMARKS, strict=True):
        explorer, _, uuid = path.partition("/")
        assert explorer == bookmark.explorer
        assert told["states"][uuid]["select"]["advancedQuery"] == bookmark.query
