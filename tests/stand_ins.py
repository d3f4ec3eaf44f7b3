"""Stand-ins for the training scripts, for tests of sweeps: what a real one leaves behind, without its minutes."""

import textwrap
from pathlib import Path

import sweep_trial

# What a stand-in needs to end like a training: its directory from the flags, and what a whole one leaves there.
BEGIN = """
import importlib.util, json, os, sys, time
from pathlib import Path
# torch, which takes seconds, is imported when a checkpoint is first touched.
spec = importlib.util.find_spec("checkpoint")
spec.loader = importlib.util.LazyLoader(spec.loader)
checkpoint = sys.modules["checkpoint"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(checkpoint)
flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:] if "=" in word)
directory = Path(flags.get("checkpoint-dir") or flags["resume"])
def save(steps):
    meta = {"agent": "ppo", "steps": steps, "evaluated_at": steps, "total_steps": 100}
    checkpoint.save_step(directory, steps, meta, {"flags": sys.argv[1:]})
def tell(steps, returns, seconds_left=None):
    evaluations = []
    for n, one in enumerate(returns, 1):
        step = steps * n // len(returns)
        evaluations.append({"step": step, "frames": step, "minutes": None, "mean_return": one, "min_return": one})
        evaluations[-1]["lap_finish_rate"] = 0.0
    progress = {"steps": steps, "total_steps": 100, "seconds_left": seconds_left, "evaluations": evaluations}
    (directory / "progress.new").write_text(json.dumps(progress))
    (directory / "progress.new").rename(directory / "progress.json")
"""


def stand_in(directory: Path, code: str) -> Path:
    """Put a `train_ppo.py` into a new directory of scripts there; the directory."""
    here = directory / "scripts"
    if not here.exists():
        here.mkdir()
        tie = Path(sweep_trial.__file__).with_name("end_with_parent.py")
        (here / tie.name).symlink_to(tie)
    root = f"import sys; sys.path.insert(0, {str(Path(sweep_trial.__file__).parent)!r})\n"
    (here / "train_ppo.py").write_text(root + BEGIN + textwrap.dedent(code))
    return here
