"""Direct preference optimization: it learns what is preferred, moves every weight, and goes on after an interruption."""

import json
import math

import pytest
import torch
from conftest import ROOT, killed_at, metrics, refusal, run
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from trl import DPOTrainer

DPO = "recipes/04_dpo/dpo.py"


def arguments(folder, pairs, out) -> list:
    config = ["--config", ROOT / "recipes/04_dpo/tiny.yaml", "--num_train_epochs", 3, "--learning_rate", 1e-3]
    config += ["--loss_type", "sigmoid", "--loss_weights", 1.0]
    return [*config, "--model", folder / "base", "--pairs", pairs, "--output_dir", out]


@pytest.fixture(scope="module")
def polite(path_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("polite")
    for split, count in (("train", 96), ("test", 24)):
        rows = [
            {
                "prompt": [{"role": "user", "content": f"{split} {i}?"}],
                "chosen": [{"role": "assistant", "content": f"Yes, please, {i}."}],
                "rejected": [{"role": "assistant", "content": f"No, go, {i}."}],
            }
            for i in range(count)
        ]
        (folder / f"pairs_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(DPO, *arguments(path_folder, folder, folder / "dpo"))
    return folder


def test_it_learns_what_people_prefer(polite, path_folder):
    found = metrics(polite / "dpo")
    assert found["held_out_accuracy"] == 1.0 and found["held_out_margin"] > 0.5
    assert found["held_out_loss"] < math.log(2), "which is the loss of the reference itself"
    before, after = (load_file(folder / "model.safetensors") for folder in (path_folder / "base", polite / "dpo"))
    assert not [name for name in after if torch.equal(before[name], after[name])]
    assert AutoModelForCausalLM.from_pretrained(polite / "dpo").generation_config.eos_token_id


def test_interrupted_as_uninterrupted(polite, path_folder, tmp_path):
    given = [*arguments(path_folder, polite, tmp_path / "dpo"), "--save_steps", 6]
    with killed_at(12, DPOTrainer):
        run(DPO, *given)
    assert (tmp_path / "dpo/checkpoint-6/trainer_state.json").is_file()
    run(DPO, *given)
    one, other = (load_file(folder / "dpo/model.safetensors") for folder in (polite, tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_bad_input(polite, path_folder, tmp_path, capsys):
    said = refusal(capsys, DPO, *arguments(path_folder, tmp_path / "nowhere", tmp_path / "out"))
    assert "nowhere does not exist" in said
    said = refusal(capsys, DPO, *arguments(path_folder, polite, tmp_path / "out"), "--max_length", 4)
    assert "none of 96 pairs fits into `max_length` 4" in said
