"""The dial sets what is not given, costs are what the formulas say, and a run prints them before it starts.

pytest tests/test_scaling.py
"""

from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import PRETRAIN, ROOT, pretrain_arguments, refusal, run
from transformers import Qwen3Config, Qwen3ForCausalLM

from crawl2chat import scaling

BILLION = 10**9


def dialed(at_most: int = 100 * BILLION, unit: int = 1024, vocab_size: int = 32768, **given):
    config = SimpleNamespace(**{**dict.fromkeys(scaling.DIALED), "depth": 12, "sequence_length": 1024, **given})
    return scaling.dial(config, vocab_size, at_most, unit), config


def test_depth_12_is_gpt_2():
    shape, config = dialed()
    assert (config.num_layers, config.hidden_size, config.num_heads, config.intermediate_size) == (12, 768, 12, 2048)
    layers = 12 * (4 * 768**2 + 3 * 768 * 2048)
    assert shape.computing_parameters == layers + 768 * 32768
    assert config.total_tokens == 20 * shape.computing_parameters
    assert config.tokens_per_step == 262_144  # 0.292 * (7.1e8 * 2.2e9) ** 0.3271 = 274,000
    assert config.matrix_learning_rate == 0.02 and config.embedding_learning_rate == round(0.05 / 3**0.5, 4)


def test_what_is_given_stays_and_the_rest_follows_it():
    _, narrow = dialed(hidden_size=512, total_tokens=BILLION)
    assert (narrow.hidden_size, narrow.num_heads, narrow.num_layers, narrow.total_tokens) == (512, 8, 12, BILLION)
    _, wide = dialed(depth=32)
    assert wide.hidden_size == 2048 and wide.num_heads == 16  # heads of 128
    assert wide.tokens_per_step > narrow.tokens_per_step
    _, short = dialed(at_most=1_000_000, unit=3 * 1024)
    assert short.total_tokens == 1_000_000 and short.tokens_per_step % (3 * 1024) == 0


@pytest.mark.parametrize("tied", [False, True])
def test_computing_parameters_are_those_of_the_model(tied):
    """All but norms and the embedding, which is a look-up; a tied one computes once, as the head."""
    shape = scaling.Shape(64, 3, 192, 500, 128)
    with torch.device("meta"):
        model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=500, hidden_size=64, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
                num_key_value_heads=4, head_dim=16, tie_word_embeddings=tied,
            )
        )  # fmt: skip
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    assert shape.computing_parameters == matrices - (0 if tied else 500 * 64)
    assert shape.flops_per_token == 6 * shape.computing_parameters + 12 * 3 * 128 * 64


def test_cost():
    found = scaling.cost(flops=989.4e12 * 0.4 * 3600 * 8, peak=989.4e12, mfu=0.4, num_devices=8, price=2.5)
    assert found["hours"] == 1.0 and found["dollars"] == 20.0
    assert scaling.peak_of("NVIDIA H100 80GB HBM3") == 989.4e12 and scaling.peak_of("NVIDIA H100 PCIe") == 756e12
    assert scaling.peak_of("NVIDIA L40S") == 362e12 and scaling.peak_of("NVIDIA L4") == 121e12
    assert scaling.peak_of("Voodoo 2") is None


def test_measured_peak_is_possible():
    assert 1e8 < scaling.measured_flops(torch.device("cpu"), torch.float32, size=256, seconds=0.05) < 1e14


def plan(capsys, *arguments) -> dict:
    capsys.readouterr()
    run(PRETRAIN, *arguments, "--dry_run")
    return yaml.safe_load(capsys.readouterr().out)["plan"]


def test_124m_costs_hours_before_it_starts(path_folder, capsys, tmp_path):
    arguments = ["--config", ROOT / "recipes/01_pretrain/124m.yaml", "--tokens", path_folder / "6_tokens"]
    arguments += ["--max_passes", 1e6, "--output_dir", tmp_path / "out"]
    found = plan(capsys, *arguments)
    assert found["hidden_size"] == 768 and found["steps"] == found["total_tokens"] // found["tokens_per_step"]
    assert found["estimate"] == "1 x H100 (989 TFLOP/s each)" and 0.1 < found["hours"] < 24
    assert found["dollars"] == pytest.approx(2.5 * found["hours"], rel=0.01)


def test_steps_that_do_not_divide(path_folder, capsys, tmp_path):
    arguments = [*pretrain_arguments(path_folder), "--output_dir", tmp_path / "out"]
    said = refusal(capsys, PRETRAIN, *arguments, "--tokens_per_step", 1000)
    assert "`tokens_per_step` 1000 must be a multiple of 512" in said
    assert "`gradient_accumulation_steps`" in refusal(capsys, PRETRAIN, *arguments, "--gradient_accumulation_steps", 2)
    assert "`total_tokens` must be at least 1" in refusal(capsys, PRETRAIN, *arguments, "--total_tokens", 0)
    assert "less than one step of 512" in refusal(
        capsys, PRETRAIN, *arguments, "--tokens_per_step", 512, "--total_tokens", 500
    )
    found = plan(capsys, *arguments, "--tokens_per_step", 2048)
    assert found["gradient_accumulation_steps"] == 4


def test_depth_without_an_effect_is_said(path_folder, capsys, tmp_path):
    with pytest.warns(UserWarning, match="`depth` has no effect"):
        plan(capsys, *pretrain_arguments(path_folder), "--output_dir", tmp_path / "out", "--depth", 3)
    arguments = ["--tokens", path_folder / "6_tokens", "--output_dir", tmp_path / "out", "--use_cpu", "true"]
    assert "give --depth, or also hidden_size" in refusal(capsys, PRETRAIN, *arguments)
