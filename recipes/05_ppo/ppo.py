"""Assistant -> assistant that a reward model likes, or that solves what can be checked: PPO with a value model.

The algorithm, and how it departs from the papers, stands in `src/crawl2chat/ppo.py`; docs/rlhf.md compares it with DPO.
The policy goes to `output_dir`, the value model to `output_dir/value_model`.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/05_ppo/ppo.py \
        --config recipes/05_ppo/tiny.yaml --model outputs/tiny/sft --reward_model outputs/tiny/reward \
        --prompts outputs/tiny/7_conversations --output_dir outputs/tiny/ppo
"""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification, set_seed

from crawl2chat.adapters import Adapted
from crawl2chat.chat import load_tokenizer, local
from crawl2chat.ppo import VALUE_MODEL, PPOConfig, PPOTrainer
from crawl2chat.rehearsal import Rehearsal, Rehearses
from crawl2chat.rewards import Asked, scorers
from crawl2chat.stage import StageError, run_stage
from crawl2chat.training import FastPrecision, asked_for, save, train


@dataclass
class PreferredConfig(FastPrecision, Adapted, Rehearses, Asked, PPOConfig):
    prompts_file: str = field(default="rlhf_train.jsonl", metadata={"help": "Which of its files holds the prompts."})
    reward_model: str = field(default="", metadata={"help": "Folder of 03_reward: scores each completion."})

    def problems(self) -> list[str]:
        found = super().problems()
        steps = self.steps_per_generation * self.num_iterations // self.gradient_accumulation_steps
        if self.save_strategy == "steps" and self.save_steps % max(steps, 1):
            found.append(
                f"`save_steps` {self.save_steps:.0f} falls into a rollout; give a multiple of its {steps} steps."
            )
        if self.curriculum:
            found.append("`curriculum` compares the completions of a prompt, and PPO draws one; take recipes/06_grpo.")
        if asked_for().startswith("FSDP"):
            found.append(
                "FSDP cannot split policy and value model as one; take accelerate_configs/zero2.yaml or ddp.yaml."
            )
        return found

    def inputs(self) -> list[str]:
        return [*super().inputs(), *local(self.reward_model)]


class Trainer(Rehearsal, PPOTrainer):
    """Ours, which goes on with chats where these are given."""


def load_rewards(config: PreferredConfig) -> tuple[list, list]:
    """What scores completions, and the tokenizer of each that is a model."""
    functions = scorers(config.rewards)
    if not config.reward_model and not functions:
        raise StageError("nothing scores the completions; give a `reward_model`, `rewards` or both.")
    if not config.reward_model:
        return functions, [None] * len(functions)
    tokenizer = load_tokenizer(config.reward_model, for_chat=True)
    model = AutoModelForSequenceClassification.from_pretrained(config.reward_model)
    if model.config.num_labels != 1:
        raise StageError(
            f"{config.reward_model} gives {model.config.num_labels} scores, not one; train it by 03_reward."
        )
    return [model, *functions], [tokenizer, *[None] * len(functions)]


def load_value_model(config: PreferredConfig, tokenizer):
    """A number for every token, from the reward model if it has the same tokenizer, or else from the policy."""
    same = config.reward_model and load_tokenizer(config.reward_model).get_vocab() == tokenizer.get_vocab()
    start = config.reward_model if same else config.model
    settings = AutoConfig.from_pretrained(start, num_labels=1)
    settings.classifier_dropout = 0.0  # transformers would take 0.1
    return AutoModelForTokenClassification.from_pretrained(start, config=settings)


def preflight(config: PreferredConfig) -> dict:
    tokenizer = load_tokenizer(config.model, for_chat=True)
    model, _ = config.load(config.model, tokenizer), config.adapter()
    load_rewards(config)
    chats = config.rehearsed(tokenizer, model)
    prompts, tools = config.asked(tokenizer, model), config.callables(tokenizer) or None
    return {
        "parameters": model.num_parameters(),
        "value_parameters": load_value_model(config, tokenizer).num_parameters(),
        "prompts": len(prompts),
        "chats": len(chats),
        "completions_per_rollout": config.generation_batch_size,
        "updates_per_rollout": config.steps_per_generation
        * config.num_iterations
        // config.gradient_accumulation_steps,
        "example": tokenizer.apply_chat_template(
            prompts[0]["prompt"], tools=tools, tokenize=False, add_generation_prompt=True
        ),
    }


def main(config: PreferredConfig) -> dict:
    set_seed(config.seed)  # a value head may begin at random
    tokenizer = load_tokenizer(config.model, for_chat=True)
    rewards, reward_tokenizers = load_rewards(config)
    model = config.load(config.model, tokenizer)
    trainer = Trainer(
        model=model,
        peft_config=config.adapter(),
        value_model=load_value_model(config, tokenizer),
        reward_funcs=rewards,
        reward_processing_classes=reward_tokenizers,
        args=config,
        train_dataset=config.asked(tokenizer, model),
        processing_class=tokenizer,
        tools=config.callables(tokenizer),
        chats=config.rehearsed(tokenizer, model),
        callbacks=config.watchers(tokenizer),
    )
    trained = train(trainer)
    trainer.save_value_model(Path(config.output_dir, VALUE_MODEL))
    save(trainer, tokenizer, change=trainer.drop_value_model)
    names = {"objective/scores": "score", "objective/kl": "kl", "completions/mean_length": "completion_tokens"}
    curve = [
        {"step": row["step"], **{short: row[name] for name, short in names.items()}}
        for row in trainer.state.log_history
        if "objective/scores" in row
    ]
    return {
        **trained,
        "first_score": curve[0]["score"],
        "last_score": curve[-1]["score"],
        "last_kl": curve[-1]["kl"],
        "curve": curve,
    }


if __name__ == "__main__":
    run_stage(main, PreferredConfig, inputs=PreferredConfig.inputs, preflight=preflight)
