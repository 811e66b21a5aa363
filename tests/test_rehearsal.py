"""Chats beside RL: the loss by hand, what is kept, and the same after an interruption (with tests/test_training.py)."""

import json
from pathlib import Path

import pytest
import torch
from conftest import GRPO, metrics, refusal, run
from test_ppo import PPO
from test_ppo import arguments as ppo_arguments
from test_rollouts import Fast, trainer_of
from test_training import grpo_arguments
from torch.nn.functional import cross_entropy

from crawl2chat.chat import load_model, load_tokenizer
from crawl2chat.chats import tokens_and_mask
from crawl2chat.rehearsal import Rehearsal

NAMES = [
    {"role": "user", "content": "What is your name?"},
    {"role": "assistant", "content": "I am called Tom."},
]


class Rehearsing(Rehearsal, Fast):
    pass


def loss_of(model, tokens: list[int], trained: list[int]) -> tuple[torch.Tensor, int]:
    """The sum over the trained tokens of -log p, and their number."""
    logits = model(torch.tensor([tokens])).logits[0, :-1]
    mask = torch.tensor(trained[1:]) == 1
    return cross_entropy(logits[mask], torch.tensor(tokens[1:])[mask], reduction="sum"), int(mask.sum())


def trainer_with(folder: Path, tmp_path: Path, chats: list, **options):
    trainer = trainer_of(folder, tmp_path, lambda **given: Rehearsing(**given, chats=chats))
    for name, value in {"chats_coef": 0.5, "chats_per_batch": 6, **options}.items():
        setattr(trainer.args, name, value)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 2
    return trainer


@pytest.fixture(scope="module")
def encoded(path_folder) -> list[tuple[list[int], list[int]]]:
    """Three chats of different length."""
    tokenizer = load_tokenizer(path_folder / "base")
    short = [{"role": "user", "content": "Say a."}, {"role": "assistant", "content": "At once."}]
    long = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Yes?"}, *NAMES]
    return [tokens_and_mask(tokenizer, {"messages": messages}) for messages in (short, NAMES, long)]


@pytest.mark.parametrize("is_packed", [True, False])
def test_the_loss_is_grpos_and_the_mean_over_what_the_assistant_says(
    is_packed, path_folder, encoded, tmp_path, monkeypatch
):
    trainer = trainer_with(path_folder / "base", tmp_path, encoded)
    plain = trainer_with(path_folder / "base", tmp_path, [])
    batch = trainer._generate_and_score_completions([row for row in trainer.train_dataset for _ in range(4)])
    monkeypatch.setattr("crawl2chat.rehearsal.is_packable", lambda model: is_packed)
    found = trainer._compute_loss(trainer.model, batch) - plain._compute_loss(plain.model, batch)

    again = trainer_with(path_folder / "base", tmp_path, encoded)
    ids, labels, mask = again._next_chats()
    assert ((ids == again.processing_class.pad_token_id) == (mask == 0)).all()
    rows = [next(chat for chat in encoded if chat[0] == row[: len(chat[0])].tolist()) for row in ids]
    for row, (tokens, trained) in zip(labels, rows):
        assert [int(label) for label in row if label != -100] == [t for t, one in zip(tokens, trained) if one]
    sums, counts = zip(*(loss_of(trainer.model, *chat) for chat in rows))
    assert len(rows) == 6 and len({len(tokens) for tokens, _ in rows}) > 1
    torch.testing.assert_close(found, 0.5 * sum(sums) / sum(counts) / 2, rtol=1e-4, atol=1e-6)

    trainer.model.eval()
    plain.model.eval()
    assert torch.allclose(trainer._compute_loss(trainer.model, batch), plain._compute_loss(plain.model, batch))


def test_a_step_has_its_chats_whatever_came_before(path_folder, encoded, tmp_path):
    whole, resumed = (trainer_with(path_folder / "base", tmp_path, encoded * 9) for _ in range(2))
    drawn = {}
    for step in range(3):
        whole.state.global_step = step
        drawn[step] = [whole._next_chats()[0] for _ in range(2)]  # of both parts of the step
    assert not torch.equal(*drawn[2]) and not torch.equal(drawn[1][0], drawn[2][0])
    resumed.state.global_step = 2
    assert all(torch.equal(resumed._next_chats()[0], ids) for ids in drawn[2])


@pytest.mark.slow
@pytest.mark.parametrize("script, reward", [(GRPO, "reward"), (PPO, "score")])
def test_what_is_rehearsed_is_known_and_the_reward_rises(script, reward, guesser, tmp_path):
    (tmp_path / "chats").mkdir()
    (tmp_path / "chats/sft_train.jsonl").write_text(json.dumps({"messages": NAMES}) + "\n")
    given = ppo_arguments(guesser, tmp_path / "out") if script == PPO else grpo_arguments(guesser)
    given += ["--max_steps", 24, "--logging_steps", 4, "--chats", tmp_path / "chats"]
    run(script, *given, "--output_dir", tmp_path / "out")
    found = metrics(tmp_path / "out")
    assert found[f"last_{reward}"] > found[f"first_{reward}"] + 0.1

    tokenizer = load_tokenizer(tmp_path / "out")
    chat = tokens_and_mask(tokenizer, {"messages": NAMES})
    before, after = (
        loss_of(load_model(folder, tokenizer), *chat) for folder in (guesser / "guesser", tmp_path / "out")
    )
    assert after[0] < before[0] / 2


def test_bad_input(guesser, tmp_path, capsys):
    given = [*grpo_arguments(guesser), "--output_dir", tmp_path / "out", "--dry_run"]
    said = refusal(capsys, GRPO, *given, "--chats_coef", 0.5)
    assert "`chats_coef` and `chats_per_batch` are of `chats`; name their folder." in said
    assert "chats_per_batch" in refusal(capsys, GRPO, *given, "--chats", guesser / "guesses", "--chats_per_batch", 0)
    said = refusal(capsys, GRPO, *given, "--chats", guesser / "4_corpus")
    assert "sft_train.jsonl does not exist; run 7_build_conversations.py first." in said
