"""Record what TRL 1.12's PPOTrainer computes in one real update. Run by `test_peer.py` with the interpreter of TRL's environment.

    peer_trl.py FOLDER     writes FOLDER/recorded.pt and the models as they were before the update

The mathematics of TRL's PPO stands inline in `PPOTrainer.train`, so the update runs as it is, and the module's helper
functions it calls note their inputs and outputs. One batch of 48 responses to prompts of unlike length from a random
one-layer model, two epochs of one minibatch each, so that ratios and clips act in the second; reference and value model
are moved away from policy and reward model, so that KL and values are no trivial numbers.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from side_trl import new_trainer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from trl.experimental.ppo import ppo_trainer

WORDS, RESPONSES, STEPS = 24, 48, 10
RECORDED = ("batch_generation", "get_reward", "forward", "masked_whiten", "masked_mean")


def write_models(folder: Path) -> dict:
    """A random policy and reward model with a word tokenizer, as folders, and the work `side_trl.new_trainer` wants."""
    words = {word: index for index, word in enumerate(["<pad>", "<eos>", *(f"w{i}" for i in range(WORDS - 2))])}
    plain = Tokenizer(WordLevel(words))
    plain.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", padding_side="left")
    shape = LlamaConfig(
        vocab_size=WORDS, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_labels=1,
        max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=None, initializer_range=0.3,
    )  # fmt: skip
    for name, kind in (("sft", LlamaForCausalLM), ("reward_model", LlamaForSequenceClassification)):
        kind(shape).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    lengths = torch.randint(3, 8, (RESPONSES,)).tolist()
    prompts = [torch.randint(2, WORDS, (length,)).tolist() for length in lengths]
    return {
        "sft": str(folder / "sft"), "reward_model": str(folder / "reward_model"), "prompts": [prompts], "batch": RESPONSES,
        "minibatch": RESPONSES, "max_new_tokens": STEPS, "seed": 0, "device": "cpu", "precision": "fp32",
    }  # fmt: skip


def move(model: torch.nn.Module, distance: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(distance * torch.randn_like(parameter))


def copied(value):
    """Tensors of a call's arguments or result, detached and cloned, since TRL goes on to change some in place."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, (tuple, list)):
        return [copied(item) for item in value]
    return copied(value.logits) if hasattr(value, "logits") else None


def recorded_update(work: dict, folder: Path, lam: float) -> dict[str, list]:
    """One update at λ = lam: for each recorded function, its calls as (arguments, result), and the orders of the minibatches."""
    torch.manual_seed(0)
    trainer = new_trainer(
        work, str(folder / "output"), [], learning_rate=5e-3, num_ppo_epochs=2, num_mini_batches=1, lam=lam, gamma=1.0,
        cliprange=0.1, cliprange_value=0.1, vf_coef=1.0, kl_coef=0.1,
    )  # fmt: skip
    move(trainer.ref_model, 0.05)
    move(trainer.value_model, 0.05)
    trainer.policy_model.generation_config.suppress_tokens = [0]  # a sampled pad would end a response for TRL
    for name, model in (("reference", trainer.ref_model), ("value", trainer.value_model)):
        model.save_pretrained(folder / f"{name}-{lam}")
    calls: dict[str, list] = {name: [] for name in RECORDED}
    plain = {name: getattr(ppo_trainer, name) for name in RECORDED}
    permutation = ppo_trainer.np.random.permutation
    orders = []

    def recording(name):
        def call(*arguments):
            before = copied(list(arguments))
            result = plain[name](*arguments)
            calls[name].append((before, copied(result)))
            return result

        return call

    def ordered(count):
        orders.append(torch.tensor(permutation(count)))
        return orders[-1].numpy()

    for name in RECORDED:
        setattr(ppo_trainer, name, recording(name))
    ppo_trainer.np.random.permutation = ordered
    try:
        trainer.train()
    finally:
        for name, function in plain.items():
            setattr(ppo_trainer, name, function)
        ppo_trainer.np.random.permutation = permutation
    return calls | {"orders": orders}


def recorded(work: dict, folder: Path, lam: float) -> dict[str, torch.Tensor | list]:
    """The calls of one update under the names the test uses. P prompt width, T response width."""
    calls = recorded_update(work, folder, lam)
    (generation,) = calls["batch_generation"]
    queries, (tokens, logits) = generation[0][1], generation[1]
    value_call, score_call = calls["get_reward"]
    reference, *epochs = calls["forward"]
    (whiten,) = calls["masked_whiten"]
    losses = calls["masked_mean"][3:]  # the first three belong to the whitening
    width = queries.shape[1]
    return {
        "tokens": tokens, "prompt_width": width, "logits": logits, "reference_logits": reference[1][:, width - 1 : -1],
        "values": value_call[1][0][:, width - 1 : -1, 0], "score": score_call[1][1],
        "advantages": whiten[0][0], "mask": whiten[0][1], "whitened": whiten[1],
        "epochs": [
            {
                "order": order, "logits": call[1][0][:, width - 1 : -1], "values": call[1][1][:, width - 1 : -1, 0],
                "value_loss": losses[4 * i][0][0], "value_mask": losses[4 * i][0][1],
                "policy_loss": losses[4 * i + 2][0][0], "policy_mask": losses[4 * i + 2][0][1],
            }
            for i, (call, order) in enumerate(zip(epochs, calls["orders"], strict=True))
        ],
    }  # fmt: skip


if __name__ == "__main__":
    place = Path(sys.argv[1])
    torch.manual_seed(0)
    job = write_models(place)
    torch.save({lam: recorded(job, place, lam) for lam in (0.95, 1.0)}, place / "recorded.pt")
