"""Where a search is kept: a journal that a kill has torn is mended, other damage is a sentence, and no message shows a password."""

from __future__ import annotations

import shlex

import optuna
import pytest

from ablate.runs.compose import composed, composing
from ablate.tune.__main__ import main
from ablate.tune.report import next_steps
from ablate.tune.space import read_search
from ablate.tune.storage import cut_torn_line, journal_path, open_storage, secrets
from ablate.tune.study import next_trial, open_study, preset_point

KL = "ppo.kl_coef=tag(log, interval(0.01,1))"
PASSWORD = "p%40ss:w0rd"


def opened(*arguments: str):
    """(search, config, study, folder) of a command line, opened as the tuner does."""
    search = read_search(arguments)
    with composing():
        config = composed([*search.fixed, "seed=0"])
    study = open_study(search, config)
    return search, config, study


def refusal(*arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments, task="", prepare=None, preload=())
    assert isinstance(ended.value.code, str)  # Python prints it and exits with status 1
    return ended.value.code


def test_a_journal_cut_anywhere_in_its_last_line_is_used_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, _, study = opened(KL)
    study.tell(study.ask(), 1.0)
    whole = journal_path(tmp_path / "results/tune").read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for end in (last, last + 1, (last + len(whole)) // 2, len(whole) - 1):
        journal_path(tmp_path / "results/tune").write_bytes(whole[:end])
        _, _, study = opened(KL)
        study.tell(study.ask(), 2.0)
        _, _, again = opened(KL)
        assert again.trials[-1].value == 2.0
        assert journal_path(tmp_path / "results/tune").read_bytes().startswith(whole[:last] + b'{"op_code"')


def test_a_tuner_that_has_the_journal_open_writes_past_the_torn_line_of_another(tmp_path):
    one = optuna.create_study(storage=open_storage(None, tmp_path), study_name="s")
    other = optuna.load_study(storage=open_storage(None, tmp_path), study_name="s")
    one.tell(one.ask(), 1.0)
    with journal_path(tmp_path).open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    other.tell(other.ask(), 2.0)
    again = optuna.load_study(storage=open_storage(None, tmp_path), study_name="s")
    assert [trial.value for trial in again.trials] == [trial.value for trial in one.trials] == [1.0, 2.0]


@pytest.mark.parametrize(("before", "after"), [(b"", b""), (b"ab", b""), (b"a\nb\n", b"a\nb\n"), (b"a\n" + b"b" * 200_000, b"a\n")])
def test_only_what_follows_the_last_line_end_is_cut(before, after, tmp_path):
    (tmp_path / "file").write_bytes(before)
    cut_torn_line(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == after


@pytest.mark.parametrize(
    "content", [b'{"op_code": 0, "wor\n{}\n', b"[]\n", b"{}\n", b"\xff\xfe\n{}\n", b"1\n", b"[" * 100_000 + b"\n{}\n", b'{"op_code":99}\n'],
)  # fmt: skip
def test_a_journal_damaged_otherwise_is_one_sentence_and_stays_as_it_is(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal_path(tmp_path / "results/tune").parent.mkdir(parents=True)
    journal_path(tmp_path / "results/tune").write_bytes(content)
    said = refusal(KL)
    assert said.startswith("error: results/tune/optuna.journal is not readable (") and "\n" not in said
    assert said.endswith("): remove it, or set study=<name>")
    assert journal_path(tmp_path / "results/tune").read_bytes() == content


def test_a_folder_in_the_place_of_the_journal_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal_path(tmp_path / "results/tune").mkdir(parents=True)
    assert refusal(KL) == "error: results/tune/optuna.journal is not a file: remove it, or set study=<name>"


@pytest.mark.parametrize(
    "storage",
    [
        f"storage=postgresql://user:{PASSWORD}@host/name", f"storage=mysqql://user:{PASSWORD}@host/name", f"storage=sqlite://u:{PASSWORD}@h",
        f"--storage=postgresql://user:{PASSWORD}@host/name", f"+storage=postgresql://user:{PASSWORD}@host/name",
        f"storage=postgresql://user:{PASSWORD}/x@host/name", f"storage=postgresql://host:{PASSWORD}/name?password={PASSWORD}",
        f"storage=user:{PASSWORD}@host", f"storag=postgresql://user:{PASSWORD}@host/name", f"postgresql://user:{PASSWORD}@host/name",
        f"storage=postgresql://host/name?password={PASSWORD}", f"storage=postgresql://h/n?password={PASSWORD}&x=@{PASSWORD}",
    ],
)  # fmt: skip
def test_no_error_and_no_file_shows_a_part_of_the_password(storage, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABLATE_TRACEBACK", "1")
    shown = refusal(KL, storage) + "".join(capfd.readouterr())
    shown += "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    for part in ("p%40ss", "p@ss", "w0rd"):
        assert part not in shown


def test_the_secrets_of_a_url_are_its_password_and_query_as_written_and_decoded():
    assert secrets(f"postgresql://user:{PASSWORD}@host/name?sslpassword=a%20b") == ["p%40ss:w0rd", "p@ss:w0rd", "a%20b", "a b"]
    assert secrets("postgresql://user@host/name") == []


def test_trial_0_is_the_preset_and_the_objectives_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    search, config, study = opened(KL, "ppo.epochs=interval(1,4)", "ppo.value_clip=true,false", "objective=gold_kl")
    expected = {"ppo.kl_coef": config.ppo.kl_coef, "ppo.epochs": 1, "ppo.value_clip": str(config.ppo.value_clip).lower()}
    assert study.metric_names == ["gold", "KL"]
    first = next_trial(study, search, tmp_path / "results/tune")
    assert (first.trial.number, first.trial.params) == (0, expected)
    second = next_trial(study, search, tmp_path / "results/tune")
    assert second.trial.number == 1 and second.trial.params != expected
    first.lock.close()
    second.lock.close()


@pytest.mark.parametrize("outside", ["ppo.kl_coef=interval(0.5,1)", "ppo=vanilla,ppo_max", "ppo.clip_range=range(0.15,0.5,0.1)"])
def test_a_space_without_the_preset_does_not_begin_with_it(outside):
    search = read_search([outside])
    with composing():
        assert preset_point(search, composed([*search.fixed, "seed=0"])) is None


def test_the_last_lines_name_the_command_of_the_best_trial_and_the_dashboard(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    search, _, study = opened(KL, "results='my results'")
    folder = tmp_path / "my results/tune"
    assert len(next_steps(study, search, folder)) == 1
    taken = next_trial(study, search, folder)
    trial = taken.trial
    taken.lock.close()
    trial.set_user_attr("gold", 1.0)
    study.tell(trial, 1.0)
    dashboard, run = next_steps(study, search, folder)
    command = run.partition("   ")[0]
    assert run.endswith(f"   runs trial {trial.number} by itself")
    overrides = ["collapse.stop=true", "results='my results'", f"ppo.kl_coef={trial.params['ppo.kl_coef']!r}", "study=tune_best"]
    assert shlex.split(command) == ["python", "-m", "ablate.run", *overrides]
    assert shlex.split(dashboard.partition("   ")[0]) == ["optuna-dashboard", str(folder / "optuna.journal")]
