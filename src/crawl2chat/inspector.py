"""What RL does to thoughts: the same held-out questions at every so many steps of a training, and a page that sets them
side by side.

    python -m crawl2chat.inspector outputs/tiny/grpo

`thoughts/` of a run holds a file for each step, and `curve.jsonl`. The page is made of them and of the trainer's log alone.
"""

import json
import random
import re
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean

import torch
from transformers import TrainerCallback

from crawl2chat.charts import line
from crawl2chat.chat import split_thinking
from crawl2chat.generation import complete, sample
from crawl2chat.heads import is_fast_for
from crawl2chat.html_page import write_page
from crawl2chat.passes import agrees
from crawl2chat.stage import StageError, write_atomically, write_jsonl
from crawl2chat.verify import score

NUM_QUESTIONS, NUM_SAMPLES = 48, 4
# How models say that they look again; our tiny one has no words for it.
_CHECKS = re.compile(
    r"\b(?:wait|let me (?:check|verify|see again)|double[- ]check|on second thought|to verify)\b", re.I
)
FIGURES = {
    "accuracy": "right, greedy",
    "pass_at_k": "right in one of {k} samples",
    "tokens": "tokens a completion",
    "thinks": "think before they answer",
    "faithfulness": "thoughts whose result is the answer",
    "self_checks": "look at their work again",
}
LOGGED = {"entropy": "entropy, nats a token", "kl": "KL from the start, nats a token", "reward": "reward in training"}


class Inspector(TrainerCallback):
    """Asks the questions at step 0, every `every` steps and at the end. What it draws leaves the training's draws alone.

    One process draws, with whole weights: under ZeRO-3 and FSDP there is nothing to see, which it says.
    """

    def __init__(self, tokenizer, questions: list[dict], folder: Path, every: int, max_new_tokens: int):
        self.tokenizer, self.questions, self.folder = tokenizer, questions, folder
        self.every, self.max_new_tokens = every, max_new_tokens

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            self._inspect(state, model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._inspect(state, model)

    def _inspect(self, state, model) -> None:
        if not state.is_world_process_zero:
            return
        if not all(weight.numel() for weight in model.parameters()) or (
            not is_fast_for(model) and torch.distributed.is_initialized()
        ):
            raise StageError("`inspect_steps` needs whole weights on one process; leave it out under ZeRO-3 and FSDP.")
        training, devices = model.training, [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            rows = inspected(model, self.tokenizer, self.questions, self.max_new_tokens)
        model.train(training)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(self.folder / f"step-{state.global_step:06}.jsonl", rows)
        write_curve(self.folder)


def questions_of(file: str | Path) -> list[dict]:
    """`NUM_QUESTIONS` of the held-out problems, as many of each kind, in the order of their difficulty."""
    by_kind = defaultdict(list)
    for text in Path(file).read_text().splitlines():
        row = json.loads(text)
        by_kind[row["kind"]].append(row)
    rng = random.Random(0)
    each = max(1, NUM_QUESTIONS // len(by_kind))
    return [row for rows in by_kind.values() for row in rng.sample(rows, min(each, len(rows)))]


def inspected(model, tokenizer, questions: list[dict], max_new_tokens: int) -> list[dict]:
    """Each question with its greedy completion, and how many of `NUM_SAMPLES` others are right."""
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row["question"]}], tokenize=False, add_generation_prompt=True
        )
        for row in questions
    ]
    greedy = complete(model, tokenizer, prompts, max_new_tokens, progress=False)
    drawn = sample(model, tokenizer, prompts, NUM_SAMPLES, max_new_tokens, progress=False)
    return [
        {
            **{name: row[name] for name in ("question", "answer", "kind")},
            "completion": said["text"],
            "num_tokens": said["num_tokens"],
            "score": score(said["text"], row["answer"]),
            "agrees": agrees(said["text"]),
            "samples": NUM_SAMPLES,
            "samples_right": int(sum(score(one["text"], row["answer"]) or 0 for one in mine)),
        }
        for row, said, mine in zip(questions, greedy, drawn)
    ]


def figures(rows: list[dict]) -> dict[str, float | None]:
    thoughts = [row["agrees"] for row in rows if row["agrees"] is not None]
    return {
        "accuracy": mean(row["score"] for row in rows),
        "pass_at_k": mean(row["samples_right"] > 0 for row in rows),
        "tokens": mean(row["num_tokens"] for row in rows),
        "thinks": mean(bool(split_thinking(row["completion"])[0]) for row in rows),
        "faithfulness": mean(thoughts) if thoughts else None,
        "self_checks": mean(bool(_CHECKS.search(row["completion"])) for row in rows),
    }


def steps_in(folder: Path) -> dict[int, list[dict]]:
    files = sorted(folder.glob("step-*.jsonl"))
    return {int(file.stem[5:]): [json.loads(line) for line in file.read_text().splitlines()] for file in files}


def write_curve(folder: Path) -> None:
    rows = [{"step": step, **figures(found)} for step, found in steps_in(folder).items()]
    write_atomically(folder / "curve.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def write_thoughts(run: str | Path) -> Path:
    """The page of a run.

    Raises:
        StageError: it was not inspected.
    """
    run = Path(run)
    steps = steps_in(run / "thoughts")
    if not steps:
        raise StageError(f"{run} has no thoughts/step-*.jsonl; train it with --inspect_steps.")
    samples = next(iter(steps.values()))[0]["samples"]
    curve = [{"step": step, **figures(found)} for step, found in steps.items()]
    states = sorted(run.glob("checkpoint-*/trainer_state.json"), key=lambda file: int(file.parent.name[11:]))
    log = json.loads(states[-1].read_text())["log_history"] if states else []
    charts = [
        line(
            title.format(k=samples),
            [(row["step"], row[name]) for row in curve if row[name] is not None],
            name != "tokens",
        )
        for name, title in FIGURES.items()
    ]
    charts += [line(title, [(row["step"], row[name]) for row in log if name in row]) for name, title in LOGGED.items()]
    shown = shown_steps(list(steps))
    questions = []
    for number, row in enumerate(next(iter(steps.values()))):
        cells = []
        for step in shown:
            thought, answer = split_thinking(steps[step][number]["completion"])
            cells.append({**steps[step][number], "step": step, "thought": thought or "", "said": answer})
        questions.append({"question": row["question"], "answer": row["answer"], "kind": row["kind"], "cells": cells})
    first, last = curve[0], curve[-1]
    write_page(
        run / "thoughts.html",
        "thoughts.html.jinja",
        run=run.name,
        first=first,
        last=last,
        samples=samples,
        charts=[found for found in charts if found["points"]],
        kinds=by_kind(steps, shown),
        shown=shown,
        questions=questions,
    )
    return run / "thoughts.html"


def by_kind(steps: dict[int, list[dict]], shown: list[int]) -> list[dict]:
    kinds = list(dict.fromkeys(row["kind"] for row in steps[shown[0]]))
    return [
        {"kind": kind, "right": [mean(r["score"] for r in steps[step] if r["kind"] == kind) for step in shown]}
        for kind in kinds
    ]


def shown_steps(steps: list[int], most: int = 5) -> list[int]:
    """The first, the last, and some between."""
    if len(steps) <= most:
        return steps
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m crawl2chat.inspector RUN")
    try:
        sys.stdout.write(f"{write_thoughts(sys.argv[1])}\n")
    except StageError as error:
        sys.exit(f"inspector: error: {error}")
