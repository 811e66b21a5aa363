"""A GGUF file holds the same model and tokenizer: read back by transformers' own reader, which knows nothing of ours.

pytest tests/test_gguf_export.py
"""

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from crawl2chat.chat import load_tokenizer
from crawl2chat.gguf_export import export_gguf
from crawl2chat.stage import StageError

gguf = pytest.importorskip("gguf")


@pytest.mark.parametrize("type, tolerance", [("f32", 1e-4), ("bf16", 0.1), ("q8_0", 0.2)])
def test_the_model_is_the_same(type, tolerance, path_folder, tmp_path):
    export_gguf(path_folder / "base", tmp_path / "base.gguf", type)
    assert [path.name for path in tmp_path.iterdir()] == ["base.gguf"]
    ours = AutoModelForCausalLM.from_pretrained(path_folder / "base")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="base.gguf", dtype=torch.float32)
    ids = torch.arange(40).reshape(2, 20) * 7 % ours.config.vocab_size
    with torch.no_grad():
        assert torch.allclose(ours(input_ids=ids).logits, theirs(input_ids=ids).logits, atol=tolerance)


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
