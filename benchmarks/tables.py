"""The tables of docs/reasoning.md and docs/rlhf.md, from the folders of several tiny runs.

    python benchmarks/tables.py outputs/seed0 outputs/seed1 outputs/seed2

It prints Markdown: what each model solves by kind, a figure a run; and SFT, DPO and PPO on the same held-out requests, mean
and standard deviation of the runs.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean, stdev

from crawl2chat.problems import KINDS

MODELS = ("base", "sft", "control", "ppo_sums", "grpo")
REQUESTS = ("sft", "dpo", "ppo")
FIGURES = {  # name in the metrics, how it is shown, and times what
    "win rate against SFT, by the truth, %": ("win_rate", "{:.1f}", 100),
    "by the reward model, %": ("win_rate_by_reward", "{:.1f}", 100),
    "quality by the truth, from 0 to 1": ("preference", "{:.2f}", 1),
    "reward": ("reward", "{:.2f}", 1),
    "KL from SFT, nats a reply": ("kl", "{:.2f}", 1),
    "tokens a reply": ("request_tokens", "{:.1f}", 1),
}
KINDS_OF_REQUESTS = {
    "open requests": "open",
    "harmful ones, refused": "harmful",
    "look-alikes, answered": "lookalike",
    "strangers, not known": "stranger",
}


def spread(values: list[float], shown: str, scale: float = 1) -> str:
    """Mean and standard deviation of the sample; nothing of no values, as where a model is not compared with itself."""
    deviation = f" ± {shown.format(scale * stdev(values))}" if len(values) > 1 else ""
    return shown.format(scale * mean(values)) + deviation if values else ""


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def problems(metrics: dict[str, list[dict]]) -> str:
    rows, models = [], [model for model in MODELS if model in metrics]
    for kind in KINDS:
        by_run = ([f"{100 * run['accuracy_by_kind'][kind]:.0f}" for run in metrics[model]] for model in models)
        rows.append([kind, *map(", ".join, by_run)])
    rows.append(["all", *(spread([run["accuracy"] for run in metrics[m]], "{:.0f}", 100) for m in models)])
    rows.append(["tokens", *(spread([run["completion_tokens"] for run in metrics[m]], "{:.0f}") for m in models)])
    return table(["right, %", *models], rows)


def requests(metrics: dict[str, list[dict]]) -> str:
    rows = []
    for label, (name, shown, scale) in FIGURES.items():
        found = ([run[name] for run in metrics[model] if name in run] for model in REQUESTS)
        rows.append([label, *(spread(values, shown, scale) for values in found)])
    for label, kind in KINDS_OF_REQUESTS.items():
        found = ([run["preference_by_kind"][kind] for run in metrics[model]] for model in REQUESTS)
        rows.append([label, *(spread(values, "{:.2f}") for values in found)])
    return table(["", *REQUESTS], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of `recipes/run_tiny.sh`")
    runs = parser.parse_args().runs
    evaluated = [  # PPO on the problems is no part of a run unless it was asked for
        model for model in dict.fromkeys((*MODELS, *REQUESTS)) if all((run / f"eval_{model}").is_dir() for run in runs)
    ]
    metrics = {
        model: [json.loads((run / f"eval_{model}" / "metrics.json").read_text()) for run in runs]
        for model in evaluated
    }
    sys.stdout.write(problems(metrics) + "\n" + requests(metrics))
