"""A page that shows what a score is made of: one HTML file that needs no network, for light and dark, large and small.

Its charts are SVG inside the page, drawn by matplotlib; its films and maps are inside it, too.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.box2d.car_racing import FPS
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from checkpoint import Checkpoint
from driving_pictures import Trajectory, caption, track_map
from output_file import replacing
from score_report import CONFIDENCE, Difference, interval_in_words, return_interval, tracks_in_words
from scoring import Score, TrackResult

# Charts are drawn in this colour where they should have that of the text around them, light or dark.
INK = "#010203"
CHART_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
COLOURS = ("#2a7fb8", "#d9772b", "#3f9b54", "#b04a8f", "#8a6fd1", "#9b7b3f")

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1080px; padding: 1rem; }}
h1 {{ font-size: 1.5rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.2rem; margin-top: 2rem; overflow-wrap: anywhere; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid var(--line); padding: .25rem .7rem; text-align: right; white-space: nowrap; }}
th {{ max-width: 14rem; overflow-wrap: anywhere; white-space: normal; }}
th:first-child, td:first-child {{ min-width: 8rem; overflow-wrap: anywhere; text-align: left; white-space: normal; }}
svg, img, video {{ height: auto; max-width: 100%; }}
.laps {{ display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(290px, 1fr)); }}
.laps img {{ background: #f6f6f6; border-radius: 6px; width: 100%; }}
.laps video {{ border-radius: 6px; width: 100%; }}
pre {{ overflow-x: auto; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


@dataclass(frozen=True)
class ShownLap:
    """A lap that the page shows.

    Attributes:
        title: why it is shown.
        trajectory: where the car went.
        film: an .mp4 file's bytes.
    """

    title: str
    trajectory: Trajectory
    film: bytes


def tracks_to_show(score: Score) -> dict[int, str]:
    """The worst, the median and the best track of a score, as far as these are different ones, with what they are."""
    worst, *others = sorted(score.results, key=lambda result: result.episode_return)
    titles = {worst.track: "Worst track"}
    if len(others) > 1:
        titles[others[(len(others) - 1) // 2].track] = "Median track"
    if others:
        titles[others[-1].track] = "Best track"
    return titles


def write_report(path: Path, loaded: Sequence[Checkpoint], scores: Sequence[Score], laps: Sequence[ShownLap]) -> None:
    """Write the page.

    Args:
        path: the .html file.
        loaded: the checkpoints.
        scores: their scores, on the same tracks.
        laps: laps of the first of them.

    Raises:
        OSError: if the file cannot be written.
    """
    names = [_printable(one.path) for one in loaded]
    tracks = tracks_in_words(scores[0])
    # The user's own settings of matplotlib have no say.
    with style.context(["default", CHART_STYLE]):
        parts = [
            f"<h1>{escape(', '.join(names))}</h1>",
            f"<p>Scored on {escape(tracks)} of the unmodified CarRacing-v3, which training never meets. "
            "A return is the sum of the game's own rewards.</p>",
            _scores_table(names, loaded, scores),
            "<h2>Returns</h2>",
            _returns_chart(names, scores),
            _differences(names, scores),
            f"<h2>Laps of {escape(names[0])}</h2>" if laps else "",
            f'<div class="laps">{"".join(map(_lap, laps))}</div>',
            _tracks_table(names, scores),
            _provenance(loaded),
        ]
    page = PAGE.format(title=escape(f"CarRacing-v3: {names[0]}"), body="\n".join(filter(None, parts)))
    with replacing(path) as new_path:
        new_path.write_text(page, encoding="utf-8")


def _scores_table(names: Sequence[str], loaded: Sequence[Checkpoint], scores: Sequence[Score]) -> str:
    """A column for each checkpoint: beside each other, its figures would not fit on a phone."""
    laps = [score.frames_to_finish for score in scores]
    rows = (
        ("mean return", [f"{score.mean:.1f} ± {score.std:.1f}" for score in scores]),
        (f"{CONFIDENCE:.0%} interval of the mean", [interval_in_words(return_interval(score)) for score in scores]),
        ("median", [f"{score.median:.1f}" for score in scores]),
        ("worst", [f"{score.minimum:.1f}" for score in scores]),
        ("best", [f"{score.maximum:.1f}" for score in scores]),
        ("laps finished", [f"{score.lap_finish_rate:.0%}" for score in scores]),
        ("frames a lap", ["-" if frames is None else f"{frames:.0f}" for frames in laps]),
        ("steps of training", [_count(one.meta.get("steps")) for one in loaded]),
        ("frames of training", [_count(one.meta.get("frames")) for one in loaded]),
    )
    # The name of a single one is the page's title.
    header = ["", *(names if len(names) > 1 else ("score",))]
    return _table(header, [[figure, *values] for figure, values in rows])


def _returns_chart(names: Sequence[str], scores: Sequence[Score]) -> str:
    returns = [[result.episode_return for result in score.results] for score in scores]
    lowest, highest = min(map(min, returns)), max(map(max, returns))
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(lowest, max(highest, lowest + 1.0), 31)
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(names))]
    axes.hist(returns, bins=list(bins), color=colours)
    axes.set(xlabel="return", ylabel="tracks")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    # The names stand in the page. matplotlib would read some as formulas, and has no letters for others.
    legend = [
        f'<span style="color:{colour}">&#9632;</span> {escape(name)}'
        for colour, name in zip(colours, names, strict=True)
    ]
    return _svg(figure) + (f"<p>{'<br>'.join(legend)}</p>" if len(names) > 1 else "")


def _differences(names: Sequence[str], scores: Sequence[Score]) -> str:
    if len(scores) < 2:
        return ""
    rows, charts = [], []
    for name, score in zip(names[1:], scores[1:], strict=True):
        difference = Difference.between(score, scores[0])
        better = f"{difference.n_better} of {len(score.results)}"
        rows.append((name, f"{difference.mean:+.1f}", interval_in_words(difference.interval), better))
        pairs = zip(score.results, scores[0].results, strict=True)
        apart = sorted(mine.episode_return - theirs.episode_return for mine, theirs in pairs)
        figure = Figure(figsize=(9, 2.2), layout="constrained")
        axes = figure.subplots()
        axes.bar(range(len(apart)), apart, color=[COLOURS[2] if one > 0 else COLOURS[1] for one in apart])
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set(ylabel="difference")
        axes.set_xticks([])
        charts.append(f"<h3>{escape(name)}</h3>{_svg(figure)}")
    header = ("", "mean difference", f"{CONFIDENCE:.0%} interval", "tracks on which it is better")
    return (
        f"<h2>Differences to {escape(names[0])}, track by track</h2>{_table(header, rows)}{''.join(charts)}"
        "<p>A bar is a track: how many points more its return is.</p>"
    )


def _lap(lap: ShownLap) -> str:
    trajectory = lap.trajectory
    picture = io.BytesIO()
    track_map(trajectory).save(picture, "png")
    seconds = np.arange(len(trajectory.speeds)) * trajectory.action_repeat / FPS
    figure = Figure(figsize=(4.4, 2), layout="constrained")
    axes = figure.subplots()
    axes.plot(seconds, trajectory.speeds, color=COLOURS[0], linewidth=1.2)
    axes.set(xlabel="seconds", ylabel="speed", ylim=(0, None))
    return (
        f"<section><h3>{escape(lap.title)}</h3><p>{escape(caption(trajectory.result))}</p>"
        f'<img alt="The line that was driven, yellow where it was fast" src="{_data("image/png", picture.getvalue())}">'
        f'{_svg(figure)}<video controls muted loop playsinline src="{_data("video/mp4", lap.film)}"></video></section>'
    )


def _tracks_table(names: Sequence[str], scores: Sequence[Score]) -> str:
    """Every track, the first checkpoint's worst first."""
    several = len(names) > 1
    header = ["track"]
    for name in names:
        whose = f"{name}: " if several else ""
        header += [f"{whose}return", "frames", "tiles missed"]
    rows = []
    for results in sorted(zip(*(score.results for score in scores), strict=True), key=_first_return):
        row = [str(results[0].track)]
        for result in results:
            row += [f"{result.episode_return:.1f}", str(result.frames), str(result.tiles_missed)]
        rows.append(row)
    return f"<h2>All tracks</h2>{_folded(f'{len(rows)} tracks, the worst first', _table(header, rows))}"


def _first_return(results: Sequence[TrackResult]) -> float:
    return results[0].episode_return


def _provenance(loaded: Sequence[Checkpoint]) -> str:
    rows = []
    for one in loaded:
        for name in ("command", "commit", "machine", "versions", "config"):
            if one.meta.get(name) is not None:
                rows.append(_printable(f"{one.path}  {name}: {one.meta[name]}"))
    text = f"<pre>{escape(chr(10).join(rows))}</pre>"
    return f"<h2>How it was trained</h2>{_folded('Command, commit, machine, versions, settings', text)}"


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    return '<div class="wide">' + svg[svg.index("<svg") :].replace(INK, "currentColor") + "</div>"


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _printable(text: object) -> str:
    """A text as UTF-8 can write it: paths and strangers' texts may hold what it cannot."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def _count(number: Any) -> str:
    return f"{number:,}" if isinstance(number, int) else "-"
