"""`accelerate launch` with our configs, two processes on the processor (gloo): what one process would have trained.

Each is killed (-9) behind a checkpoint and started again, and ends in whole weights that transformers loads.

pytest tests/test_launch.py
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from conftest import PRETRAIN, ROOT, metrics, pretrain_arguments, run
from safetensors.torch import load_file
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from crawl2chat.muon import muon_adamw
from crawl2chat.stage import leave

pytestmark = pytest.mark.slow

STEPS, WINDOW, BATCH = 32, 64, 8
ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": "src"}
RATES = {"matrix_lr": 0.02, "embedding_lr": 0.05, "head_lr": 0.01, "norm_lr": 0.01}


def arguments_of(folder: Path, out: Path) -> list:
    return [
        *pretrain_arguments(folder), "--total_tokens", STEPS * BATCH * WINDOW, "--tokens_per_step", BATCH * WINDOW,
        "--save_steps", 4, "--logging_steps", 1, "--warmup_steps", 2, "--bf16", "false",
        "--output_dir", out,
    ]  # fmt: skip


def launch(config: str, *arguments, processes: int = 2, script: str = PRETRAIN) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        f"accelerate_configs/{config}.yaml",
    ]
    command += [
        "--num_processes",
        processes,
        "--mixed_precision",
        "no",
        "--main_process_port",
        0,
        script,
        *arguments,
    ]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(word) for word in command], cwd=ROOT, env={**os.environ, **ENVIRONMENT}, **streams)


def kill(process: subprocess.Popen) -> str:
    """All of it at once: torchrun starts its workers in sessions of their own. Returns what it said."""
    if process.poll() is None:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.send_signal(signal.SIGKILL)
    return process.communicate()[1][-9000:]


def ended(process: subprocess.Popen, seconds: float = 240) -> str:
    """What it said; it must end by itself in this time, and well."""
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"did not end:\n{kill(process)}") from None
    assert process.returncode == 0, said[-9000:]
    return said


def kill_behind(process: subprocess.Popen, checkpoint: Path) -> None:
    deadline = time.time() + 240
    while not (checkpoint / "trainer_state.json").is_file():
        assert process.poll() is None and time.time() < deadline, kill(process)
        time.sleep(0.01)
    kill(process)
    assert not (checkpoint.parent / "run.yaml").exists(), "killed too late for the test to mean anything"


def assert_whole_when_it_says_so(checkpoint: Path) -> None:
    """`trainer_state.json` says it, so whatever process wrote a file wrote it before."""
    written = {file.name: file.stat().st_mtime_ns for file in checkpoint.iterdir() if file.is_file()}
    assert "rng_state_1.pth" in written and max(written.values()) == written["trainer_state.json"], written


@pytest.fixture(scope="module")
def alone(path_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "base"
    run(PRETRAIN, *arguments_of(path_folder, out), "--per_device_train_batch_size", BATCH)
    return out


@pytest.mark.parametrize("config, resumed_on", [("ddp", 1), ("zero2", 2), ("zero3", 2)])
def test_two_processes_train_what_one_does(config, resumed_on, path_folder, alone, tmp_path):
    out = tmp_path / "base"
    arguments = [*arguments_of(path_folder, out), "--per_device_train_batch_size", BATCH // 2]
    # Where processors are asked for, accelerate leaves DeepSpeed out; where there is nothing else, DeepSpeed takes them.
    arguments += ["--ddp_backend", "gloo", "--use_cpu", "true" if config == "ddp" else "false"]
    kill_behind(launch(config, *arguments), out / "checkpoint-4")
    assert_whole_when_it_says_so(out / "checkpoint-4")
    unfinished = (out / "started.yaml").read_text()

    ended(launch(config, *arguments, processes=resumed_on))
    found, expected = metrics(out), metrics(alone)
    assert [step for step, _ in found["losses"]] == list(range(1, STEPS + 1))
    # DeepSpeed's Muon orthogonalises in half precision; Adam's first steps are as large for the smallest gradients.
    tolerance = 1e-3 if config == "ddp" else 0.03
    for (_, loss), (_, one) in zip(found["losses"], expected["losses"]):
        assert loss == pytest.approx(one, abs=tolerance)
    assert found["bits_per_byte"] == pytest.approx(expected["bits_per_byte"], abs=tolerance)
    model, other = (AutoModelForCausalLM.from_pretrained(folder) for folder in (out, alone))
    assert model.num_parameters() == other.num_parameters() and model.dtype == torch.float32
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"]

    if config == "zero3":  # whose weights no process holds whole: as if it had been killed before it saved them
        for name in ("model.safetensors", "run.yaml", "metrics.json"):
            (out / name).unlink()
        (out / "started.yaml").write_text(unfinished)
        ended(launch(config, *arguments, processes=resumed_on))
        again = AutoModelForCausalLM.from_pretrained(out).state_dict()
        assert all(torch.equal(again[name], weights) for name, weights in model.state_dict().items())
        assert [step for step, _ in metrics(out)["losses"]] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("config", ["ddp", "zero2", "zero3"])
def test_ppo_on_two_processes(config, guesser, tmp_path):
    """Policy and value model are one engine: both learn, and are written whole; with ZeRO-3 after a kill -9, too."""
    arguments = [
        "--config", "recipes/05_ppo/tiny_sums.yaml", "--model", guesser / "guesser", "--prompts", guesser / "guesses",
        "--per_device_train_batch_size", 8, "--max_completion_length", 8, "--learning_rate", 1.5e-3,
        "--value_learning_rate", 3e-3, "--max_steps", 32, "--logging_steps", 2, "--save_steps", 8,
        "--output_dir", tmp_path / "ppo",
        "--lr_scheduler_type", "constant_with_warmup", "--temperature", 1.0,
        "--ddp_backend", "gloo", "--use_cpu", "true" if config == "ddp" else "false",
    ]  # fmt: skip
    if config == "zero3":
        kill_behind(launch(config, *arguments, script="recipes/05_ppo/ppo.py"), tmp_path / "ppo/checkpoint-8")
    ended(launch(config, *arguments, script="recipes/05_ppo/ppo.py"))
    found = metrics(tmp_path / "ppo")
    assert found["steps"] == 32 and found["last_score"] > found["first_score"] + 0.1
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "ppo").num_parameters()
    assert_whole_when_it_says_so(tmp_path / "ppo/checkpoint-32")
    values = load_file(tmp_path / "ppo/value_model/model.safetensors")
    assert values["score.weight"].numel() == values["model.norm.weight"].numel()


@pytest.mark.parametrize("config", ["ddp", "zero2", "zero3"])
def test_grpo_on_two_processes(config, guesser, tmp_path):
    """Groups are shared among processes, chats come beside them; with ZeRO-3 TRL's own generation gathers the weights."""
    arguments = [
        "--config", "recipes/06_grpo/tiny.yaml", "--model", guesser / "guesser", "--prompts", guesser / "guesses",
        "--per_device_train_batch_size", 8, "--max_completion_length", 8, "--learning_rate", 1.5e-3, "--temperature", 1.0,
        "--inspect_steps", 0, "--max_steps", 24, "--logging_steps", 2, "--save_strategy", "no",
        "--output_dir", tmp_path / "grpo",
        "--rewards", "crawl2chat.rewards.correct", "--lr_scheduler_type", "constant_with_warmup",
        "--chats", guesser / "guesses", "--chats_per_batch", 2,
        "--ddp_backend", "gloo", "--use_cpu", "true" if config == "ddp" else "false",
    ]  # fmt: skip
    ended(launch(config, *arguments, script="recipes/06_grpo/grpo.py"))
    found = metrics(tmp_path / "grpo")
    assert found["steps"] == 24 and found["last_reward"] > found["first_reward"] + 0.1, found["curve"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "grpo").num_parameters()


def test_a_config_that_is_not_followed_is_refused(path_folder, tmp_path):
    """accelerate leaves FSDP2 out on processors, and would train with DDP without a word."""
    process = launch("fsdp2", *arguments_of(path_folder, tmp_path / "out"), "--per_device_train_batch_size", 4)
    _, said = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "asks for FSDP2, but the training is DDP" in said


def fsdp2_worker(rank: int, file: str, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    model, weights = small_model(), {}
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    train_small(model)
    for name, parameter in model.named_parameters():
        weights[name] = parameter.full_tensor().detach().clone()
    if rank == 0:
        torch.save(weights, folder)
    leave(0)


def small_model() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    shape = Qwen3Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=False,
    )  # fmt: skip
    return Qwen3ForCausalLM(shape)


def train_small(model) -> None:
    optimizer = muon_adamw(model, **RATES)
    for step in range(4):
        ids = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(step))
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_muon_on_the_parts_of_fsdp2_is_muon(tmp_path):
    """FSDP2's own sharding, without accelerate, which has it for GPUs only."""
    torch.multiprocessing.spawn(fsdp2_worker, (str(tmp_path / "store"), str(tmp_path / "weights")), nprocs=2)
    parts, whole = torch.load(tmp_path / "weights", weights_only=True), small_model()
    train_small(whole)
    for name, parameter in whole.named_parameters():
        assert torch.allclose(parts[name], parameter, atol=2e-3), name
