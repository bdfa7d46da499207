"""Judging a run on human data: no gold without gold.path, a reward model, and a third model that reads another tokenizer."""

from __future__ import annotations

import json

import pytest

from ablate.judge import __main__ as judge
from ablate.runs.folder import run_folder
from ablate.session import execute


def test_a_run_on_human_data_is_judged_by_reward_models_against_a_model_of_another_tokenizer(
    short_config, dialogues, family_folders, tmp_path
):
    config = short_config("data.source=hh_rlhf", f"data.path={dialogues}", f"model.path={family_folders['llama']}")
    execute(config)
    folder = run_folder(config)
    with pytest.raises(SystemExit, match=r"without gold\.path, so there is no gold"):
        judge.main([str(folder), "sft"])
    judge.main([str(folder), "sft", "--judge", "rm"])
    judge.main([str(folder), str(family_folders["qwen"]), "--judge", "rm"])
    own, third = (json.loads((folder / "judgements" / f"policy-vs-{name}.its_reward_model.json").read_text()) for name in ("sft", "qwen"))
    assert [row["prompt"] for row in own["verdicts"]] == [row["prompt"] for row in third["verdicts"]] and len(own["verdicts"]) == 8
    assert [row["first"] for row in own["verdicts"]] == [row["first"] for row in third["verdicts"]]
    assert [row["first_score"] for row in own["verdicts"]] == [row["first_score"] for row in third["verdicts"]]
    assert any("\n\n" in row["prompt"] for row in own["verdicts"])  # a dialogue of several turns
    judge.main([str(folder), "sft", "--prompts", str(tmp_path / "p.jsonl")])
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    for key in ("prompt", "turns"):  # a third party may answer to the text or to the messages
        answers = tmp_path / f"{key}.jsonl"
        answers.write_text("".join(json.dumps({"prompt": row[key], "response": "no ."}) + "\n" for row in rows))
        judge.main([str(folder), str(answers), "--judge", "rm"])
        record = json.loads((folder / "judgements" / f"policy-vs-{key}.its_reward_model.json").read_text())
        assert {row["second"] for row in record["verdicts"]} == {"no ."}
