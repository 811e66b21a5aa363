"""How long the playground lets one wait, beside the browser's share: the next-token view, and the first token of a chat.

    python benchmarks/playground.py --model outputs/tiny/grpo

Prints JSON: milliseconds, median and range of the repeats, each of another text; models are loaded before.
"""

import argparse
import json
import sys
import time
from statistics import median

import torch

from crawl2chat import playground as page
from crawl2chat.chat import load_model, load_tokenizer
from crawl2chat.conversation import Conversation
from crawl2chat.inside import Vocabulary, branches, candidates, expectation
from crawl2chat.machine import hardware


def view_seconds(vocabulary: Vocabulary, model, text: str) -> float:
    """What `Next token` computes and writes for a text."""
    start = time.perf_counter()
    ids = vocabulary.ids(text)
    seen = expectation(model, ids)
    found = candidates(seen.logits, 1.0, 0.9, 10)
    page.bars([{**vars(vocabulary[id]), "plain": plain, "drawn": drawn} for id, plain, drawn in found])
    branches(model, ids)
    return time.perf_counter() - start


def first_token_seconds(tokenizer, model, text: str) -> float:
    start = time.perf_counter()
    next(Conversation(model, tokenizer, {}, max_new_tokens=64).reply(text))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or Hub id of a chat model")
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(arguments.model)
    model, vocabulary = load_model(arguments.model, tokenizer).eval(), Vocabulary(tokenizer)
    texts = [
        f"The mayor of town number {i} is the sister of the other one. " * 8 for i in range(arguments.repeats + 1)
    ]
    views = [1000 * view_seconds(vocabulary, model, text) for text in texts][1:]  # the first warms up
    firsts = [1000 * first_token_seconds(tokenizer, model, f"What is {i} + 17?") for i in range(len(texts))][1:]

    def told(values: list[float]) -> dict[str, float]:
        return {"median": round(median(values), 1), "least": round(min(values), 1), "most": round(max(values), 1)}

    found = {
        "model": arguments.model,
        "parameters": model.num_parameters(),
        "tokens_of_text": len(vocabulary.ids(texts[0])),
    }
    found |= {"next_token_view_ms": told(views), "first_token_ms": told(firsts)}
    sys.stdout.write(
        json.dumps({**found, "threads": torch.get_num_threads(), "hardware": hardware()}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
