"""A model folder -> metrics.json: held-out problems and facts, greedy decoding, the scorer that also gives the reward.

A chat model gets its chat template. A base model (`--base true`) gets its best chance: the bare question, as it stands on
the pages it read, and the first "The answer is N." of what it writes on counts.

    python recipes/07_evaluate/run_eval.py --config recipes/07_evaluate/tiny.yaml --model outputs/tiny/grpo \
        --tests outputs/tiny/7_conversations --output_dir outputs/tiny/eval_grpo
"""

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from crawl2chat.chat import load_model, load_tokenizer, local
from crawl2chat.generation import complete
from crawl2chat.stage import StageError, bounded, run_stage, write_jsonl
from crawl2chat.verify import score


@dataclass
class EvalConfig:
    model: str = field(metadata={"help": "Model folder or Hub id."})
    tests: str = field(metadata={"help": "Folder of 7_build_conversations.py."})
    output_dir: str = field(metadata={"help": "Where metrics.json and the completions go."})
    base: bool = field(default=False, metadata={"help": "The model continues text and knows no chat."})
    max_new_tokens: int = bounded(160, "Longest completion.", low=1)
    batch_size: int = bounded(100, "Prompts a batch.", low=1)


def preflight(config: EvalConfig) -> dict:
    tokenizer = load_tokenizer(config.model, for_chat=not config.base)
    load_model(config.model, tokenizer)
    problems, facts = load_tests(config)
    return {
        "problems": len(problems),
        "facts": len(facts),
        "example_prompt": prompt_of(problems[0]["question"], tokenizer, config.base),
    }


def main(config: EvalConfig) -> dict:
    tokenizer = load_tokenizer(config.model, for_chat=not config.base)
    model = load_model(config.model, tokenizer)
    problems, facts = load_tests(config)

    prompts = [prompt_of(row["question"], tokenizer, config.base) for row in problems + facts]
    completions = complete(model, tokenizer, prompts, config.max_new_tokens, config.batch_size)
    for row, completion in zip(problems + facts, completions):
        row["completion"], row["num_tokens"] = completion["text"], completion["num_tokens"]
    for row in problems:
        row["score"] = score(first_answer(row["completion"]) if config.base else row["completion"], row["answer"])
    for row in facts:
        sentence = row["completion"].split(".")[0] if config.base else row["completion"]
        row["score"] = float(row["object"].lower() in sentence.lower())

    write_jsonl(Path(config.output_dir, "completions.jsonl"), problems + facts)
    accuracy = mean(row["score"] for row in problems)
    return {
        "accuracy": round(accuracy, 4),
        "standard_error": round((accuracy * (1 - accuracy) / len(problems)) ** 0.5, 4),
        "num_problems": len(problems),
        "accuracy_by_kind": mean_by(problems, "kind", "score"),
        "completion_tokens": round(mean(row["num_tokens"] for row in problems), 1),
        "fact_accuracy_by_num_pages": mean_by(facts, "num_pages", "score"),
        "num_facts": len(facts),
    }


def load_tests(config: EvalConfig) -> tuple[list[dict], list[dict]]:
    rows = []
    for name in ("test_problems", "test_facts"):
        file = Path(config.tests, f"{name}.jsonl")
        if not file.is_file():
            raise StageError(f"{file} does not exist; run 7_build_conversations.py first.")
        rows.append([json.loads(line) for line in file.read_text().splitlines()])
    if not rows[0]:
        raise StageError(f"{config.tests}/test_problems.jsonl is empty; run 7_build_conversations.py again.")
    return rows[0], rows[1]


def prompt_of(question: str, tokenizer, base: bool) -> str:
    if base:
        return question
    messages = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def first_answer(continuation: str) -> str:
    found = re.search(r"The answer is ([^\s.]+)", continuation)
    return found.group(1) if found else ""


def mean_by(rows: list[dict], key: str, value: str) -> dict[str, float]:
    groups = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row[value])
    return {str(name): round(mean(values), 3) for name, values in sorted(groups.items())}


if __name__ == "__main__":
    run_stage(main, EvalConfig, inputs=lambda config: [*local(config.model), config.tests], preflight=preflight)
