"""Preference pairs -> reward model: TRL's RewardTrainer on a chat model whose head gives one number.

The loss is Bradley-Terry's, -log sigmoid(reward of the chosen - reward of the rejected reply), as in InstructGPT
(https://arxiv.org/abs/2203.02155). Held-out pairs tell the accuracy, whether its probabilities can be believed, and what
length alone would give; `calibration.svg` shows it.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/03_reward/reward.py \
        --config recipes/03_reward/tiny.yaml --model outputs/tiny/sft --pairs outputs/tiny/7_conversations \
        --output_dir outputs/tiny/reward
"""

import random
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, set_seed
from trl import RewardConfig, RewardTrainer

from crawl2chat import plots
from crawl2chat.chat import load_model, load_tokenizer, local
from crawl2chat.pairs import COLUMNS, facts_to_show, fitting, length_baseline, preference_metrics, read_pairs, rewards
from crawl2chat.stage import bounded, missing, run_stage
from crawl2chat.training import FastPrecision, train


@dataclass
class RewardModelConfig(FastPrecision, RewardConfig):
    model: str = field(default="", metadata={"help": "Folder or Hub id of a chat model."})
    pairs: str = field(default="", metadata={"help": "Folder of 7_build_conversations.py, or a file of pairs."})
    test_share: float = bounded(0.2, "Share of the prompts of one file that are held out.", low=0.01, high=0.9)

    def problems(self) -> list[str]:
        return missing(self, "model", "pairs")


def load_pairs(config: RewardModelConfig, tokenizer) -> tuple[list[dict], list[dict]]:
    """Training and held-out pairs, none of them longer than the context; of one file, no prompt is in both."""
    if Path(config.pairs).is_dir():
        train_pairs, test_pairs = read_pairs(config.pairs, "train"), read_pairs(config.pairs, "test")
    else:
        rows = read_pairs(config.pairs)
        firsts = sorted({row["prompt"][0]["content"] for row in rows})
        held_out = set(random.Random(config.seed).sample(firsts, round(config.test_share * len(firsts))))
        train_pairs = [row for row in rows if row["prompt"][0]["content"] not in held_out]
        test_pairs = [row for row in rows if row["prompt"][0]["content"] in held_out]
    return tuple(fitting(rows, tokenizer, config.max_length) for rows in (train_pairs, test_pairs))


def preflight(config: RewardModelConfig) -> dict:
    tokenizer = load_tokenizer(config.model, for_chat=True)
    model = load_model(config.model, tokenizer)
    train_pairs, test_pairs = load_pairs(config, tokenizer)
    return {"parameters": model.num_parameters(), **facts_to_show(tokenizer, train_pairs, test_pairs)}


def main(config: RewardModelConfig) -> dict:
    set_seed(config.seed)
    tokenizer = load_tokenizer(config.model, for_chat=True)
    train_pairs, test_pairs = load_pairs(config, tokenizer)
    model = AutoModelForSequenceClassification.from_pretrained(config.model, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id

    dataset = Dataset.from_list([{name: row[name] for name in COLUMNS} for row in train_pairs])
    trainer = RewardTrainer(model=model, args=config, train_dataset=dataset, processing_class=tokenizer)
    trained = train(trainer)
    trainer.save_model(config.output_dir)  # safetensors and the tokenizer

    judge = trainer.accelerator.unwrap_model(trainer.model)
    chosen, rejected = (
        rewards(judge, tokenizer, [row["prompt"] + row[name] for row in test_pairs]) for name in ("chosen", "rejected")
    )
    judged = preference_metrics(test_pairs, chosen, rejected)
    if trainer.is_world_process_zero():
        title = f"{judged['num_pairs']:,} held-out pairs, {100 * judged['accuracy']:.0f}% of them judged right"
        plots.calibration(judged["calibration"], title, Path(config.output_dir, "calibration.svg"))
    return {
        **judged,
        **length_baseline(train_pairs, test_pairs),
        **trained,
        "num_train_pairs": len(train_pairs),
    }


if __name__ == "__main__":
    run_stage(main, RewardModelConfig, inputs=lambda config: [*local(config.model), config.pairs], preflight=preflight)
