"""The documentation: its links lead somewhere, its commands exist, and its pages stay short enough to read."""

import dataclasses
import functools
import io
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from importlib import import_module

import pytest

from car_racing.config import RulesConfig
from ppo_config import PPOConfig
from sac_config import SACConfig
from tests.helpers import ROOT

PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "pretrained/README.md")),
        *(ROOT / name for name in ("results/README.md", "results/earlier/README.md")),
        *(ROOT / "docs").glob("*.md"),
    ]
)
MAX_README_LINES = 150
MAX_PARAGRAPH_WORDS = 80
MAX_LINE_LENGTH = 120

# Commands that users have in their scripts and notes; they must go on to work.
FIXED_COMMANDS = (
    "python train_ppo.py --total-timesteps 1000000 --seed 42 --n-envs 8 --batch-size 256 --learning-rate 2.5e-4 "
    "--clip-range 0.1 --checkpoint-dir checkpoints/ppo_beta_1M --run-name ppo_beta_1M_efficiency",
    "python train_ppo.py --total-timesteps 1000000 --seed 42 --use-gaussian",
    "python train.py --total-steps 2000000 --seed 1 --checkpoint-dir checkpoints/sac_2M_s1 --run-name sac_2M_baseline",
    "python train.py --total-steps 500000 --seed 1 --action-repeat 2 --checkpoint-dir checkpoints/sac_500k_ar2 "
    "--run-name sac_500k_action_repeat",
)

FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def prose(text):
    """A page's text without its fenced blocks, line for line."""
    return FENCE.sub(lambda block: "\n" * block.group().count("\n"), text)


def anchors(text):
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def paragraphs(text):
    """Paragraphs and bullets of a page, each as one string, without headings, tables and fenced blocks."""
    found, lines = [], []
    for line in [*prose(text).splitlines(), ""]:
        is_new = re.match(r" *([*-]|\d+\.) ", line)
        is_none = not line.strip() or line.startswith(("#", "|"))
        if (is_new or is_none) and lines:
            found.append(" ".join(lines))
            lines = []
        if not is_none:
            lines.append(line.strip())
    return found


def shell_lines(text):
    """The commands of a page, in fenced blocks and in the text; continued lines joined and comments left out."""
    blocks = re.findall(r"^ *```\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    inline = (code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", prose(text)))
    joined = "\n".join(["".join(blocks).replace("\\\n", " "), *inline])
    return [" ".join(shlex.split(line, comments=True)) for line in joined.splitlines() if is_command(line)]


def is_command(line):
    return line.strip().startswith(("python ", "make ", "pip ", "git "))


def documented_commands():
    return sorted({line for page in PAGES for line in shell_lines(page.read_text())} | set(FIXED_COMMANDS))


@functools.cache
def help_of(script):
    """The flags that a script or a module (`-m NAME`) of this project has."""
    module = script.removeprefix("-m ")
    text = help_of_benchmark(module) if module.startswith("benchmarks.") else help_of_process(script.split())
    return set(re.findall(r"--[a-z][a-z0-9-]*", text))


def help_of_process(words):
    done = subprocess.run([sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def help_of_benchmark(module):
    """In this process: each one of its own would import PyTorch."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as stdout:
        patch.setattr(sys, "argv", [module, "--help"])
        with pytest.raises(SystemExit) as end:
            import_module(module).main()
    assert end.value.code == 0
    return stdout.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{name_of(page)}: {target} does not exist"
        if anchor:
            assert anchor in anchors(linked.read_text()), f"{name_of(page)}: {target} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paragraphs_are_short(page):
    for paragraph in paragraphs(page.read_text()):
        n_words = len(paragraph.split())
        assert n_words <= MAX_PARAGRAPH_WORDS, f"{name_of(page)}: {n_words} words in: {paragraph[:80]}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_fit(page):
    for number, line in enumerate(page.read_text().splitlines(), 1):
        # A table's row cannot be broken.
        assert len(line) <= MAX_LINE_LENGTH or line.startswith("|"), f"{name_of(page)}:{number} is too long"


def test_readme_is_short_and_its_first_command_is_near_the_top():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= MAX_README_LINES
    assert next(number for number, line in enumerate(lines, 1) if is_command(line)) <= 25


def test_every_result_file_is_in_the_index():
    index = (ROOT / "results" / "README.md").read_text()
    files = [path for path in (ROOT / "results").rglob("*") if path.is_file() and path.name != "README.md"]
    assert files
    assert [path.name for path in files if path.name not in index] == []


@pytest.mark.parametrize("command", [line for line in documented_commands() if line.startswith("python ")])
def test_flags_exist(command):
    words = command.split()[1:]
    if words[0] == "-c":
        return
    script = " ".join(words[:2]) if words[0] == "-m" else words[0]
    flags = {word.partition("=")[0] for word in words if word.startswith("--")}
    if not flags:
        file = ROOT / (words[1].replace(".", "/") if words[0] == "-m" else words[0])
        assert any(path.exists() for path in (file, file.with_suffix(".py"), file / "__main__.py"))
        return
    # What is no flag of a sweep is one of the script that it starts.
    swept = help_of(words[1]) if script == "sweep.py" and words[1].endswith(".py") else set()
    assert flags <= help_of(script) | swept


@pytest.mark.parametrize("name", ["quick", "best", "efficient", "sac_cpu", "drq"])
def test_recipes_exist(name):
    assert (ROOT / "recipes" / f"{name}.toml").is_file()


def value_in(cell):
    """What a page says that a setting is."""
    words = {"on": True, "off": False}
    return words[cell] if cell in words else float(cell) if re.fullmatch(r"[\d.e-]+", cell) else cell


def test_the_rules_have_the_defaults_that_their_page_says():
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \|", (ROOT / "docs/extending.md").read_text(), re.MULTILINE)
    assert {name for name, *_ in rows} == {field.name for field in dataclasses.fields(RulesConfig)}
    for name, ppo, sac in rows:
        assert (value_in(ppo), value_in(sac)) == (getattr(PPOConfig(), name), getattr(SACConfig(), name)), name


@pytest.mark.parametrize(("page", "config"), [("sac_drq", SACConfig()), ("ppo", PPOConfig())])
def test_an_agent_has_the_defaults_that_its_page_says(page, config):
    rows = re.findall(r"^\| (`[\w`, ]+`) \| ([^|]+) \|", (ROOT / f"docs/{page}.md").read_text(), re.MULTILINE)
    assert len(rows) > 10
    for names, values in rows:
        for name, value in zip(re.findall(r"\w+", names), values.strip().split(", "), strict=True):
            assert value_in(value.replace(",", "")) == getattr(config, name), name


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_targets_exist():
    targets = {line.split()[1] for line in documented_commands() if line.startswith("make ")}
    assert targets >= {"demo", "train", "test"}
    done = subprocess.run(["make", "-n", *sorted(targets)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
