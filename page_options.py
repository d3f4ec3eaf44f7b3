"""What `aim_page.py` can be asked for. It imports nothing heavy, so that a wrong flag is answered at once."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paths import check_path, path_from
from settings import OneLineParser, SettingError, add_flags, check_settings, explicit_flags, setting

# The page listens here and nowhere else.
ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class PageOptions:
    """The page.

    Raises:
        SettingError: if an option is out of its range, there is no Aim repository, or the port cannot be had.
    """

    repo: str = setting(".", "directory that holds the Aim repository, .aim", check=check_path)
    port: int = setting(43800, "port of the page", minimum=1, maximum=65535)

    def __post_init__(self) -> None:
        check_settings(self)
        if not (self.directory / ".aim").is_dir():
            raise SettingError(
                f"--repo {self.repo}: no Aim repository is there; train first, or name another: make ui REPO=DIR"
            )
        try:
            socket.create_server((ADDRESS, self.port)).close()
        except OSError as error:
            raise SettingError(
                f"--port {self.port} cannot be had ({os.strerror(error.errno or 0)}); name another: make ui PORT=43801"
            ) from None

    @property
    def directory(self) -> Path:
        """The repository's directory."""
        return path_from(self.repo, "--repo")


def parsed_flags(description: str) -> dict[str, Any]:
    """What stands on the command line, by the options' names; a mistake in it ends the process."""
    parser = OneLineParser(description)
    add_flags(parser, PageOptions)
    return explicit_flags(PageOptions, parser.parse_args())
