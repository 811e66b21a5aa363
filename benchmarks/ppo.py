"""Our PPO beside TRL's GRPO: the same assistant, questions, reward and number of completions; rewards and wall time.

    python benchmarks/ppo.py --model outputs/tiny/sft --prompts outputs/tiny/7_conversations --seeds 3 \
        --output_dir outputs/ppo_benchmark --plot docs/ppo_against_grpo.svg

GRPO is `recipes/06_grpo/tiny.yaml`, PPO `recipes/05_ppo/tiny_sums.yaml`; they take turns, and each trained model answers
the held-out problems. It prints one JSON line.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

from crawl2chat import plots

ROOT = Path(__file__).resolve().parents[1]
RECIPES = {"GRPO": ("06_grpo/grpo.py", "06_grpo/tiny.yaml"), "PPO": ("05_ppo/ppo.py", "05_ppo/tiny_sums.yaml")}

FIGURES = ("seconds", "accuracy", "last_reward")


def arguments_of_two(documentation: str, output_dir: str) -> argparse.ArgumentParser:
    """What every comparison of two trainings takes."""
    parser = argparse.ArgumentParser(description=documentation.splitlines()[0])
    parser.add_argument("--model", required=True, help="assistant to start from")
    parser.add_argument("--prompts", required=True, help="folder of 7_build_conversations.py")
    parser.add_argument("--output_dir", default=output_dir)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=None, help="instead of the recipe's")
    parser.add_argument("--plot", type=Path, default=None, help="an .svg of the curves")
    return parser


def stage(script: str, *arguments) -> None:
    command = [sys.executable, ROOT / "recipes" / script, *arguments]
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"{script} failed:\n{ran.stderr[-3000:]}")


def trained(name: str, seed: int, given: argparse.Namespace) -> dict:
    """Curve of rewards, seconds of training and accuracy on held-out problems of one run."""
    script, config = RECIPES[name]
    out = Path(given.output_dir, f"{name.lower()}-{seed}")
    more = [*(["--max_steps", given.steps] if given.steps else []), *(given.ppo if name == "PPO" else [])]
    stage(
        script, "--config", ROOT / "recipes" / config, "--model", given.model, "--prompts", given.prompts,
        "--seed", seed, "--save_strategy", "no", "--output_dir", out, *more,
    )  # fmt: skip
    stage(
        "07_evaluate/run_eval.py", "--config", ROOT / "recipes/07_evaluate/tiny.yaml", "--model", out,
        "--tests", given.prompts, "--parts", "problems", "--output_dir", f"{out}-eval",
    )  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    accuracy = json.loads(Path(f"{out}-eval", "metrics.json").read_text())["accuracy"]
    curve = [(row["step"], row.get("reward", row.get("score"))) for row in metrics["curve"]]
    seconds = metrics["train_seconds"]
    return {"seed": seed, "seconds": seconds, "accuracy": accuracy, "last_reward": curve[-1][1], "curve": curve}


def summary(runs: list[dict], names: tuple[str, ...]) -> dict:
    """The runs of all seeds, and of each figure the mean and the standard deviation."""
    found: dict = {"runs": runs}
    for name in names:
        values = [run[name] for run in runs]
        found[name] = round(mean(values), 4)
        found[f"{name}_spread"] = round(stdev(values), 4) if len(values) > 1 else None
    return found


def plot(found: dict[str, dict], file: Path) -> None:
    """Mean reward of every logged stretch of steps, with the range over the seeds."""
    with plots.drawn(file) as axes:
        for (name, runs), colour in zip(found.items(), plots.COLOURS):
            steps = [step for step, _ in runs["runs"][0]["curve"]]
            values = list(zip(*([reward for _, reward in run["curve"]] for run in runs["runs"])))
            label = f"{name}: {100 * runs['accuracy']:.0f}% of held-out problems, {runs['seconds']:.0f} s"
            lows, highs = [min(row) for row in values], [max(row) for row in values]
            axes.plot(steps, [mean(row) for row in values], color=colour, label=label)
            axes.fill_between(steps, lows, highs, color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel="step", ylabel="share of right answers in training", ylim=(0, 1))
        axes.set_title("questions from easy to hard, mean and range over the seeds")
        axes.legend(loc="lower right")


if __name__ == "__main__":
    parser = arguments_of_two(__doc__, "outputs/ppo_benchmark")
    parser.add_argument("--ppo", nargs=argparse.REMAINDER, default=[], help="flags of PPO, after all others")
    given = parser.parse_args()
    runs: dict[str, list[dict]] = {name: [] for name in RECIPES}
    for seed in range(given.seeds):
        for name in RECIPES:
            runs[name].append(trained(name, seed, given))
            sys.stderr.write(f"{name}, seed {seed}: {runs[name][-1]['accuracy']}, {runs[name][-1]['seconds']} s\n")
    found = {name: summary(of_name, FIGURES) for name, of_name in runs.items()}
    if given.plot:
        plot(found, given.plot)
    sys.stdout.write(json.dumps(found) + "\n")
