"""Run folders damaged at random, through everything that reads them: a right result or one sentence, no hang, nothing elsewhere.

One tiny real run is made, then copied and harmed: bytes, values of JSON and YAML, and kinds of file.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from ablate.config import Config
from ablate.errors import UserError
from ablate.export.__main__ import main as export
from ablate.runs.folder import run_folder
from ablate.session import execute
from ablate.sweeps.reuse import finished_runs
from ablate.sweeps.summary import sweep_summary
from analysis.load.frames import load, load_reward_models, load_rows
from analysis.load.judgements import load_judgements
from analysis.report.__main__ import main as report
from analysis.verdicts.__main__ import main as verdicts

FEW, MANY = 20, 2000
FEW_RESUMED, MANY_RESUMED = 8, 150
RECORDS = ("summary.json", "config.yaml", "metrics.jsonl", "scores.jsonl", "samples.jsonl", "tokens.jsonl",
           "reward_model/report.json", "reward_model/training.jsonl", "reward_model/pairs.csv")  # fmt: skip
STATE = ("checkpoints/2/state.json", "checkpoints/2/optimizer.safetensors", "checkpoints/2/policy/model.safetensors",
         "checkpoints/2/policy/config.json", "checkpoints/2/critic/model.safetensors", "checkpoints/2", "checkpoints", "stages.json",
         "config.yaml", "metrics.jsonl", "scores.jsonl", "reward_model", "checkpoints/2/state.json")  # fmt: skip
ODD = (
    None, True, -1, 0, 3, 1.5, float("nan"), float("inf"), -(10**18), 10**30, 10**400, "", "x", "../../x", "/abs", "${oc.env:HOME}", "a/b",
    "\u2028", "<b>", [], {}, [[]], [None], {"a": [1]}, [1, "x"], "x" * 3000, "2020-01-01",
)  # fmt: skip
BOMB = "a: &a [x, x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(9 * ['*' + chr(97 + i)])}]\n" for i in range(12))
TEXTS = (
    "", "{}", "[]", "null", "3", '"x"', "{", "[" * 100_000, '{"a":' * 50_000, "9" * 10_000, '{"update": 1}\n' * 3, "\x00", "\udcff", BOMB,
    "a: &a [*a]\n", "&x {<<: *x}", "!!python/object/apply:os.system [touch x]", "seed: !!int ''", "seed: !!bool x", "seed: 0x" + "f" * 5000,
    "study: ../../x\nseed: 0", "- 1", "1: 2", "? [a]\n: b",
)  # fmt: skip


@contextmanager
def within(seconds: float):
    """Raises TimeoutError in the block after so many seconds."""

    def ring(number, frame):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def make(stage_folders) -> Callable[[Path], Config]:
    """make(folder) → the settings of a run of two updates that is kept there."""

    def config(folder: Path) -> Config:
        tiny = [
            f"model.path={stage_folders['pretrained']}", *(f"{name}.path={stage_folders[name]}" for name in ("sft", "reward_model")),
            f"results={folder / 'results'}", f"cache={folder / 'cache'}", "study=s", "arm=a", "tracker=none", "device=cpu", "ppo.updates=2",
            "ppo.batch_size=4", "ppo.minibatch_size=4", "ppo.micro_batch_size=4", "ppo.critic_pretrain=false", "sampling.max_new_tokens=4",
            "evaluation.every=1", "evaluation.prompts=4", "evaluation.samples=2", "checkpoint.every=1",
        ]  # fmt: skip
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.from_dotlist(tiny)))

    return config


@pytest.fixture(scope="module")
def finished(make, tmp_path_factory) -> Path:
    """A finished run's folder, with the records of a reward model."""
    config = make(tmp_path_factory.mktemp("fuzz"))
    execute(config)
    folder = run_folder(config) / "reward_model"
    folder.mkdir(exist_ok=True)
    (folder / "report.json").write_text('{"held_out_accuracy": 0.7}')
    (folder / "training.jsonl").write_text('{"step": 1, "loss": 0.5, "accuracy": 0.5, "held_out_accuracy": null}\n')
    (folder / "pairs.csv").write_text("score_difference,gold_difference,chosen_length,rejected_length\n0.5,1.0,3,4\n")
    return run_folder(config)


def harm(path: Path, rng: random.Random, outside: Path) -> str:
    """Harm a file or a folder; how, in a few words."""
    how = rng.choice(("bytes", "bytes", "value", "value", "value", "value", "value", "text", "text", "kind", "kind"))
    if path.is_dir():
        how = "kind"
    if how == "value" and (made := with_odd_value(path, rng)) is not None:
        path.write_bytes(made)
    elif how == "text":
        path.write_bytes(rng.choice(TEXTS).encode(errors="surrogateescape"))
    elif how == "kind":
        return changed_kind(path, rng, outside)
    else:
        data = path.read_bytes()
        at, end = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
        path.write_bytes(rng.choice((data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :], data[:at], data[:at] + data[end:])))
    return f"{how} of {path.name}"


def with_odd_value(path: Path, rng: random.Random) -> bytes | None:
    """The file with one value replaced, removed or put under another name; None for a file that is neither JSON nor YAML."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else None
    if path.suffix == ".yaml":
        tree = yaml.safe_load(path.read_text())
    elif lines is not None or path.suffix == ".json":
        row = rng.randrange(len(lines)) if lines else 0
        tree = json.loads(lines[row] if lines else path.read_text())
    else:
        return None
    holder = tree
    while True:
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.8:
            holder = holder[key]
            continue
        break
    change = rng.random()
    if change < 0.75:
        holder[key] = rng.choice(ODD)
    elif change < 0.9 or not isinstance(holder, dict):
        del holder[key]
    else:
        holder[rng.choice(("study", "run", "seed", "status", "update", "x" * 300, ""))] = holder.pop(key)
    if path.suffix == ".yaml":
        return yaml.safe_dump(tree, allow_unicode=True).encode()
    if lines is None:
        return json.dumps(tree).encode()
    lines[row] = json.dumps(tree)
    return ("\n".join(lines) + "\n").encode()


def changed_kind(path: Path, rng: random.Random, outside: Path) -> str:
    """Put something else in place of a file or folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    kind = rng.choice(("missing", "folder", "pipe", "socket", "loop", "link to a file", "link to a folder", "dangling", "device", "huge"))
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # the names of sockets are short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(here)
    elif kind == "huge":
        path.touch()
        os.truncate(path, 5 << 30)
    elif kind != "missing":
        to = {"loop": path, "link to a file": outside / "sentinel", "link to a folder": outside, "device": Path("/dev/zero")}
        path.symlink_to(to.get(kind, outside / "nothing"))
    return f"{kind} in place of {path.name}"


def ending(action: Callable[[], object], how: str) -> str:
    """`done`, or `refused` in one sentence. Anything else that happens is a failure which names the harm."""
    try:
        with within(20):
            action()
    except UserError as error:
        assert "\n" not in str(error), (how, str(error))
    except SystemExit as ended:
        if not ended.code:
            return "done"
        assert isinstance(ended.code, str) and ended.code.startswith("error: ") and "\n" not in ended.code, (how, ended.code)
    except BaseException as error:
        raise AssertionError(f"{how}: {error!r}") from error
    else:
        return "done"
    return "refused"


@pytest.fixture
def outside(tmp_path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "sentinel").write_text('{"whole": 1}\n')
    yield folder
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"sentinel": '{"whole": 1}\n'}


@pytest.mark.parametrize("trials", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_one_harmed_run_stops_no_analysis_of_the_others(trials, finished, tmp_path, outside, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng, ends, root = random.Random(7), Counter(), tmp_path / "results"
    for arm in ("a", "b"):
        for seed in (0, 1):
            shutil.copytree(finished, root / "s" / arm / f"seed={seed}", ignore=shutil.ignore_patterns("checkpoints"))
            config = root / "s" / arm / f"seed={seed}" / "config.yaml"
            text = config.read_text().replace("\narm: a\n", f"\narm: {arm}\n").replace("\nseed: 0\n", f"\nseed: {seed}\n")
            config.write_text(text if arm == "a" else text.replace("kl_coef:", "kl_coef: 0.7 #"))
    whole = load(root)
    good = {run for run in whole.runs["run"] if not run.endswith("b/seed=1")}
    assert len(whole.runs) == 4 and whole.left_out.empty
    bad, kept = root / "s/b/seed=1", tmp_path / "kept"
    bad.rename(kept)
    for trial in range(trials):
        shutil.copytree(kept, bad)
        how = f"trial {trial}: " + ", ".join(harm(bad / name, rng, outside) for name in rng.sample(RECORDS, rng.choice((1, 1, 2))))

        def analysis(how: str = how) -> None:
            loaded = load(root)
            assert good <= set(loaded.runs["run"]), how
            assert len(set(loaded.runs["folder"]) | set(loaded.left_out["folder"])) == 4, how
            for name in ("scores", "samples", "tokens"):
                load_rows(loaded.runs, name)
            load_reward_models(loaded.runs)
            load_judgements(loaded.runs)
            finished_runs(root)
            sweep_summary(sorted(root.glob("*/*/seed=*")))

        assert ending(analysis, how) == "done"
        if trial % 6 == 0:
            ends["verdicts", ending(lambda: verdicts([str(root / "s")]), f"{how}; verdicts")] += 1
        if trial % 20 == 0:
            made = tmp_path / "page"
            ends["report", ending(lambda to=made: report([str(root / "s"), "--out", str(to)]), f"{how}; report")] += 1
        shutil.rmtree(bad)
    capsys.readouterr()
    with capsys.disabled():
        print(f"\nrun folders analysed: {trials:,} ({dict(ends)})")
    assert not (tmp_path.parent / "x").exists() and ends["verdicts", "done"] > 0


@pytest.mark.parametrize("trials", [FEW_RESUMED, pytest.param(MANY_RESUMED, marks=pytest.mark.slow)])
def test_a_harmed_run_is_resumed_and_exported_right_or_refused(trials, finished, make, tmp_path, outside, capsys):
    rng, ends = random.Random(11), Counter()
    right = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    for trial in range(trials):
        config = make(tmp_path / "here")
        folder = run_folder(config)
        shutil.copytree(finished, folder)
        text = (folder / "config.yaml").read_text().replace(str(finished.parents[3]), str(tmp_path / "here"))
        (folder / "config.yaml").write_text(text)
        (folder / "summary.json").unlink()
        how = f"trial {trial}: {harm(folder / rng.choice(STATE), rng, outside)}"
        ends["export", ending(lambda run=folder: export([str(run), "--to", str(tmp_path / "model")]), f"{how}; export")] += 1
        end = ending(lambda config=config: execute(config), f"{how}; resume")
        ends["resume", end] += 1
        if end == "done" and "metrics" not in how and "model.safetensors" not in how and "optimizer" not in how and "state" not in how:
            rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            assert [row["monitor/kl_to_sft"] for row in rows[1:]] == [row["monitor/kl_to_sft"] for row in right[1:]], how
        shutil.rmtree(tmp_path / "here", ignore_errors=True)
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
    capsys.readouterr()
    with capsys.disabled():
        print(f"\nrun folders resumed: {trials:,} ({dict(ends)})")
    assert ends["resume", "refused"] > 0 and ends["resume", "done"] > 0
