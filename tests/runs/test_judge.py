"""Judging run folders: by gold as the run itself counted, by a reward model, against a third model and a file; mistakes in a sentence."""

from __future__ import annotations

import json
import re
import shutil
from importlib.util import find_spec

import pytest
import torch
from judge_server import longer, serving, status

from ablate.data.source import open_source
from ablate.judge import __main__ as judge
from ablate.judge.sides import Run
from ablate.models.load import load_tokenizer
from ablate.ppo.scoring import RetokenizingRewardModel
from ablate.runs.folder import run_folder
from ablate.session import execute
from analysis.figures.estimate import Frames
from analysis.figures.judged import fig11
from analysis.load.frames import load
from analysis.load.judgements import load_judgements


@pytest.fixture(scope="module")
def study(make_config, tmp_path_factory):
    """Two arms of two seeds; arm → folder."""
    root = tmp_path_factory.mktemp("judged")
    for arm, rate in (("a", "1e-2"), ("b", "3e-3")):
        for seed in (0, 1):
            execute(make_config(root, f"arm={arm}", f"seed={seed}", f"ppo.learning_rate={rate}", "evaluation.prompts=24"))
    return root / "results" / "s"


@pytest.fixture
def folder(study, tmp_path):
    """A run folder of one's own."""
    return shutil.copytree(study / "a" / "seed=0", tmp_path / "run")


def run(*words) -> None:
    judge.main([str(word) for word in words])


def only_record(folder) -> dict:
    (path,) = (folder / "judgements").glob("*.json")
    return json.loads(path.read_text())


def counted(record: dict) -> dict:
    return {row["kind"]: row for row in record["table"]}


def test_gold_counts_wins_ties_and_losses_as_the_run_itself_did_at_its_last_evaluation(folder, capsys):
    run(folder, "sft")
    said, rows = capsys.readouterr().out, counted(only_record(folder))
    final = json.loads((folder / "summary.json").read_text())["final"]
    for kind, prefix in (("all", "eval/"), ("helpful", "eval/helpful/"), ("harmful", "eval/harmful/")):
        for outcome in ("win", "tie", "lose"):
            assert rows[kind][outcome] / rows[kind]["prompts"] == final[prefix + outcome]
    assert rows["all"]["prompts"] == 24 and 0 < rows["all"]["win"] and "note" not in said and "judged by gold" in said


def test_answers_and_golds_are_those_that_the_run_wrote(folder):
    run(folder, "sft")
    verdicts = only_record(folder)["verdicts"]
    scores = [row for row in map(json.loads, (folder / "scores.jsonl").read_text().splitlines()) if row["update"] == 6]
    assert [row["first_score"] for row in verdicts] == [row["gold"] for row in scores]
    samples = [row for row in map(json.loads, (folder / "samples.jsonl").read_text().splitlines()) if row["update"] == 6]
    assert [(row["prompt"], row["first"]) for row in verdicts[: len(samples)]] == [(row["prompt"], row["response"]) for row in samples]


def test_sft_against_itself_ties_and_turning_the_sides_turns_the_verdicts(folder):
    run(f"{folder}:sft", "sft", "--out", folder / "same")
    (path,) = (folder / "same").iterdir()
    assert path.name == "sft-vs-sft.gold.json" and {row["outcome"] for row in json.loads(path.read_text())["verdicts"]} == {"tie"}
    run(folder, "sft")
    run(f"{folder}:sft", folder, "--out", folder / "turned")
    there = [row["outcome"] for row in only_record(folder)["verdicts"]]
    back = [row["outcome"] for row in json.loads(next((folder / "turned").iterdir()).read_text())["verdicts"]]
    assert [{"win": "lose", "lose": "win", "tie": "tie"}[outcome] for outcome in there] == back


def test_an_earlier_checkpoint_is_named_by_its_update(folder):
    run(f"{folder}:4", folder)
    record = only_record(folder)
    assert (record["first"]["update"], record["second"]["update"]) == (4, 6)


def test_a_margin_makes_ties_of_small_differences(folder):
    run(folder, "sft", "--margin", "1000")
    assert {row["outcome"] for row in only_record(folder)["verdicts"]} == {"tie"}


@pytest.mark.parametrize("name", [None, "reward_model"])
def test_a_reward_model_judges_by_its_scores_of_the_dialogues(folder, stage_folders, name):
    own = [] if name is None else ["--reward-model", stage_folders[name]]
    run(folder, "sft", "--judge", "rm", *own)
    record = only_record(folder)
    scorer = RetokenizingRewardModel.load(stage_folders["reward_model"], torch.device("cpu"))
    rows = record["verdicts"]
    ended = [row["first_score"] for row in rows]
    both = [
        scorer([row["prompt"] for row in rows], [row["first"] for row in rows], [whole] * len(rows)).tolist() for whole in (True, False)
    ]
    for score, *either in zip(ended, *both, strict=True):
        assert min(abs(score - own) for own in either) < 1e-5  # float32: batches of another size add in another order
    assert record["judge"]["name"] == ("its reward model" if name is None else "reward_model")
    for row in rows:
        difference = row["first_score"] - row["second_score"]
        assert row["outcome"] == ("win" if difference > 0 else "lose" if difference < 0 else "tie")


def test_a_third_model_answers_the_same_prompts_with_the_same_noise(folder, stage_folders):
    """The third model is a copy of SFT, so it gives SFT's answers: the policy fares against it as against SFT, and SFT ties."""
    run(folder, stage_folders["sft"])
    run(folder, "sft", "--out", folder / "other")
    against_sft = json.loads(next((folder / "other").iterdir()).read_text())
    record = only_record(folder)
    assert record["verdicts"] == against_sft["verdicts"] and record["second"] == {"name": "sft", "kind": "model"}
    run(f"{folder}:sft", stage_folders["pretrained"], "--out", folder / "third")
    assert {row["outcome"] for row in json.loads(next((folder / "third").iterdir()).read_text())["verdicts"]} != {"tie"}


def test_a_file_of_answers_is_written_to_by_a_third_party_and_judged(folder, tmp_path, capsys):
    run(folder, "sft", "--prompts", tmp_path / "prompts.jsonl")
    assert not (folder / "judgements").exists() and "answer these" in capsys.readouterr().out
    asked = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert len({row["prompt"] for row in asked}) == len(asked) and {row["kind"] for row in asked} == {"helpful", "harmful"}
    rows = [{"prompt": row["prompt"], "response": "no , i cannot do that .", "ended": i % 2 == 0} for i, row in enumerate(asked)]
    (tmp_path / "third.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
    run(folder, tmp_path / "third.jsonl")
    record = only_record(folder)
    assert record["second"] == {"name": "third", "kind": "file"}
    ends = {row["prompt"]: row["ended"] for row in rows}
    source = open_source(Run(folder, None, None).config, load_tokenizer(folder / "checkpoints" / "6" / "policy"))
    prompts = Run(folder, None, None).held_out()[1].prompts
    for row, prompt in zip(record["verdicts"], prompts, strict=True):
        assert row["second_score"] == source.gold(prompt, "no , i cannot do that .", ends[prompt.text])


def test_a_folder_of_runs_is_judged_run_by_run_and_paired_by_seed(study, tmp_path, capsys):
    root = shutil.copytree(study, tmp_path / "study")
    run(root / "a", root / "b")
    assert capsys.readouterr().out.count("judged by gold") == 2
    records = [json.loads(path.read_text()) for path in sorted(root.rglob("judgements/*.json"))]
    assert [(record["arm"], record["seed"], record["second"]["arm"], record["second"]["seed"]) for record in records] == [
        ("a", 0, "b", 0), ("a", 1, "b", 1),
    ]  # fmt: skip
    run(f"{root}:sft", "sft", "--out", tmp_path / "out")
    assert capsys.readouterr().out.count("sft against sft") == 4


def test_answers_that_the_run_did_not_judge_itself_are_noted(folder, stage_folders, capsys):
    path = folder / "samples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"response": "other"} if row["update"] == 6 else row) + "\n" for row in rows))
    config = folder / "config.yaml"  # as if the SFT model had been lost and another one built
    config.write_text(config.read_text().replace(str(stage_folders["sft"]), str(stage_folders["pretrained"])))
    run(folder, "sft")
    said = capsys.readouterr().out
    assert "note: 3 of 3 answers of the policy are not those in samples.jsonl" in said
    assert re.search(r"note: SFT's answers have [\d.]+ tokens on average, and had [\d.]+ in the run: it is not the same SFT", said)


def test_no_path_of_the_machine_is_in_the_record(folder, stage_folders):
    run(folder, stage_folders["sft"], "--judge", "rm", "--reward-model", stage_folders["reward_model"])
    (path,) = (folder / "judgements").glob("*.json")
    assert "/" not in path.read_text().replace("/>", "")


MISTAKES = {
    "no run folder": (["{sft}", "sft"], "FIRST must be one"),
    "nowhere": (["{root}/nowhere", "sft"], "nowhere.* does not exist"),
    "an update without a checkpoint": (["{root}/run:3", "sft"], "has no checkpoint 3: there are 4, 6"),
    "sft of what is no run": (["{sft}:sft", "sft"], "is no run folder"),
    "a folder of nothing": (["{root}/run", "{root}/empty"], "holds no run folder"),
    "llm without address": (["{root}/run", "sft", "--judge", "llm"], "set --url and --model"),
    "a limit without prices, which is seen before the run that is not there": (
        ["{root}/nowhere", "sft", "--judge", "llm", "--url", "http://localhost:1", "--model", "m", "--max-cost", "1"],
        "set --prompt-price and --completion-price",
    ),
    "an address for gold": (["{root}/run", "sft", "--url", "http://localhost"], "add --judge llm"),
    "a reward model for gold": (["{root}/run", "sft", "--reward-model", "x"], "add --judge rm"),
    "a file without answers": (["{root}/run", "{root}/few.jsonl"], r"answers 0 of 24 held-out prompts of .*--prompts FILE"),
    "a file of something else": (["{root}/run", "{root}/bad.jsonl"], "bad.jsonl, line 2 lacks `prompt` or `response`"),
    "a file that is not JSON": (["{root}/run", "{root}/torn.jsonl"], "torn.jsonl, line 1 is not JSON"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake, folder, tmp_path, stage_folders):
    words, said = MISTAKES[mistake]
    (tmp_path / "empty").mkdir()
    answer = json.dumps({"prompt": "?", "response": "!"})
    for name, lines in (("few", [answer]), ("bad", [answer, '{"prompt": "?"}']), ("torn", ["{"])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    with pytest.raises(SystemExit) as stopped:
        run(*(word.format(root=tmp_path, sft=stage_folders["sft"]) for word in words))
    assert str(stopped.value.code).startswith("error: ") and "\n" not in stopped.value.code
    assert re.search(said, stopped.value.code), stopped.value.code
    assert not (folder / "judgements").exists()


# --- an LLM


def words_for(server, tmp_path, *more) -> list:
    return ["--judge", "llm", "--url", server.url, "--model", "judge-1", "--verdicts", tmp_path / "verdicts.jsonl", *more]


def test_an_llm_judges_every_pair_and_the_record_says_how(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    with serving(longer) as server:
        run(folder, "sft", *words_for(server, tmp_path, "--key-from", "MY_KEY", "--prompt-price", "1", "--completion-price", "2"))
    record, said = only_record(folder), capsys.readouterr()
    for row in record["verdicts"]:
        difference = len(row["first"]) - len(row["second"])
        assert row["outcome"] == ("win" if difference > 0 else "lose" if difference < 0 else "tie")
    usage = record["judge"].pop("usage")
    assert record["judge"] == {"kind": "llm", "name": "judge-1"} and usage["template"] == "pairwise-1"
    assert usage["requests"] == len(server.seen) > 0 and usage["cost"] == pytest.approx(len(server.seen) * 120e-6)
    assert (
        f"{usage['requests']} requests (0 repeated)" in said.out and "judged by judge-1" in said.out and "verdicts of judge-1" in said.err
    )
    assert {request["authorization"] for request in server.seen} == {"Bearer sk-secret"}
    assert not [path for path in [*folder.rglob("*.json*"), tmp_path / "verdicts.jsonl"] if "sk-secret" in path.read_text()]


def test_a_judge_that_goes_by_position_gives_ties_and_is_told_of(folder, tmp_path, capsys):
    with serving(lambda a, b: "[[A]]") as server:
        run(folder, "sft", *words_for(server, tmp_path))
    assert {row["outcome"] for row in only_record(folder)["verdicts"]} == {"tie"}
    said = capsys.readouterr().out
    asked = re.search(r"shown first won (\d+) of (\d+) verdicts", said)
    assert asked[1] == asked[2] != "0" and re.search(r"(\d+) pairs changed with the position", said)[1] != "0"


def test_replies_that_cannot_be_read_are_in_the_table_and_shown(folder, tmp_path, capsys):
    with serving(lambda a, b: "As a language model I like both.") as server:
        run(folder, "sft", *words_for(server, tmp_path))
    row, said = counted(only_record(folder))["all"], capsys.readouterr().out
    assert row["unreadable"] > 0 and row["unreadable"] + row["tie"] == row["prompts"] == 24
    assert "replies without a verdict" in said and "As a language model I like both." in said


def test_at_the_limit_of_cost_nothing_is_written_and_the_same_command_goes_on(folder, tmp_path, capsys):
    prices = ["--prompt-price", "1", "--completion-price", "2", "--threads", "1", "--max-cost"]
    with serving(longer) as server:
        with pytest.raises(SystemExit, match=r"stopped at --max-cost 0\.001: raise it"):
            run(folder, "sft", *words_for(server, tmp_path, *prices, "0.001"))
        assert len(server.seen) == 8 and not (folder / "judgements").exists()  # a request costs 0.00012
        run(folder, "sft", *words_for(server, tmp_path, *prices, "1"))
    usage = only_record(folder)["judge"]["usage"]
    assert usage["cached"] == 8 and usage["requests"] == len(server.seen) - 8 and sum(counted(only_record(folder))["all"][o] for o in
                                                                                      ("win", "tie", "lose")) == 24  # fmt: skip


def test_a_server_that_fails_for_good_is_one_sentence(folder, tmp_path):
    with serving(longer) as server, pytest.raises(SystemExit) as stopped:
        server.faults = [status(404)] * 99
        run(folder, "sft", *words_for(server, tmp_path))
    assert "refuses (HTTP 404" in stopped.value.code and "\n" not in stopped.value.code and not (folder / "judgements").exists()


def test_the_analysis_reads_what_was_judged(study, stage_folders, tmp_path):
    """Both sides against one third party, by kind of prompt; a judgement of an earlier checkpoint is left out."""
    root = shutil.copytree(study / "a", tmp_path / "s" / "a")
    third = stage_folders["pretrained"]
    for first in (root, f"{root}:sft"):
        run(first, third)
    run(f"{root}/seed=0:4", third, "--out", root / "seed=0" / "judgements" / "of-4")
    shutil.move(next((root / "seed=0" / "judgements" / "of-4").iterdir()), root / "seed=0" / "judgements" / "early.json")
    loaded = load(tmp_path)
    found = load_judgements(loaded.runs)
    assert len(found) == 2 * 2 * 3 and set(found["against"]) == {"pretrained"} and set(found["part"]) == {"policy", "sft"}
    assert found[["win", "tie", "lose"]].sum(axis=1).tolist() == pytest.approx([1.0] * 12)
    record = json.loads((root / "seed=1" / "judgements" / "policy-vs-pretrained.gold.json").read_text())
    row = found[(found["seed"] == 1) & (found["part"] == "policy") & (found["kind"] == "harmful")].iloc[0]
    assert row["lose"] == counted(record)["harmful"]["lose"] / counted(record)["harmful"]["prompts"]
    table = fig11(Frames(loaded.runs, loaded.curves, judgements=found)).table
    assert list(dict.fromkeys(table["row"])) == ["English, SFT", "English, a"] and (table["n"] == 2).all()


@pytest.mark.skipif(find_spec("peft") is None, reason="needs the extra lora")
def test_the_policy_of_an_adapter_run_is_sft_under_its_adapter(make_config, tmp_path):
    config = make_config(tmp_path, "model.lora_rank=2", "ppo.learning_rate=1e-2")
    final = execute(config)["final"]
    folder = run_folder(config)
    run(folder, "sft")
    row = counted(only_record(folder))["all"]
    assert [row[outcome] / row["prompts"] for outcome in ("win", "tie", "lose")] == [
        final[f"eval/{outcome}"] for outcome in ("win", "tie", "lose")
    ]
    assert row["tie"] < row["prompts"]
