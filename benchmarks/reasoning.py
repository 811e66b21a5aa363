"""SFT model against thinking model on the same held-out problems and the same budget of tokens: accuracy over tokens spent.

    python benchmarks/reasoning.py outputs/tiny outputs/seed1 outputs/seed2 --plot docs/reasoning.svg

Each folder is that of a whole run. Both models answer greedily, and by a majority of 1, 2, 4, 8 and 16 samples, which costs
as many times the tokens; pass@k, which knows the right answer, is what a vote could reach at best. It prints a Markdown
table, mean and standard deviation over the runs, and one JSON line.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean

from stages import ROOT, stage
from tables import spread

from crawl2chat import plots

MODELS = {"sft": "SFT", "grpo": "GRPO"}


def evaluated(run: Path, model: str, samples: int) -> dict:
    out = run / f"samples_{model}"
    stage(
        "07_evaluate/run_eval.py", "--config", ROOT / "recipes/07_evaluate/tiny.yaml", "--model", run / model,
        "--tests", run / "7_conversations", "--parts", "problems", "--samples", samples, "--output_dir", out,
    )  # fmt: skip
    return json.loads((out / "metrics.json").read_text())


def percent(values: list[float]) -> str:
    return spread(values, "{:.1f}", 100)


def table(found: dict[str, list[dict]]) -> str:
    rows = {
        "greedy": lambda e: e["accuracy"],
        **{f"majority of {k}": lambda e, k=k: e["majority_of"][k] for k in found["sft"][0]["majority_of"]},
        **{f"pass@{k}": lambda e, k=k: e["pass_at"][k] for k in list(found["sft"][0]["pass_at"])[1:]},
    }
    lines = ["| right, % | " + " | ".join(f"{name} | tokens" for name in MODELS.values()) + " |", "|---" * 5 + "|"]
    for name, value in rows.items():
        cells = []
        for model in MODELS:
            of = found[model]
            k = name.split()[-1] if name.startswith("majority") else name.partition("@")[2]
            tokens = [e["majority_tokens"][k] if k in e["majority_tokens"] else e["completion_tokens"] for e in of]
            cells += [percent([value(e) for e in of]), f"{mean(tokens):.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    hardest = list(found["sft"][0]["accuracy_by_kind"])
    best = ", ".join(
        f"{kind}: GRPO once {percent([e['accuracy_by_kind'][kind] for e in found['grpo']])}, SFT in one of "
        f"{list(found['sft'][0]['pass_at'])[-1]} {percent([e['pass_at_samples_by_kind'][kind] for e in found['sft']])}"
        for kind in hardest
    )
    lines += ["", best + "."]
    for model, name in MODELS.items():
        thoughts = [e["faithfulness"] for e in found[model] if e["faithfulness"] is not None]
        lines.append(f"{name}: thoughts whose result is the answer {percent(thoughts)}%")
    return "\n".join(lines)


def plot(found: dict[str, list[dict]], file: Path) -> None:
    with plots.drawn(file, 7.0, 4.8) as axes:
        for (model, name), colour in zip(MODELS.items(), plots.COLOURS[1::-1]):
            of = found[model]
            for key, style, label in (("majority_of", "-", "majority vote"), ("pass_at", ":", "one of them right")):
                ks = list(of[0][key])
                tokens = [mean(e["majority_tokens"][k] for e in of) for k in ks]
                values = [[e[key][k] for e in of] for k in ks]
                options = {"color": colour, "linestyle": style, "marker": "o", "markersize": 3}
                axes.plot(tokens, [mean(row) for row in values], label=f"{name}, {label}", **options)
                axes.fill_between(
                    tokens, [min(row) for row in values], [max(row) for row in values], color=colour, alpha=0.12
                )
            greedy = mean(e["completion_tokens"] for e in of), mean(e["accuracy"] for e in of)
            axes.plot(*greedy, "s", color=colour, markersize=7, label=f"{name}, greedy")
        axes.set(xscale="log", xlabel="tokens a problem", ylabel="right on held-out problems", ylim=(0, 1.02))
        axes.set_xticks([50, 100, 200, 400, 800], [50, 100, 200, 400, 800], minor=False)
        axes.minorticks_off()
        axes.set_title("the same budget of tokens: votes of the SFT model, and thoughts that RL found")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=2, fontsize=9)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of whole runs")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--plot", type=Path, default=None, help="an .svg of the curves")
    given = parser.parse_args()
    found = {model: [evaluated(run, model, given.samples) for run in given.runs] for model in MODELS}
    if given.plot:
        plot(found, given.plot)
    sys.stdout.write(table(found) + "\n" + json.dumps(found) + "\n")
