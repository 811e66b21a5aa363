"""A look inside a language model: a text as its tokens, what it expects next, and how surprised it is by what comes."""

import math
import re
from dataclasses import dataclass, field

import torch

from crawl2chat.bpe import token_bytes
from crawl2chat.conversation import sampled_from
from crawl2chat.stage import StageError


@dataclass(frozen=True)
class Token:
    """`text` is what it adds to a text, or its bytes (`\\xf0`) where they are no whole characters."""

    id: int
    text: str
    bytes: bytes


class Vocabulary:
    """The tokens of a tokenizer, each to be looked at on its own."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        try:
            self.bytes = token_bytes(tokenizer)
        except StageError:
            self.bytes = _sentencepiece_bytes(tokenizer)

    def ids(self, text: str) -> list[int]:
        """The tokens of a text; lone surrogates, which are no text, become question marks."""
        clean = text.encode("utf-8", "replace").decode()
        return self.tokenizer(clean, add_special_tokens=False, verbose=False)["input_ids"]

    def __getitem__(self, id: int) -> Token:
        piece = self.bytes[id] if id < len(self.bytes) else b""  # an embedding may have more rows
        try:
            return Token(id, piece.decode(), piece)
        except UnicodeDecodeError:
            return Token(id, "".join(f"\\x{byte:02x}" for byte in piece), piece)


def _sentencepiece_bytes(tokenizer) -> list[bytes]:
    """What each id stands for where a token is text with `▁` for a space, or one byte as `<0xF0>`."""
    found = []
    for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer))):
        byte = re.fullmatch("<0x([0-9A-F]{2})>", token or "")
        found.append(bytes.fromhex(byte[1]) if byte else (token or "").replace("▁", " ").encode())
    return found


@dataclass(frozen=True)
class Expectation:
    """What a model expects behind each token of a text.

    Args:
        probabilities: that it gave each token, after those before it (T,); of the first there is none, and it is 1.
        entropies: of what it expects behind each token, in bits (T,).
        logits: of what comes next (V,).
    """

    probabilities: torch.Tensor
    entropies: torch.Tensor
    logits: torch.Tensor


@torch.no_grad()
def expectation(model, ids: list[int]) -> Expectation:
    logits = model(input_ids=torch.tensor([ids], device=model.device)).logits[0].float().cpu()  # (T, V)
    shares = logits.log_softmax(-1)
    found = shares[:-1].gather(1, torch.tensor(ids[1:], dtype=torch.long)[:, None])[:, 0]
    entropies = -(shares.exp() * shares).sum(-1) / math.log(2)
    return Expectation(torch.cat([torch.zeros(1), found]).exp(), entropies, logits[-1])


def candidates(logits: torch.Tensor, temperature: float, top_p: float, num: int) -> list[tuple[int, float, float]]:
    """The likeliest next tokens: (id, probability as the model gives it, probability with which it would be drawn)."""
    plain, drawn = logits.softmax(-1), sampled_from(logits, temperature, top_p)
    best = plain.topk(min(num, len(plain))).indices
    return [(id, float(plain[id]), float(drawn[id])) for id in best.tolist()]


@dataclass
class Branch:
    """A token that may come next, its probability after those before it, and what may come then."""

    id: int
    probability: float
    then: list["Branch"] = field(default_factory=list)


@torch.no_grad()
def branches(model, ids: list[int], width: int = 3, depth: int = 3) -> list[Branch]:
    """The tree of the `width` likeliest tokens, `depth` tokens deep; all of a depth in one batch, behind a shared cache."""
    root = Branch(ids[-1], 1.0)
    leaves, inputs, cache = [root], torch.tensor([ids], device=model.device), None
    for level in range(depth):
        output = model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        best = output.logits[:, -1].float().softmax(-1).topk(width)
        for leaf, shares, found in zip(leaves, best.values.tolist(), best.indices.tolist()):
            leaf.then = [Branch(id, share) for id, share in zip(found, shares)]
        leaves = [child for leaf in leaves for child in leaf.then]
        inputs, cache = best.indices.reshape(-1, 1), output.past_key_values
        if level + 1 < depth:
            cache.batch_repeat_interleave(width)
    return root.then
