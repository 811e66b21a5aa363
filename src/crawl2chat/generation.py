"""Batched generation for evaluation, shortest prompts first so that little is padded."""

from collections.abc import Iterator

import torch
from tqdm import tqdm


@torch.no_grad()
def complete(model, tokenizer, prompts: list[str], max_new_tokens: int, batch_size: int = 100) -> list[dict]:
    """Greedy completions, in the order of the prompts.

    Returns:
        for each prompt `{"text", "num_tokens", "finished"}`: the text without special tokens, the tokens generated up
        to and including the end token, and whether there was one.
    """
    model.eval()
    ends = torch.tensor(model.generation_config.eos_token_id).flatten().to(model.device)
    results: list[dict | None] = [None] * len(prompts)
    for indices in tqdm(list(_by_length(prompts, batch_size)), desc="generate", unit="batch"):
        batch = tokenizer(
            [prompts[i] for i in indices],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        ).to(model.device)
        batch.pop("token_type_ids", None)
        output = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
        for i, ids in zip(indices, output[:, batch["input_ids"].shape[1] :]):
            end = torch.isin(ids, ends).nonzero()
            num_tokens = int(end[0]) + 1 if len(end) else int((ids != tokenizer.pad_token_id).sum())
            text = tokenizer.decode(ids[:num_tokens], skip_special_tokens=True)
            results[i] = {"text": text, "num_tokens": num_tokens, "finished": bool(len(end))}
    return results


def _by_length(prompts: list[str], batch_size: int) -> Iterator[list[int]]:
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
