"""Random mutations of model folders: the weights that are stored, loaded, or one UserError. No hang, no foreign code, nothing written."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import shutil
import signal
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from ablate.config import Config
from ablate.errors import UserError
from ablate.memory.shapes import folder_shape
from ablate.models.load import load_policy, load_scorer, load_tokenizer
from ablate.models.weights import INDEX, SINGLE
from ablate.pipeline.checks import check_models
from ablate.ppo.scoring import load_scorer_tokenizer
from tests.real.families import family_shape, family_tokenizer, random_model

CPU = torch.device("cpu")
QUICK, LONG = 150, 4000
SECONDS = 10  # that one folder may take
ODD = (
    None, True, False, 0, 1, -1, 2, 3, 7, 64, 1.5, -0.5, 1e-9, 1e9, float("nan"), float("inf"), 10**6, 10**9, 10**15, 2**63, 10**30, "",
    " ",
    "x", "1", "gelu", "float16", "\ud83d", "\x00", "../outside", "/etc/passwd", "evil", "evil.Model", "owner/kernel", "a/b--evil.Model",
    [], {}, [1, 2], [None], [[]], {"x": 1}, {"rope_type": "yarn", "factor": 8.0}, {"rope_type": "evil"}, "x" * 5000, [0] * 1000,
)  # fmt: skip
KEYS: dict[str, tuple] = {
    "auto_map": ({"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.A", "evil.B"]},),
    "_attn_implementation": ("owner/kernel", "kernels-community/flash-attn", "flash_attention_2", "paged|eager", "eager", 3),
    "attn_implementation": ("owner/kernel",), "_experts_implementation": ("owner/kernel", "eager"),
    "quantization_config": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, {"quant_method": "evil"}, 3),
    "transformers_weights": ("pytorch_model.bin", "../outside.safetensors", "model.safetensors"),
    "architectures": (["EvilModel"], ["LlamaForCausalLM"], "x", []), "dtype": ("float16", "bfloat16", "evil"),
    "model_type": ("gpt2", "mistral", "mamba", "bert", "t5", "evil", "qwen2", "gemma2", "clip", ""),
    "num_labels": (1, 2, 0, -1), "id2label": ({"0": "a", "1": "b"}, {"x": "a"}, []), "is_decoder": (True, False),
    "attention_bias": (True,), "mlp_bias": (True,), "tie_word_embeddings": (True, False), "score_shift": ("x", None, 1.0),
    "rope_parameters": (None, 3, {"rope_type": "linear", "factor": 2.0}, {"rope_type": "yarn"}, {"rope_theta": "x"}),
    "tokenizer_class": ("GPT2Tokenizer", "LlamaTokenizer", "EvilTokenizer", "PreTrainedTokenizer", 3), "chat_template": ("{{ x", 3, None),
    "extra_special_tokens": ({"x": "<x>"}, ["<x>"], 3), "added_tokens_decoder": ({"0": {"content": "x"}}, {"x": 3}, 3),
    "eos_token": (None, "nope", {"content": "x"}, 3), "model_max_length": (10**30, -1, "x"),
}  # fmt: skip


class Hang(BaseException):
    """Raised by the alarm. Not an Exception, so that nothing takes it for a damaged file."""


class Touch:
    """A pickle that writes the file `marker` when it is read."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    def ring(*_) -> None:
        raise Hang(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> list[Path]:
    """Folders of policies and scorers, one of them in shards."""
    root, found = tmp_path_factory.mktemp("originals"), []
    policy, scorer = AutoModelForCausalLM, AutoModelForSequenceClassification
    for family, kind, shard in (("llama", policy, "5GB"), ("gpt2", policy, "5GB"), ("qwen", scorer, "5GB"), ("llama", policy, "5KB")):
        tokenizer, folder = family_tokenizer(family), root / f"{len(found)}-{family}"
        shape = family_shape(family, tokenizer)
        shape.num_labels = 1 if kind is scorer else 2
        random_model(kind, shape, 0).save_pretrained(folder, max_shard_size=shard)
        tokenizer.save_pretrained(folder)
        found.append(folder)
    return found


def inner(draw: random.Random, tree: object) -> tuple[dict | list, object]:
    """A random container within a JSON tree and one of its keys."""
    assert isinstance(tree, (dict, list)) and tree
    while True:
        key = draw.choice(list(tree)) if isinstance(tree, dict) else draw.randrange(len(tree))
        below = tree[key]  # type: ignore[index]
        if not isinstance(below, (dict, list)) or not below or draw.random() < 0.4:
            return tree, key
        tree = below


def mutate_json(draw: random.Random, path: Path) -> None:
    """One to three keys changed, removed or added, or the text itself damaged."""
    text = path.read_text(encoding="utf-8")
    if draw.random() < 0.15:
        cut = draw.randrange(len(text))
        whole = (
            text[:cut],
            "",
            "null",
            "[]",
            "3",
            "\ufeff" + text,
            "{" * 100_000,
            '{"a":' * 5000,
            text + text,
            "\x00" * 50,
            '{"x": ' + "9" * 5000 + "}",
        )
        path.write_text(draw.choice(whole), encoding="utf-8")
        return
    tree = json.loads(text)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        if not tree:
            break
        chance = draw.random()
        if chance < 0.35:
            key = draw.choice(list(KEYS))
            tree[key] = copy.deepcopy(draw.choice(KEYS[key]))
            continue
        container, key = inner(draw, tree)
        if chance < 0.5:
            del container[key]  # type: ignore[arg-type]
        else:
            container[key] = copy.deepcopy(draw.choice(ODD))  # type: ignore[index]
    path.write_text(json.dumps(tree), encoding="utf-8")


def mutate_weights(draw: random.Random, path: Path) -> None:
    """Bytes, header or tensors of a safetensors file."""
    raw = bytearray(path.read_bytes())
    size = struct.unpack("<Q", raw[:8])[0]
    way = draw.randrange(7)
    if way == 0:
        raw = raw[: draw.randrange(len(raw))]
    elif way == 1:
        for _ in range(draw.choice((1, 3, 20))):
            raw[draw.randrange(8 + size)] = draw.randrange(256)
    elif way == 2:
        raw[:8] = struct.pack("<Q", draw.choice((0, 1, size - 1, size + 1, len(raw), 2**31, 2**62, 2**64 - 1)))
    elif way == 3:
        header = json.loads(raw[8 : 8 + size])
        container, key = inner(draw, header)
        container[key] = copy.deepcopy(draw.choice((*ODD, "F64", "I64", "BOOL", "F8_E4M3")))  # type: ignore[index]
        text = json.dumps(header).encode()
        raw = bytearray(struct.pack("<Q", len(text)) + text + raw[8 + size :])
    elif way == 4:
        raw += bytes(draw.randrange(256) for _ in range(draw.choice((1, 100))))
    else:
        tensors = load_file(path)
        name = draw.choice(list(tensors))
        changes: tuple[Callable, ...] = (
            lambda t: t * float("nan"), lambda t: t / 0.0, lambda t: t[:1], lambda t: t[None], lambda t: t.half(), lambda t: t.long(),
            lambda t: t.flatten(), lambda t: torch.cat([t, t]),
        )  # fmt: skip
        change = draw.choice(changes)
        tensors[name] = change(tensors[name]).contiguous()
        if draw.random() < 0.3:
            tensors[draw.choice(("model.layers.9.mlp.up_proj.weight", "x", "score.weight", "lm_head.bias"))] = tensors.pop(name)
        save_file(tensors, path)
        return
    path.write_bytes(raw)


def mutate_index(draw: random.Random, path: Path) -> None:
    """An index file, existing or new, that names what it should not."""
    names = (
        "../outside.safetensors",
        "/etc/passwd",
        "pytorch_model.bin",
        "evil.py",
        "gone.safetensors",
        "",
        ".",
        "config.json",
        3,
        None,
        SINGLE,
    )
    index = json.loads(path.read_text()) if path.exists() else {"metadata": {"total_size": 1}, "weight_map": {"x": SINGLE, "y": SINGLE}}
    if draw.random() < 0.6:
        index["weight_map"][draw.choice(list(index["weight_map"]))] = draw.choice(names)
        if draw.random() < 0.5:
            (path.parent / SINGLE).unlink(missing_ok=True)
    path.write_text(json.dumps(index))
    if draw.random() < 0.4:
        mutate_json(draw, path)


def mutate_file(draw: random.Random, path: Path) -> None:
    """A file that is gone, another kind of thing, or another file."""
    other = draw.choice([file for file in path.parent.iterdir() if file.is_file()])
    text = other.read_bytes()
    path.unlink()
    ways: tuple[Callable[[], object], ...] = (
        lambda: None, path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(path), lambda: path.symlink_to("/nowhere/x"),
        lambda: path.symlink_to("/dev/zero"), lambda: path.symlink_to(path.parent), lambda: path.write_bytes(text),
        lambda: path.write_bytes(b""),
    )  # fmt: skip
    draw.choice(ways)()


def a_mutant(draw: random.Random, original: Path, folder: Path, marker: Path) -> None:
    """A copy of the folder with one to three mutations, beside files that would tell on whoever runs them."""
    shutil.copytree(original, folder)
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    for name in ("pytorch_model.bin", "../outside.safetensors", "training_args.bin"):
        (folder / name).write_bytes(pickle.dumps(Touch(marker)))
    if draw.random() < 0.05:
        (folder / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": "/etc", "peft_type": "LORA", "auto_mapping": {}})
        )
    for _ in range(draw.choice((1, 1, 2, 3))):
        files = sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in (".json", ".safetensors"))
        if not files:
            return
        path, chance = draw.choice(files), draw.random()
        if draw.random() < 0.35 and (folder / "config.json").is_file():
            path = folder / "config.json"
        try:
            if chance < 0.1:
                mutate_index(draw, folder / INDEX)
            elif chance < 0.25:
                mutate_file(draw, path)
            elif path.suffix == ".json":
                mutate_json(draw, path)
            else:
                mutate_weights(draw, path)
        except (ValueError, KeyError, AssertionError, AttributeError, TypeError, OSError, SafetensorError, RecursionError):
            continue  # already damaged beyond this mutation


def outcome(folder: Path, scorer: bool) -> str:
    """`loaded`, or a UserError's sentence. Anything else is raised."""
    config = Config()
    config.data.source, config.data.max_prompt_tokens, config.data.max_response_tokens, config.sampling.max_new_tokens = (
        "hh_rlhf",
        64,
        32,
        32,
    )
    with suppress(UserError):
        folder_shape(str(folder), "model.path")
    try:
        check_models(config, folder, None)
        (load_scorer_tokenizer if scorer else load_tokenizer)(folder)
        model = (load_scorer if scorer else load_policy)(folder, CPU)
    except UserError as error:
        text = str(error)
        assert text and "\n" not in text and len(text) < 20_000, text[:2000]
        return text
    stored = {}
    for path in folder.glob("*.safetensors") if not (folder / SINGLE).is_file() else [folder / SINGLE]:
        stored |= load_file(path)
    kept = {name.removeprefix("transformer."): weight for name, weight in model.state_dict().items()}
    for name, weight in stored.items():
        name = name.removeprefix("transformer.")
        if name in kept:
            assert torch.equal(kept[name], weight.float()), name
    return "loaded"


def tried(originals: list[Path], tmp_path: Path, monkeypatch, trials: range) -> Counter[str]:
    """Every trial's mutant, loaded. Returns how many loaded, and how many were refused by which file."""
    counts, wrong = Counter[str](), []

    def no_network(*_) -> None:
        raise Hang("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.chdir(tmp_path)
    work, marker = tmp_path / "work", tmp_path / "foreign code ran"
    for trial in trials:
        draw = random.Random(trial)
        original = draw.choice(originals)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        a_mutant(draw, original, work / "model", marker)
        before = sorted(path.name for path in work.rglob("*"))
        try:
            with alarm(SECONDS):
                said = outcome(work / "model", "qwen" in original.name)
        except BaseException as error:  # panics of Rust are no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            wrong.append(f"{trial}: {type(error).__name__} {error}"[:300])
            continue
        assert not marker.exists(), trial
        assert sorted(path.name for path in work.rglob("*")) == before and set(tmp_path.iterdir()) == {work}, trial
        counts["loaded" if said == "loaded" else "refused"] += 1
    assert not wrong, "\n".join([str(counts), *wrong])
    return counts


def test_a_mutated_model_folder_is_loaded_or_refused_in_one_sentence(originals, tmp_path, monkeypatch):
    counts = tried(originals, tmp_path, monkeypatch, range(QUICK))
    assert counts["loaded"] > QUICK / 10 and counts["refused"] > QUICK / 3, counts


@pytest.mark.slow
def test_many_mutated_model_folders_are_loaded_or_refused_in_one_sentence(originals, tmp_path, monkeypatch):
    counts = tried(originals, tmp_path, monkeypatch, range(QUICK, QUICK + LONG))
    print(counts)
    assert counts["loaded"] > LONG / 10 and counts["refused"] > LONG / 3, counts
