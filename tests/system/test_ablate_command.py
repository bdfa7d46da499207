"""The command `ablate`: which module an argument starts, and what the Tab key completes."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ablate
from ablate import __main__ as dispatcher
from ablate.commands import commands
from ablate.completion import script
from ablate.config import Config
from ablate.settings.fields import setting_names, walk
from ablate.settings.help import RUN, run_help

ROOT = Path(ablate.__file__).parents[1]


@pytest.fixture
def started(monkeypatch) -> list:
    """Each module that `ablate` starts, with the arguments that it finds in sys.argv."""
    calls = []
    monkeypatch.setattr(dispatcher.runpy, "run_module", lambda module, **options: calls.append((module, *sys.argv[1:])))
    monkeypatch.setattr(sys, "argv", ["ablate"])
    return calls


def test_every_module_that_python_m_runs_is_a_command_under_a_name_of_its_own():
    files = [path for package in ("ablate", "analysis") for path in (ROOT / package).rglob("*.py")]
    runnable = {path for path in files if "__name__ == " in path.read_text() and path.name not in ("commands.py",)}
    known = commands()
    assert {command.file for command in known.values()} == runnable - {ROOT / "ablate" / "__main__.py"}
    assert {"run", "stages", "verdicts", "report", "judge", "export", "import-gguf"} <= known.keys()
    assert all(command.meaning and command.meaning.isprintable() for command in known.values())


STARTED = {
    "verdicts results/x --all": ("analysis.verdicts", "results/x", "--all"),
    "run ppo=vanilla": ("ablate.run", "ppo=vanilla"),
    "sweep ppo.kl_penalty=true,false": ("ablate.run", "-m", "ppo.kl_penalty=true,false"),
    "import-gguf a.gguf": ("ablate.import_gguf", "a.gguf"),
    "import_gguf a.gguf": ("ablate.import_gguf", "a.gguf"),
    "smollm2": ("ablate.import_gguf.smollm2",),
    "ppo=vanilla seed=1": ("ablate.run", "ppo=vanilla", "seed=1"),
    "-m sweep=kl_coef": ("ablate.run", "-m", "sweep=kl_coef"),
    "--cfg job": ("ablate.run", "--cfg", "job"),
    "settings --help": ("ablate.settings", "--help"),
}


@pytest.mark.parametrize("line", STARTED)
def test_a_command_line_starts_the_module_that_it_names_and_settings_alone_start_a_run(line, started):
    dispatcher.main(line.split())
    assert started == [STARTED[line]]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("verdict", "'verdict' is not a command: did you mean verdicts?"), ("zzz", "'zzz' is not a command: `ablate --help` lists them")],
)
def test_an_unknown_command_is_one_sentence_with_the_nearest_name(name, sentence, started):
    with pytest.raises(SystemExit) as ended:
        dispatcher.main([name])
    assert str(ended.value.code).startswith(f"error: {sentence}") and started == []


def test_without_a_command_it_starts_nothing_and_lists_all_of_them(started, capsys):
    dispatcher.main([])
    shown = capsys.readouterr().out
    assert started == [] and all(re.search(rf"^  {name} ", shown, re.MULTILINE) for name in [*commands(), "sweep"])
    dispatcher.main(["--version"])
    assert capsys.readouterr().out == f"ablate {ablate.__version__}\n"


def test_the_list_of_commands_imports_none_of_them_and_no_library():
    code = "import sys; from ablate.__main__ import main; main(['--help']); print(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    loaded = set(done.stderr.split())
    assert loaded.isdisjoint({"hydra", "omegaconf", "torch", "pandas", "numpy", "rich", "ablate.run", "ablate.config"})


def test_the_help_of_a_run_gives_the_meaning_of_every_setting_of_a_run_and_of_every_trick_and_names_all_others():
    shown = run_help(100)
    for setting in walk(Config()):
        meaning = " ".join(shown.split())
        if setting.name in RUN or setting.name in ("ppo.kl_penalty", "ppo.clip_range_high", "ppo.critic_init"):
            assert f"{setting.name}=" in shown and setting.field.metadata["meaning"] in meaning
    assert all(re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", shown) for name in setting_names())
    assert max(len(line) for line in shown.splitlines() if line.startswith("  ")) <= 100


TABBED = {
    "ablate ver": "verdicts",
    "ablate verdicts --ma": "--markdown",
    "ablate run ppo.kl_p": "ppo.kl_penalty=true ppo.kl_penalty=false",
    "ablate sweep ppo=v": "vanilla vapo verl",
    "ablate run see": "seed=",
    "ablate -m ppo.kl_estimator=k": "k1 k2 k3",
    "ablate completion b": "bash",
}
TAB = """
COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
compopt() { :; }
while IFS= read -r line; do
    COMP_LINE="$line"; COMP_POINT=${#line}; read -ra COMP_WORDS <<< "$line"; COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
    _ablate; echo "${COMPREPLY[*]}"
done
"""


def test_the_tab_key_completes_commands_flags_settings_and_presets_in_bash():
    """bash parts words at `=`, so what it gets back is what follows it."""
    done = subprocess.run(["bash", "-c", script("bash") + TAB], input="\n".join(TABBED) + "\n", capture_output=True, text=True)
    assert done.stderr == ""
    assert dict(zip(TABBED, done.stdout.splitlines(), strict=True)) == TABBED


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_can_parse_its_script():
    done = subprocess.run(["zsh", "-fn", "/dev/stdin"], input=script("zsh"), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
