"""Exports of runs on human data: no path of the user's in the card, and a family whose tokenizer has no pad."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from families import family_shape, family_tokenizer, random_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ablate.data.chat import encode_dialogues
from ablate.export.folder import export, plain_scorer
from ablate.runs.folder import run_folder
from ablate.session import execute

ALONE = """
import sys; sys.modules["ablate"] = None
import torch
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained(".")
with torch.no_grad():
    print((model(input_ids=torch.tensor([eval(sys.argv[1])])).logits[0, 0] - model.config.score_shift).item())
"""


def test_a_reward_model_of_a_family_without_pad_keeps_its_score_and_the_card_keeps_paths_to_itself(
    family_folders, dialogues, short_config, tmp_path
):
    arm = f"data.path={str(dialogues).replace('/', '-')},ppo.updates=1"
    config = short_config("data.source=hh_rlhf", f"data.path={dialogues}", f"model.path={family_folders['gpt2']}", "ppo.updates=1")
    config.arm = arm
    execute(config)
    folder = export(run_folder(config), tmp_path / "rm", "reward_model")
    card = (folder / "README.md").read_text()
    assert f"`{dialogues.name}`" in card and "120 rows, 0 malformed, 0 too long" in card and "Start: `gpt2`" in card
    assert "No gold reward judged this run" in card and "data.source=hh_rlhf" in card and "arm `ppo.updates=1`" in card
    for path in folder.iterdir():
        content = path.read_bytes()
        assert str(dialogues.parent).encode() not in content and dialogues.parent.name.encode() not in content, path
        assert str(family_folders["gpt2"].parent).encode() not in content and str(tmp_path).encode() not in content, path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ((ids, _),) = encode_dialogues(tokenizer, ["can you help ?"], ["no <|endoftext|>"], [True])
    assert ids[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id
    (built,) = Path(config.cache).glob("reward_model-*")
    own = AutoModelForSequenceClassification.from_pretrained(built)
    with torch.no_grad():
        score = (own.score(own.transformer(torch.tensor([ids])).last_hidden_state)[0, -1, 0] - own.config.score_shift).item()
    done = subprocess.run([sys.executable, "-I", "-c", ALONE, str(ids)], cwd=folder, capture_output=True, text=True, check=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})  # fmt: skip
    assert float(done.stdout) == score


@torch.no_grad()
def test_a_scorer_that_pads_with_the_end_token_is_read_at_the_end_token(tmp_path):
    """transformers looks for the last token that is no pad, and would read the token before."""
    shape = family_shape("qwen", family_tokenizer("qwen"))
    shape.num_labels, shape.pad_token_id, shape.eos_token_id = 1, 1, 1
    scorer, tokens = random_model(AutoModelForSequenceClassification, shape, seed=0), torch.tensor([[5, 6, 7, 1]])
    before = scorer(tokens).logits
    plain_scorer(scorer).save_pretrained(tmp_path)
    after = AutoModelForSequenceClassification.from_pretrained(tmp_path)(tokens).logits
    at_end = scorer.score(scorer.model(tokens).last_hidden_state)[:, -1]
    assert torch.equal(after, at_end) and not torch.allclose(after, before, atol=1e-3)
    shape.pad_token_id = 0
    assert plain_scorer(random_model(AutoModelForSequenceClassification, shape, seed=0)).config.pad_token_id == 0
