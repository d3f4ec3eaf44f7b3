"""Export a checkpoint's policy or its settings.

--to DIRECTORY: a small checkpoint with the policy only, for evaluate.py.
--to FILE.zip:  Stable-Baselines3's own file, for PPO.load.
--to FILE.onnx: the policy's deterministic action, for any ONNX runtime.
--to FILE.pt:   the same as TorchScript, for torch.jit.load.
--to FILE.toml: the settings of the run as a recipe, for the training scripts.
"""

import startup

if __name__ == "__main__":
    startup.begin()  # before the other imports, which open files and may fail

from export_options import ExportOptions, parsed_flags

if __name__ == "__main__":
    parsed_flags(__doc__ or "")  # a mistake is answered before the imports below, which take seconds

import dataclasses
from collections.abc import Callable
from pathlib import Path

from torch import nn

import checkpoint
import ppo
import recipe
from car_racing import ViewConfig
from checkpoint import Checkpoint, CheckpointError, error_line
from output_file import check_output_file, replacing
from paths import check_writable_directory, path_from
from policies import comments_of, deterministic_network, load_policy, policy_only, recipe_of
from policy_files import INPUT, OUTPUT, can_write_onnx, write_onnx, write_torchscript
from process import python_command, quoted, shell_command, tell_passed_over
from settings import SettingError, fail
from startup import unwinding_on_stop


def export(options: ExportOptions) -> str:
    """Write the file or directory, and return how to use it.

    Raises:
        SettingError: if the target cannot be written, or not from this agent.
        CheckpointError: if the checkpoint cannot be read, or holds no policy.
    """
    assert options.checkpoint is not None
    target = options.target
    if options.ending == ".onnx" and not can_write_onnx():
        raise SettingError(f"--to {target} needs the package onnx; install it: {python_command()} -m pip install onnx")
    if options.ending:
        check_output_file(target, "--to")
    else:
        _check_new_directory(target)
    loaded = checkpoint.load(path_from(options.checkpoint, "--checkpoint"), with_arrays=False)
    tell_passed_over(loaded)
    try:
        return EXPORTERS[options.ending](loaded, target)
    except (OSError, RuntimeError) as error:  # torch's writer answers a full disk with a RuntimeError
        raise SettingError(f"--to {target} cannot be written ({error_line(error)}); name another place") from None


def _check_new_directory(target: Path) -> None:
    check_writable_directory(target.parent, "--to")
    if target.exists() or target.name in ("", ".."):
        raise SettingError(f"--to {target} is there already; name another directory")


def _export_zip(loaded: Checkpoint, target: Path) -> str:
    if loaded.meta.get("agent") != ppo.AGENT:
        raise SettingError(
            f"--checkpoint {loaded.path} holds a {loaded.meta.get('agent')} agent; --to a .zip needs PPO"
        )
    _, view = load_policy(loaded)
    with replacing(target) as new_path:
        ppo.export_sb3(loaded, new_path)
    return (
        f"Written: {target}. With {Path(__file__).resolve().parent} on Python's path, drive with it like this:\n"
        f"  model = stable_baselines3.PPO.load({str(target)!r})\n"
        f"  env = gymnasium.make({_make_arguments(view)})"
    )


def _export_onnx(loaded: Checkpoint, target: Path) -> str:
    view = _write_network(write_onnx, loaded, target)
    return (
        f"Written: {target}. Drive with it like this:\n"
        f"  session = onnxruntime.InferenceSession({str(target)!r})\n"
        f"  env = gymnasium.make({_make_arguments(view)})\n"
        f'  action = session.run(["{OUTPUT}"], {{"{INPUT}": obs[None]}})[0][0]'
    )


def _export_torchscript(loaded: Checkpoint, target: Path) -> str:
    view = _write_network(write_torchscript, loaded, target)
    return (
        f"Written: {target}. Drive with it like this:\n"
        f"  policy = torch.jit.load({str(target)!r})\n"
        f"  env = gymnasium.make({_make_arguments(view)})\n"
        "  action = policy(torch.from_numpy(obs[None]))[0].numpy()"
    )


def _write_network(
    write: Callable[[nn.Module, tuple[int, ...], Path], None], loaded: Checkpoint, target: Path
) -> ViewConfig:
    """Write the network of the deterministic action, and return the view that it needs."""
    network, view = deterministic_network(loaded)
    with replacing(target) as new_path:
        write(network, view.obs_shape, new_path)
    return view


def _make_arguments(view: ViewConfig) -> str:
    """The arguments of gymnasium.make for the game with this view; of the view only what differs from its defaults."""
    fields = dataclasses.fields(ViewConfig)
    values = {field.name: getattr(view, field.name) for field in fields if getattr(view, field.name) != field.default}
    return ", ".join(['"car_racing:FastCarRacingView-v3"', *(f"{name}={value!r}" for name, value in values.items())])


def _export_recipe(loaded: Checkpoint, target: Path) -> str:
    settings, comments = recipe_of(loaded), comments_of(loaded)
    recipe.write(settings, target, comments)
    return f"Written: {target}. Train with these settings by --recipe {quoted(target)}"


def _export_policy(loaded: Checkpoint, target: Path) -> str:
    # Without the Aim run, which belongs to the training that this checkpoint is no longer part of.
    checkpoint.save(target.parent, target.name, {**loaded.meta, "aim_run": None}, policy_only(loaded).state)
    return f"Written: {target}. Score it: {shell_command('evaluate.py', '--checkpoint', target)}"


EXPORTERS: dict[str, Callable[[Checkpoint, Path], str]] = {
    ".zip": _export_zip,
    ".onnx": _export_onnx,
    ".pt": _export_torchscript,
    ".toml": _export_recipe,
    "": _export_policy,
}


def main() -> None:
    try:
        with unwinding_on_stop():
            print(export(ExportOptions(**parsed_flags(__doc__ or ""))))
    except (SettingError, CheckpointError) as error:
        fail(str(error))


if __name__ == "__main__":
    main()
