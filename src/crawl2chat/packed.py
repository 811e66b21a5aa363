"""Completions behind their prompts as one row: no padding, and what completions have in common is read once.

A batch of completions is padded to the longest prompt and the longest completion, and holds each prompt as often as it was
answered. Small models spend most of their time on that. Here all layers but attention see one row of real tokens: first the
prompts, each once and without its last token, then of each completion what predicts its tokens: the last token of its prompt
and all of its own but the last. Attention pads within itself, but takes completions of like length together. What comes out
is what padded rows give, but for rounding (tests/test_packed.py).

The idea of a prefix that is stored once is that of cascade inference (https://flashinfer.ai/2024/02/02/cascade-inference.html);
here it serves training, too, whose gradients run back into the shared part.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput

from crawl2chat.heads import CAUSAL, is_fast_for

ATTENTION = "packed_completions"
NUM_PARTS = 4  # into which completions are sorted by length


@dataclass
class Part:
    """Sequences that attention takes together, (B, T) when padded.

    Args:
        real: (B, T), where there is a token.
        seen: (B, 1, T, P + T), or without P for prompts: which keys each query sees.
        which: (B,), the prompt of each completion.
    """

    real: Tensor
    seen: Tensor
    which: Tensor | None = None

    def __post_init__(self):
        self.rows = self.real.flatten().nonzero()[:, 0]  # of the tokens, when flattened


@dataclass
class Packed:
    """N tokens in a row, the last M of which predict the M tokens of B completions.

    Args:
        ids: (1, N).
        positions: (1, N), each token's place in its prompt and completion.
        labels: (M,), the tokens of the completions.
        prompts: without their last tokens; None where all have but one.
        completions: in parts, as they follow in the row.
        places: (M,), where each token of the completions stands in the padded batch (B, T), flattened.
        shape: (B, T).
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    prompts: Part | None
    completions: list[Part]
    places: Tensor
    shape: tuple[int, int]

    @property
    def num_shared(self) -> int:
        return self.ids.shape[1] - len(self.labels)

    def padded(self, found: Tensor) -> Tensor:
        """What was found for the tokens of the completions, (M,), as (B, T) with 0 elsewhere."""
        return _Padded.apply(found[:, None], self.places, self.shape[0] * self.shape[1]).view(self.shape)


def pack(ids: Tensor, mask: Tensor, num_completion_tokens: int) -> Packed:
    """A batch of prompts, padded on the left, and completions, padded on the right: ids and mask, both (B, P + T)."""
    width = num_completion_tokens
    order = mask[:, -width:].sum(1).argsort(stable=True)
    ids, mask = ids[order], mask[order].bool()
    prompts, which = torch.where(mask, ids + 1, 0)[:, :-width].unique(dim=0, return_inverse=True)  # 0 is padding
    shared = prompts[:, :-1] > 0
    real, first = mask[:, -width:], (prompts > 0).sum(1)[which] - 1
    steps = torch.arange(width, device=ids.device)

    completions = []
    for of_part, prompt in zip(real.chunk(NUM_PARTS), which.chunk(NUM_PARTS)):
        of_part = of_part[:, : int(of_part.sum(1).max())]
        own = _causal(of_part).expand(len(prompt), -1, -1)
        seen = torch.cat([shared[prompt, None].expand(-1, own.shape[1], -1), own], dim=-1)
        completions.append(Part(of_part, seen[:, None], prompt))
    alone = torch.eye(shared.shape[1], dtype=torch.bool, device=ids.device)  # padding sees itself: no row is empty
    return Packed(
        ids=torch.cat([prompts[:, :-1][shared] - 1, ids[:, -width - 1 : -1][real]])[None],
        positions=torch.cat([(shared.cumsum(1) - 1)[shared], (first[:, None] + steps)[real]])[None],
        labels=ids[:, -width:][real],
        prompts=Part(shared, (_causal(shared) & shared[:, None] | alone)[:, None]) if shared.any() else None,
        completions=[part for part in completions if len(part.rows)],
        places=(order[:, None] * width + steps)[real],
        shape=tuple(real.shape),
    )


def _causal(padded: Tensor) -> Tensor:
    length = padded.shape[1]
    return torch.ones(length, length, dtype=torch.bool, device=padded.device).tril()


def is_packable(model: PreTrainedModel, classes=CAUSAL) -> bool:
    """Whether `read` knows this model, of these classes: recomputed layers would attend as if nothing were packed."""
    recomputes = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    return is_fast_for(model, classes) and model.config._attn_implementation == "sdpa" and not recomputes


def read(model: nn.Module, packed: Packed, bare: PreTrainedModel | None = None, **options) -> ModelOutput:
    """What the model, or what it is wrapped in, gives for the row; `bare` is the model itself where it is wrapped."""
    with attending(bare or model):
        given = {"input_ids": packed.ids, "position_ids": packed.positions, "packed": packed}
        return model(**given, use_cache=False, **options)


@contextmanager
def attending(model: PreTrainedModel) -> Iterator[None]:
    """Within, the model's attention is `packed_attention`, and it is to be called with `packed=`."""
    before = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        model.config._attn_implementation = before


def packed_attention(
    module, query: Tensor, key: Tensor, value: Tensor, mask=None, *, packed: Packed, **options
) -> tuple[Tensor, None]:
    """Queries (1, H, N, D), keys and values (1, K, N, D) -> (1, N, H, D)."""
    num_heads, (num_keys, num_tokens, dim) = query.shape[1], key.shape[1:]
    heads = torch.cat([query[0], key[0], value[0]]).transpose(0, 1).reshape(num_tokens, -1)  # (N, (H + 2K) D)
    parts = [*([packed.prompts] if packed.prompts else []), *packed.completions]
    found = []
    for part, tokens in zip(parts, heads.split([len(part.rows) for part in parts])):
        padded = _Padded.apply(tokens, part.rows, part.real.numel()).view(*part.real.shape, -1, dim).transpose(1, 2)
        query, keys, values = padded.split([num_heads, num_keys, num_keys], dim=1)  # (B, ., T, D)
        if part is packed.prompts:
            shared_keys, shared_values = keys, values
        elif packed.prompts:
            keys = torch.cat([shared_keys[part.which], keys], dim=2)
            values = torch.cat([shared_values[part.which], values], dim=2)
        seen = part.seen[..., -keys.shape[2] :]
        attended, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, keys, values, seen, **options)
        found.append(_Taken.apply(attended.reshape(-1, num_heads * dim), part.rows))
    return torch.cat(found).view(1, num_tokens, num_heads, dim), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, packed_attention)


class _Padded(torch.autograd.Function):
    """Tokens (M, C) in these rows of (num_rows, C), 0 elsewhere. Each row is one token's: no gradients to be added up."""

    @staticmethod
    def forward(ctx, tokens: Tensor, rows: Tensor, num_rows: int) -> Tensor:
        ctx.save_for_backward(rows)
        return tokens.new_zeros(num_rows, tokens.shape[1]).index_copy_(0, rows, tokens)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad.index_select(0, *ctx.saved_tensors), None, None


class _Taken(torch.autograd.Function):
    """These rows of (num_rows, C): the other way round."""

    @staticmethod
    def forward(ctx, padded: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.num_rows = len(padded)
        return padded.index_select(0, rows)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (rows,) = ctx.saved_tensors
        return grad.new_zeros(ctx.num_rows, grad.shape[1]).index_copy_(0, rows, grad.contiguous()), None
