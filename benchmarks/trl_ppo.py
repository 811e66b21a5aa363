"""Our PPO beside the PPOTrainer of TRL 1.10, the last release that had one: the same assistant, reward model, prompts,
number of completions, learning rate and weight of the KL divergence; the reward reached, the divergence and wall time.

TRL 1.10 goes into an environment of its own:

    python3 -m venv /tmp/trl110
    /tmp/trl110/bin/pip install torch==2.13.0 trl==1.10.0
    python benchmarks/trl_ppo.py --model outputs/tiny/sft --reward_model outputs/tiny/reward --seeds 3 \
        --prompts outputs/tiny/7_conversations --baseline_python /tmp/trl110/bin/python

Ours is `recipes/05_ppo/tiny.yaml`. The two take turns, and what each has trained answers the held-out requests, judged by
the reward model and by the truth. TRL's has one learning rate for policy and values, and no warm-up of the values. It prints
one JSON line.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev

from stages import ROOT, stage

FIGURES = ("reward", "win_rate", "kl", "seconds")


def worker(given: argparse.Namespace) -> None:
    """TRL's half, in its own environment: trains, saves the policy and prints the seconds."""
    import torch
    from datasets import Dataset
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        set_seed,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    settings = json.loads(given.worker)
    set_seed(given.seed)
    tokenizer = AutoTokenizer.from_pretrained(given.model, padding_side="left")
    lines = Path(given.prompts, "rlhf_train.jsonl").read_text().splitlines()
    asked = [json.loads(line)["prompt"] for line in lines]
    ids = [
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
        for prompt in asked
    ]
    policy, reference = (AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32) for _ in range(2))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.eos_token = "<|im_end|>"  # what it looks for where a completion that was cut off is punished
    config = AutoConfig.from_pretrained(given.reward_model, num_labels=1)
    judge, values = (
        AutoModelForSequenceClassification.from_pretrained(given.reward_model, config=config, dtype=torch.float32)
        for _ in range(2)
    )
    arguments = PPOConfig(
        output_dir=given.output_dir,
        seed=given.seed,
        total_episodes=settings["completions"],
        num_ppo_epochs=1,
        num_sample_generations=0,
        local_rollout_forward_batch_size=settings["per_device_train_batch_size"],
        stop_token_id=end,
        response_length=settings["max_completion_length"],
        kl_coef=settings["beta"],
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        **{
            name: settings[name]
            for name in (
                *("learning_rate", "lr_scheduler_type", "warmup_steps", "temperature", "lam", "cliprange_value"),
                *("missing_eos_penalty", "per_device_train_batch_size", "gradient_accumulation_steps"),
            )
        },
    )
    trainer = PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=judge,
        value_model=values,
        train_dataset=Dataset.from_dict({"input_ids": ids}),
    )
    started_at = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started_at
    policy.generation_config.eos_token_id, policy.generation_config.pad_token_id = end, tokenizer.pad_token_id
    policy.save_pretrained(given.output_dir)
    AutoTokenizer.from_pretrained(given.model).save_pretrained(given.output_dir)
    sys.stdout.write(json.dumps({"seconds": seconds}) + "\n")


def trained(name: str, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """Trains one of the two and evaluates it."""
    import yaml

    out = Path(given.output_dir, f"{name}-{seed}")
    settings = yaml.safe_load((ROOT / "recipes/05_ppo/tiny.yaml").read_text())
    steps = given.steps or settings["max_steps"]
    options = ["--model", given.model, "--reward_model", given.reward_model, "--prompts", given.prompts]
    options += ["--seed", seed, "--output_dir", out]
    if name == "ours":
        more = ["--max_steps", steps, "--save_strategy", "no"]
        stage("05_ppo/ppo.py", "--config", ROOT / "recipes/05_ppo/tiny.yaml", *options, *more)
        seconds = json.loads((out / "metrics.json").read_text())["train_seconds"]
    else:
        settings["completions"] = steps * settings["per_device_train_batch_size"]
        command = [given.baseline_python, __file__, "--worker", json.dumps(settings), *options]
        ran = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if ran.returncode:
            sys.exit(f"TRL's PPOTrainer failed:\n{ran.stderr[-3000:]}")
        seconds = json.loads(ran.stdout.splitlines()[-1])["seconds"]
    before, after = Path(given.output_dir, "sft-eval"), Path(f"{out}-eval")
    judged = ["--config", ROOT / "recipes/07_evaluate/tiny.yaml", "--tests", given.prompts, "--parts", "requests"]
    judged += ["--reward_model", given.reward_model]
    if not (before / "run.yaml").is_file():
        stage("07_evaluate/run_eval.py", *judged, "--model", given.model, "--output_dir", before)
    compared = ["--reference", given.model, "--against", before, "--output_dir", after]
    stage("07_evaluate/run_eval.py", *judged, "--model", out, *compared)
    found = json.loads((after / "metrics.json").read_text())
    return {name: found[name] for name in FIGURES if name in found} | {"seed": seed, "seconds": round(seconds, 1)}


def summary(runs: list[dict]) -> dict:
    """The runs of all seeds, and of each figure the mean and the standard deviation."""
    found: dict = {"runs": runs}
    for name in FIGURES:
        values = [run[name] for run in runs]
        found[name] = round(mean(values), 4)
        found[f"{name}_spread"] = round(stdev(values), 4) if len(values) > 1 else None
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="assistant to start from")
    parser.add_argument("--reward_model", required=True, help="folder of 03_reward")
    parser.add_argument("--prompts", required=True, help="folder of 7_build_conversations.py")
    parser.add_argument("--baseline_python", help="of the environment with trl==1.10.0")
    parser.add_argument("--output_dir", default="outputs/trl_ppo_benchmark")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=None, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given)
        sys.exit()
    found: dict[str, list[dict]] = {"ours": [], "trl_1_10": []}
    for seed in range(given.seeds):
        for name in found:
            found[name].append(trained(name, seed, given))
            sys.stderr.write(f"{name}: {json.dumps(found[name][-1])}\n")
    summaries = {name: summary(runs) for name, runs in found.items()}
    sys.stdout.write(json.dumps(summaries) + "\n")
