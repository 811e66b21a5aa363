"""Assistant -> thinking model: TRL's GRPOTrainer on questions with a checkable answer; nobody shows it any working.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/06_grpo/grpo.py \
        --config recipes/06_grpo/tiny.yaml --model outputs/tiny/sft --prompts outputs/tiny/7_conversations \
        --output_dir outputs/tiny/grpo
"""

from dataclasses import dataclass, field

from trl import GRPOConfig, GRPOTrainer

from crawl2chat.chat import load_model, load_tokenizer
from crawl2chat.rewards import Asked, reward_function
from crawl2chat.stage import run_stage
from crawl2chat.training import FastPrecision, save, train


@dataclass
class ThinkingConfig(FastPrecision, Asked, GRPOConfig):
    rewards: list[str] = field(
        default_factory=lambda: ["crawl2chat.rewards.correct"], metadata={"help": "Functions that score completions."}
    )


def preflight(config: ThinkingConfig) -> dict:
    tokenizer = load_tokenizer(config.model, for_chat=True)
    model = load_model(config.model, tokenizer)
    for path in config.rewards:
        reward_function(path)
    prompts, tools = config.asked(), config.callables(tokenizer) or None
    example = tokenizer.apply_chat_template(
        prompts[0]["prompt"], tools=tools, tokenize=False, add_generation_prompt=True
    )
    return {
        "parameters": model.num_parameters(),
        "prompts": len(prompts),
        "completions_per_step": config.generation_batch_size // config.steps_per_generation,
        "prompts_per_generation": config.generation_batch_size // config.num_generations,
        "example": example,
    }


def main(config: ThinkingConfig) -> dict:
    tokenizer = load_tokenizer(config.model, for_chat=True)
    trainer = GRPOTrainer(
        model=load_model(config.model, tokenizer),
        reward_funcs=[reward_function(path) for path in config.rewards],
        args=config,
        train_dataset=config.asked(),
        processing_class=tokenizer,
        tools=config.callables(tokenizer),
    )
    trained = train(trainer)
    save(trainer, tokenizer)
    curve = [
        {"step": row["step"], "reward": row["reward"], "completion_tokens": row["completions/mean_length"]}
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
