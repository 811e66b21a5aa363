"""Pretraining, SFT and GRPO on a small model: weights move, the right tokens are trained, a kill changes nothing."""

import json
import math
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from conftest import (
    GRPO,
    PRETRAIN,
    ROOT,
    SFT,
    base_arguments,
    kill_when,
    metrics,
    pretrain_arguments,
    run,
    start,
)
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from crawl2chat.chat import load_tokenizer
from crawl2chat.muon import MuonAdamW, muon_adamw, orthogonalize
from crawl2chat.stage import read_run
from crawl2chat.tokens import TokenWindows, bytes_per_token, num_tokens
from crawl2chat.training import bits_per_byte, last_complete_checkpoint


def sft_arguments(folder: Path) -> list:
    return [
        "--config",
        ROOT / "recipes/02_sft/tiny.yaml",
        "--model",
        folder / "base",
        "--chats",
        folder / "7_conversations",
    ]


def grpo_arguments(folder: Path) -> list:
    return [
        "--config", ROOT / "recipes/06_grpo/tiny.yaml", "--model", folder / "guesser", "--prompts", folder / "guesses",
        "--per_device_train_batch_size", 16, "--num_generations", 8, "--max_completion_length", 8,
        "--learning_rate", 1e-3, "--temperature", 1.0,
    ]  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def assert_all_moved(before: Path, after: Path) -> None:
    old, new = weights(before), weights(after)
    assert old.keys() == new.keys()
    still = [name for name in old if torch.equal(old[name], new[name])]
    assert not still, f"weights that training did not move: {still}"


def assert_equal_runs(one: Path, other: Path) -> None:
    """The same weights, files and figures, but for the seconds."""
    for tensor, expected in zip(weights(one).values(), weights(other).values()):
        assert torch.equal(tensor, expected)
    assert read_run(one)["fingerprint"] == read_run(other)["fingerprint"]
    timed = ("train_seconds", "tokens_per_second", "mfu")
    one, other = ({k: v for k, v in metrics(folder).items() if k not in timed} for folder in (one, other))
    assert one == other


# --- windows, bits per byte, optimizer


def test_windows_cover_every_token_once(path_folder):
    tokenizer = load_tokenizer(path_folder / "6_tokens")
    windows = TokenWindows(path_folder / "6_tokens" / "train", 32, tokenizer)
    total = num_tokens(path_folder / "6_tokens" / "train")
    assert len(windows) == (total - 1) // 32
    for i in range(len(windows) - 1):
        assert windows[i]["input_ids"].shape == (33,)
        assert windows[i]["input_ids"][-1] == windows[i + 1]["input_ids"][0]


def test_token_bytes_sum_to_the_text(path_folder):
    tokenizer = load_tokenizer(path_folder / "6_tokens")
    sizes = bytes_per_token(tokenizer)
    for text in ("47+38: 7+8=15", "Grüße aus Tórshavn 日本 <think>ok</think>", "\x00\t \n"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert int(sizes[ids].sum()) == len(text.encode())
    assert sizes[tokenizer.eos_token_id] == 0


def test_bits_per_byte_of_a_uniform_model():
    shape = Qwen3Config(
        vocab_size=256, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=16, tie_word_embeddings=False,
    )  # fmt: skip
    model = Qwen3ForCausalLM(shape)
    torch.nn.init.zeros_(model.lm_head.weight)
    windows = [{"input_ids": torch.arange(i, i + 9)} for i in range(3)]
    sizes = torch.full((256,), 2)  # two bytes a token: 8 bits a token are 4 bits a byte
    assert math.isclose(bits_per_byte(model, windows, sizes), 4.0, rel_tol=1e-5)


def test_muon_resumes_with_its_momentum():
    def model_and_optimizer():
        torch.manual_seed(0)
        shape = Qwen3Config(
            vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
            num_key_value_heads=1, head_dim=16, tie_word_embeddings=False,
        )  # fmt: skip
        model = Qwen3ForCausalLM(shape)
        return model, muon_adamw(model, matrix_lr=0.02, embedding_lr=0.05, head_lr=0.01, norm_lr=0.01)

    def step(model, optimizer):
        ids = torch.arange(16).reshape(2, 8)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    straight, optimizer = model_and_optimizer()
    for _ in range(4):
        step(straight, optimizer)
    resumed, first = model_and_optimizer()
    for _ in range(2):
        step(resumed, first)
    second = muon_adamw(resumed, matrix_lr=0.02, embedding_lr=0.05, head_lr=0.01, norm_lr=0.01)
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        step(resumed, second)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters()))


def test_muon_is_that_of_torch_in_batches():
    """torch's orthogonalises in bf16, so the steps agree to bf16's three digits where ours are in float32."""
    torch.manual_seed(0)
    shapes = [(24, 16), (16, 24), (24, 16), (16, 16)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    vector = torch.nn.Parameter(torch.ones(4))
    optimizer = MuonAdamW({"params": ours, "lr": 0.02}, [{"params": [vector], "lr": 0.1}])
    other = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.0)
    for _ in range(3):
        for mine, parameter in zip(ours, theirs):
            mine.grad = torch.randn(mine.shape)
            parameter.grad = mine.grad.clone()
        vector.grad = torch.ones(4)
        optimizer.step()
        other.step()
    for mine, parameter in zip(ours, theirs):
        assert torch.allclose(mine, parameter, atol=3 * 0.02 * 0.03)
    assert torch.allclose(vector, torch.full((4,), 1 - 3 * 0.1))  # Adam's steps by equal gradients are the rate


def test_a_schedule_reaches_every_group_after_a_resume():
    parameters = [torch.nn.Parameter(torch.randn(8, 8)), torch.nn.Parameter(torch.ones(8))]
    optimizer = MuonAdamW({"params": parameters[:1], "lr": 0.02}, [{"params": parameters[1:], "lr": 0.1}])
    optimizer.load_state_dict(optimizer.state_dict())
    before = [parameter.detach().clone() for parameter in parameters]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, parameters))


def test_orthogonalized_matrices_have_singular_values_near_one():
    for shape in ((3, 20, 12), (3, 12, 20)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)).float())
        assert 0.5 < values.min() and values.max() < 1.3


def test_emulated_bf16_is_turned_off_with_a_warning(monkeypatch, tmp_path, recwarn):
    import runpy

    config_type = runpy.run_path(str(ROOT / PRETRAIN))["PretrainConfig"]
    for fast in (True, False):
        monkeypatch.setattr("crawl2chat.training.has_fast_bf16", lambda device, fast=fast: fast)
        config = config_type(output_dir=str(tmp_path), use_cpu=True, bf16=True)
        assert config.bf16 is fast
        assert any("has no effect" in str(warning.message) for warning in recwarn) is not fast


# --- the stages


def test_the_chat_tokens_start_as_a_line_break(path_folder):
    tokenizer, found = load_tokenizer(path_folder / "base"), weights(path_folder / "base")
    ids = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>"])
    (line_break,) = tokenizer.encode("\n")
    embedding, head = (found[name] for name in ("model.embed_tokens.weight", "lm_head.weight"))
    assert torch.equal(embedding[ids[0]], embedding[line_break])
    for i in (0, 2, 3, 4):
        assert torch.equal(head[ids[i]], head[line_break])
    end_of_text = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert torch.equal(head[ids[1]], head[end_of_text])
    # Thoughts and tools are read as the words in their names, which no two share.
    assert torch.allclose(embedding[ids[4]], embedding[tokenizer.encode(" tool call")].mean(0))
    read = [embedding[i] for i in [*ids[2:], line_break]]
    assert not [i for i, one in enumerate(read) if any(torch.equal(one, other) for other in read[:i])]


def test_pretraining_learns_and_leaves_a_whole_folder(path_folder):
    base = path_folder / "base"
    found = metrics(base)
    assert found["bits_per_byte_by_step"][-1][1] < 8 * 0.5, "far from better than random bytes"
    assert found["losses"][-1][1] < found["losses"][0][1]
    assert AutoModelForCausalLM.from_pretrained(base).config.vocab_size == len(load_tokenizer(base, for_chat=True))
    assert not list(base.glob("*.bin")), "only safetensors"


def test_another_verbosity_is_no_other_run(path_folder, capsys):
    import transformers

    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # the default of `disable_tqdm` follows it
    try:
        run(PRETRAIN, *base_arguments(path_folder))
    finally:
        transformers.logging.set_verbosity(before)
    assert "is up to date" in capsys.readouterr().err


def test_another_price_is_no_other_run(path_folder, capsys):
    run(PRETRAIN, *base_arguments(path_folder), "--dollars_per_hour", 3, "--estimate_for", "H200")
    assert "is up to date" in capsys.readouterr().err


@pytest.mark.slow
def test_gradient_accumulation_changes_nothing(path_folder, tmp_path):
    for batch in (8, 1):  # at 512 tokens a step once 8 and 8 times 1
        run(
            PRETRAIN, *pretrain_arguments(path_folder), "--output_dir", tmp_path / f"{batch}", "--bf16", "false",
            "--per_device_train_batch_size", batch, "--total_tokens", 4 * 8 * 64,
        )  # fmt: skip
    one, other = weights(tmp_path / "8"), weights(tmp_path / "1")
    for name in one:
        # Muon orthogonalises in bf16, which turns rounding differences of 1e-7 into some of 1e-3.
        assert torch.allclose(one[name], other[name], atol=5e-3), name


@pytest.mark.slow
def test_sft_trains_every_weight_and_only_the_assistant(path_folder, tmp_path):
    run(SFT, *sft_arguments(path_folder), "--output_dir", tmp_path / "sft", "--max_steps", 6)
    assert_all_moved(path_folder / "base", tmp_path / "sft")
    generation = json.loads((tmp_path / "sft" / "generation_config.json").read_text())
    assert load_tokenizer(tmp_path / "sft").eos_token_id in generation["eos_token_id"]


@pytest.mark.slow
def test_control_gets_the_steps_that_fit_the_time(path_folder, tmp_path):
    other = tmp_path / "timed"
    shutil.copytree(path_folder / "base", other)
    (other / "metrics.json").write_text('{"train_seconds": 3.0}')
    run(SFT, *sft_arguments(path_folder), "--output_dir", tmp_path / "control", "--match_seconds_of", other)
    budget = json.loads((tmp_path / "control" / "budget.json").read_text())
    assert metrics(tmp_path / "control")["steps"] == budget["steps"] == round(3.0 / budget["seconds_per_step"])


@pytest.mark.slow
def test_grpo_raises_the_reward_and_moves_every_weight(guesser, tmp_path):
    run(GRPO, *grpo_arguments(guesser), "--output_dir", tmp_path / "grpo", "--max_steps", 20, "--logging_steps", 4)
    curve = metrics(tmp_path / "grpo")["curve"]
    assert [row["step"] for row in curve] == [4, 8, 12, 16, 20]
    assert curve[0]["reward"] < 0.9 and curve[-1]["reward"] > curve[0]["reward"]
    assert_all_moved(guesser / "guesser", tmp_path / "grpo")


# --- interruptions

TRAININGS = {
    "pretrain": (PRETRAIN, lambda folder: [*pretrain_arguments(folder), "--total_tokens", 16 * 64 * 24]),
    "sft": (SFT, lambda folder: [*sft_arguments(folder), "--max_steps", 24]),
    "grpo": (GRPO, lambda folder: [*grpo_arguments(folder), "--max_steps", 24]),
    "grpo, by grades, beside chats": (
        GRPO,
        lambda folder: [
            *grpo_arguments(folder),
            "--max_steps",
            24,
            "--curriculum",
            "grade",
            "--chats",
            folder / "guesses",
        ],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_kill_and_rerun_equals_no_interruption(name, guesser, tmp_path):
    script, arguments = TRAININGS[name]
    arguments = [*arguments(guesser), "--save_steps", 3, "--logging_steps", 3, "--save_total_limit", 2, "--seed", 1]
    run(script, *arguments, "--output_dir", tmp_path / "whole")

    process = start(script, *arguments, "--output_dir", tmp_path / "killed")
    deadline = time.time() + 120
    while not (tmp_path / "killed" / "checkpoint-6" / "trainer_state.json").is_file():
        assert process.poll() is None and time.time() < deadline, process.stderr.read()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "run.yaml").exists(), "killed too late for the test to mean anything"

    run(script, *arguments, "--output_dir", tmp_path / "killed")
    assert_equal_runs(tmp_path / "killed", tmp_path / "whole")


SHORT_STAGES = {
    "5_train_tokenizer": ("started.yaml", "5_tokenizer", ["--corpus", "4_corpus", "--vocab_size", 400]),
    "6_tokenize_corpus": ("logs/*/completions/*", "6_tokens", ["--corpus", "4_corpus", "--tokenizer", "5_tokenizer"]),
    "7_build_conversations": ("started.yaml", "7_conversations", ["--web", "0_web", "--corpus", "4_corpus"]),
}


@pytest.mark.parametrize("name", SHORT_STAGES)
def test_short_stage_killed_and_started_again(name, path_folder, tmp_path):
    appears, finished, arguments = SHORT_STAGES[name]
    arguments = [path_folder / word if str(word)[0].isdigit() and "_" in str(word) else word for word in arguments]
    config = read_run(path_folder / finished)["config"]
    if name.startswith("7"):
        arguments += [word for key in config if key.startswith("num_") for word in (f"--{key}", config[key])]
    script = f"data_processing/{name}.py"
    kill_when(appears, script, [*arguments, "--output_dir", tmp_path / "out"], tmp_path / "out")
    run(script, *arguments, "--output_dir", tmp_path / "out")
    assert read_run(tmp_path / "out")["fingerprint"] == read_run(path_folder / finished)["fingerprint"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_killed_between_the_last_step_and_the_save(name, guesser, tmp_path, monkeypatch):
    script, arguments = TRAININGS[name]
    # a number of steps that ends in the middle of an epoch, where a Trainer would go one step too far
    ending = ["--total_tokens", 16 * 64 * 5] if name == "pretrain" else ["--max_steps", 5]
    arguments = [*arguments(guesser), *ending, "--save_steps", 2, "--logging_steps", 1]
    run(script, *arguments, "--output_dir", tmp_path / "whole")

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("crawl2chat.training.save", killed)
        run(script, *arguments, "--output_dir", tmp_path / "killed")
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    run(script, *arguments, "--output_dir", tmp_path / "killed")
    assert_equal_runs(tmp_path / "killed", tmp_path / "whole")


def test_half_written_checkpoint_is_not_used(tmp_path):
    for step in (5, 10, 15):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-5" / "trainer_state.json").write_text('{"global_step": 5}')
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text('{"global_step": 10')
    with pytest.warns(UserWarning, match="half-written"):
        assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")
    assert not (tmp_path / "checkpoint-15").exists()
