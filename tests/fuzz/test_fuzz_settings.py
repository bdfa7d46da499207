"""Random command lines: each is a valid configuration or one sentence, and nothing is written outside of a folder for the test."""

from __future__ import annotations

import os
import random
import sys
from importlib import import_module
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins

import ablate.run
from ablate.config import Config
from ablate.settings.fields import walk
from ablate.settings.groups import groups
from ablate.settings.validation import validate

TRIALS = 200
SEED = 20_260_728  # of the command lines
SETTINGS = [(setting.name, setting.value) for setting in walk(Config())]
FRAGMENTS = (
    "", "0", "1", "-1", "0.5", "1e9", "nan", "inf", "1e999", "9" * 400, "null", "true", "false", "???", "x", "..", "/", "../../x", "/abs",
    "a/b", "~", "~/x", "ü", "研究", "#", "[", "]", "{", "}", "(", ")", "=", ",", ":", "$", "${", "${seed}", "${nope}", "${oc.env:NOPE_X}",
    "${ppo}", "[1,2]", "{a:1}", "range(3)", "range(0,9,0)", "interval(0,1)", "choice(1,2)", "glob(*)", "sort(2,a)", "int(x)",
    "tag(a,1)", "'", '"', "\\", "\\'", " ", "\t", "\n", "\0", "\x1b[31m", "\u2028", "\udcff", "vanilla", "k1", "cpu", "runs/ünï",
    "pairs (1).jsonl", "seed=0", "x" * 300, "x" * 9000, "[" * 120, "@", "+", "*", "%", ";", "<", "|", "!", "--", "-m",
)  # fmt: skip
FLAGS = "-m --multirun --cfg --kl_penalty -x --resolve --config-name --package -h=1 --cfg=nope --seed=1 -- -".split()


def an_override(draw: random.Random) -> str:
    """A setting, group or other word, with a sensible value or a mixture of fragments, in quotes or not."""
    name, default = draw.choice(SETTINGS)
    sensible = str(default).lower() if isinstance(default, bool) else "null" if default is None else str(default)
    if draw.random() < 0.15:
        name = draw.choice(
            [*groups(), "hydra/launcher", "hydra", "nope", "", "ünï", "ppo@x", "ppo.nope", "ppo.", ".ppo", "ppo.kl_coef.x", "seed[0]"]
        )
        sensible = draw.choice(["vanilla", "nope", "default", "world", "null"])
    value = sensible if draw.random() < 0.3 else "".join(draw.choices(FRAGMENTS, k=draw.choice((1, 1, 1, 2, 3))))
    quote = draw.choice(("", "", "", "'", '"'))
    sign, equals = draw.choice(("", "", "", "", "", "", "", "+", "++", "~")), draw.choice(("=", "=", "=", "=", "", "=="))
    return f"{sign}{name}{equals}{quote}{value}{quote}"


def a_command_line(draw: random.Random) -> list[str]:
    flags = [draw.choice(FLAGS)] if draw.random() < 0.1 else []
    return flags + [an_override(draw) for _ in range(draw.choice((1, 1, 2, 3)))]


@pytest.fixture
def executed(monkeypatch, tmp_path) -> list[Config]:
    """The configurations that the command would run: they are recorded, and none is run."""
    Plugins.instance()  # it imports the plugins again, under the names that are looked up below
    session, found = type(sys)("ablate.session"), []
    session.execute = lambda config: found.append(config) or {"status": "completed"}
    monkeypatch.setitem(sys.modules, "ablate.session", session)
    monkeypatch.setattr(ablate.run, "sweep_summary", lambda folders: "")
    sweeper, launcher = (import_module(f"hydra_plugins.ablate_{name}") for name in ("sweeper", "launcher"))
    monkeypatch.setattr(sweeper, "take_over", lambda configs: 0)
    monkeypatch.setattr(sweeper, "sweep_summary", lambda folders: "")
    monkeypatch.setattr(sweeper.AblateSweeper, "launch", lambda self, jobs: found.extend(job.config for job in jobs) or [])
    monkeypatch.setattr(launcher, "start_server", lambda config, preload: None)
    (tmp_path / "here" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "deep")
    return found


def test_every_command_line_is_a_valid_configuration_or_one_sentence(executed, monkeypatch, tmp_path, capsys):
    draw, refused, before = random.Random(SEED), 0, len(executed)
    for _ in range(TRIALS):
        arguments = a_command_line(draw)
        monkeypatch.setattr(sys, "argv", ["ablate", *arguments])
        try:
            ablate.run.main()
        except SystemExit as ended:
            if ended.code:
                refused += 1
                assert isinstance(ended.code, str) and ended.code.startswith("error: "), (arguments, ended.code)
                lines = ended.code.splitlines()
                assert len(lines) == 1 or lines[0] == "error: nothing was started, because of these arms:", (arguments, ended.code)
                assert all(line.isprintable() and len(line) < 1500 for line in lines), (arguments, ended.code)
        except BaseException as error:
            raise AssertionError(f"{arguments}: {type(error).__name__}") from error
    for config in executed[before:]:
        validate(config)
        folder = Path(os.path.normpath(tmp_path / config.results / str(config.study) / str(config.arm) / f"seed={config.seed}"))
        assert len(folder.relative_to(os.path.normpath(tmp_path / config.results)).parts) == 3
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["here", "here/deep"]
    capsys.readouterr()
    with capsys.disabled():
        print(f"\n{TRIALS} command lines: {refused} refused in a sentence, {len(executed)} configurations")
    assert refused > TRIALS / 4 and len(executed) > TRIALS / 25  # neither kind is rare


VALUES = ("runs/ünï", "a#b", "a~b", "a[1]", "a=b", "a b", "pairs (1)", "a,b", "a{b}", "a;b", "100%", "a:b", "a@b")


@pytest.mark.parametrize(("number", "value"), list(enumerate(VALUES)))
def test_a_quoted_value_is_taken_as_it_is_in_a_run_and_in_a_sweep(number, value, executed, monkeypatch):
    name, quote, several = ("results", "cache", "study", "data.path")[number % 4], "'\""[number // 4 % 2], [["-m"], []][number % 2]
    if name == "study" and "/" in value:
        name = "results"
    human = ["data=jsonl", *["data.path=x"] * (name != "data.path")]
    monkeypatch.setattr(sys, "argv", ["ablate", *several, *human, f"{name}={quote}{value}{quote}"])
    ablate.run.main()
    (config,) = executed
    found = {"results": config.results, "cache": config.cache, "study": config.study, "data.path": config.data.path}
    assert found[name] == value
