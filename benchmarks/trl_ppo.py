"""Our PPO beside the PPOTrainer of TRL 1.10, the last release that had one: the same assistants, reward models, prompts,
number of completions, learning rate and weight of the KL divergence; the reward reached, the divergence and wall time.

TRL 1.10 goes into an environment of its own:

    python3 -m venv /tmp/trl110
    /tmp/trl110/bin/pip install torch==2.13.0 trl==1.10.0
    python benchmarks/trl_ppo.py outputs/seed0 outputs/seed1 outputs/seed2 --baseline_python /tmp/trl110/bin/python

Each run of `recipes/run_tiny.sh` gives its assistant, reward model and prompts. Ours is `recipes/05_ppo/tiny.yaml`. The two
take turns, and what each has trained answers the held-out requests, judged by the reward model and by the truth. TRL's has
one learning rate for policy and values, and no warm-up of the values. It prints one JSON line.
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


def worker(settings: dict) -> None:
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

    set_seed(settings["seed"])
    tokenizer = AutoTokenizer.from_pretrained(settings["model"], padding_side="left")
    lines = Path(settings["prompts"], "rlhf_train.jsonl").read_text().splitlines()
    asked = [json.loads(line)["prompt"] for line in lines]
    ids = [
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
        for prompt in asked
    ]
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32) for _ in range(2)
    )
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.eos_token = "<|im_end|>"  # what it looks for where a completion that was cut off is punished
    config = AutoConfig.from_pretrained(settings["reward_model"], num_labels=1)
    judge, values = (
        AutoModelForSequenceClassification.from_pretrained(
            settings["reward_model"], config=config, dtype=torch.float32
        )
        for _ in range(2)
    )
    arguments = PPOConfig(
        output_dir=settings["output_dir"],
        seed=settings["seed"],
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
    policy.save_pretrained(settings["output_dir"])
    AutoTokenizer.from_pretrained(settings["model"]).save_pretrained(settings["output_dir"])
    sys.stdout.write(json.dumps({"seconds": seconds}) + "\n")


def trained(name: str, run: Path, given: argparse.Namespace) -> dict[str, float]:
    """Trains one of the two and evaluates it."""
    import yaml

    out = Path(given.output_dir, run.name, name)
    inputs = {"model": run / "sft", "reward_model": run / "reward", "prompts": run / "7_conversations"}
    settings = yaml.safe_load((ROOT / "recipes/05_ppo/tiny.yaml").read_text())
    steps = given.steps or settings["max_steps"]
    if name == "ours":
        options = [word for key, value in inputs.items() for word in (f"--{key}", value)]
        options += ["--output_dir", out, "--max_steps", steps, "--save_strategy", "no"]
        stage("05_ppo/ppo.py", "--config", ROOT / "recipes/05_ppo/tiny.yaml", *options)
        seconds = json.loads((out / "metrics.json").read_text())["train_seconds"]
    else:
        settings |= {key: str(value) for key, value in inputs.items()}
        settings |= {"completions": steps * settings["per_device_train_batch_size"], "output_dir": str(out)}
        command = [given.baseline_python, __file__, "--worker", json.dumps(settings)]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            sys.exit(f"TRL's PPOTrainer failed:\n{ran.stderr[-3000:]}")
        seconds = json.loads(ran.stdout.splitlines()[-1])["seconds"]
    before, after = out.with_name("sft-eval"), out.with_name(f"{name}-eval")
    judged = ["--config", ROOT / "recipes/07_evaluate/tiny.yaml", "--tests", inputs["prompts"], "--parts", "requests"]
    judged += ["--reward_model", inputs["reward_model"]]
    stage("07_evaluate/run_eval.py", *judged, "--model", inputs["model"], "--output_dir", before)
    compared = ["--reference", inputs["model"], "--against", before, "--output_dir", after]
    stage("07_evaluate/run_eval.py", *judged, "--model", out, *compared)
    found = json.loads((after / "metrics.json").read_text())
    return {name: found[name] for name in FIGURES if name in found} | {"run": run.name, "seconds": round(seconds, 1)}


def summary(runs: list[dict]) -> dict:
    """All runs, and of each figure the mean and the standard deviation."""
    found: dict = {"runs": runs}
    for name in FIGURES:
        values = [run[name] for run in runs]
        found[name] = round(mean(values), 4)
        found[f"{name}_spread"] = round(stdev(values), 4) if len(values) > 1 else None
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        sys.exit(worker(json.loads(sys.argv[2])))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of recipes/run_tiny.sh")
    parser.add_argument("--baseline_python", help="of the environment with trl==1.10.0")
    parser.add_argument("--output_dir", default="outputs/trl_ppo_benchmark")
    parser.add_argument("--steps", type=int, default=None, help="instead of the recipe's")
    given = parser.parse_args()
    found: dict[str, list[dict]] = {"ours": [], "trl_1_10": []}
    for run in given.runs:
        for name in found:
            found[name].append(trained(name, run, given))
            sys.stderr.write(f"{name}: {json.dumps(found[name][-1])}\n")
    summaries = {name: summary(runs) for name, runs in found.items()}
    sys.stdout.write(json.dumps(summaries) + "\n")
