"""Our GRPO and PPO beside TRL's own `trl grpo`: the same assistants, questions, reward and number of completions.

    python benchmarks/rollouts.py outputs/seed0 outputs/seed1 outputs/seed2 \
        --output_dir outputs/rollouts_benchmark --plot docs/rollouts.svg

Each run of `recipes/run_tiny.sh` gives its assistant and its questions.

GRPO of both reads `recipes/06_grpo/tiny.yaml`, so that TRL's, too, trains in float32 and without recomputing activations;
PPO is `recipes/05_ppo/tiny_sums.yaml`. They take turns, and what each has saved on the way answers the held-out problems.
Ours run in the environment of `make tiny`, TRL's in the one that Python starts with. It prints one JSON line.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean

import yaml
from stages import ROOT, stage

from crawl2chat import plots
from crawl2chat.rewards import reward_function

CONFIG = ROOT / "recipes/06_grpo/tiny.yaml"
RECIPES = {
    "grpo": [ROOT / "recipes/06_grpo/grpo.py", "--config", CONFIG, "--inspect_steps", 0],
    "ppo": [ROOT / "recipes/05_ppo/ppo.py", "--config", ROOT / "recipes/05_ppo/tiny_sums.yaml"],
}
LABELS = {"grpo": "GRPO, this recipe", "ppo": "PPO, this recipe", "trl": "trl grpo"}
SETTINGS = yaml.safe_load(CONFIG.read_text())
# TRL's script names a reward by its path; this stands here under a name of its own.
[correct_in_time] = map(reward_function, SETTINGS["rewards"])
OURS = {"GOMP_SPINCOUNT": "100000", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34)}
OURS |= {"MALLOC_TOP_PAD_": str(2**26), "TOKENIZERS_PARALLELISM": "true"}


def command(name: str, run: Path, out: Path) -> list:
    """How each is started, with the same settings but for those that are ours alone."""
    if name in RECIPES:
        return [*RECIPES[name], "--model", run / "sft", "--prompts", run / "7_conversations"]
    data = out.with_name("data")
    data.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "7_conversations/rl_train.jsonl", data / "train.jsonl")
    config = out.with_name("trl.yaml")
    config.write_text(yaml.safe_dump({k: v for k, v in SETTINGS.items() if k not in ("rewards", "inspect_steps")}))
    rewards = ["--reward_funcs", "rollouts.correct_in_time"]
    model = ["--model_name_or_path", (run / "sft").resolve(), "--dataset_name", data.resolve()]
    return ["-m", "trl.scripts.grpo", "--config", config.resolve(), *model, *rewards]


def trained(name: str, run: Path, steps: int, given: argparse.Namespace) -> dict:
    """Seconds of training, completions a second, and [seconds, accuracy on held-out problems] of each checkpoint."""
    out = Path(given.output_dir, run.name, name)
    shutil.rmtree(out, ignore_errors=True)
    options = ["--max_steps", steps, "--save_steps", given.save_steps, "--save_total_limit", 1000]
    words = [sys.executable, *command(name, run, out), *options, "--output_dir", out.resolve()]
    environment = {key: value for key, value in os.environ.items() if key not in OURS}
    folder = None if name in RECIPES else Path(__file__).parent  # where TRL finds the rewards
    environment |= OURS if name in RECIPES else {}
    ran = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=environment, cwd=folder)
    found = re.findall(r"'train_runtime': '?([\d.e+]+)", ran.stdout + ran.stderr)
    if ran.returncode or not found:
        sys.exit(f"{name} failed:\n{ran.stderr[-3000:]}")
    seconds = float(found[-1])
    checkpoints = sorted(out.glob("checkpoint-*/trainer_state.json"), key=os.path.getmtime)
    end = os.path.getmtime(checkpoints[-1])
    curve = []
    for state in checkpoints:
        held_out = out / f"eval-{state.parent.name}"
        stage(
            "07_evaluate/run_eval.py", "--config", ROOT / "recipes/07_evaluate/tiny.yaml", "--model", state.parent,
            "--tests", run / "7_conversations", "--parts", "problems", "--output_dir", held_out,
        )  # fmt: skip
        accuracy = json.loads((held_out / "metrics.json").read_text())["accuracy"]
        curve.append([round(seconds - (end - os.path.getmtime(state)), 1), accuracy])
    before = run / "eval_sft/metrics.json"
    start = [[0.0, json.loads(before.read_text())["accuracy"]]] if before.is_file() else []
    completions = SETTINGS["per_device_train_batch_size"] * steps
    return {
        "run": run.name,
        "seconds": round(seconds, 1),
        "completions_per_second": round(completions / seconds, 2),
        "seconds_to_accuracy": next((at for at, accuracy in curve if accuracy >= given.accuracy), None),
        "accuracy": curve[-1][1],
        "curve": [*start, *curve],
    }


def ratios(found: dict[str, list[dict]], name: str) -> dict:
    """One of ours over TRL's, by run: completions a second, and how much sooner it comes to the accuracy."""
    pairs = list(zip(found[name], found["trl"], strict=True))
    speeds = [ours["completions_per_second"] / theirs["completions_per_second"] for ours, theirs in pairs]
    sooner = [
        theirs["seconds_to_accuracy"] / ours["seconds_to_accuracy"]
        for ours, theirs in pairs
        if ours["seconds_to_accuracy"] and theirs["seconds_to_accuracy"]
    ]
    return {
        f"{name}_completions_per_second_ratio": round(mean(speeds), 2),
        f"{name}_completions_per_second_ratios": [round(speed, 2) for speed in speeds],
        f"{name}_seconds_to_accuracy_ratios": [round(ratio, 2) for ratio in sooner],
    }


def plot(found: dict[str, list[dict]], file: Path) -> None:
    with plots.drawn(file) as axes:
        for (name, runs), colour in zip(found.items(), plots.COLOURS):
            speed = mean(run["completions_per_second"] for run in runs)
            label = f"{LABELS[name]}: {speed:.0f} completions/s"
            for number, run in enumerate(runs):
                seconds, accuracies = zip(*run["curve"])
                options = {"color": colour, "label": label} if number == 0 else {"color": colour}
                axes.plot(seconds, accuracies, marker="o", markersize=3, linewidth=1.2, **options)
        axes.set(xlabel="seconds of training", ylabel="right on held-out problems", ylim=(0, 1))
        axes.set_title("the same questions and number of completions; a line a run")
        axes.legend(loc="lower right")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of recipes/run_tiny.sh")
    parser.add_argument("--output_dir", default="outputs/rollouts_benchmark")
    parser.add_argument("--steps", type=int, default=None, help="instead of the recipe's")
    parser.add_argument("--plot", type=Path, default=None, help="an .svg of the curves")
    parser.add_argument("--save_steps", type=int, default=16)
    parser.add_argument("--accuracy", type=float, default=0.8, help="whose seconds are compared")
    given = parser.parse_args()
    steps = given.steps or SETTINGS["max_steps"]
    found: dict[str, list[dict]] = {name: [] for name in LABELS}
    for run in given.runs:
        for name in found:
            found[name].append(trained(name, run, steps, given))
            sys.stderr.write(json.dumps({name: found[name][-1]}) + "\n")
    if given.plot:
        plot(found, given.plot)
    sys.stdout.write(json.dumps({**ratios(found, "grpo"), **ratios(found, "ppo"), **found}) + "\n")
