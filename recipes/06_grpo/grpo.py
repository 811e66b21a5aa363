"""Assistant -> thinking model: TRL's GRPOTrainer on questions with a checkable answer; nobody shows it any working.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/06_grpo/grpo.py \
        --config recipes/06_grpo/tiny.yaml --model outputs/tiny/sft --prompts outputs/tiny/7_conversations \
        --chats outputs/tiny/8_probe --output_dir outputs/tiny/grpo
"""

from dataclasses import dataclass, field
from pathlib import Path

from trl import GRPOConfig, GRPOTrainer

from crawl2chat.adapters import Adapted
from crawl2chat.chat import load_tokenizer
from crawl2chat.curriculum import MovingCurriculum, grades_of
from crawl2chat.footprint import footprint
from crawl2chat.inspector import write_thoughts
from crawl2chat.rehearsal import Rehearsal, Rehearses
from crawl2chat.rewards import Asked, scorers
from crawl2chat.rollouts import FastRollouts
from crawl2chat.stage import run_stage
from crawl2chat.training import FastPrecision, save, train


@dataclass
class ThinkingConfig(FastPrecision, Adapted, Rehearses, Asked, GRPOConfig):
    rewards: list[str] = field(
        default_factory=lambda: ["crawl2chat.rewards.correct"], metadata={"help": "Functions that score completions."}
    )


class Trainer(Rehearsal, MovingCurriculum, FastRollouts, GRPOTrainer):
    """TRL's, which draws small models' completions fast, learns from what teaches something, asks more of that, and goes on
    with chats."""


def preflight(config: ThinkingConfig) -> dict:
    tokenizer = load_tokenizer(config.model, for_chat=True)
    model, adapter = config.load(config.model, tokenizer), config.adapter()
    scorers(config.rewards), config.watchers(tokenizer)
    chats = config.rehearsed(tokenizer, model)
    prompts, tools = config.asked(tokenizer, model), config.callables(tokenizer) or None
    if config.curriculum:
        grades_of(prompts, config.curriculum)
    example = tokenizer.apply_chat_template(
        prompts[0]["prompt"], tools=tools, tokenize=False, add_generation_prompt=True
    )
    return {
        "parameters": model.num_parameters(),
        "prompts": len(prompts),
        "chats": len(chats),
        "completions_per_step": config.generation_batch_size // config.steps_per_generation,
        "prompts_per_generation": config.generation_batch_size // config.num_generations,
        **footprint(model, config, len(tokenizer(example)["input_ids"]), adapter),
        "example": example,
    }


def main(config: ThinkingConfig) -> dict:
    tokenizer = load_tokenizer(config.model, for_chat=True)
    model = config.load(config.model, tokenizer)
    trainer = Trainer(
        model=model,
        peft_config=config.adapter(),
        reward_funcs=scorers(config.rewards),
        args=config,
        train_dataset=config.asked(tokenizer, model),
        processing_class=tokenizer,
        tools=config.callables(tokenizer),
        chats=config.rehearsed(tokenizer, model),
        callbacks=config.watchers(tokenizer),
    )
    trained = train(trainer)
    save(trainer, tokenizer)
    if Path(config.output_dir, "thoughts").is_dir() and trainer.is_world_process_zero():
        write_thoughts(config.output_dir)
    curve = [
        {"step": row["step"], "reward": row["reward"], "completion_tokens": row["completions/mean_length"]}
        | {name: share for name, share in row.items() if name.startswith(("curriculum/", "chats/"))}
        for row in trainer.state.log_history
        if "reward" in row
    ]
    return {
        **trained,
        "first_reward": curve[0]["reward"],
        "last_reward": curve[-1]["reward"],
        "curve": curve,
    }


if __name__ == "__main__":
    run_stage(main, ThinkingConfig, inputs=ThinkingConfig.inputs, preflight=preflight)
