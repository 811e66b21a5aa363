"""A run folder -> one results table, and results.json for whoever wants to compare runs; several folders -> mean and spread.

python recipes/08_report/results.py outputs/tiny --wall_seconds 812
python recipes/08_report/results.py outputs/tiny outputs/seed1 outputs/seed2
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean, stdev

from rich.console import Console
from rich.table import Table

from crawl2chat.machine import plain_tokens_per_second
from crawl2chat.problems import KINDS
from crawl2chat.stage import StageError, read_run, write_atomically
from crawl2chat.totals import busy_seconds, memory_at_once

# Stage folder -> the metrics of it that the results repeat, under the names they get there.
REPEATED = {
    "2_pages": {"num_pages_in": "pages_in"},
    "6_tokens": {"train_tokens": "corpus_tokens"},
    "base": {"bits_per_byte": "bits_per_byte", "parameters": "parameters", "tokens_per_second": "tokens_per_second"},
    "eval_base": {"accuracy": "base_accuracy"},
    "eval_draft": {"hallucination": "hallucination_before"},  # nothing has taught it yet to say that it does not know
    "eval_sft": {
        "accuracy": "sft_accuracy",
        "completion_tokens": "sft_completion_tokens",
        "hallucination": "hallucination_after",
        "hallucination_of_known_names": "hallucination_of_known_names",
    },
    "reward": {"accuracy": "reward_accuracy"},
    "eval_dpo": {"win_rate": "dpo_win_rate", "win_rate_by_reward": "dpo_win_rate_by_reward", "kl": "dpo_kl"},
    "eval_ppo": {"win_rate": "ppo_win_rate", "win_rate_by_reward": "ppo_win_rate_by_reward", "kl": "ppo_kl"},
    "eval_ppo_sums": {"accuracy": "ppo_accuracy"},
    "eval_control": {"accuracy": "control_accuracy", "completion_tokens": "control_completion_tokens"},
    "eval_control_answered": {"accuracy": "control_answered_accuracy"},
    "eval_grpo": {
        "accuracy": "grpo_accuracy",
        "completion_tokens": "grpo_completion_tokens",
        "faithfulness": "faithfulness",
        "num_problems": "num_problems",
    },
}
# The figure that says most about a stage, for the table.
HEADLINE = {
    "0_web": "num_pages",
    "2_pages": "num_pages_kept",
    "3_unique": "num_pages_kept",
    "4_corpus": "num_train_pages",
    "5_tokenizer": "bytes_per_token",
    "6_tokens": "train_tokens",
    "base": "bits_per_byte",
    "7_conversations": "sft_chats",
    "draft": "train_loss",
    "8_probe": "facts_probed",
    "sft": "train_loss",
    "reward": "accuracy",
    "dpo": "held_out_accuracy",
    "ppo": "last_score",
    "ppo_sums": "last_score",
    "grpo": "last_reward",
    "control": "train_loss",
    "control_answered": "train_loss",
    "eval_base": "accuracy",
    "eval_draft": "hallucination",
    "eval_sft": "accuracy",
    "eval_dpo": "win_rate",
    "eval_ppo": "win_rate",
    "eval_ppo_sums": "accuracy",
    "eval_control": "accuracy",
    "eval_control_answered": "accuracy",
    "eval_grpo": "accuracy",
}


def main(folder: Path, wall_seconds: float) -> None:
    stages = [name for name in HEADLINE if (folder / name / "run.yaml").is_file()]
    if not stages:
        raise StageError(f"{folder} holds no finished stage; run recipes/run_tiny.sh first.")
    runs = {name: read_run(folder / name) for name in stages}
    metrics = {name: json.loads((folder / name / "metrics.json").read_text()) for name in stages}

    table = Table(title=f"{folder}: {runs[stages[-1]]['hardware']}", title_justify="left")
    for column, side in (("stage", "left"), ("seconds", "right"), ("memory MB", "right"), ("result", "left")):
        table.add_column(column, justify=side)
    for name in stages:
        seconds, memory = runs[name]["seconds"], max(runs[name]["peak_memory_mb"].values())
        table.add_row(name, f"{seconds:.1f}", f"{memory:,}", f"{HEADLINE[name]} {metrics[name][HEADLINE[name]]:,}")
    # The wall time holds the start-up of every process too; that of a run started again does not hold what went before.
    total = round(max(wall_seconds, busy_seconds(runs.values())), 1)
    table.add_row("total", f"{total:.1f}", "", "", style="bold")
    Console().print(table)

    if "eval_grpo" in metrics:
        Console().print(accuracy_table(metrics))
        Console().print(f"how its thoughts came about: {folder / 'grpo' / 'thoughts.html'}", highlight=False)
    results = {"seconds_total": total, "plain_tokens_per_second": plain_tokens_per_second()}
    results["peak_memory_mb"] = memory_at_once(runs.values())
    for name, names in REPEATED.items():
        if name in metrics:
            results.update({new: metrics[name][old] for old, new in names.items()})
    if "4_corpus" in metrics:
        results["pages_kept"] = sum(metrics["4_corpus"][name] for name in ("num_train_pages", "num_validation_pages"))
    if "eval_sft" in metrics:
        facts = metrics["eval_sft"]["fact_accuracy_by_num_pages"]
        results.update({f"sft_facts_on_{count}_pages": accuracy for count, accuracy in facts.items()})
        results["over_refusal"] = metrics["eval_sft"]["fact_unknown_by_num_pages"][max(facts, key=int)]
        results["sft_pass_at_8"] = metrics["eval_sft"]["pass_at"]["8"]
        chats = metrics["eval_sft"]["chat_accuracy"]
        results |= {
            "identity_accuracy": chats["identity"],
            "refusal_rate": chats["harmful"],
            "lookalike_refusal_rate": round(1 - chats["lookalike"], 4),
            "tool_accuracy": chats["calculator"],
            "no_tool_accuracy": chats["no_tool"],
        }
    if "chat_accuracy" in metrics.get("eval_grpo", {}):  # what RL did not ask
        chats = metrics["eval_grpo"]["chat_accuracy"]
        results |= {"grpo_identity_accuracy": chats["identity"], "grpo_tool_accuracy": chats["calculator"]}
    if "eval_control_answered" in metrics:  # the better of the controls is the one to beat
        results["control_accuracy"] = max(results["control_accuracy"], results["control_answered_accuracy"])
    if "control" in metrics:
        results.update({f"{name}_seconds": metrics[name]["train_seconds"] for name in ("grpo", "control")})
    write_atomically(folder / "results.json", json.dumps(results, indent=2) + "\n")
    for sample in sorted((folder / "base" / "samples").glob("*.txt"))[-1:]:
        Console().print(
            f"\nWhat the base model writes ({sample}):\n{sample.read_text()}", markup=False, highlight=False
        )


def compare(folders: list[Path]) -> None:
    """Prints mean, standard deviation (of the sample) and every value of each result, as Markdown."""
    missing = [str(folder) for folder in folders if not (folder / "results.json").is_file()]
    if missing:
        raise StageError(f"no results.json in {', '.join(missing)}; run recipes/run_tiny.sh into that folder first.")
    runs = [json.loads((folder / "results.json").read_text()) for folder in folders]
    lines = [f"| | mean | ± | {' | '.join(folder.name for folder in folders)} |", "|---" * (len(folders) + 3) + "|"]
    for name in (name for name in runs[0] if all(name in run for run in runs)):
        values = [run[name] for run in runs]
        shown = " | ".join(f"{value:,}" for value in values)
        average = f"{mean(values):,.0f}" if mean(values) >= 1000 else f"{mean(values):.4g}"
        lines.append(f"| {name} | {average} | {stdev(values):.2g} | {shown} |")
    sys.stdout.write("\n".join(lines) + "\n")


def accuracy_table(metrics: dict) -> Table:
    """Accuracy on held-out problems by kind, and the tokens spent, for each model."""
    names = ("base", "sft", "control", "control_answered", "ppo_sums", "grpo")
    evaluations = {name: metrics[f"eval_{name}"] for name in names if f"eval_{name}" in metrics}
    table = Table(title=f"{evaluations['grpo']['num_problems']} held-out problems, greedy", title_justify="left")
    table.add_column("right, %")
    for name in evaluations:
        table.add_column(name, justify="right")
    for kind in KINDS:
        if kind in evaluations["grpo"]["accuracy_by_kind"]:
            table.add_row(kind, *(f"{100 * found['accuracy_by_kind'][kind]:.0f}" for found in evaluations.values()))
    overall = (f"{100 * e['accuracy']:.1f} ± {100 * e['standard_error']:.1f}" for e in evaluations.values())
    table.add_row("all", *overall, style="bold")
    table.add_row("tokens an answer", *(str(found["completion_tokens"]) for found in evaluations.values()))
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="folder", help="a run's folder, e.g. outputs/tiny")
    parser.add_argument(
        "--wall_seconds", type=float, default=0.0, help="wall time of the shell file that ran the stages"
    )
    arguments = parser.parse_args()
    try:
        if len(arguments.folders) == 1:
            main(arguments.folders[0], arguments.wall_seconds)
        else:
            compare(arguments.folders)
    except StageError as error:
        sys.exit(f"results: error: {error}")
