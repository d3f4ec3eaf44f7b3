"""Films of the agent driving: H.264 for players and browsers, GIF for pages."""

from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import imageio_ffmpeg
from gymnasium.envs.box2d.car_racing import FPS, WINDOW_H, WINDOW_W

from car_racing import Frame

# A GIF holds 256 colours a file and compresses badly, so it is small and shows every fourth frame, in real time still.
GIF_FPS = FPS / 4
GIF_WIDTH = 480
_GIF_FILTER = (
    f"fps={GIF_FPS},scale={GIF_WIDTH}:-1:flags=area,split[a][b];"
    "[a]palettegen=stats_mode=diff[palette];[b][palette]paletteuse=dither=none:diff_mode=rectangle"
)


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
        self._writer: Generator[None, Any, None]

    def __enter__(self) -> Self:
        format_options: dict[str, Any] = {"codec": "libx264", "quality": 7}
        if self.path.suffix == ".gif":
            format_options = {"codec": "gif", "pix_fmt_out": "pal8", "output_params": ["-vf", _GIF_FILTER]}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The writer's own blocks of 16 pixels would stretch the picture.
        self._writer = imageio_ffmpeg.write_frames(
            self._unfinished,
            (WINDOW_W, WINDOW_H),
            fps=FPS,
            macro_block_size=2,
            ffmpeg_log_level="error",
            **format_options,
        )
        self._writer.send(None)
        return self

    def add(self, frame: Frame) -> None:
        """Append a frame, uint8 (WINDOW_H, WINDOW_W, 3) in RGB."""
        self._writer.send(frame.tobytes())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        if kind is None:
            self._unfinished.rename(self.path)
        else:
            self._unfinished.unlink(missing_ok=True)
