"""Batched generation for evaluation and probing, shortest prompts first so that little is padded; with tools if asked."""

import json
from collections.abc import Callable, Iterator

import torch
from tqdm import tqdm

from crawl2chat.heads import is_fast_for
from crawl2chat.rollouts import rollout
from crawl2chat.tools import calls_in, run_call


@torch.no_grad()
def complete(
    model,
    tokenizer,
    prompts: list[str],
    max_new_tokens: int,
    batch_size: int = 100,
    temperature: float = 0.0,
    progress: bool = True,
) -> list[dict]:
    """Completions, in the order of the prompts; greedy at temperature 0.

    Returns:
        for each prompt `{"text", "num_tokens", "finished"}`: the text without special tokens, the tokens generated up
        to and including the end token, and whether there was one.
    """
    model.eval()
    ends = torch.tensor(model.generation_config.eos_token_id).flatten().to(model.device)
    results: list[dict | None] = [None] * len(prompts)
    for indices in tqdm(list(_by_length(prompts, batch_size)), desc="generate", unit="batch", disable=not progress):
        ids = tokenizer([prompts[i] for i in indices], add_special_tokens=False)["input_ids"]
        for i, said in zip(indices, _drawn(model, tokenizer, ids, max_new_tokens, temperature)):
            end = torch.isin(said, ends).nonzero()
            num_tokens = int(end[0]) + 1 if len(end) else int((said != tokenizer.pad_token_id).sum())
            text = tokenizer.decode(said[:num_tokens], skip_special_tokens=True)
            results[i] = {"text": text, "num_tokens": num_tokens, "finished": bool(len(end))}
    return results


def sample(
    model, tokenizer, prompts: list[str], num_samples: int, max_new_tokens: int, batch_size: int = 100, **options
) -> list[list[dict]]:
    """`num_samples` completions of each prompt, as `complete` gives them; at temperature 1 unless another is given."""
    many = [prompt for prompt in prompts for _ in range(num_samples)]
    said = complete(model, tokenizer, many, max_new_tokens, batch_size, **{"temperature": 1.0, **options})
    return [said[start : start + num_samples] for start in range(0, len(said), num_samples)]


def _drawn(model, tokenizer, ids: list[list[int]], max_new_tokens: int, temperature: float) -> Iterator[torch.Tensor]:
    """The new tokens of each prompt."""
    if is_fast_for(model):
        ends = torch.tensor(model.generation_config.eos_token_id).flatten().tolist()
        for said in rollout(model, ids, max_new_tokens, ends, temperature):
            yield torch.tensor(said, device=model.device)
        return
    batch = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt").to(model.device)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    yield from model.generate(**batch, max_new_tokens=max_new_tokens, **sampling)[:, batch["input_ids"].shape[1] :]


def reply(
    model,
    tokenizer,
    requests: list[dict],
    max_new_tokens: int,
    batch_size: int = 100,
    temperature: float = 0.0,
    toolbox: dict[str, tuple[str, Callable[[str], str]]] | None = None,
    max_calls: int = 2,
) -> list[dict]:
    """What a chat model says to each request, after the calls of tools that it makes.

    Args:
        requests: rows with `messages`, and with `tools` (a JSON list or None) if tools are on offer.
        toolbox: the tools that run, as `tools.toolbox` gives them.
        max_calls: rounds of calls; what is called after them does not run.

    Returns:
        as `complete`, of the last thing said, with `calls`: what was called and what came back.
    """
    chats = [[*request["messages"]] for request in requests]
    offered = [json.loads(request["tools"]) if request.get("tools") else None for request in requests]
    results: list[dict] = [{"num_tokens": 0, "calls": []} for _ in requests]
    waiting = list(range(len(requests)))
    for calls_left in reversed(range(max_calls + 1)):
        prompts = [
            tokenizer.apply_chat_template(chats[i], tools=offered[i], tokenize=False, add_generation_prompt=True)
            for i in waiting
        ]
        said = complete(model, tokenizer, prompts, max_new_tokens, batch_size, temperature)
        for i, completion in zip(waiting, said):
            completion["num_tokens"] += results[i]["num_tokens"]
            results[i].update(completion)
        waiting = [i for i in waiting if offered[i] and calls_in(results[i]["text"])]
        if not waiting or not calls_left:
            break
        for i in waiting:
            calls = calls_in(results[i]["text"])
            answers = [run_call(call, _on_offer(toolbox or {}, offered[i])) for call in calls]
            results[i]["calls"] += zip(calls, answers)
            # As text: the template writes the same, and a call that is no JSON stays what the model wrote.
            chats[i].append({"role": "assistant", "content": results[i]["text"]})
            chats[i] += [{"role": "tool", "content": answer} for answer in answers]
    return results


@torch.no_grad()
def log_likelihoods(model, tokenizer, rows: list[dict]) -> list[float]:
    """The log-likelihood of each `completion` after its `messages`, in nats.

    The difference of two models', for what the first has sampled, has their KL divergence as its mean.
    """
    model.eval()
    found = []
    for row in rows:
        prompt = tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)
        start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        text = prompt + row["completion"] + tokenizer.eos_token
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"].to(model.device)  # (1, T)
        logits = model(input_ids=ids).logits[0, start - 1 : -1].float()
        found.append(-torch.nn.functional.cross_entropy(logits, ids[0, start:], reduction="sum").item())
    return found


def _on_offer(toolbox: dict, offered: list[dict]) -> dict:
    names = {tool["function"]["name"] for tool in offered}
    return {name: tool for name, tool in toolbox.items() if name in names}


def _by_length(prompts: list[str], batch_size: int) -> Iterator[list[int]]:
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
