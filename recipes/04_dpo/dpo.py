"""Assistant -> assistant that people prefer: TRL's DPOTrainer on preference pairs, without a reward model.

Direct preference optimization (https://arxiv.org/abs/2305.18290); the reference is the model it starts from.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/04_dpo/dpo.py \
        --config recipes/04_dpo/tiny.yaml --model outputs/tiny/sft --pairs outputs/tiny/7_conversations \
        --output_dir outputs/tiny/dpo
"""

from dataclasses import dataclass, field

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from crawl2chat.chat import load_model, load_tokenizer, local
from crawl2chat.heads import FastHead
from crawl2chat.pairs import COLUMNS, facts_to_show, fitting, read_pairs
from crawl2chat.stage import missing, run_stage
from crawl2chat.training import FastPrecision, save, train


@dataclass
class PreferenceConfig(FastPrecision, DPOConfig):
    model: str = field(default="", metadata={"help": "Folder or Hub id of a chat model."})
    pairs: str = field(default="", metadata={"help": "Folder of 7_build_conversations.py."})

    def problems(self) -> list[str]:
        return missing(self, "model", "pairs")


class Trainer(FastHead, DPOTrainer):
    """TRL's, with a faster last layer for small models."""


def load_pairs(config: PreferenceConfig, tokenizer, split: str) -> Dataset:
    rows = fitting(read_pairs(config.pairs, split), tokenizer, config.max_length)
    return Dataset.from_list([{name: row[name] for name in COLUMNS} for row in rows])


def preflight(config: PreferenceConfig) -> dict:
    tokenizer = load_tokenizer(config.model, for_chat=True)
    model = load_model(config.model, tokenizer)
    train_pairs, test_pairs = (load_pairs(config, tokenizer, split) for split in ("train", "test"))
    return {"parameters": model.num_parameters(), **facts_to_show(tokenizer, train_pairs, test_pairs)}


def main(config: PreferenceConfig) -> dict:
    tokenizer = load_tokenizer(config.model, for_chat=True)
    trainer = Trainer(
        model=load_model(config.model, tokenizer),
        ref_model=load_model(config.model, tokenizer),
        args=config,
        train_dataset=load_pairs(config, tokenizer, "train"),
        eval_dataset=load_pairs(config, tokenizer, "test"),
        processing_class=tokenizer,
    )
    trained = train(trainer)
    evaluated = trainer.evaluate()
    save(trainer, tokenizer)
    return {
        **trained,
        "held_out_loss": round(evaluated["eval_loss"], 4),
        "held_out_accuracy": round(evaluated["eval_rewards/accuracies"], 4),
        "held_out_margin": round(evaluated["eval_rewards/margins"], 4),
    }


if __name__ == "__main__":
    run_stage(main, PreferenceConfig, inputs=lambda config: [*local(config.model), config.pairs], preflight=preflight)
