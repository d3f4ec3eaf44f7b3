"""The benchmark book: every question of `benchmarks/` in one go, and its answers in docs/benchmarks.md.

    make bench                                  # all of them, in less than half an hour on two cores
    make bench ARGS="env_speed footprint"       # some of them; the answers to the others stay

The questions are asked one after another, each in a process of its own with small defaults. Nothing else should run on
the machine meanwhile. The answers go to results/benchmarks.json, and the page is written from that file.
"""

import json
import shlex
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

import text_table
from benchmarks.findings import Table, from_json, rows
from benchmarks.short_training import ROOT, ending_with_this
from output_file import replacing
from process import describe_run
from settings import OneLineParser
from startup import complain

ANSWERS = ROOT / "results" / "benchmarks.json"
PAGE = ROOT / "docs" / "benchmarks.md"
PROBED = "--checkpoint pretrained/ppo_beta"
INTRODUCTION = (
    "`make bench` asks these questions, one after another, and writes this page from "
    "[results/benchmarks.json](../results/benchmarks.json). It is not written by hand. The values of a table are from "
    "one run on one machine, in which contenders take turns. Compare ratios, not values of two machines."
)
# Fraction of the cores that a machine with nothing to do stays below.
QUIET = 0.1


@dataclass(frozen=True)
class Question:
    """What a benchmark answers.

    Attributes:
        module: its file in `benchmarks/`, without `.py`.
        words: the question.
        args: its flags in the book.
    """

    module: str
    words: str
    args: str = ""

    @property
    def command(self) -> str:
        return f"python -m benchmarks.{self.module} {self.args}".rstrip()


QUESTIONS = (
    Question("env_speed", "How fast is the game?", "--rounds 2 --frames 3000"),
    Question("training_speed", "How fast is a whole PPO training?", "--rounds 2 --steps 1024"),
    Question("worker_scaling", "What do more processes bring PPO?", "--rounds 2 --steps 12288 --n-envs 8 16"),
    Question("sac_update", "How fast is an update of SAC, and its replay memory?", "--rounds 3 --updates 3"),
    Question("sac_training", "How fast is a whole SAC training on one core and on all?", "--rounds 2 --steps 200"),
    Question("sac_parts", "Where does the time of a SAC training go?", "--steps 200"),
    Question("footprint", "How much memory does a training take, and how long a reset?"),
    Question("tracking_cost", "What does Aim cost a training?", "--rounds 2"),
    Question("tracker_loss", "What does Aim lose where a process dies?", "--steps 4096"),
    Question("picture_cost", "What do the pictures of evaluations cost?"),
    Question("checkpoint_cost", "What do checkpoints cost?"),
    Question("ageing", "Does a training slow down as it ages?"),
    Question("scoring_cost", "Where does the time of a scoring go?", "--rounds 2"),
    Question("fidelity", "How close is the fast game's picture to the stock one's?"),
    Question("same_driving", "Does a policy drive alike in both games?", f"{PROBED} --tracks 8"),
    Question("missed_bends", "Where does the best policy miss tiles?", f"{PROBED} --tracks 100"),
    Question("lap_pace", "Where on a lap does it lose time?", f"{PROBED} --tracks 50"),
    Question("bend_passes", "Does it pass the rare bends against the track's direction?", f"{PROBED} --tracks 200"),
    Question("hairpin_laps", "Does it pass the closest hairpins?", PROBED),
    Question("way_back", "Does it find the road again?", f"{PROBED} --starts 200"),
    Question("lap_values", "How does its critic value a lap?", f"{PROBED} --tracks 24"),
)


@dataclass(frozen=True)
class Answer:
    """What became of a question.

    Attributes:
        module: the question's.
        command: how it was asked.
        seconds: how long it took.
        busy: the fraction of the machine's cores that was busy with other work just before.
        commit: the code's.
        machine: processor, cores, GPU, memory.
        tables: the figures, as `findings.tell` writes them; none where it failed.
        error: the last line that it wrote to stderr where it failed.
    """

    module: str
    command: str
    seconds: float
    busy: float
    commit: str
    machine: Mapping[str, Any]
    tables: list[dict[str, Any]]
    error: str = ""


def ask(question: Question, commit: str, machine: Mapping[str, Any]) -> Answer:
    """Run a benchmark to its end; its output goes to the terminal."""
    busy = psutil.cpu_percent(interval=1.0) / 100.0
    if busy > QUIET:
        complain(f"other work takes {busy:.0%} of this machine; the figures will be off")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "figures.json"
        command = [sys.executable, *shlex.split(question.command)[1:], "--json", str(path)]
        ended = subprocess.run(ending_with_this(command), cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
        seconds = round(time.perf_counter() - start, 1)
        if ended.returncode == 0:
            tables = json.loads(path.read_text())
            return Answer(question.module, question.command, seconds, busy, commit, machine, tables)
    lines = ended.stderr.strip().splitlines() or [f"it ended with exit code {ended.returncode}"]
    return Answer(question.module, question.command, seconds, busy, commit, machine, [], lines[-1])


def page(answers: Mapping[str, Answer]) -> str:
    """The book as Markdown: the questions in their order, as far as they were asked."""
    paragraphs = ["# Benchmarks", filled(INTRODUCTION)]
    for question in QUESTIONS:
        if question.module not in answers:
            continue
        answer = answers[question.module]
        paragraphs += [f"## {question.words}", f"`{answer.command}`", filled(origin(answer))]
        if answer.error:
            paragraphs.append(f"It failed: `{answer.error}`")
        for table in from_json(answer.tables):
            paragraphs += table_as_markdown(table)
    return "\n\n".join(paragraphs) + "\n"


def origin(answer: Answer) -> str:
    """Where an answer is from."""
    machine = answer.machine
    gpu = "no GPU" if machine["gpu"] == "none" else machine["gpu"]
    commit, _, changed = answer.commit.partition(" ")
    at = f"{commit[:7]} {changed}".rstrip()
    where = f"{machine['cores']} cores of {machine['processor']}, {gpu}"
    beside = f" Other work took {answer.busy:.0%} of the machine before it began." if answer.busy > QUIET else ""
    return f"Commit {at}; {where}; {answer.seconds:.0f} seconds.{beside}"


def table_as_markdown(table: Table) -> list[str]:
    """A table's paragraphs."""
    parts = [filled(f"**{table.title}**"), text_table.markdown(rows(table))]
    return [*parts, filled(table.note)] if table.note else parts


def filled(paragraph: str) -> str:
    """A paragraph in lines."""
    return textwrap.fill(paragraph, 116, break_long_words=False, break_on_hyphens=False)


def read_answers() -> dict[str, Answer]:
    """The answers so far, by module; none where there is no file."""
    if not ANSWERS.exists():
        return {}
    return {saved["module"]: Answer(**saved) for saved in json.loads(ANSWERS.read_text())}


def write_book(answers: Mapping[str, Answer]) -> None:
    """Write the answers, and the page."""
    known = [answers[question.module] for question in QUESTIONS if question.module in answers]
    with replacing(ANSWERS) as new_path:
        new_path.write_text(json.dumps([asdict(answer) for answer in known], indent=1) + "\n")
    with replacing(PAGE) as new_path:
        new_path.write_text(page(answers))


def main() -> None:
    parser = OneLineParser(__doc__ or "", "[QUESTION ...] ")
    names = [question.module for question in QUESTIONS]
    parser.add_argument("modules", nargs="*", metavar="QUESTION", help=f"which to ask [all]: {', '.join(names)}")
    options = parser.parse_args()
    unknown = [name for name in options.modules if name not in names]
    if unknown:
        parser.error(f"QUESTION {unknown[0]} is not known; give some of {', '.join(names)}")
    start = time.perf_counter()
    described, answers = describe_run(), read_answers()
    failed = []
    asked = [question for question in QUESTIONS if not options.modules or question.module in options.modules]
    for number, question in enumerate(asked, 1):
        print(f"\n[{number} of {len(asked)}] {question.words} {question.command}", flush=True)
        answer = ask(question, described["commit"], described["machine"])
        if answer.error:
            failed.append(question.module)
            complain(f"{question.module} failed: {answer.error}")
        # Figures that are there already are not given up for a failure.
        if not answer.error or question.module not in answers:
            answers[question.module] = answer
        write_book(answers)
    minutes = (time.perf_counter() - start) / 60
    print(f"\n{PAGE.relative_to(ROOT)} and {ANSWERS.relative_to(ROOT)} are written, after {minutes:.0f} minutes")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
