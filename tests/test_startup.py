"""How scripts start: streams that never fail, stop signals, and one line where a script cannot start."""

import os
import resource
import signal
import subprocess
import sys
import time

import psutil
import pytest

import startup
from startup import STOP_SIGNALS, UnfailingFile, _unfailing_text, one_line, unwinding_on_stop
from tests.helpers import ROOT, finish, start

SCRIPTS = ("train.py", "train_ppo.py", "evaluate.py", "export.py", "aim_page.py", "runs.py", "compare.py", "sweep.py")


def run_script(tmp_path, body, shell="", **env):
    """A script that begins as ours do, then runs `body`; its exit code, stdout and stderr."""
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport startup\nstartup.begin()\n{body}\n")
    command = f"exec {sys.executable} {script} {shell}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60, env={**os.environ, **env}
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_text_can_be_printed_in_any_encoding(tmp_path, encoding):
    body = r"print('\u2603', 'p\udcff'); print('p\udcff', file=sys.stderr)"
    shown = {"utf-8": "\u2603"}.get(encoding, r"\u2603")
    assert run_script(tmp_path, body, PYTHONIOENCODING=encoding) == (0, shown + r" p\udcff" + "\n", r"p\udcff" + "\n")


@pytest.mark.parametrize(
    "streams", ["2>&-", "0<&- 1>&- 2>&-", ">/dev/full 2>/dev/full", "> >(true)", "1>&- 2>/dev/full"]
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_closed_and_full_streams_change_nothing(tmp_path, streams, unbuffered):
    """What is opened after the start has a number of its own, and gets none of what is printed."""
    body = """
file = open("kept", "w")
assert file.fileno() > 2
for _ in range(3):
    for stream in (sys.stdout, sys.stderr):
        print("x" * 100_000, file=stream, flush=True)
file.write("whole")
file.close()
sys.exit(7)
"""
    assert run_script(tmp_path, body, streams, PYTHONUNBUFFERED=unbuffered)[0] == 7
    assert (tmp_path / "kept").read_text() == "whole"


def test_a_pipe_that_does_not_block_is_waited_for(tmp_path):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with subprocess.Popen(["wc", "-c"], stdin=reading, stdout=subprocess.PIPE, text=True) as counting:
        os.close(reading)
        with UnfailingFile(writing, "w") as raw:
            text = _unfailing_text(raw.fileno(), None)
            text.write("x" * 1_000_000)
            text.flush()
            assert raw.failure is None
        assert int(counting.communicate()[0]) == 1_000_000


def test_one_line_has_no_line_breaks_and_nothing_that_a_terminal_obeys():
    assert one_line("a\nb\u2028c\x1b[31m \udcff ± x") == r"a b c\x1b[31m \udcff ± x"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            "ImportError('libx.so: failed to map segment')",
            "it cannot start (ImportError: libx.so: failed to map segment)",
        ),
        ("MemoryError()", "it cannot start (MemoryError)"),
        ("ModuleNotFoundError('No module named torch')", "`make setup` installs what it needs"),
        ("RuntimeError('can\\'t start new thread\\nmore')", "it cannot start (RuntimeError: can't start new thread)"),
    ],
)
def test_an_import_that_fails_is_one_line(tmp_path, error, words):
    code, stdout, stderr = run_script(tmp_path, f"raise {error}")
    assert (code, stdout) == (1, "")
    (line,) = stderr.splitlines()
    assert line.startswith("script.py: ")
    assert words in line


def test_a_mistake_in_the_code_is_a_traceback(tmp_path):
    assert "NameError" in run_script(tmp_path, "no_such_name")[2].splitlines()[-1]
    code, _, stderr = run_script(tmp_path, "def main():\n    raise OSError('later')\nmain()")
    assert code == 1
    assert "Traceback" in stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_working_directory_that_is_gone_is_one_line(tmp_path, script):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = (
        f"import os, runpy, sys; os.rmdir({str(gone)!r}); sys.argv = sys.argv[1:]; "
        f"sys.path.insert(0, {str(ROOT)!r}); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code, ROOT / script], cwd=gone, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"{script}: the working directory cannot be used (No such file or directory); change to one that is there\n"
    )


def test_limits_that_the_imports_would_not_survive_are_one_line(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))

    process = start("export.py", cwd=tmp_path, preexec_fn=limit)
    assert finish(process) == (
        1, "", "export.py: its address space is limited to 1.0 GB (ulimit -v); give it 2.5 GB or more\n"
    )  # fmt: skip


def test_too_few_threads_are_one_line(monkeypatch, capsys):
    class Thread(startup.threading.Thread):
        n_started = 0

        def start(self):
            if Thread.n_started == 5:
                raise RuntimeError("can't start new thread")
            Thread.n_started += 1
            super().start()

    monkeypatch.setattr(startup.threading, "Thread", Thread)
    with pytest.raises(SystemExit, match="1"):
        startup._require_room()
    assert "only 5 more threads can be started; allow it" in capsys.readouterr().err


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_before_there_is_anything_to_save_leaves_at_once(tmp_path, number):
    assert run_script(tmp_path, f"import os; os.kill(os.getpid(), {number.value}); 1 / 0") == (128 + number, "", "")


def test_what_nohup_ignores_stays_ignored(tmp_path):
    body = "import os, signal; os.kill(os.getpid(), signal.SIGHUP); print('alive')"
    script = tmp_path / "outer.sh"
    script.write_text("trap '' HUP; exec \"$@\"")
    run_script(tmp_path, body)
    done = subprocess.run(["bash", script, sys.executable, tmp_path / "script.py"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "alive\n")


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_unwinds_what_is_half_done_undisturbed(number):
    before = [signal.getsignal(each) for each in STOP_SIGNALS]
    put_away = []

    def half_done():
        with unwinding_on_stop():
            try:
                os.kill(os.getpid(), number)
            finally:
                os.kill(os.getpid(), number)
                put_away.append(True)

    with pytest.raises(SystemExit) as exit_:
        half_done()
    assert put_away
    assert exit_.value.code == 128 + number
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before


def test_a_tied_command_ends_with_the_process_that_started_it():
    code = (
        "import os, subprocess, sys, time; "
        f"subprocess.Popen([sys.executable, '-I', {str(ROOT / 'end_with_parent.py')!r}, str(os.getpid()), "
        "'/bin/sleep', '100']); time.sleep(100)"
    )
    parent = psutil.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    family = []
    while not any(child.name() == "sleep" for child in family) and time.monotonic() < deadline:
        time.sleep(0.05)
        family = parent.children(recursive=True)
    parent.kill()
    parent.wait()
    assert family
    _, left = psutil.wait_procs(family, timeout=10)
    assert [child for child in left if child.status() != psutil.STATUS_ZOMBIE] == []


def test_a_command_whose_parent_is_gone_already_is_not_run():
    done = subprocess.run([sys.executable, ROOT / "end_with_parent.py", "1", "/bin/echo", "run"], capture_output=True)
    assert (done.returncode, done.stdout) == (143, b"")


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("flag", ["--help", "--cheakpoint-dir"])
def test_a_wrong_flag_is_answered_before_anything_heavy_is_imported(script, flag):
    command = [sys.executable, "-X", "importtime", str(ROOT / script), flag]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == (0 if flag == "--help" else 2)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "car_racing" in imported
    assert not {"torch", "aim", "uvicorn", "scipy", "stable_baselines3", "matplotlib"} & imported


@pytest.mark.parametrize("script", ["train.py", "train_ppo.py", "evaluate.py", "compare.py", "sweep.py"])
def test_help_begins_with_three_commands(script):
    done = subprocess.run(
        [sys.executable, str(ROOT / script), "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    head = done.stdout.partition("options:")[0]
    assert sum(line.startswith(f"    python {script} ") for line in head.splitlines()) == 3
    assert max(map(len, done.stdout.splitlines())) <= 80
