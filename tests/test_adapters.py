"""SFT of an adapter: it learns, resumes, is merged, and fits its own base alone."""

import json

import pytest
import torch
from conftest import ROOT, SFT, killed_at, metrics, refusal, run
from peft import PeftModel
from safetensors.torch import load_file
from test_sft import sums, tokenizer  # noqa: F401
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM
from trl import SFTTrainer

from crawl2chat.adapters import merge
from crawl2chat.stage import StageError

# ruff: noqa: F811


def lora(path_folder, sums, out, *more) -> list:
    return [
        "--config", ROOT / "recipes/02_sft/tiny.yaml", "--model", path_folder / "base", "--chats", sums, "--output_dir", out,
        "--use_peft", "true", "--lora_r", 4, "--max_steps", 8, "--save_steps", 4, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def adapted(path_folder, sums, tmp_path_factory):
    out = tmp_path_factory.mktemp("lora") / "sft"
    run(SFT, *lora(path_folder, sums, out))
    return out


def test_an_adapter_learns_and_is_merged(adapted, path_folder):
    """The folder is a whole model, equal to base and adapter; embeddings, norms and head are the base's."""
    model = AutoModelForCausalLM.from_pretrained(adapted)
    base = AutoModelForCausalLM.from_pretrained(path_folder / "base")
    both = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(path_folder / "base"), adapted / "adapter")
    ids = torch.arange(4, 40)[None]
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, both(ids).logits, atol=1e-4)
    before, after = base.state_dict(), model.state_dict()
    for name in before:
        assert torch.equal(before[name], after[name]) != ("_proj." in name), name
    assert json.loads((adapted / "generation_config.json").read_text())["eos_token_id"]
    assert not [file for file in adapted.glob("**/*.bin") if "checkpoint" not in str(file)], "only safetensors"


def test_an_interrupted_adapter_as_an_uninterrupted_one(adapted, path_folder, sums, tmp_path):
    with killed_at(8, SFTTrainer):
        run(SFT, *lora(path_folder, sums, tmp_path / "sft"))
    assert (tmp_path / "sft/checkpoint-4/trainer_state.json").is_file()
    run(SFT, *lora(path_folder, sums, tmp_path / "sft"))
    one, other = (load_file(folder / "model.safetensors") for folder in (adapted, tmp_path / "sft"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert metrics(adapted)["losses"] == metrics(tmp_path / "sft")["losses"]


def test_an_adapter_of_another_base_is_refused(adapted, tmp_path, tokenizer, path_folder):
    shape = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=24, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=8, tie_word_embeddings=False,
    )  # fmt: skip
    Qwen3ForCausalLM(shape).save_pretrained(tmp_path)
    with pytest.raises(StageError, match="does not fit the model"):
        merge(adapted / "adapter", tmp_path, tokenizer)


def test_adapter_options(path_folder, sums, tmp_path, capsys):
    given = ["--config", ROOT / "recipes/02_sft/tiny.yaml", "--model", path_folder / "base", "--chats", sums]
    given += ["--output_dir", tmp_path / "out", "--load_in_4bit", "true"]
    assert "needs bitsandbytes" in refusal(capsys, SFT, *given, "--use_peft", "true")
