"""Films of a policy driving: H.264 for players and browsers, GIF for pages."""

import errno
import functools
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from gymnasium.envs.box2d.car_racing import FPS, WINDOW_H, WINDOW_W
from numpy.typing import NDArray

from output_file import replacing
from settings import SettingError

# Beside the game there is a panel (`panel.py`).
PANEL_W = 280
FILM_W, FILM_H = WINDOW_W + PANEL_W, WINDOW_H

# A GIF compresses badly, so it is small and shows every fourth frame, still in real time.
GIF_FPS = FPS / 4
GIF_WIDTH = 560
# ffmpeg keeps every frame of a GIF in memory, some 140 MB a track, until it knows all colours.
MAX_GIF_TRACKS = 3


def _gif(width: int) -> list[str]:
    """ffmpeg's arguments for a GIF of this width."""
    return [
        "-vf",
        f"fps={GIF_FPS},scale={width}:-1:flags=area,split[a][b];"
        "[a]palettegen=stats_mode=diff[palette];[b][palette]paletteuse=dither=none:diff_mode=rectangle",
    ]


SMALL, SMALL_GIF = "small", "small_gif"
# Nearly half the time of x264's own preset, and files that are a tenth larger.
H264 = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"]
FORMATS = {
    ".mp4": [*H264, "-crf", "18"],
    # For a page: a few hundred kilobytes a lap, and a player can begin before it has all of it.
    SMALL: [
        *("-vf", f"scale={GIF_WIDTH}:-2:flags=area", *H264, "-crf", "26", "-movflags", "+faststart"),
    ],
    ".gif": _gif(GIF_WIDTH),
    # For a tracker's page: a megabyte or two a lap.
    SMALL_GIF: _gif(320),
}

# Appends one picture to a film: uint8 (FILM_H, FILM_W, 3) in RGB.
AddFrame = Callable[[NDArray[np.uint8]], None]


@contextmanager
def new_film(path: Path, kind: str | None = None) -> Iterator[AddFrame]:
    """Make a film frame by frame. It is put in place at the end of the block, unless that ends with an error.

    Args:
        path: ends in .mp4, or in .gif for a GIF that is `GIF_WIDTH` pixels wide.
        kind: `SMALL` for an .mp4 of that width, `SMALL_GIF`; None for what the path's ending says.

    Yields:
        The function that appends a frame.

    Raises:
        OSError: here or from appending a frame, if the film cannot be written.
    """
    with replacing(path) as new_path:
        # `file:`, since ffmpeg takes the part of a name before a colon for a protocol.
        ffmpeg = _start_ffmpeg([*FORMATS[kind or path.suffix], f"file:{new_path}"])

        def add_frame(frame: NDArray[np.uint8]) -> None:
            assert ffmpeg.stdin is not None
            try:
                ffmpeg.stdin.write(frame.tobytes())
            except BrokenPipeError:
                raise _failure(ffmpeg, path) from None

        try:
            yield add_frame
            failure = _failure(ffmpeg, path)
            if ffmpeg.returncode:
                raise failure
        finally:
            ffmpeg.kill()
            ffmpeg.communicate()  # waits for its end and closes the pipes


@functools.cache
def check_ffmpeg(kind: str, flag: str) -> None:
    """Try out, before anything is driven, that a film of this kind (`FORMATS`) can be made here.

    Raises:
        SettingError: if it cannot.
    """
    try:
        ffmpeg = _start_ffmpeg([*FORMATS[kind], "-f", "null", "-"])
        _, complaint = ffmpeg.communicate(bytes(3 * FILM_W * FILM_H))
        if ffmpeg.returncode:
            raise OSError(_reason(ffmpeg, complaint))
    except (OSError, RuntimeError) as error:  # imageio_ffmpeg raises the latter where it finds no ffmpeg
        raise SettingError(f"{flag}: ffmpeg cannot be used ({error}); leave {flag} out") from None


def _start_ffmpeg(output: list[str]) -> "subprocess.Popen[bytes]":
    size, rate = f"{FILM_W}x{FILM_H}", str(FPS)
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", rate, "-i", "-"]
    return subprocess.Popen(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", *source, *output],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,  # The terminal's Ctrl-C goes to the process group; ffmpeg is ended here instead.
    )


def _failure(ffmpeg: "subprocess.Popen[bytes]", path: Path) -> OSError:
    """Wait for ffmpeg's end, and return what it complained about as an error, should it have failed."""
    _, complaint = ffmpeg.communicate()
    return OSError(errno.EIO, f"ffmpeg: {_reason(ffmpeg, complaint)}", str(path))


def _reason(ffmpeg: "subprocess.Popen[bytes]", complaint: bytes) -> str:
    lines = complaint.decode(errors="replace").splitlines()
    return lines[-1] if lines else f"ended with exit code {ffmpeg.returncode}"
