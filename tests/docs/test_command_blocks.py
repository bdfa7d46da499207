"""Every command in the blocks of the documents is parsed by the command itself, and those that can run here are run."""

import argparse
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.types import OverrideType

from ablate.commands import commands
from ablate.settings.overrides import check_overrides, parsed, quoted

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = {command.module: command for command in commands().values()}
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:\$ )?((?:[A-Z_]+=\S+ )*(?:python -m|accelerate launch|ablate|make|pip) .*)")
SETTINGS = ("ablate.run", "ablate.tune")  # whose arguments are overrides; the other commands have a parser of argparse


def commands_in(text: str) -> list[str]:
    """The commands of a document's blocks: without comments and prompts, continued lines joined, `a && b` as two."""
    found = []
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if match := COMMAND.match(line):
                parts = [re.sub(r"\s+# .*| \[--.*|\s*…$", "", part).strip() for part in match[1].split(" && ")]
                found += [part for part in parts if COMMAND.match(part)]
    return found


DOCUMENTED = list(dict.fromkeys(command for document in DOCUMENTS for command in commands_in(document.read_text())))
# These take time or write; the others that can run do it in `make test`.
QUICK = (
    "python -m ablate.run --cfg job ppo=vanilla",
    "python -m ablate.settings kl",
    "python -m ablate.settings kl_coef",
    "python -m ablate.stages",
    "python -m ablate.sweeps",
)
# In this order, in one folder, with tiny models. A run that a later command needs has the arm that the document gives it.
CHAIN = {
    "python -m ablate.run ppo=vanilla ppo.updates=20 tracker=none": "vanilla,updates=20",
    "python -m ablate.run -m ppo.kl_penalty=true,false ppo.updates=40 tracker=none": None,
    "python -m ablate.run fork=results/default/vanilla,updates=20/seed=0/checkpoints/20 ppo.updates=30 ppo.kl_penalty=true "
    "tracker=none": None,
    "python -m analysis.verdicts results/default": None,
    "python -m analysis.report results/default --open": None,
    "python -m ablate.run ppo=vanilla seed=1 ppo.entropy_bonus=true": None,
    "python -m ablate.run ppo=vanilla ppo.clip_range_high=0.28": None,
    "python -m ablate.run -m sweep=policy_constraints 'seed=range(5)'": None,
    "python -m analysis.verdicts results/policy_constraints": None,
    "python -m analysis.report results/policy_constraints --open": None,
    "python -m ablate.mirror results/policy_constraints": None,
    "python -m analysis.figures --all results": None,
    "python -m analysis.verdicts results/reference/policy_constraints": None,
    "python -m ablate.memory --parameters 7e9 model.lora_rank=16": None,
    "python -m ablate.run ppo=vanilla preferences=unbiased study=kl_gradient checkpoint.every=1 "
    "checkpoint.keep=0 ppo.updates=60": "vanilla",
    "python -m ablate.gradients results/kl_gradient/*/* --to gradients.csv": None,
    "python -m analysis.kl_gradients gradients.csv": None,
}
ALIKE = (  # as CHAIN has them but for sizes, seeds and options, or more of the committed runs
    "python -m ablate.run", "python -m ablate.run ppo=vanilla checkpoint.keep=0",
    "python -m ablate.run -m ppo.kl_penalty=true,false", "python -m ablate.run -m ppo.kl_penalty=true,false 'seed=range(5)'",
    "python -m ablate.run -m sweep=policy_constraints 'seed=range(8)'",
    "python -m ablate.run fork=results/default/vanilla/seed=0/checkpoints/30 ppo.kl_penalty=true",
    "python -m ablate.memory --parameters 7e9 model.lora_rank=16 precision=bf16",
    "python -m analysis.kl_gradients gradients.csv --figure docs/kl_gradients.png",
    "python -m analysis.verdicts results/reference/add_one_in",
    *(f"python -m analysis.verdicts results/reference/{study} --all" for study in ("add_one_in", "leave_one_out", "policy_constraints")),
)  # fmt: skip
# What cannot be run as it stands, or is run elsewhere.
ELSEWHERE = {
    r"\b(FILE|FOLDER|NAME|STUDY|ARM|DIR|HH|THIRD_MODEL|ANOTHER\w*|RUN_FOLDER)\b|held_out\.jsonl": "names a file or folder of the reader's",
    r"MODEL\.gguf|smollm2": "a GGUF file: tests/models/test_import_gguf.py",
    r"^make |^pip |pip install|-m venv": "the environment itself: .ci/run",
    r"^python -m pytest": "tests",
    r"^accelerate launch": "several processes: tests/distributed/test_accelerate_launch.py",
    r"submitit": "tests/slurm",
    r"ablate\.tune": "tests/tune",
    r"ablate\.judge|sweep=win_rate": "tests/runs/test_judge.py",
    r"analysis\.audit": "tests/audit",
    r"analysis\.notebooks": "tests/analysis/test_analysis_notebooks.py",
    r"tracker=(tensorboard|\[)|--tracker ": "tests/runs/test_trackers.py",
    r"sweeps export": "tests/sweeps/test_sweep_export.py",
    r"analysis\.(dashboard|wandb_report)": "needs a login at wandb: tests/analysis/test_analysis_dashboard.py",
    r"analysis\.serve": "a server, which does not end: tests/analysis/test_analysis_serve.py",
    r"analysis\.alarms|sweep=alarms": "72 runs: tests/analysis/test_analysis_alarms.py",
    r"analysis\.world_check|sweep=world_c(heck|alibration)": "48 runs and more: tests/analysis/test_analysis_world_check.py",
    r"sweep=(precision|hh_gpu)": "hours, or a GPU: tests/sweeps composes every arm",
    r"analysis\.tricks": "tests/analysis/test_analysis_tricks.py",
    r"analysis\.reference (pack|remove)": "tests/analysis/test_analysis_reference.py",
    r"analysis\.reference (check|write)": "tests/analysis/test_reference_documents.py",
}


def test_every_command_is_run_here_or_has_a_reason_why_not():
    run = {*QUICK, *CHAIN, *ALIKE}
    assert run <= set(DOCUMENTED)
    untold = [command for command in DOCUMENTED if command not in run and not any(re.search(why, command) for why in ELSEWHERE)]
    assert untold == []


def test_commands_are_taken_from_blocks_without_prompt_comment_and_line_end():
    text = "python -m a\n```\n$ python -m b x=1   # why\npython -m c \\\n   y && make d\nOUT=1 ablate run\n  python -m not\n```\n"
    assert commands_in(text) == ["python -m b x=1", "python -m c     y", "make d", "OUT=1 ablate run"]


class Parsed(Exception):
    """Raised in place of what a command would do with its arguments."""


@pytest.fixture
def parsing_alone(monkeypatch):
    """Parsers parse and the command ends there; subparsers parse as a part of their parser."""
    for name in ("parse_args", "parse_intermixed_args"):
        parse = getattr(argparse.ArgumentParser, name)

        def parse_and_stop(parser, *arguments, parse=parse):
            parse(parser, *arguments)
            raise Parsed

        monkeypatch.setattr(argparse.ArgumentParser, name, parse_and_stop)


def module_and_arguments(command: str) -> tuple[str, list[str]]:
    """What follows -m, or the module that `ablate NAME` starts, and its arguments."""
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    if words[0] == "ablate":
        from ablate.__main__ import chosen

        found, rest = chosen(words[1:])
        return found.module, rest
    at = words.index("-m")
    return words[at + 1], words[at + 2 :]


@pytest.mark.parametrize("command", [command for command in DOCUMENTED if not command.startswith(("make", "pip"))])
def test_a_command_accepts_the_arguments_that_the_documents_give_it(command, parsing_alone):
    module, arguments = module_and_arguments(command)
    if module in ("venv", "pytest"):
        return
    assert module in MODULES
    if "submitit" in command:
        pytest.importorskip("submitit", reason="the extra cluster is not installed")
    if module in SETTINGS:
        overrides = [quoted(argument) for argument in arguments if not argument.startswith(("n_trials=", "seeds=")) and argument != "…"]
        if module == "ablate.tune" or "sweep=NAME" in overrides:
            overrides = [argument for argument in overrides if not argument.startswith(("sweep=", "n_trials="))]
        check_overrides(overrides, multirun="-m" in overrides)
        return
    main = importlib.import_module(module if hasattr(importlib.import_module(module), "main") else f"{module}.__main__").main
    with pytest.raises(Parsed):
        main(arguments) if module != "analysis.figures" else with_arguments(main, arguments)


def with_arguments(main, arguments: list[str]) -> None:
    """Call a main that reads sys.argv."""
    before, sys.argv = sys.argv, ["command", *arguments]
    try:
        main()
    finally:
        sys.argv = before


def test_every_target_of_make_and_every_extra_of_pip_exists():
    makefile, project = (ROOT / "Makefile").read_text(), (ROOT / "pyproject.toml").read_text()
    for command in DOCUMENTED:
        if command.startswith("make "):
            assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE), command
        if extra := re.search(r"\[(\w+)\]", command):
            assert re.search(rf"^{extra[1]} = \[", project, re.MULTILINE), command


def run(command: str, folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    """A documented command in a folder, with this Python, this checkout and a home of its own."""
    line = " ".join([command.replace("python ", f"{shlex.quote(sys.executable)} ", 1), *map(shlex.quote, overrides)])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder), "BROWSER": "true", "WANDB_MODE": "offline"}
    return subprocess.run(
        " ".join([line, *map(shlex.quote, overrides)]), shell=True, cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("command", QUICK)
def test_a_quick_command_runs_as_it_stands_and_writes_nothing(command, tmp_path):
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout and list(tmp_path.iterdir()) == []


def fitting(command: str, tiny: list[str], arm: str | None) -> list[str]:
    """Overrides that make a run tiny, but for settings that the command has itself; a fork takes all from the run it branches."""
    if "ablate.run" not in command or "fork=" in command:
        return []
    given = {parsed(word).key_or_group for word in shlex.split(command)[3:] if word != "-m" and parsed(word).type is OverrideType.CHANGE}
    added = [override for override in tiny if override.partition("=")[0] not in {*given, "arm", "results", "ppo.critic_pretrain_updates"}]
    return [*added, *([f"arm='{arm}'"] if arm else [])]


@pytest.mark.slow
def test_the_commands_of_the_documents_run_one_after_the_other(tmp_path, tiny_overrides):
    """From the first run to pages and figures. `BROWSER=true` stands for a browser."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "reference").symlink_to(ROOT / "results" / "reference")
    for command, arm in CHAIN.items():
        done = run(command, tmp_path, *fitting(command, tiny_overrides, arm))
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert (tmp_path / "results" / "default" / "report.html").is_file() and (tmp_path / "kl_gradients.png").is_file()
