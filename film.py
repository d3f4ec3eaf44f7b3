"""Films of the agent driving: H.264 for players and browsers, GIF for pages."""

import errno
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import imageio_ffmpeg
from gymnasium.envs.box2d.car_racing import FPS, WINDOW_H, WINDOW_W

from car_racing import Frame

# A GIF compresses badly, so it is small and shows every fourth frame; in real time still.
GIF_FPS = FPS / 4
GIF_WIDTH = 480
# ffmpeg keeps every picture of a GIF, some 140 MB a track, until it knows all colours.
MAX_GIF_TRACKS = 3

FORMATS = {
    ".mp4": ["-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p"],
    ".gif": [
        "-vf",
        f"fps={GIF_FPS},scale={GIF_WIDTH}:-1:flags=area,split[a][b];"
        "[a]palettegen=stats_mode=diff[palette];[b][palette]paletteuse=dither=none:diff_mode=rectangle",
    ],
}


class Film:
    """A film being made, frame by frame; inside `with`, it is put in place when that is left without an error.

    Args:
        path: ends in .mp4, or in .gif for a `GIF_WIDTH` pixels wide GIF.

    Raises:
        OSError: from any method, if the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unfinished = path.with_name(f".{path.stem}.part{path.suffix}")
        self._ffmpeg: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WINDOW_W}x{WINDOW_H}", "-r", str(FPS), "-i", "-"]
        target = [*FORMATS[self.path.suffix], str(self._unfinished)]
        self._ffmpeg = subprocess.Popen(
            [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", *source, *target],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # where no Ctrl-C of the terminal reaches it
        )
        return self

    def add(self, frame: Frame) -> None:
        """Append a frame, uint8 (WINDOW_H, WINDOW_W, 3) in RGB."""
        assert self._ffmpeg.stdin is not None
        try:
            self._ffmpeg.stdin.write(frame.tobytes())
        except BrokenPipeError:
            raise self._ended() from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                complaint = self._ended()
                if self._ffmpeg.returncode:
                    raise complaint
                self._unfinished.rename(self.path)
        finally:
            self._ffmpeg.kill()
            self._ffmpeg.wait()
            self._unfinished.unlink(missing_ok=True)

    def _ended(self) -> OSError:
        """Let ffmpeg come to its end, and what it has to say for it, should it have failed."""
        _, complaint = self._ffmpeg.communicate()
        lines = complaint.decode(errors="replace").splitlines()
        reason = lines[-1] if lines else f"ended with exit code {self._ffmpeg.returncode}"
        return OSError(errno.EIO, f"ffmpeg: {reason}", str(self.path))
