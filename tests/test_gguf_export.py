"""A GGUF file holds the model and the tokenizer under the names of GGUF's Qwen3: read back by llama.cpp's own library.

pytest tests/test_gguf_export.py
"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from crawl2chat.chat import load_tokenizer
from crawl2chat.gguf_export import export_gguf
from crawl2chat.stage import StageError

gguf = pytest.importorskip("gguf")


LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # GGUF's name -> transformers'


@pytest.mark.parametrize("type, tolerance", [("f32", 0.0), ("f16", 1e-3), ("bf16", 0.02), ("q8_0", 0.02)])
def test_every_weight_is_there(type, tolerance, path_folder, tmp_path):
    export_gguf(path_folder / "base", tmp_path / "base.gguf", type)
    assert [path.name for path in tmp_path.iterdir()] == ["base.gguf"]
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    for i in range(2):
        names |= {f"blk.{i}.{theirs}": f"model.layers.{i}.{ours}" for theirs, ours in LAYER.items()}
    weights = load_file(path_folder / "base" / "model.safetensors")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "base.gguf").tensors}
    assert set(tensors) == {f"{name}.weight" for name in names} and len(weights) == len(names)
    for theirs, ours in names.items():
        tensor, expected = tensors[f"{theirs}.weight"], weights[f"{ours}.weight"].numpy()
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert found.shape == expected.shape
        assert abs(found - expected).max() <= tolerance * abs(expected).max()
        assert tensor.tensor_type.name == ("F32" if expected.ndim < 2 else type.upper())


def test_transformers_reads_the_same_model(path_folder, tmp_path):
    """By its own reader of GGUF, which takes a head for 128 wide whatever the file says, so it is given the config."""
    export_gguf(path_folder / "base", tmp_path / "base.gguf", "f32")
    ours = AutoModelForCausalLM.from_pretrained(path_folder / "base")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="base.gguf", config=ours.config, dtype=torch.float32
    )
    ids = torch.arange(40).reshape(2, 20) * 7 % ours.config.vocab_size
    with torch.no_grad():
        assert torch.allclose(ours(input_ids=ids).logits, theirs(input_ids=ids).logits, atol=1e-4)


def test_the_shape_is_told(path_folder, tmp_path):
    export_gguf(path_folder / "base", tmp_path / "base.gguf")
    config = json.loads((path_folder / "base" / "config.json").read_text())
    fields = gguf.GGUFReader(tmp_path / "base.gguf").fields
    told = {
        "embedding_length": "hidden_size", "block_count": "num_hidden_layers", "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads", "attention.key_length": "head_dim",
        "attention.value_length": "head_dim", "feed_forward_length": "intermediate_size", "vocab_size": "vocab_size",
    }  # fmt: skip
    for theirs, ours in told.items():
        assert fields[f"qwen3.{theirs}"].contents() == config[ours]
    assert fields["qwen3.rope.freq_base"].contents() == config["rope_parameters"]["rope_theta"]
    assert fields["general.architecture"].contents() == "qwen3"


def test_the_tokenizer_is_the_same(path_folder, tmp_path):
    export_gguf(path_folder / "base", tmp_path / "base.gguf", "q8_0")
    fields = gguf.GGUFReader(tmp_path / "base.gguf").fields
    tokenizer = load_tokenizer(path_folder / "base")
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert tokens == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert fields["tokenizer.ggml.pre"].contents() == "qwen35"
    kinds = dict(zip(tokens, fields["tokenizer.ggml.token_type"].contents()))
    assert kinds["<|im_end|>"] == gguf.TokenType.CONTROL and kinds["<think>"] == gguf.TokenType.USER_DEFINED
    template = fields["tokenizer.chat_template"].contents()
    assert "generation %" not in template and "<|im_start|>" in template
    assert tokens[fields["tokenizer.ggml.eos_token_id"].contents()] == tokenizer.eos_token


def test_what_is_no_model_of_ours(path_folder, tmp_path):
    with pytest.raises(StageError, match="holds no Qwen3 model"):
        export_gguf(path_folder / "5_tokenizer", tmp_path / "x.gguf")
    shutil.copytree(path_folder / "base", tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    file.write_text(file.read_text().replace("[sdmt]", "x").replace("(?i:'s|", "(?i:'x|"))
    with pytest.raises(StageError, match=r"is none of 5_train_tokenizer\.py"):
        export_gguf(tmp_path / "other", tmp_path / "x.gguf")
    assert not list(tmp_path.glob("x.gguf"))
