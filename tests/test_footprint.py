"""What RL is said to hold in memory, worked out by hand for a small model."""

import warnings
from types import SimpleNamespace

import pytest
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM

from crawl2chat.footprint import footprint


@pytest.fixture
def model():
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=4096, num_key_value_heads=2, **shape))


def test_weights_optimizer_and_cache(model):
    args = SimpleNamespace(generation_batch_size=64, world_size=2, max_completion_length=100, beta=0.0, use_vllm=False)
    found, weights = footprint(model, args, prompt_tokens=28), 4 * model.num_parameters() / 2**20
    assert found["memory_mb_without_activations"] == round(4 * weights)
    # 32 completions of 128 tokens; of each two layers, keys and values, two heads of 64, four bytes
    assert found["rollout_cache_mb"] == 32 * 128 * 2 * 2 * 2 * 64 * 4 / 2**20
    assert found["device_memory_mb"] > 1000
    args.beta = 0.1
    assert footprint(model, args, 28)["memory_mb_without_activations"] == round(5 * weights)


def test_an_adapter_trains_little_and_needs_no_reference(model):
    args = SimpleNamespace(generation_batch_size=8, world_size=1, max_completion_length=8, beta=0.1, use_vllm=False)
    weights = 4 * model.num_parameters() / 2**20
    found = footprint(model, args, 8, LoraConfig(r=8, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapter = 4 * 2 * (256 * 8 + 8 * 256) / 2**20  # two layers
    assert found["memory_mb_without_activations"] == round(weights + 4 * adapter)


def test_more_than_the_device_has_is_told(model, monkeypatch):
    args = SimpleNamespace(generation_batch_size=64, world_size=1, max_completion_length=100, beta=0.0, use_vllm=False)
    monkeypatch.setattr("crawl2chat.footprint.memory_bytes", lambda: 40 << 20)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.warns(UserWarning, match=r"take 66 MB, and this device has 40: train an adapter"):
        found = footprint(model, args, 28)
    assert found["memory_mb_without_activations"] + found["rollout_cache_mb"] == 66
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        footprint(model, args, 28)
