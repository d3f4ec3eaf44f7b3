"""Tracking in Aim: one run that never ends a training, and what hangs Stable-Baselines3's logger on it.

`AimTracker` holds the run. Whatever goes wrong in Aim (a full disk, a lost repository, a value it cannot take) is said
once on stderr, and the training goes on. `AimWriter` is an SB3 logger output over it, `AimEpisodeCallback` adds the
writer to a model's logger and tracks every episode.
"""

import fcntl
import io
import logging
import math
import os
import re
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NoReturn, Self
from urllib.parse import urlsplit

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure, HParam, Image, KVWriter, Video

from car_racing.settings import shown

EXPERIMENT = "CarRacing-v3"
UNNAMED = "unnamed"
SERVER_PREFIX = "aim://"
# A run whose remote server has died can hang in close() for minutes.
CLOSE_TIMEOUT_S = 15.0
# How long to wait for a database that another process holds: at the start, and at each later try.
DATABASE_WAIT_S = 20.0
DATABASE_WAIT_LATER_S = 0.5
# Aim's list of the runs in a repository may be half a second old, and lack one that was made since.
RUN_LIST_AGE_S = 0.6
# Between two tries to open a run.
RETRY_INTERVAL_S = 60.0

# As Aim makes them. A checkpoint or a repository may be a stranger's, and a hash becomes part of a path.
RUN_HASH = re.compile(r"[0-9a-f]{24}")

# Aim's page sorts charts by name, digits first. What a person looks at first has its place in front of its name.
SHOWN_FIRST = ("mean_return", "lap_finish_rate", "min_return", "frames_to_finish")

# What is tracked of an episode, by its key in `info["episode"]`.
EPISODE_METRICS: Mapping[str, str] = {
    "r": "return",
    "l": "length_steps",
    "frames": "length_frames",
    "tiles_fraction": "tiles_fraction",
    "lap_finished": "lap_finished",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """A picture, or the bytes of a GIF file, which is kept as it is; and the words below it."""

    image: PILImage.Image | bytes
    caption: str


class AimTracker:
    """One Aim run, opened and closed by whoever makes this object. No method of it raises.

    A run in a directory that cannot be opened is tried again every `RETRY_INTERVAL_S` seconds. What is tracked until
    then is lost, but for the parameters.

    Args:
        repo: directory that holds (or is to hold) the `.aim` repository, or a server's `aim://host:port`; None tracks
            nothing.
        run_name: the run's name in Aim.
        params: plain nested values (numbers, strings, lists, dicts) to store on the run, by top-level key.
        run_hash: go on with this run instead of beginning a new one.
        is_addition: add to a run that has ended; its name and its status stay as they are.
        tags: words by which Aim finds the run.

    Attributes:
        has_failed: whether anything in Aim has gone wrong in this process. Its threads may then hold up the end of the
            process (a dead server, a full disk), and only `os._exit` gets past that.
    """

    has_failed: ClassVar[bool] = False

    def __init__(
        self,
        repo: str | os.PathLike[str] | None,
        run_name: str,
        params: Mapping[str, Any],
        run_hash: str | None = None,
        is_addition: bool = False,
        tags: Sequence[str] = (),
    ) -> None:
        if run_hash is not None and RUN_HASH.fullmatch(run_hash) is None:
            log.warning("Aim: %s is no hash of a run; tracking goes on in a new one", shown(run_hash))
            run_hash = None
        self._run: Any = None
        self._lock: int | None = None
        self._has_warned = False
        self._repo = ""
        self._run_name = run_name
        self._asked_hash = run_hash
        self._is_addition = is_addition
        self._tags = tags
        self._params: dict[str, Any] = dict(params) if is_addition else {**params, "status": "running"}
        # When to try to open the run again, by `time.monotonic`; None for never.
        self._next_try: float | None = None
        if repo is None:
            return
        _tell_in_one_line(self._warn)
        with self._no_raise("could not be opened"):
            self._repo = _directory_or_server(repo)
            self._open(DATABASE_WAIT_S)

    @property
    def run_hash(self) -> str | None:
        """The run's hash, for resuming it; None where there is no open run."""
        return None if self._run is None else self._run.hash

    def track(
        self, value: Any, name: str, step: int, *, context: Mapping[str, str] | None = None, epoch: int | None = None
    ) -> None:
        """Track one value of any kind that SB3's logger takes.

        Numbers (Python's, NumPy's, torch's of any precision, of size 1) become points of a metric. NaN and infinity,
        through which Aim would silently draw the line, are left out, and `<name>_nonfinite` = 1 is tracked in their
        place. So are masked and complex numbers. Strings become `aim.Text`, larger arrays `aim.Distribution`, SB3's
        Figure, Image and Video `aim.Image`, and so does a `Picture`, or a list of them for one step.

        Args:
            value: what to track.
            name: the sequence's name.
            step: its place on the x axis.
            context: plain strings that Aim groups by.
            epoch: a second x axis.
        """
        if not self._is_open():
            return
        if self._lock is not None and os.fstat(self._lock).st_nlink == 0:
            self._warn("has been deleted together with its repository")  # Aim itself goes on writing into nothing
        name = str(name) or UNNAMED
        with self._no_raise(f"did not take {name!r}"):
            if isinstance(value, HParam):
                self._run["hparams"] = {**self._run.get("hparams", {}), **_plain(value.hparam_dict)}
                for key, metric_value in value.metric_dict.items():
                    metric, metric_context = split_key(key)
                    self.track(metric_value, metric, step, context=metric_context, epoch=epoch)
                return
            is_finite, aim_value = _to_aim(value)
            where = {
                "step": int(step),
                "epoch": None if epoch is None else int(epoch),
                "context": _plain(context or {}),
            }
            if aim_value is not None:
                self._run.track(aim_value, name=name, **where)
            if not is_finite:
                self._run.track(1.0, name=f"{name}_nonfinite", **where)

    def track_episode(self, episode: Mapping[str, Any], number: int, step: int) -> None:
        """Track what an `info["episode"]` has of `EPISODE_METRICS`, in the context `{"subset": "episode"}`.

        Args:
            episode: the episode's figures.
            number: the episode's number, as epoch.
            step: the step it ended at. No other episode may have ended there: it would be overwritten.
        """
        for key, name in EPISODE_METRICS.items():
            if key in episode:
                self.track(episode[key], name, step, context={"subset": "episode"}, epoch=number)

    def set_param(self, key: str, value: Any) -> None:
        """Store a value on the run, NumPy's and torch's scalars as plain numbers."""
        if not self._is_open():
            self._params[key] = value
            return
        with self._no_raise(f"did not take the parameter {key!r}"):
            self._run[key] = _plain(value)

    def keep_file(self, path: Path) -> None:
        """Copy a file beside the run, as an artifact that Aim's page offers under its name."""
        if not self._is_open():
            return
        with self._no_raise(f"did not take the file {path.name!r}"):
            directory = Path(self._repo) / ".aim" / "artifacts"
            uri = f"file://{directory}"
            if _is_server(self._repo) or urlsplit(uri).path != str(directory):
                raise ValueError("Aim keeps no files on a server, nor below a directory with a ? or a # in its name")
            self._run.set_artifacts_uri(uri)
            self._run.log_artifact(str(path), name=path.name, block=True)

    def close(self, status: str) -> None:
        """Set `status` ("finished", "stopped" or "failed"; Aim has no failed state of its own) and close the run.

        What is tracked afterwards is dropped.
        """
        self._next_try = None
        if self._run is None:
            return
        if not self._is_addition:
            self.set_param("status", status)
        run, self._run = self._run, None
        self._close_in_time(run)
        self._release_lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        self.close("finished" if error_type is None else "failed")

    def _is_open(self) -> bool:
        """Whether there is a run to write to; one that could not be opened is tried again from time to time."""
        if self._run is None and self._next_try is not None and time.monotonic() >= self._next_try:
            with self._no_raise("could not be opened"):
                self._open(DATABASE_WAIT_LATER_S)
                log.warning("Aim: the run is open now; tracking goes on from here")
        return self._run is not None

    def _open(self, database_wait_s: float) -> None:
        """Open the run, or set the time of the next try and raise what went wrong."""
        run = None
        try:
            if self._asked_hash is not None:
                self._lock = _lock_run(self._repo, self._asked_hash)
            run = _open_run(self._repo, self._asked_hash, database_wait_s, self._is_addition)
            if run.hash != self._asked_hash:
                self._release_lock()
                self._lock = _lock_run(self._repo, run.hash)
        except Exception:  # raised again below; the callers say it, and training goes on
            # A server that is not there can hold up a training for minutes each time it is asked.
            self._next_try = None if _is_server(self._repo) else time.monotonic() + RETRY_INTERVAL_S
            if run is not None:
                # The next try makes another one. Left as it is, this one would look live in Aim for good.
                self._close_in_time(run)
            self._release_lock()
            raise
        self._run = run
        if not self._is_addition:
            with self._no_raise("did not take its name"):
                run.name = self._run_name
        for tag in self._tags:
            with self._no_raise(f"did not take the tag {tag!r}"):
                if tag not in run.tags:
                    run.add_tag(tag)
        for key, value in self._params.items():
            self.set_param(key, value)

    def _close_in_time(self, run: Any) -> None:
        def close() -> None:
            with self._no_raise("could not be closed"):
                run.close()

        closer = threading.Thread(target=close, daemon=True)
        closer.start()
        closer.join(CLOSE_TIMEOUT_S)
        if closer.is_alive():
            self._warn(f"did not close within {CLOSE_TIMEOUT_S:.0f} s and is left open")

    def _release_lock(self) -> None:
        if self._lock is not None:
            _unlock(self._lock)
            self._lock = None

    @contextmanager
    def _no_raise(self, what_failed: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Aim, RocksDB, SQLite, gRPC and the file system each raise their own
            self._warn(f"{what_failed} ({type(error).__name__}: {_first_line(error)})")

    def _warn(self, what: str) -> None:
        AimTracker.has_failed = True
        if not self._has_warned:
            self._has_warned = True
            goes_on = "nothing is added to it" if self._is_addition else "training goes on, tracking may have gaps"
            log.warning("Aim: the run %s; %s", what, goes_on)


class AimWriter(KVWriter):
    """An output of SB3's logger that writes to an Aim run, beside the logger's other outputs.

    A key `train/loss` becomes the metric `loss` in the context `{"subset": "train"}`, `a/b/c` the metric `b/c` in
    `{"subset": "a"}`; a key without a slash keeps its name and has no context. A key is skipped only where "aim" is
    among the formats that it is excluded from.

    Closing the logger leaves the run open: whoever opened it closes it.

    Args:
        tracker: the run.
        renames: other names for some of SB3's keys, by the whole key; None leaves one out.
    """

    def __init__(self, tracker: AimTracker, renames: Mapping[str, str | None] | None = None) -> None:
        self.tracker = tracker
        self.renames = dict(renames or {})

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        for key, value in key_values.items():
            if "aim" in (key_excluded.get(key) or ()):
                continue
            wanted = self.renames.get(key, key)
            if wanted is None:
                continue
            name, context = split_key(wanted)
            self.tracker.track(value, name, step, context=context)

    def close(self) -> None:
        """Nothing to do: the run is not this writer's."""


class AimEpisodeCallback(BaseCallback):
    """Adds an `AimWriter` to the model's logger, tracks every episode, and writes the last update's metrics.

    See `AimTracker.track_episode` for what is tracked of one.

    SB3 dumps its logger before an update, so at the end of training the last update's metrics are still waiting. They
    are dumped one step later than the last dump, where they overwrite nothing.

    Args:
        writer: what is added to the logger; an older `AimWriter` there makes way for it.
        n_episodes: episodes already tracked, when a run is resumed.
    """

    def __init__(self, writer: AimWriter, n_episodes: int = 0) -> None:
        super().__init__()
        self.writer = writer
        self.n_episodes = n_episodes

    def _on_training_start(self) -> None:
        others = [output for output in self.logger.output_formats if not isinstance(output, AimWriter)]
        self.logger.output_formats = [*others, self.writer]

    def _on_step(self) -> bool:
        # All environments have stepped, one after the other as the steps are counted.
        first_step = self.num_timesteps - len(self.locals["infos"]) + 1
        for step, info in enumerate(self.locals["infos"], first_step):
            if "episode" in info:
                self.n_episodes += 1
                self.writer.tracker.track_episode(info["episode"], self.n_episodes, step)
        return True

    def _on_training_end(self) -> None:
        if self.logger.name_to_value:
            self.logger.dump(self.num_timesteps + 1)


def chart_name(name: str) -> str:
    """What a metric is called in Aim: `1_mean_return` for the first of `SHOWN_FIRST`, and most others as they are."""
    return f"{SHOWN_FIRST.index(name) + 1}_{name}" if name in SHOWN_FIRST else name


def split_key(key: str) -> tuple[str, dict[str, str]]:
    """SB3's key as Aim's name and context. An empty name breaks a whole run in Aim, so none comes out of here."""
    subset, slash, name = str(key).partition("/")
    if slash and subset and name:
        return name, {"subset": subset}
    return str(key).strip("/") or UNNAMED, {}


def _is_server(repo: str) -> bool:
    return repo.startswith(SERVER_PREFIX)


def _directory_or_server(repo: str | os.PathLike[str]) -> str:
    """The absolute path of a directory, or a server's address as it is.

    Raises:
        ValueError: for an address of any other kind, or none.
    """
    name = os.fspath(repo)
    if _is_server(name):
        return name
    if "://" in name or not name:
        raise ValueError(f"{name!r} is neither a directory nor {SERVER_PREFIX}host:port")
    return str(Path(name).expanduser().resolve())


def _open_run(repo: str, run_hash: str | None, database_wait_s: float, is_addition: bool) -> Any:
    import aim  # a second of start-up and 100 MB, which a run without tracking need not pay
    from aim.sdk.errors import MissingRunError

    if not _is_server(repo):
        directory = Path(repo) / ".aim"
        directory.mkdir(parents=True, exist_ok=True)
        with _one_process_at_a_time(directory):
            # The version is the last file that Aim writes of a new repository.
            aim.Repo.from_path(repo, init=not (directory / "VERSION").exists())
        _wait_for_database(directory, database_wait_s)
    # Log capture can die on bytes that are not UTF-8 and take the system metrics with it.
    options: dict[str, Any] = {"repo": repo, "log_system_params": False, "capture_terminal_logs": False}
    if is_addition:
        options["system_tracking_interval"] = None  # the processor's load is that of the training
    if run_hash is not None:
        for wait_s in (RUN_LIST_AGE_S, 0.0):
            try:
                with _without_alarm():
                    return aim.Run(run_hash=run_hash, force_resume=True, **options)
            except MissingRunError:
                time.sleep(wait_s)
        log.warning("Aim: run %s is not in %s; tracking goes on in a new run there", run_hash, repo)
    return aim.Run(experiment=EXPERIMENT, **options)


@contextmanager
def _without_alarm() -> Iterator[None]:
    """At every resume Aim warns of other writers of the run, which `_lock_run` keeps out."""
    lock_log = logging.getLogger("aim.sdk.lock_manager")
    level = lock_log.level
    lock_log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        lock_log.setLevel(level)


def holds_run(repo: Path, run_hash: str) -> bool:
    """Whether a run is in the repository of a directory, as far as that can be read."""
    try:
        return (repo / ".aim" / "meta" / "chunks" / run_hash).exists()
    except OSError:
        return False


def leave(code: int) -> NoReturn:
    """Exit, past whatever Aim may still have running where it has failed."""
    if AimTracker.has_failed:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _wait_for_database(directory: Path, wait_s: float) -> None:
    """Wait until a repository's database can be written to. A run that meets a locked one is left half made by Aim.

    Raises:
        sqlite3.OperationalError: if another process still holds it after `wait_s` seconds.
    """
    with closing(sqlite3.connect(directory / "run_metadata.sqlite", timeout=wait_s)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.rollback()


def _lock_run(repo: str, run_hash: str) -> int | None:
    """Hold a run for this process, until `_unlock` or the end of the process.

    A second writer cannot open a live run, but in trying to takes away the live one's own lock file in Aim.

    Raises:
        BlockingIOError: if another process holds it.
    """
    if _is_server(repo):
        return None
    directory = Path(repo) / ".aim"
    if not directory.is_dir():
        return None
    fd = os.open(directory / f"writer-{run_hash}.flock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise BlockingIOError(f"another process is writing run {run_hash}") from None
    return fd


def _unlock(fd: int) -> None:
    """Give a lock up. Closing its descriptor would not do: a process forked since, such as an environment's, has it."""
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


@contextmanager
def _one_process_at_a_time(directory: Path) -> Iterator[None]:
    # Processes that create one repository at the same time break it. A file of its own, since a directory may be locked
    # for other ends: a training locks that of its checkpoints.
    fd = os.open(directory / "creation.flock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        _unlock(fd)


def _to_aim(value: Any) -> tuple[bool, Any]:
    """Whether all of `value` is finite, and the finite part of it as something that `aim.Run.track` takes, or None."""
    import aim

    if isinstance(value, str):
        return True, aim.Text(value)
    if isinstance(value, Picture):
        return True, _image(value)
    if isinstance(value, list) and all(isinstance(item, Picture) for item in value):
        return True, [_image(item) for item in value]
    if isinstance(value, Figure):
        image = aim.Image(value.figure)
        # Whoever made the figure through pyplot has it loaded; a bare Figure has nothing to close.
        if value.close and (pyplot := sys.modules.get("matplotlib.pyplot")):
            pyplot.close(value.figure)
        return True, image
    if isinstance(value, Image):
        picture = value.image if isinstance(value.image, str) else _channels_last(value.image, value.dataformats)
        return True, aim.Image(picture)
    if isinstance(value, Video):
        return True, _video(value)
    array = _as_float64(value)
    finite = array[np.isfinite(array)]
    is_finite = finite.size == array.size
    if array.size == 1:
        return is_finite, float(finite[0]) if is_finite else None
    return is_finite, aim.Distribution(finite) if finite.size else None


def _image(picture: Picture) -> Any:
    """A picture as Aim takes it."""
    import aim
    from aim.storage.types import BLOB

    if not isinstance(picture.image, bytes):
        return aim.Image(picture.image, picture.caption)
    with PILImage.open(io.BytesIO(picture.image)) as first:
        image: Any = aim.Image(first.convert("RGB"), picture.caption, format="gif")
    # Aim itself would draw every frame once more.
    image.storage["data"] = BLOB(data=picture.image)
    return image


def _as_float64(value: Any) -> NDArray[np.float64]:
    """Numbers as float64; masked and complex ones, which no chart can show, as NaN."""
    array = _as_array(value)
    if np.iscomplexobj(array):
        return np.full(array.shape, np.nan)
    return np.ma.filled(array.astype(np.float64), np.nan)


def _as_array(value: Any) -> NDArray[Any]:
    """Numbers of any kind, NumPy's masked ones still masked.

    Raises:
        TypeError: if they are no numbers, or there are none.
    """
    array = np.ma.asanyarray(value) if isinstance(value, np.ma.MaskedArray) else np.asarray(_known_to_numpy(value))
    if array.dtype.kind not in "biufc" or array.size == 0:
        raise TypeError(f"{type(value).__name__} is no number, text, picture or array of numbers")
    return array


def _known_to_numpy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().resolve_conj()
        # NumPy has none of torch's shorter floats (bfloat16, float8).
        return value.double() if value.is_floating_point() else value
    if isinstance(value, (int, Fraction, Decimal)):
        return float(value)  # NumPy takes no integer of more than 64 bits
    array = np.asarray(value)
    # bfloat16 and float8 of the package ml_dtypes, which JAX uses, are of an unnamed kind and can be converted.
    is_number = array.dtype.kind == "V" and array.dtype.names is None and np.can_cast(array.dtype, np.float64)
    return array.astype(np.float64) if is_number else array


def _channels_last(image: Any, dataformats: str) -> NDArray[np.uint8]:
    """An image in any of TensorBoard's layouts as uint8 (H, W) or (H, W, C); of a batch, the first."""
    array = _as_array(image)
    order = dataformats.upper()
    if "N" in order:
        array = array.take(0, axis=order.index("N"))
        order = order.replace("N", "")
    array = array.transpose([order.index(axis) for axis in "HWC" if axis in order])
    return _to_uint8(array)


def _to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    # As TensorBoard does: floats are in [0, 1].
    scaled = array * 255.0 if np.issubdtype(array.dtype, np.floating) else array
    return np.clip(scaled, 0, 255).astype(np.uint8)


def _video(video: Video) -> Any:
    """SB3's video, frames (N, T, C, H, W), as an animated picture; Aim plays no other. The first of the batch."""
    import aim

    frames = [PILImage.fromarray(_channels_last(frame, "CHW").squeeze()) for frame in _as_array(video.frames)[0]]
    gif = io.BytesIO()
    frames[0].save(gif, "gif", save_all=True, append_images=frames[1:], duration=1000.0 / video.fps, loop=0)
    with PILImage.open(gif) as animated:
        return aim.Image(animated)


def _plain(value: Any) -> Any:
    """`value` with everything in it that Aim's parameters cannot hold made plain."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, range)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.generic, torch.Tensor, np.ndarray)):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _tell_in_one_line(warn: Callable[[str], None]) -> None:
    """Have errors in Aim's own threads and finalisers, which would print tracebacks, go to `warn`."""

    def of_aim(trace: TracebackType | None) -> bool:
        files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace)]
        return any("/aim/" in file or file.startswith(("aim/", "src/aimrocks/")) for file in files)

    def hook_over(previous: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def hook(args: Any) -> None:
            if of_aim(args.exc_traceback):
                warn(f"has met an error of Aim's ({args.exc_type.__name__}: {_first_line(args.exc_value)})")
            else:
                previous(args)

        return hook

    threading.excepthook = hook_over(threading.excepthook)
    sys.unraisablehook = hook_over(sys.unraisablehook)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
