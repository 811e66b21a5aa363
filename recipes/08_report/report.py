"""A run's folder -> report.html: the whole path on one page, with every lesson as a table or a plot of this run's numbers.

    python recipes/08_report/report.py outputs/tiny

One file that fetches nothing and has no scripts; made of what the stages wrote and of nothing else, so it can be made again
at any time. What did not run says so.
"""

import argparse
import json
import sys
from pathlib import Path

import yaml

from crawl2chat.charts import line
from crawl2chat.chat import split_thinking
from crawl2chat.html_page import write_page
from crawl2chat.machine import energy
from crawl2chat.problems import KINDS
from crawl2chat.stage import DONE, StageError
from crawl2chat.totals import busy_seconds, memory_at_once

# Of each stage: its folder, its name, and what it made as a sentence of its metrics.
PATH = [
    ("0_web", "Crawl", "{num_pages:,} pages of {num_hosts:,} hosts"),
    ("2_pages", "Filter", "{num_pages_kept:,} pages left"),
    ("3_unique", "Deduplicate", "{num_pages_kept:,} pages left"),
    ("4_corpus", "Corpus", "{num_train_pages:,} pages to train on"),
    ("5_tokenizer", "Tokenizer", "{vocab_size:,} tokens, {bytes_per_token:.2f} bytes each"),
    ("6_tokens", "Tokens", "{train_tokens:,} of them"),
    ("base", "Base model", "{parameters:,} parameters, {bits_per_byte:.3f} bits per byte"),
    ("7_conversations", "Conversations", "{sft_chats:,} chats, {pairs:,} pairs"),
    ("draft", "Draft", "answers whatever it is asked"),
    ("8_probe", "Probe", "{facts_probed:,} facts asked about"),
    ("sft", "Assistant", "SFT, loss {train_loss:.2f}"),
    ("reward", "Reward model", "{accuracy:.1%} of held-out pairs"),
    ("dpo", "DPO", "{held_out_accuracy:.1%} of held-out pairs"),
    ("ppo", "PPO", "score {first_score:.2f} to {last_score:.2f}"),
    ("grpo", "GRPO", "reward {first_reward:.2f} to {last_reward:.2f}"),
    ("control", "Control", "SFT for as long as GRPO"),
]
EVALUATED = {"base": "base", "draft": "draft", "sft": "SFT", "control": "control"}
EVALUATED |= {"dpo": "DPO", "ppo": "PPO", "ppo_sums": "PPO", "grpo": "GRPO"}
ASKED = dict(
    zip(
        KINDS,
        ("two numbers", "difference", "three numbers", "sum and difference", "larger of two sums", "four numbers"),
    )
)


class Run:
    """What lies in a run's folder; everything may be missing."""

    def __init__(self, folder: Path):
        self.folder = folder

    def json(self, *names: str) -> dict | list:
        file = self.folder.joinpath(*names)
        return json.loads(file.read_text()) if file.is_file() else {}

    def rows(self, *names: str) -> list[dict]:
        file = self.folder.joinpath(*names)
        return [json.loads(text) for text in file.read_text().splitlines()] if file.is_file() else []

    def metrics(self, stage: str) -> dict:
        return self.json(stage, "metrics.json") if (self.folder / stage / DONE).is_file() else {}

    def done(self, stage: str) -> dict:
        file = self.folder / stage / DONE
        return yaml.safe_load(file.read_text()) if file.is_file() else {}


def path(run: Run) -> list[dict]:
    """Every stage with what it made and what it cost."""
    found = []
    for stage, title, made in PATH:
        done, metrics = run.done(stage), run.metrics(stage)
        memory = max(done["peak_memory_mb"].values()) if done else 0
        found.append(
            {
                "stage": stage,
                "title": title,
                "made": made.format(**metrics) if done else "did not run",
                "done": bool(done),
                "seconds": done.get("seconds", 0.0),
                "memory_mb": memory,
                "fingerprint": done.get("fingerprint", ""),
            }
        )
    return found


def sharpening(run: Run) -> list[dict]:
    """How likely the next tokens after each prompt were, at every checkpoint that kept them."""
    steps = {
        int(file.stem[5:]): json.loads(file.read_text()) for file in (run.folder / "base/samples").glob("step-*.json")
    }
    if not steps:
        return []
    return [
        {"prompt": prompt, "steps": [{"step": step, "next": steps[step][prompt][:5]} for step in sorted(steps)]}
        for prompt in steps[min(steps)]
    ]


def lessons(run: Run) -> list[dict]:
    """Before and after, in shares: what is measured, the two values, and what was done between."""
    draft, sft = run.metrics("eval_draft"), run.metrics("eval_sft")
    if not sft:
        return []
    chats, before = sft["chat_accuracy"], draft.get("chat_accuracy", {})
    facts = sft["fact_accuracy_by_num_pages"]
    common = max(facts, key=int)
    unknown = sft["fact_unknown_by_num_pages"][common]
    refused = 1 - before["lookalike"] if before else None
    rows = [
        ("answers invented about people whom no page names", draft.get("hallucination"), sft["hallucination"]),
        (f"“I do not know” to facts told on {common} pages", None, unknown),
        *((f"facts told on {count} page{'s' * (count != '1')}, right", None, facts[count]) for count in facts),
        ("says who it is, in unseen wordings", before.get("identity"), chats["identity"]),
        ("harmful requests refused", before.get("harmful"), chats["harmful"]),
        ("harmless look-alikes refused", refused, 1 - chats["lookalike"]),
        ("sums of four digits by head, and with a calculator", chats["no_tool"], chats["calculator"]),
        ("words spelled", None, chats["spelling"]),
        ("letters counted", None, chats["letters"]),
        ("questions answered from a text before them", None, chats["reading"]),
    ]
    how = ["a draft was asked what it knows", "the price of that", *["nothing but reading" for _ in facts]]
    how += ["chats about itself", "refusals", "look-alikes that are answered", "a tool that runs"]
    how += ["tokens hide letters", "the same", "the tiny model cannot copy names"]
    return [dict(zip(("what", "before", "after", "how"), (*row, done))) for row, done in zip(rows, how, strict=True)]


def preferences(run: Run) -> dict:
    """SFT, DPO and PPO on the same requests."""
    models = {name: run.metrics(f"eval_{name}") for name in ("sft", "dpo", "ppo")}
    models = {EVALUATED[name]: found for name, found in models.items() if "preference" in found}
    if len(models) < 2:
        return {}
    rows = [
        ("wins against SFT, by the truth", "win_rate", "share"),
        ("wins against SFT, by the reward model", "win_rate_by_reward", "share"),
        ("quality by the truth", "preference", "number"),
        ("reward", "reward", "number"),
        ("KL from SFT, nats a reply", "kl", "number"),
        ("tokens a reply", "request_tokens", "tokens"),
    ]
    table = [
        {"name": title, "values": [written(found.get(name), unit) for found in models.values()]}
        for title, name, unit in rows
    ]
    kinds = next(iter(models.values()))["preference_by_kind"]
    table += [
        {"name": kind, "values": [written(found["preference_by_kind"][kind], "share") for found in models.values()]}
        for kind in kinds
    ]
    return {"models": list(models), "table": table, "requests": requests(run)}


def written(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return {"share": f"{100 * value:.1f}%", "number": f"{value:.2f}", "tokens": f"{value:.1f}"}[unit]


def requests(run: Run) -> list[dict]:
    """One request of each kind through the three models: the first at which PPO does better than SFT, if there is one."""
    said = {name: run.rows(f"eval_{name}", "requests.jsonl") for name in ("sft", "dpo", "ppo")}
    said = {name: rows for name, rows in said.items() if rows}
    found = []
    for kind in dict.fromkeys(row["kind"] for row in said["sft"]):
        numbers = [i for i, row in enumerate(said["sft"]) if row["kind"] == kind]
        better = said.get("ppo", said["sft"])
        best = next((i for i in numbers if better[i]["score"] > said["sft"][i]["score"]), numbers[0])
        replies = [
            {
                "model": EVALUATED[name],
                "thought": "",
                "text": rows[best]["completion"],
                "good": rows[best]["score"] >= 0.99,
            }
            for name, rows in said.items()
        ]
        found.append({"kind": kind, "asked": said["sft"][best]["messages"][-1]["content"], "replies": replies})
    return found


def solved(run: Run) -> dict:
    """Held-out problems by kind, and one of each kind through the models."""
    names = [
        name for name in ("base", "sft", "control", "ppo_sums", "grpo") if "accuracy" in run.metrics(f"eval_{name}")
    ]
    if "grpo" not in names:
        return {}
    found = {name: run.metrics(f"eval_{name}") for name in names}
    kinds = [kind for kind in KINDS if kind in found["grpo"]["accuracy_by_kind"]]
    table = [
        {"name": ASKED[kind], "values": [found[name]["accuracy_by_kind"][kind] for name in names]} for kind in kinds
    ]
    rows = {name: run.rows(f"eval_{name}", "problems.jsonl") for name in names}
    shown = []
    for kind in kinds:
        numbers = [i for i, row in enumerate(rows["grpo"]) if row["kind"] == kind]
        best = next((i for i in numbers if rows["grpo"][i]["score"] and not rows["sft"][i]["score"]), numbers[0])
        replies = []
        for name in names:
            row = rows[name][best]
            thought, answer = split_thinking(row["completion"]) if name != "base" else ("", row["completion"])
            replies.append(
                {"model": EVALUATED[name], "thought": thought or "", "text": answer[:240], "good": bool(row["score"])}
            )
        shown.append({"kind": ASKED[kind], "asked": rows["grpo"][best]["question"], "replies": replies})
    sft, grpo = run.metrics("eval_sft"), found["grpo"]
    return {
        "models": [EVALUATED[name] for name in names],
        "table": table,
        "all": [found[name]["accuracy"] for name in names],
        "errors": [found[name]["standard_error"] for name in names],
        "tokens": [found[name]["completion_tokens"] for name in names],
        "problems": shown,
        "pass_at": sft.get("pass_at", {}),
        "majority_of": sft.get("majority_of", {}),
        "majority_tokens": sft.get("majority_tokens", {}),
        "faithfulness": grpo.get("faithfulness"),
    }


def curves(run: Run) -> dict[str, list[dict]]:
    base, ppo, grpo = run.metrics("base"), run.metrics("ppo"), run.metrics("grpo")
    thoughts = run.rows("grpo", "thoughts", "curve.jsonl")
    found = {
        "base": [
            line("loss, nats a token", base.get("losses", [])),
            line("bits per byte, held out", base.get("bits_per_byte_by_step", [])),
        ],
        "sft": [
            line(f"loss, {EVALUATED[name]}", run.metrics(name).get("losses", []))
            for name in ("draft", "sft", "control", "dpo")
        ],
        "ppo": [
            line("score by the reward model", [(row["step"], row["score"]) for row in ppo.get("curve", [])]),
            line("KL from SFT", [(row["step"], row["kl"]) for row in ppo.get("curve", [])]),
            line("tokens a reply", [(row["step"], row["completion_tokens"]) for row in ppo.get("curve", [])]),
        ],
        "grpo": [
            line("reward in training", [(row["step"], row["reward"]) for row in grpo.get("curve", [])]),
            line("tokens a completion", [(row["step"], row["completion_tokens"]) for row in grpo.get("curve", [])]),
            line("held-out questions right", [(row["step"], row["accuracy"]) for row in thoughts], is_share=True),
            line(
                "right in one of a few samples", [(row["step"], row["pass_at_k"]) for row in thoughts], is_share=True
            ),
        ],
    }
    return {name: [chart for chart in charts if chart["points"]] for name, charts in found.items()}


def funnel(run: Run) -> list[dict]:
    """What each filter took, the scores against the truth beside it, and one page that it dropped."""
    precision = run.metrics("4_corpus").get("precision", {})
    found = []
    for step in run.json("4_corpus", "funnel.json"):
        sample = next((sample for sample in step.get("samples", []) if sample.get("text")), None)
        found.append({**step, "precision": precision.get(step["step"]), "sample": sample})
    return found


def write_report(folder: Path) -> Path:
    """The page of a run's folder.

    Raises:
        StageError: no stage has finished there.
    """
    run = Run(folder)
    stages = path(run)
    if not any(stage["done"] for stage in stages):
        raise StageError(f"{folder} holds no finished stage; run recipes/run_tiny.sh first.")
    done = [run.done(stage["stage"]) for stage in stages if stage["done"]]
    seconds = busy_seconds(done)
    base, funnel_steps = run.metrics("base"), funnel(run)
    write_page(
        folder / "report.html",
        "report.html.jinja",
        name=folder.name,
        stages=stages,
        most_seconds=max(stage["seconds"] for stage in stages),
        seconds=seconds,
        memory_mb=memory_at_once(done),
        flops=6 * base["parameters"] * base["tokens"] if base else 0,
        base=base,
        energy=energy(seconds),
        hardware=done[-1]["hardware"],
        commit=done[-1].get("commit") or "unknown",
        versions=done[-1]["versions"],
        seed=done[0]["config"].get("seed", 0),
        finished_at=max(run["finished_at"] for run in done),
        funnel=funnel_steps,
        tokenizer=run.json("5_tokenizer", "report.json"),
        sharpening=sharpening(run),
        continued=[
            {"step": int(file.stem[5:]), "texts": file.read_text().strip().split("\n---\n")}
            for file in sorted((folder / "base/samples").glob("step-*.txt"))
        ],
        lessons=lessons(run),
        reward=run.metrics("reward"),
        preferences=preferences(run),
        solved=solved(run),
        curves=curves(run),
        has_thoughts=(folder / "grpo/thoughts.html").is_file(),
    )
    return folder / "report.html"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a run's folder, e.g. outputs/tiny")
    try:
        sys.stdout.write(f"{write_report(parser.parse_args().folder)}\n")
    except StageError as error:
        sys.exit(f"report: error: {error}")
