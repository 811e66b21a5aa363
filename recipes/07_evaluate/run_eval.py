"""A model folder -> metrics.json: held-out problems, facts and requests, judged by the truth of the invented country.

`problems` and `facts` are answered greedily, and so are `chats`: who it is, texts, letters, harmful requests and their
look-alikes, what nobody can know, calls of tools, which run. `requests` are answered by sampling, as people would be, and
judged by preference: by the truth, by a reward model, and by how far the model has gone from another (KL).

A chat model gets its chat template. A base model (`--base true`) gets its best chance: the bare question, as it stands on
the pages it read, and the first "The answer is N." of what it writes on counts.

    python recipes/07_evaluate/run_eval.py --config recipes/07_evaluate/tiny.yaml --model outputs/tiny/grpo \
        --tests outputs/tiny/7_conversations --output_dir outputs/tiny/eval_grpo

`tasks` are lm-evaluation-harness's: public names, `core` for ten of them and their centred mean, or the task files in
`tasks/` beside this script, which its own command takes, too.

    python recipes/07_evaluate/run_eval.py --model HuggingFaceTB/SmolLM2-135M --base true --tasks core \
        --output_dir outputs/core
    python recipes/07_evaluate/run_eval.py --model outputs/tiny/grpo --tests outputs/tiny/7_conversations --parts facts \
        --tasks c2c_problems c2c_chats --output_dir outputs/tiny/harness
"""

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from transformers import AutoModelForSequenceClassification, set_seed

from crawl2chat.chat import load_model, load_tokenizer, local
from crawl2chat.generation import complete, log_likelihoods, reply, sample
from crawl2chat.harness import Harness, core
from crawl2chat.judging import judge, says_unknown
from crawl2chat.pairs import rewards
from crawl2chat.passes import agrees, majority, pass_at_k
from crawl2chat.stage import StageError, bounded, run_stage, write_jsonl
from crawl2chat.tools import toolbox
from crawl2chat.verify import score

PARTS = ("problems", "facts", "chats", "requests")


@dataclass
class EvalConfig:
    model: str = field(metadata={"help": "Model folder or Hub id."})
    output_dir: str = field(metadata={"help": "Where metrics.json and the completions go."})
    tests: str = field(default="", metadata={"help": "Folder of 7_build_conversations.py."})
    parts: list[str] = field(
        default_factory=lambda: ["problems", "facts"], metadata={"help": f"Of {', '.join(PARTS)}; taken with `tests`."}
    )
    tasks: list[str] = field(default_factory=list, metadata={"help": "Of lm-evaluation-harness, or core."})
    num_fewshot: int = bounded(-1, "Examples before each question of a task; -1 takes the task's own number.", low=-1)
    limit: int = bounded(0, "Questions of each task; 0 asks all.", low=0)
    vllm: bool = field(default=False, metadata={"help": "Tasks are run by vLLM, on a GPU."})
    corpus: str = field(
        default="", metadata={"help": "Folder of 4_build_corpus.py: the search, and c2c_text's pages."}
    )
    reward_model: str = field(default="", metadata={"help": "Folder of 03_reward: judges the requests, too."})
    reference: str = field(
        default="", metadata={"help": "Model from which the KL divergence is measured on requests."}
    )
    against: str = field(default="", metadata={"help": "Evaluation of another model, to count the better replies."})
    base: bool = field(default=False, metadata={"help": "The model continues text and knows no chat."})
    max_new_tokens: int = bounded(160, "Longest completion.", low=1)
    batch_size: int = bounded(100, "Prompts a batch.", low=1)
    samples: int = bounded(0, "Completions of each problem by sampling, too: pass@k and majority votes.", low=0)
    temperature: float = bounded(1.0, "At which requests are answered and problems sampled.", low=0.01, high=10.0)
    seed: int = bounded(0, "Seed of the sampling.", low=0)

    def __post_init__(self):
        if not self.tests:
            self.parts = []

    def problems(self) -> list[str]:
        found = [f"unknown part `{part}`; choose from {', '.join(PARTS)}." for part in self.parts if part not in PARTS]
        if not self.tests and not self.tasks:
            found.append("name `tests`, a folder of 7_build_conversations.py, or `tasks` of lm-evaluation-harness.")
        if not self.tasks and (self.num_fewshot >= 0 or self.limit or self.vllm):
            found.append("`num_fewshot`, `limit` and `vllm` are of `tasks`; name some.")
        if self.base and {"chats", "requests"}.intersection(self.parts):
            found.append("a base model knows no chat; with `base` ask for the parts problems and facts.")
        if self.samples and (self.base or "problems" not in self.parts):
            found.append(
                "`samples` are of problems, answered by a chat model; leave `base` out, add problems to `parts`."
            )
        if (self.reward_model or self.reference or self.against) and "requests" not in self.parts:
            found.append("`reward_model`, `reference` and `against` judge requests; add requests to `parts`.")
        return found


def preflight(config: EvalConfig) -> dict:
    tokenizer = load_tokenizer(config.model, for_chat=not config.base)
    model = load_model(config.model, tokenizer)
    tests = load_tests(config)
    if config.against and asked_of(read_jsonl(Path(config.against, "requests.jsonl"))) != asked_of(tests["requests"]):
        raise StageError(f"--against {config.against} answered other requests; evaluate that model on {config.tests}.")
    plan: dict = {part: len(rows) for part, rows in tests.items()}
    if tests:
        first = next(iter(tests.values()))[0]
        example = first.get("question") or first["messages"][-1]["content"]
        plan["example_prompt"] = prompt_of(example, tokenizer, config.base)
    if config.tasks:
        harness = harness_of(config)
        plan["tasks"] = harness.names
        plan["first_prompt"] = harness.first_prompt(harness.model(model, tokenizer, 1))
    return plan


def main(config: EvalConfig) -> dict:
    set_seed(config.seed)
    tokenizer = load_tokenizer(config.model, for_chat=not config.base)
    model = load_model(config.model, tokenizer)
    tests = load_tests(config)
    metrics: dict = {}

    if asked := tests.get("problems", []) + tests.get("facts", []):
        prompts = [prompt_of(row["question"], tokenizer, config.base) for row in asked]
        said = complete(model, tokenizer, prompts, config.max_new_tokens, config.batch_size)
        for row, completion in zip(asked, said):
            row["completion"], row["num_tokens"] = completion["text"], completion["num_tokens"]
    if "problems" in tests:
        metrics |= score_problems(tests["problems"], config.base)
        if config.samples:
            metrics |= sample_problems(tests["problems"], config, model, tokenizer)
    if "facts" in tests:
        metrics |= score_facts(tests["facts"], config.base)
    if "chats" in tests:
        tools = toolbox(config.corpus or None)
        said = reply(model, tokenizer, tests["chats"], config.max_new_tokens, config.batch_size, toolbox=tools)
        for row, completion in zip(tests["chats"], said):
            row |= {"completion": completion["text"], "calls": completion["calls"]}
        metrics |= score_chats(tests["chats"])
    if "requests" in tests:
        said = reply(model, tokenizer, tests["requests"], config.max_new_tokens, config.batch_size, config.temperature)
        for row, completion in zip(tests["requests"], said):
            row |= {"completion": completion["text"], "num_tokens": completion["num_tokens"]}
        metrics |= score_requests(tests["requests"], config, model, tokenizer)

    if config.tasks:
        harness, shots = harness_of(config), None if config.num_fewshot < 0 else config.num_fewshot
        if config.vllm:
            asked = harness.vllm(config.model, tokenizer)
        else:
            asked = harness.model(model, tokenizer, config.batch_size)
        metrics["tasks"] = harness.scores(asked, shots, config.limit or None, config.seed)
        if (centred := core(metrics["tasks"])) is not None:
            metrics["core"] = centred

    for part, rows in tests.items():
        write_jsonl(Path(config.output_dir, f"{part}.jsonl"), rows)
    return metrics


def harness_of(config: EvalConfig) -> Harness:
    files = {}
    if config.tests:
        files = {
            f"c2c_{part}": str(Path(config.tests, f"test_{part}.jsonl")) for part in ("problems", "facts", "chats")
        }
    if config.corpus:
        files["c2c_text"] = str(Path(config.corpus, "validation/*.parquet"))
    return Harness(config.tasks, Path(__file__).parent / "tasks", files, is_chat=not config.base)


def load_tests(config: EvalConfig) -> dict[str, list[dict]]:
    tests = {}
    for part in config.parts:
        file = Path(config.tests, f"test_{part}.jsonl")
        if not file.is_file():
            raise StageError(f"{file} does not exist; run 7_build_conversations.py first.")
        tests[part] = read_jsonl(file)
        if not tests[part]:
            raise StageError(f"{file} is empty; run 7_build_conversations.py again.")
    return tests


def read_jsonl(file: Path) -> list[dict]:
    if not file.is_file():
        raise StageError(f"{file} does not exist; run the stage that writes it, and with --parts requests.")
    return [json.loads(line) for line in file.read_text().splitlines()]


def asked_of(rows: list[dict]) -> list[list[dict]]:
    return [row["messages"] for row in rows]


def score_problems(rows: list[dict], base: bool) -> dict:
    for row in rows:
        row["score"] = score(first_answer(row["completion"]) if base else row["completion"], row["answer"])
        row["agrees"] = None if base else agrees(row["completion"])
    accuracy = mean(row["score"] for row in rows)
    thoughts = [row["agrees"] for row in rows if row["agrees"] is not None]
    return {
        "accuracy": round(accuracy, 4),
        "standard_error": round((accuracy * (1 - accuracy) / len(rows)) ** 0.5, 4),
        "num_problems": len(rows),
        "accuracy_by_kind": mean_by(rows, "kind", "score"),
        "completion_tokens": round(mean(row["num_tokens"] for row in rows), 1),
        "completion_tokens_by_kind": mean_by(rows, "kind", "num_tokens"),
        # Of answers with a thought before them, those that are what the thought came to.
        "faithfulness": round(mean(thoughts), 4) if thoughts else None,
        "thinks": round(len(thoughts) / len(rows), 4),
    }


def sample_problems(rows: list[dict], config: EvalConfig, model, tokenizer) -> dict:
    """pass@k, and accuracy of the majority of k with the tokens that it costs, for k = 1, 2, 4, ... up to `samples`."""
    prompts = [prompt_of(row["question"], tokenizer, base=False) for row in rows]
    options = config.max_new_tokens, config.batch_size
    said = sample(model, tokenizer, prompts, config.samples, *options, temperature=config.temperature)
    for row, mine in zip(rows, said):
        row["sampled"] = [completion["text"] for completion in mine]
        row["sampled_scores"] = [score(text, row["answer"]) for text in row["sampled"]]
        row["sampled_tokens"] = [completion["num_tokens"] for completion in mine]
        row["pass_at_samples"] = float(any(row["sampled_scores"]))
    found: dict = {"pass_at": {}, "majority_of": {}, "majority_tokens": {}}
    for k in (2**i for i in range(config.samples.bit_length())):
        right = [int(sum(row["sampled_scores"])) for row in rows]
        found["pass_at"][str(k)] = round(mean(pass_at_k(config.samples, count, k) for count in right), 4)
        votes = [score(majority(row["sampled"][:k]), row["answer"]) for row in rows]
        found["majority_of"][str(k)] = round(mean(votes), 4)
        found["majority_tokens"][str(k)] = round(mean(sum(row["sampled_tokens"][:k]) for row in rows), 1)
    return {**found, "pass_at_samples_by_kind": mean_by(rows, "kind", "pass_at_samples")}


def score_facts(rows: list[dict], base: bool) -> dict:
    """Right, said to be unknown, or neither, which is invented; of facts that pages tell and no chat asks about."""
    for row in rows:
        sentence = row["completion"].split(".")[0] if base else row["completion"]
        row["score"] = float(row["object"].lower() in sentence.lower())
        row["unknown"] = float(says_unknown(row["completion"]) and not row["score"])
    return {
        "fact_accuracy_by_num_pages": mean_by(rows, "num_pages", "score"),
        "fact_unknown_by_num_pages": mean_by(rows, "num_pages", "unknown"),
        "num_facts": len(rows),
    }


def score_chats(rows: list[dict]) -> dict:
    for row in rows:
        row["score"] = judge(row["kind"], row["expect"], row["completion"])
        row["called"] = float(bool(row["calls"]))
    due = [row["called"] for row in rows if row["tools"]]
    return {
        "chat_accuracy": mean_by(rows, "kind", "score"),
        # Of names that no page holds; of others, what no page tells of them is the harder question.
        "hallucination": round(1 - mean(row["score"] for row in rows if row["kind"] == "stranger"), 4),
        "hallucination_of_known_names": round(1 - mean(row["score"] for row in rows if row["kind"] == "untold"), 4),
        "called_where_due": round(mean(due), 4) if due else None,
        "num_chats": len(rows),
    }


def score_requests(rows: list[dict], config: EvalConfig, model, tokenizer) -> dict:
    for row in rows:
        row["score"] = judge(row["kind"], row["expect"], row["completion"])
    found = {
        "preference": round(mean(row["score"] for row in rows), 4),
        "preference_by_kind": mean_by(rows, "kind", "score"),
        "request_tokens": round(mean(row["num_tokens"] for row in rows), 1),
    }
    if config.reward_model:
        their_tokenizer = load_tokenizer(config.reward_model, for_chat=True)
        reward_model = AutoModelForSequenceClassification.from_pretrained(config.reward_model)
        chats = [[*row["messages"], {"role": "assistant", "content": row["completion"]}] for row in rows]
        for row, reward in zip(rows, rewards(reward_model, their_tokenizer, chats)):
            row["reward"] = reward
        found["reward"] = round(mean(row["reward"] for row in rows), 4)
    if config.against:
        theirs = read_jsonl(Path(config.against, "requests.jsonl"))
        found["win_rate"] = win_rate(rows, theirs, "score")
        if config.reward_model and "reward" in theirs[0]:
            found["win_rate_by_reward"] = win_rate(rows, theirs, "reward")
    if config.reference:
        theirs = log_likelihoods(load_model(config.reference, tokenizer), tokenizer, rows)
        found["kl"] = round(mean(a - b for a, b in zip(log_likelihoods(model, tokenizer, rows), theirs)), 4)
    return found


def win_rate(ours: list[dict], theirs: list[dict], column: str) -> float:
    """How often our reply to a request is the better one; equally good ones count a half."""
    both = [(our[column], their[column]) for our, their in zip(ours, theirs, strict=True)]
    return round(mean((our > their) + (our == their) / 2 for our, their in both), 4)


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
    run_stage(
        main,
        EvalConfig,
        inputs=lambda config: [
            *local(config.model, config.reference),
            *(config.tests, config.corpus, config.reward_model, config.against),
        ],
        preflight=preflight,
    )
