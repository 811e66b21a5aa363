"""Preference pairs and the reward model."""

import gzip
import json
import math

import pytest
import torch
from conftest import ROOT, killed_at, metrics, refusal, run
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification
from trl import RewardTrainer

from crawl2chat.chat import load_tokenizer
from crawl2chat.pairs import length_baseline, preference_metrics, read_pairs, rewards, wilson
from crawl2chat.stage import StageError

REWARD = "recipes/03_reward/reward.py"


def pair(chosen: str, rejected: str, question: str = "How?", kind: str = "all") -> dict:
    replies = {
        name: [{"role": "assistant", "content": text}] for name, text in (("chosen", chosen), ("rejected", rejected))
    }
    return {"prompt": [{"role": "user", "content": question}], **replies, "kind": kind}


def write(file, rows) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def arguments(folder, *more) -> list:
    config = ["--config", ROOT / "recipes/03_reward/tiny.yaml", "--num_train_epochs", 10]
    return [*config, "--model", folder / "base", *more]


@pytest.fixture(scope="module")
def easy(path_folder, tmp_path_factory):
    """Pairs of which the polite reply is the better one, and the reward model that was trained on them."""
    folder = tmp_path_factory.mktemp("easy")
    for split, count in (("train", 96), ("test", 24)):
        rows = [pair(f"Yes, please, {i}.", f"No, go, {i}.", f"{split} {i}?") for i in range(count)]
        write(folder / f"pairs_{split}.jsonl", rows)
    run(REWARD, *arguments(path_folder, "--pairs", folder, "--output_dir", folder / "reward"))
    return folder


def test_it_learns_what_people_prefer(easy, path_folder):
    found = metrics(easy / "reward")
    assert found["accuracy"] == 1.0 and found["num_pairs"] == 24 and found["num_train_pairs"] == 96
    plot = (easy / "reward/calibration.svg").read_text()
    assert plot.startswith("<?xml") and plot.rstrip().endswith("</svg>")
    assert found["losses"][-1][1] < found["losses"][0][1] and abs(found["losses"][0][1] - math.log(2)) < 0.5
    before, after = load_file(path_folder / "base/model.safetensors"), load_file(easy / "reward/model.safetensors")
    moved = [name for name in after if name in before and not torch.equal(before[name], after[name])]
    assert len(moved) == len([name for name in after if name in before]) and "score.weight" in after


def test_padding_changes_no_reward(easy):
    model = AutoModelForSequenceClassification.from_pretrained(easy / "reward")
    tokenizer = load_tokenizer(easy / "reward", for_chat=True)
    chats = [row["prompt"] + row["chosen"] for row in (pair("Yes.", "a"), pair("Yes, please, " * 9, "a"))]
    together = rewards(model, tokenizer, chats)
    alone = [rewards(model, tokenizer, [chat])[0] for chat in chats]
    assert together == pytest.approx(alone, abs=1e-5) and abs(alone[0] - alone[1]) > 1e-3
    with torch.no_grad():
        model.score.weight.fill_(math.nan)
    with pytest.raises(StageError, match="the reward of chat 1 is nan"):
        rewards(model, tokenizer, chats)


def test_interrupted_as_uninterrupted(easy, path_folder, tmp_path):
    given = arguments(path_folder, "--pairs", easy, "--save_steps", 4, "--output_dir", tmp_path / "reward")

    with killed_at(24, RewardTrainer):
        run(REWARD, *given)
    assert (tmp_path / "reward/checkpoint-20/trainer_state.json").is_file()
    run(REWARD, *given)
    one, other = (load_file(folder / "reward/model.safetensors") for folder in (easy, tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_metrics_by_hand():
    rows = [pair("", "", kind="a"), pair("", "", kind="a"), pair("", "", kind="b"), pair("", "", kind="b")]
    found = preference_metrics(rows, [2.0, 0.0, 0.0, 1.0], [0.0, 2.0, 0.0, 1.0 - math.log(3)])
    assert found["accuracy"] == 0.625 and found["accuracy_by_kind"] == {"a": 0.5, "b": 0.75}
    assert found["standard_error"] == round((0.625 * 0.375 / 4) ** 0.5, 4)
    assert found["accuracy_interval"] == [round(bound, 4) for bound in wilson(0.625, 4)]
    sure = 1 / (1 + math.exp(-2))
    assert found["calibration"] == [[0.5, 0.5, 1], [0.75, 1.0, 1], [round(sure, 4), 0.5, 2]]
    assert found["expected_calibration_error"] == pytest.approx((0.25 + 2 * (sure - 0.5)) / 4, abs=1e-4)


def test_interval_of_a_share():
    """Against R's prop.test(x, n, correct = FALSE)."""
    assert wilson(0.9, 100) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_a_bias_for_length():
    """The longer reply is better in one of two pairs; a judge that always takes the longer one is right in that one."""
    rows = [pair("aaa", "a"), pair("a", "aaa")]
    found = preference_metrics(rows, [2.0, 0.0], [0.0, 2.0])
    assert (found["longer_is_better"], found["prefers_longer"], found["accuracy"]) == (0.5, 1.0, 0.5)
    assert preference_metrics(rows, [0.0, 2.0], [2.0, 0.0])["prefers_longer"] == 0.0
    assert preference_metrics(rows, [0.0, 0.0], [0.0, 0.0])["prefers_longer"] == 0.5


def test_length_alone():
    longer, shorter = pair("aaa", "a"), pair("a", "aaa")
    assert length_baseline([longer, longer, shorter], [longer, shorter, shorter, pair("b", "c")]) == {
        "longer_is_chosen": 0.6667, "length_only_accuracy": 0.375,
    }  # fmt: skip
    assert length_baseline([shorter], [longer, shorter, shorter, pair("b", "c")])["length_only_accuracy"] == 0.625


def test_faulty_pairs_are_left_out_and_counted(tmp_path):
    unasked = {**pair("x", "y"), "prompt": [{"role": "assistant", "content": "Well?"}]}
    write(tmp_path / "pairs_train.jsonl", [pair("a", "b"), pair("a", "a"), pair("c", "c"), pair(" ", "b"), unasked])
    with pytest.warns(
        UserWarning, match=r"left out of 5 pairs: 1 whose prompt .*, 1 with an empty reply, 2 with equal"
    ):
        assert read_pairs(tmp_path) == [pair("a", "b")]
    write(tmp_path / "pairs_train.jsonl", [pair("a", "a")])
    with pytest.warns(UserWarning), pytest.raises(StageError, match="holds no pair to learn from"):
        read_pairs(tmp_path)
    write(tmp_path / "pairs_train.jsonl", [pair("a", "b"), {"prompt": [], "chosen": [], "rejected": "x"}])
    with pytest.raises(StageError, match="line 2 is no preference pair"):
        read_pairs(tmp_path)
    (tmp_path / "pairs_train.jsonl").write_text('{"prompt": [')
    with pytest.raises(StageError, match="line 1 is no preference pair"):
        read_pairs(tmp_path)
    with pytest.raises(StageError, match=r"pairs_test\.jsonl does not exist"):
        read_pairs(tmp_path, "test")


def test_dialogues_become_chats(tmp_path):
    head = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: How are you?\n\nAssistant:"
    with gzip.open(tmp_path / "real.jsonl.gz", "wt") as file:
        file.write(json.dumps({"chosen": f"{head} Well.", "rejected": f"{head} Go away."}) + "\n")
    (row,) = read_pairs(tmp_path / "real.jsonl.gz")
    assert [message["role"] for message in row["prompt"]] == ["user", "assistant", "user"]
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("Well.", "Go away.")


def test_pairs_of_one_file_are_split_by_prompt(path_folder, tmp_path):
    rows = [pair(f"Yes, please, {i}.", f"No, go, {i}.", f"Question {i % 10}?") for i in range(40)]
    write(tmp_path / "all.jsonl", rows)
    given = arguments(path_folder, "--pairs", tmp_path / "all.jsonl", "--num_train_epochs", 1)
    run(REWARD, *given, "--test_share", 0.3, "--output_dir", tmp_path / "reward")
    assert metrics(tmp_path / "reward")["num_pairs"] == 12 and metrics(tmp_path / "reward")["num_train_pairs"] == 28


def test_bad_input(easy, path_folder, tmp_path, capsys):
    out = ["--output_dir", tmp_path / "out"]
    assert "--model is missing" in refusal(capsys, REWARD, "--use_cpu", "true", "--pairs", easy, *out)
    said = refusal(capsys, REWARD, *arguments(path_folder, "--pairs", easy, "--max_length", 4, *out))
    assert "none of 96 pairs fits into `max_length` 4" in said and not (tmp_path / "out" / "run.yaml").exists()


def test_pairs_of_the_hub(monkeypatch):
    """As UltraFeedback has them: the prompt as text, both replies as whole conversations, other names of the splits."""
    both = {
        name: [{"role": "user", "content": "How?"}, {"role": "assistant", "content": name}]
        for name in ("chosen", "rejected")
    }
    names = ["train_sft", "train_prefs", "test_prefs"]
    monkeypatch.setattr("crawl2chat.pairs.get_dataset_split_names", lambda name: names)
    asked = []
    monkeypatch.setattr(
        "crawl2chat.pairs.load_dataset",
        lambda name, split: asked.append((name, split)) or [{"prompt": "How?", **both}],
    )
    (found,) = read_pairs("HuggingFaceH4/ultrafeedback_binarized", "test")
    assert asked == [("HuggingFaceH4/ultrafeedback_binarized", "test_prefs")]
    assert found["prompt"] == both["chosen"][:1] and found["chosen"] == both["chosen"][1:]
