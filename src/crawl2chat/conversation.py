"""A chat with a model, piece by piece as it writes: the thinking apart from the answer, calls of tools and what they gave.

Each piece carries the probability that the model gave its token. The terminal chat and the playground both show these.
"""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from crawl2chat.chat import split_thinking
from crawl2chat.stage import StageError
from crawl2chat.tools import CALCULATOR, SEARCH, calls_in, run_call

MAX_CALLS = 3  # rounds of calls within one reply
_KINDS = {
    "<think>": "thinking", "</think>": "answer",
    "<tool_call>": "call", "</tool_call>": "answer",
}  # fmt: skip
_TAG = re.compile("(" + "|".join(_KINDS) + ")")


@dataclass(frozen=True)
class Piece:
    """A part of a reply.

    `kind` is thinking, answer or call, which the model wrote; result, which a tool gave; or cut, the longest reply.
    """

    kind: str
    text: str
    probability: float | None = None  # that the model gave the piece's last token, at temperature 1


@torch.no_grad()
def stream(
    model, ids: list[int], max_new_tokens: int, temperature: float = 0.0, top_p: float = 1.0
) -> Iterator[tuple[int, float]]:
    """The tokens that a model writes after a prompt, each as soon as it is drawn; the one that ends a reply comes last.

    Args:
        model: a causal language model of transformers.
        ids: the prompt.
        temperature: 0 takes the likeliest token.
        top_p: draws from the fewest tokens that are together as likely (https://arxiv.org/abs/1904.09751).

    Returns:
        (token, the probability that the model gave it at temperature 1).
    """
    ends = torch.tensor(model.generation_config.eos_token_id or []).flatten().tolist()
    inputs, cache = torch.tensor([ids], device=model.device), None
    for _ in range(max_new_tokens):
        output = model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, logits = output.past_key_values, output.logits[0, -1].float()
        if temperature:
            token = int(torch.multinomial(sampled_from(logits, temperature, top_p), 1))
        else:
            token = int(logits.argmax())
        yield token, float(logits.softmax(-1)[token])
        if token in ends:
            return
        inputs = torch.tensor([[token]], device=model.device)


def sampled_from(logits: torch.Tensor, temperature: float, top_p: float = 1.0) -> torch.Tensor:
    """The probabilities (V,) from which the next token is drawn; at temperature 0 the likeliest has all."""
    if not temperature:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    probabilities = (logits / temperature).softmax(-1)
    if top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        left_out = ordered.cumsum(-1) - ordered >= top_p  # the likeliest always stays
        probabilities = probabilities.index_fill(-1, order[left_out], 0.0)
    return probabilities / probabilities.sum()


class Reader:
    """Tokens to pieces. Holds back what may yet become a tag or a character of several tokens."""

    def __init__(self, tokenizer, thinking: bool = False):
        self.tokenizer = tokenizer
        self.kind = "thinking" if thinking else "answer"  # some templates open the thought in the prompt
        self.ids: list[int] = []
        self.text, self.num_read = "", 0

    def read(self, token: int, probability: float | None = None) -> Iterator[Piece]:
        self.ids.append(token)
        self.text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        yield from self._pieces(len(self.text) - _num_open(self.text), probability)

    def rest(self) -> Iterator[Piece]:
        yield from self._pieces(len(self.text), None)

    def _pieces(self, end: int, probability: float | None) -> Iterator[Piece]:
        for part in _TAG.split(self.text[self.num_read : end]):
            if part in _KINDS:
                self.kind = _KINDS[part]
            elif part:
                yield Piece(self.kind, part, probability)
        self.num_read = max(end, self.num_read)


def _num_open(text: str) -> int:
    """Characters at the end of a text that the next token may change or complete."""
    if text.endswith("\ufffd"):
        return 1
    return max((n for tag in _KINDS for n in range(1, len(tag)) if text.endswith(tag[:n])), default=0)


@dataclass
class Conversation:
    """A model and what was said so far.

    Args:
        toolbox: the tools that run, as `tools.toolbox` gives them; the model is told of these.
    """

    model: torch.nn.Module
    tokenizer: object
    toolbox: dict[str, tuple[str, Callable[[str], str]]]
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self):
        self.history: list[dict[str, str]] = []
        offered = [tool for tool in (CALCULATOR, SEARCH) if tool["function"]["name"] in self.toolbox]
        self.offered = offered or None

    def reply(self, message: str) -> Iterator[Piece]:
        """The model's reply as it comes, with the tools that it calls. What was said is remembered at its end.

        Raises:
            StageError: the message is longer than the model's context.
        """
        messages = [*self.history, {"role": "user", "content": message}]
        for calls_left in reversed(range(MAX_CALLS + 1)):
            messages, text = yield from self._say(messages)
            calls = calls_in(text) if self.toolbox and calls_left else []
            if not calls:
                break
            for call in calls:
                result = run_call(call, self.toolbox)
                yield Piece("result", result)
                messages.append({"role": "tool", "content": result})
        self.history = messages

    def _say(self, messages: list[dict[str, str]]):
        """Yields the pieces of the model's next message; returns the messages with it, and it as it was written."""
        messages, prompt, ids = self._prompt(messages)
        reader = Reader(self.tokenizer, thinking=prompt.rstrip().endswith("<think>"))
        opened_in_prompt = reader.kind == "thinking"
        for token, probability in stream(self.model, ids, self.max_new_tokens, self.temperature, self.top_p):
            yield from reader.read(token, probability)
        yield from reader.rest()
        if len(reader.ids) == self.max_new_tokens:
            yield Piece("cut", f"cut at {self.max_new_tokens} tokens")
        _, answer = split_thinking("<think>" * opened_in_prompt + reader.text)
        return [*messages, {"role": "assistant", "content": answer}], reader.text

    def _prompt(self, messages: list[dict[str, str]]) -> tuple[list[dict[str, str]], str, list[int]]:
        """The newest of the messages that leave room for a reply, their prompt as text and as ids."""
        room = getattr(self.model.config, "max_position_embeddings", sys.maxsize) - self.max_new_tokens
        template = self.tokenizer.apply_chat_template
        prompt = template(messages, tools=self.offered, add_generation_prompt=True, tokenize=False)
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if len(ids) <= room:
            return messages, prompt, ids
        later = [i for i, message in enumerate(messages) if i and message["role"] == "user"]
        if not later:
            raise StageError(
                f"the message is {len(ids)} tokens long and the model takes {room}, with {self.max_new_tokens} "
                "(--max_new_tokens) kept for the reply; shorten it."
            )
        return self._prompt(messages[later[0] :])
