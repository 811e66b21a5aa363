"""Base model -> assistant: TRL's SFTTrainer on chats, loss on the assistant's tokens only.

With `replay` some of the pages that the base model was trained on are mixed in, and all of their tokens are trained: chats
alone make a model forget what it has read (rehearsal; InstructGPT does the same in its RL,
https://arxiv.org/abs/2203.02155, as PPO-ptx).

With `match_seconds_of` it trains the control of an RL run instead: the same model goes on with SFT for as long as the
named run took. The speed is measured on the first steps of a throw-away copy and the number of steps is kept in
`budget.json`, so that the schedule is whole and an interrupted control ends as an uninterrupted one.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/02_sft/sft.py \
        --config recipes/02_sft/tiny.yaml --model outputs/tiny/base --chats outputs/tiny/7_conversations \
        --replay outputs/tiny/6_tokens --output_dir outputs/tiny/sft
"""

import copy
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, concatenate_datasets
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from crawl2chat.adapters import Adapted
from crawl2chat.chat import check_template, give_template, load_tokenizer, local
from crawl2chat.chats import check_masks, files_of, read_chats, render, tokens_and_mask
from crawl2chat.heads import FastHead
from crawl2chat.stage import StageError, bounded, missing, read_run, run_stage, write_atomically
from crawl2chat.tokens import TokenWindows, WindowSampler
from crawl2chat.training import FastPrecision, SameOrder, save, train

REPLAY_LENGTH = 128  # tokens of a page at a time: about as many as in a long chat


@dataclass
class ChatSFTConfig(FastPrecision, Adapted, SFTConfig):
    model: str = field(default="", metadata={"help": "Model folder or Hub id to start from."})
    chats: str = field(default="", metadata={"help": "Folder of 7_build_conversations.py, or a Hub dataset of chats."})
    datasets: list[dict] = field(
        default_factory=list, metadata={"help": "In place of `chats`, a mixture as trl.DatasetMixtureConfig has it."}
    )
    replay: str = field(default="", metadata={"help": "Folder of 6_tokenize_corpus.py, pages of which are mixed in."})
    replay_share: float = bounded(0.35, "Tokens of those pages for each token of the chats.", low=0.0)
    match_seconds_of: str = field(default="", metadata={"help": "Run folder whose wall time this training is given."})

    def problems(self) -> list[str]:
        problems = missing(self, "model") if self.datasets else missing(self, "model", "chats")
        if self.datasets and self.chats:
            problems.append(f"both --chats {self.chats} and `datasets` are given; give one of them.")
        if not self.replay and self.replay_share != ChatSFTConfig.replay_share:
            problems.append(f"--replay_share {self.replay_share} is of the pages of --replay; name their folder.")
        template = self.chat_template_path
        if template and not (template.endswith(".jinja") and Path(template).is_file()):
            problems.append(f"--chat_template_path {template} is no file of Jinja; name one that ends in .jinja.")
        return problems

    def inputs(self) -> list[str]:
        chats = files_of(self.datasets) if self.datasets else local(self.chats)
        others = filter(None, [self.replay, self.match_seconds_of, self.chat_template_path])
        return [*local(self.model), *chats, *others]


def load(config: ChatSFTConfig):
    """Model and tokenizer; a base model without a chat template gets ours, and rows for the tokens that are new to it."""
    tokenizer = load_tokenizer(config.model)
    model = config.load(config.model, tokenizer)
    if config.chat_template_path:
        tokenizer.chat_template = Path(config.chat_template_path).read_text(encoding="utf-8")
    num_new = give_template(tokenizer)
    check_template(tokenizer, config.model)
    if num_new and config.use_peft:
        raise StageError(
            f"{num_new} tokens of the chat template are new to {config.model}; `use_peft` cannot train them."
        )
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    return model, tokenizer


class ChatTrainer(FastHead, SameOrder, SFTTrainer):
    """TRL's, with a faster last layer, whose batches of like length come in the same order after an interruption."""


def preflight(config: ChatSFTConfig) -> dict:
    if config.match_seconds_of:
        seconds_of(config.match_seconds_of)
    model, tokenizer = load(config)
    config.adapter()
    chats, _ = read_chats(config.datasets or config.chats, tokenizer, config.max_length)
    check_masks(tokenizer, chats)
    rows = with_replay(chats, tokenizer, config)
    return {
        "parameters": model.num_parameters(),
        "chats": len(chats),
        "replayed_windows": len(rows) - len(chats),
        "example_trained_tokens_in_brackets": render(tokenizer, *tokens_and_mask(tokenizer, chats[0])),
    }


def main(config: ChatSFTConfig) -> dict:
    config.assistant_only_loss = not config.replay  # with it the masks are given
    if config.match_seconds_of:
        config.max_steps = matched_steps(config)

    trainer, dropped = build_trainer(config)
    trained = train(trainer)
    save(trainer, trainer.processing_class)
    return {**trained, "chats_dropped": dropped}


def build_trainer(config: ChatSFTConfig) -> tuple[ChatTrainer, dict[str, int]]:
    set_seed(config.seed)  # an adapter begins at random
    model, tokenizer = load(config)
    config.eos_token = tokenizer.eos_token
    chats, dropped = read_chats(config.datasets or config.chats, tokenizer, config.max_length)
    rows = with_replay(chats, tokenizer, config)
    adapter = config.adapter()
    trainer = ChatTrainer(
        model=model, args=config, train_dataset=rows, processing_class=tokenizer, peft_config=adapter
    )
    return trainer, dropped


def with_replay(chats: Dataset, tokenizer, config: ChatSFTConfig) -> Dataset:
    """The chats as tokens and masks, and behind them windows of pages, trained as a whole; without `replay` as they are."""
    if not config.replay:
        return chats

    def encoded(chat: dict) -> dict:
        return dict(zip(("input_ids", "assistant_masks"), tokens_and_mask(tokenizer, chat)))

    rows = chats.map(encoded, remove_columns=chats.column_names, desc="tokens")
    windows = TokenWindows(Path(config.replay, "train"), REPLAY_LENGTH - 1, tokenizer)
    count = round(config.replay_share * sum(map(len, rows["input_ids"])) / REPLAY_LENGTH)
    order = WindowSampler(len(windows), count, config.seed)
    pages = [{"input_ids": windows[i]["input_ids"].tolist(), "assistant_masks": [1] * REPLAY_LENGTH} for i in order]
    return concatenate_datasets([rows, Dataset.from_list(pages, features=rows.features)])


def seconds_of(folder: str) -> float:
    read_run(folder)  # it must be finished
    metrics = json.loads(Path(folder, "metrics.json").read_text())
    if "train_seconds" not in metrics:
        raise StageError(f"--match_seconds_of {folder} is no training; name the folder of one.")
    return metrics["train_seconds"]


def matched_steps(config: ChatSFTConfig, num_timed: int = 50) -> int:
    """The steps that fit into the wall time of `match_seconds_of`; read from `budget.json` once it is there.

    Fifty are timed, since `group_by_length` sorts by length within fifty batches: the first ones take longest.
    """
    budget = Path(config.output_dir, "budget.json")
    if not budget.is_file():
        trial = copy.copy(config)
        trial.save_strategy, trial.max_steps = "no", 5
        build_trainer(trial)[0].train()  # warms up
        trial.max_steps = num_timed
        trainer, _ = build_trainer(trial)
        started_at = time.time()
        trainer.train()
        seconds_per_step = (time.time() - started_at) / num_timed
        seconds = seconds_of(config.match_seconds_of)
        steps = max(1, round(seconds / seconds_per_step))
        write_atomically(
            budget, json.dumps({"seconds": seconds, "seconds_per_step": seconds_per_step, "steps": steps})
        )
    return json.loads(budget.read_text())["steps"]


if __name__ == "__main__":
    run_stage(main, ChatSFTConfig, inputs=ChatSFTConfig.inputs, preflight=preflight)
