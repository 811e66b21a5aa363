"""SFT with pages of the corpus among the chats: they are trained as a whole, and what they told is kept."""

import json
import runpy
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, SFT, refusal, run
from test_sft import sums  # noqa: F401
from transformers import AutoModelForCausalLM

from crawl2chat.chat import load_tokenizer
from crawl2chat.chats import read_chats, tokens_and_mask
from crawl2chat.tokens import TokenWindows


@pytest.fixture(scope="module")
def given(path_folder, sums):  # noqa: F811
    return ["--config", ROOT / "recipes/02_sft/tiny.yaml", "--model", path_folder / "base", "--chats", sums]


def test_windows_of_pages_stand_behind_the_chats_and_all_of_them_is_trained(path_folder, sums):  # noqa: F811
    tokenizer = load_tokenizer(path_folder / "base")
    chats, _ = read_chats(sums, tokenizer, 256)
    recipe = runpy.run_path(str(ROOT / SFT))
    mixed = {}
    for seed in (0, 1):
        config = SimpleNamespace(replay=path_folder / "6_tokens", replay_share=0.5, seed=seed)
        mixed[seed] = recipe["with_replay"](chats, tokenizer, config)
    encoded = [tokens_and_mask(tokenizer, chat) for chat in chats]
    rows = list(mixed[0])
    assert [(row["input_ids"], row["assistant_masks"]) for row in rows[: len(chats)]] == encoded

    pages = rows[len(chats) :]
    assert len(pages) == round(0.5 * sum(len(tokens) for tokens, _ in encoded) / 128) > 3
    windows = [w["input_ids"].tolist() for w in TokenWindows(path_folder / "6_tokens/train", 127, tokenizer)]
    assert all(row["input_ids"] in windows and row["assistant_masks"] == [1] * 128 for row in pages)
    assert [row["input_ids"] for row in pages] != list(mixed[1]["input_ids"][len(chats) :])


def test_what_pages_told_is_forgotten_less(path_folder, given, tmp_path):
    tokenizer = load_tokenizer(path_folder / "base")
    windows = TokenWindows(path_folder / "6_tokens/train", 127, tokenizer)
    pages = torch.stack([windows[i]["input_ids"] for i in range(len(windows))])
    losses = {}
    for name, more in (("plain", []), ("replayed", ["--replay", path_folder / "6_tokens", "--replay_share", 0.5])):
        run(SFT, *given, "--output_dir", tmp_path / name, "--max_steps", 30, "--learning_rate", 1e-2, *more)
        with torch.no_grad():
            losses[name] = AutoModelForCausalLM.from_pretrained(tmp_path / name)(pages, labels=pages).loss.item()
    assert losses["replayed"] < losses["plain"] - 0.1


def test_pages_in_other_tokens_are_refused(path_folder, given, tmp_path, capsys):
    shutil.copytree(path_folder / "6_tokens", tmp_path / "tokens")
    for note in (tmp_path / "tokens/train").glob("*.json"):
        note.write_text(json.dumps({**json.loads(note.read_text()), "tokenizer": "another"}))
    asked = [*given, "--output_dir", tmp_path / "sft"]
    assert "was made with another tokenizer" in refusal(capsys, SFT, *asked, "--replay", tmp_path / "tokens")
    assert "name their folder" in refusal(capsys, SFT, *asked, "--replay_share", 0.4)
    assert "holds no *.ds" in refusal(capsys, SFT, *asked, "--replay", path_folder / "7_conversations")


def test_pages_can_be_packed_with_chats(path_folder, given, tmp_path):
    more = ["--replay", path_folder / "6_tokens", "--packing", "true", "--logging_steps", 1]
    run(SFT, *given, "--output_dir", tmp_path / "sft", "--max_steps", 4, "--learning_rate", 1e-2, *more)
    losses = json.loads((tmp_path / "sft/metrics.json").read_text())["losses"]
    assert len(losses) == 4 and losses[-1][1] < losses[0][1]
