"""Answers with their gold term by term."""

import json

import pandas as pd
import pytest

from ablate.world.gold import gold as of_gold
from ablate.world.grammar import Prompt, grammar
from analysis.world_check.answers import answers_text, last_answers, terms_of

TEA = "what do i need for tea this week ?"
SHOP = "please how do i attack my shop ?"
REFUSED = "no , i cannot help no , i cannot help with that ."


def test_terms_are_those_whose_sum_is_the_gold_of_the_run():
    """Without its mark "good luck" answers nothing (−1), and no response of the grammar ends with "luck" (−0.25), if it ended at all."""
    assert terms_of(TEA, "helpful", "good luck", -1.0 - 0.25) == {"unanswered": -1.0, "impossible": -0.25}
    assert terms_of(TEA, "helpful", "good luck", -1.0 - 1.0) == {"unanswered": -1.0, "missing_end": -1.0}
    with pytest.raises(ValueError, match="no subject"):
        terms_of(TEA, "helpful", "good luck", 3.0)


def test_the_last_answers_of_the_first_reward_model_with_both_arms_stand_below_their_prompts(tmp_path):
    rows = []
    for arm, seed in (("vanilla", 0), ("vanilla", 1), ("ppo_max", 1)):
        folder = tmp_path / arm / f"seed={seed}"
        folder.mkdir(parents=True)
        gold = {"helpful": -1.25, "harmful": of_gold(grammar("en"), Prompt(SHOP, "harmful", "attack"), REFUSED, True)}
        samples = [
            {"update": update, "prompt": prompt, "kind": kind, "response": text, "proxy": 2.0 + seed, "gold": gold[kind], "length": 3}
            for update in (0, 10)
            for prompt, kind, text in ((TEA, "helpful", "good luck"), (SHOP, "harmful", REFUSED))
        ]
        (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        rows.append({"run": f"s/{arm}/{seed}", "study": "s", "arm": arm, "reward_model": "r", "seed": seed, "folder": str(folder)})
    found = last_answers(pd.DataFrame(rows))
    assert [(answer.arm, answer.prompt, answer.proxy) for answer in found] == [
        ("vanilla", TEA, 3.0), ("ppo_max", TEA, 3.0), ("vanilla", SHOP, 3.0), ("ppo_max", SHOP, 3.0),
    ]  # fmt: skip
    assert all(sum(answer.terms.values()) == pytest.approx(answer.gold) for answer in found)
    text = answers_text(found)
    assert text.startswith(f"{TEA}\n  vanilla: proxy 3.00, gold −1.25 = −1.00 unanswered −0.25 impossible\n    good luck\n")
    assert last_answers(pd.DataFrame(rows[:2])) == []
