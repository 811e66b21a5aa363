"""What pretraining does when something goes wrong, what it shows while it runs, and that documents can be kept apart.

pytest tests/test_pretrain.py
"""

import os
import re
import shutil
import subprocess
from functools import wraps

import pytest
import torch
from conftest import PRETRAIN, metrics, pretrain_arguments, refusal, run
from safetensors.torch import load_file
from transformers import Qwen3Config, Qwen3ForCausalLM, TrainerState

from crawl2chat.training import Speed, last_complete_checkpoint

SHORT = ["--total_tokens", 8 * 8 * 64, "--logging_steps", 1, "--save_steps", 2]


def test_a_loss_that_is_no_number_stops(path_folder, capsys, tmp_path):
    """With the step and its windows; the checkpoint before it is whole and good."""
    out = tmp_path / "out"
    arguments = [*pretrain_arguments(path_folder), *SHORT, "--output_dir", out, "--warmup_steps", 2]
    said = refusal(capsys, PRETRAIN, *arguments, "--head_learning_rate", 5e37)
    step, windows = re.search(r"the loss is nan at step (\d), whose batch is the windows \[([\d, ]+)\]", said).groups()
    assert int(step) >= 2 and len(windows.split(",")) == 8
    assert not (out / "run.yaml").exists() and not (out / "model.safetensors").exists()
    for checkpoint in out.glob("checkpoint-*"):
        assert int(checkpoint.name.split("-")[1]) < int(step)


@pytest.mark.slow
def test_full_disk_at_a_checkpoint(path_folder, capsys, tmp_path):
    """One sentence; what was half-written is left out when there is room again, and the end is that of a whole run."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    arguments = [*pretrain_arguments(path_folder), *SHORT]
    try:
        said = refusal(capsys, PRETRAIN, *arguments, "--output_dir", disk / "out")
        assert "No space left on device" in said and said.count("error:") == 1
        assert not (disk / "out" / "run.yaml").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        run(PRETRAIN, *arguments, "--output_dir", disk / "out")
        run(PRETRAIN, *arguments, "--output_dir", tmp_path / "whole")
        assert metrics(disk / "out")["losses"] == metrics(tmp_path / "whole")["losses"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_every_logged_row_tells_the_speed(path_folder):
    found = metrics(path_folder / "base")
    assert found["tokens_per_second"] > 0 and 0 < found["mfu"] < 1.5  # the peak is measured, on a busy machine too low
    checkpoint = last_complete_checkpoint(path_folder / "base")
    rows = [
        row for row in TrainerState.load_from_json(f"{checkpoint}/trainer_state.json").log_history if "loss" in row
    ]
    assert rows and all({"tokens_per_second", "mfu", "eta_minutes"} <= set(row) for row in rows)


def test_speed_is_tokens_by_seconds_of_steps():
    speed = Speed(tokens_per_step=1000, flops_per_token=5e6, peak_flops=1e11)
    speed.seconds = [9.0, 9.0, 9.0, 0.1, 0.1, 0.2, 0.2]
    state = TrainerState(global_step=7, max_steps=67, log_history=[{"step": 5, "loss": 1.0}])
    assert speed.figures(state) == {"tokens_per_second": 5000, "mfu": 0.25, "eta_minutes": 0.2}
    assert speed.total()["tokens_per_second"] == round(4000 / 0.6)


def test_documents_do_not_see_one_another(path_folder, tmp_path):
    from crawl2chat.tokens import document_positions

    torch.manual_seed(0)
    shape = Qwen3Config(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, tie_word_embeddings=False,
    )  # fmt: skip
    model = Qwen3ForCausalLM(shape).eval()
    second = [5, 6, 7, 8]
    rows = torch.tensor([[1, 2, 3, 0, *second], [4, 4, 9, 0, *second]])  # 0 ends a document
    apart = model(input_ids=rows, position_ids=document_positions(rows, 0), use_cache=False).logits[:, 4:]
    assert torch.allclose(apart[0], apart[1], atol=1e-6)
    assert torch.allclose(apart[0], model(input_ids=torch.tensor([second])).logits[0], atol=1e-5)
    together = model(input_ids=rows).logits[:, 4:]
    assert not torch.allclose(together[0], together[1], atol=1e-3)

    losses = []
    for flag in ("true", "false"):
        out = tmp_path / flag
        run(PRETRAIN, *pretrain_arguments(path_folder), *SHORT, "--document_attention", flag, "--output_dir", out)
        losses.append(metrics(out)["losses"])
    assert losses[0] != losses[1] and losses[0][-1][1] < losses[0][0][1]


def test_a_window_s_last_token_is_predicted_and_not_read(path_folder, tmp_path, monkeypatch):
    losses, forward = [], Qwen3ForCausalLM.forward

    @wraps(forward)
    def watched(self, *arguments, **options):
        found = forward(self, *arguments, **options)
        if "shift_labels" in options:
            assert options["input_ids"].shape[1] == 64
            whole = torch.cat([options["input_ids"], options["labels"][:, -1:]], dim=1)
            same = {"num_items_in_batch": options["num_items_in_batch"], "use_cache": False}
            with torch.no_grad():
                losses.append([found.loss.item(), forward(self, input_ids=whole, labels=whole, **same).loss.item()])
        return found

    monkeypatch.setattr(Qwen3ForCausalLM, "forward", watched)
    monkeypatch.setattr(torch._dynamo.config, "disable", True)  # as if compiled
    given = [*pretrain_arguments(path_folder), *SHORT, "--torch_compile", "true"]
    run(PRETRAIN, *given, "--output_dir", tmp_path / "out")
    assert len(losses) >= 8 and all(ours == pytest.approx(whole, rel=1e-5) for ours, whole in losses)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles for processors with g++, which is not here")
def test_a_compiled_model_trains_and_leaves_the_same(path_folder, tmp_path):
    for flag in ("true", "false"):
        run(
            PRETRAIN,
            *pretrain_arguments(path_folder),
            *SHORT,
            "--torch_compile",
            flag,
            "--output_dir",
            tmp_path / flag,
        )
    for (_, one), (_, other) in zip(metrics(tmp_path / "true")["losses"], metrics(tmp_path / "false")["losses"]):
        assert one == pytest.approx(other, abs=1e-2)
    assert (
        load_file(tmp_path / "true" / "model.safetensors").keys()
        == load_file(tmp_path / "false" / "model.safetensors").keys()
    )
