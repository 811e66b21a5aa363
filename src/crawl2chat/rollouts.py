"""Completions of small models, fast: what costs time there is not arithmetic but the way to it.

A step of `model.generate` for a model of a few million parameters is mostly Python, and a batch goes on until its longest
completion ends. Here weights lie as one step needs them, a prompt is read once for all its completions, and completions
that have ended leave the batch. The tokens are drawn from the same distribution (tests/test_rollouts.py).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from crawl2chat.heads import FastHead, is_fast_for
from crawl2chat.packed import is_packable, pack, read


@torch.no_grad()
def rollout(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    eos_ids: Sequence[int],
    temperature: float = 1.0,
) -> list[list[int]]:
    """A completion of each prompt, with the end token if it came to one; greedy at temperature 0.

    Args:
        prompts: token ids; those that are alike are read once.
        max_new_tokens: of each completion.
    """
    device = model.device
    unique = sorted({tuple(prompt) for prompt in prompts})
    which = torch.tensor([unique.index(tuple(prompt)) for prompt in prompts], device=device)
    longest = max(map(len, unique))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in unique], device=device)  # (U, P)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in unique], device=device)
    decoder = Decoder(model, ids, mask, which, max_new_tokens)
    ends = torch.tensor(list(eos_ids), device=device)

    drawn = torch.zeros(len(prompts), max_new_tokens, dtype=torch.long, device=device)
    lengths = torch.full((len(prompts),), max_new_tokens, device=device)
    rows = torch.arange(len(prompts), device=device)  # of the prompts that are still being completed
    alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
    logits = decoder.first_logits
    for t in range(max_new_tokens):
        if temperature:
            tokens = _draw(torch.softmax(logits.float() / temperature, dim=-1))
        else:
            tokens = logits.argmax(-1)
        drawn[rows, t] = tokens
        ended = torch.isin(tokens, ends) & alive
        lengths[rows[ended]] = t + 1
        alive &= ~ended
        num_alive = int(alive.sum())
        if not num_alive or t == max_new_tokens - 1:
            break
        if num_alive <= 0.9 * len(alive):  # the cache is copied, which must be worth it
            kept = alive.nonzero()[:, 0]
            decoder.keep(kept)
            rows, tokens, alive = rows[kept], tokens[kept], alive[kept]
        logits = decoder.step(tokens)
    return [row[:length].tolist() for row, length in zip(drawn, lengths.tolist())]


def _draw(probabilities: Tensor) -> Tensor:
    """A token of each row, (B,). One random number a row; `torch.multinomial` takes one a token of the vocabulary."""
    sums = probabilities.double().cumsum(-1)
    thresholds = torch.rand(len(sums), 1, dtype=sums.dtype, device=sums.device) * sums[:, -1:]
    return torch.searchsorted(sums, thresholds, right=True)[:, 0].clamp(max=sums.shape[1] - 1)


class Decoder:
    """A model's weights and its cache of keys and values, laid out for steps of one token.

    Args:
        ids: of the unique prompts, padded on the left, (U, P).
        mask: 1 where there is a token, (U, P).
        which: the prompt of each completion, (B,).
        num_steps: of which the cache has room.
    """

    def __init__(self, model: PreTrainedModel, ids: Tensor, mask: Tensor, which: Tensor, num_steps: int):
        config, body = model.config, model.model
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.num_heads
        self.eps, self.embedding, self.norm = config.rms_norm_eps, body.embed_tokens.weight, body.norm.weight
        self.head = model.lm_head.weight
        self.layers = [_laid_out(layer) for layer in body.layers]

        positions = (mask.cumsum(1) - 1).clamp(min=0)
        read = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
        self.first_logits = read.logits[:, -1][which]
        batch, self.length, room = len(which), ids.shape[1], ids.shape[1] + num_steps
        shape = (batch, self.num_kv_heads, room, self.head_dim)
        self.cache = []
        for layer in read.past_key_values.layers:
            keys, values = layer.keys.new_empty(shape), layer.values.new_empty(shape)
            keys[:, :, : self.length], values[:, :, : self.length] = layer.keys[which], layer.values[which]
            self.cache.append((keys, values))
        blocked = torch.zeros(batch, 1, 1, room, dtype=self.first_logits.dtype, device=ids.device)
        blocked[:, 0, 0, : self.length].masked_fill_(mask[which] == 0, -torch.inf)
        self.blocked = blocked if not mask.all() else None
        self.positions = mask.sum(1)[which]  # of the next token of each
        every = torch.arange(room, device=ids.device)[None]
        self.cos, self.sin = (
            table[0].to(keys.dtype) for table in body.rotary_emb(self.first_logits, every)
        )  # (room, D)

    def keep(self, rows: Tensor) -> None:
        """Only these of the completions go on."""
        past = slice(0, self.length)
        for i, (keys, values) in enumerate(self.cache):
            kept = keys.new_empty(len(rows), *keys.shape[1:]), values.new_empty(len(rows), *values.shape[1:])
            kept[0][:, :, past], kept[1][:, :, past] = keys[rows, :, past], values[rows, :, past]
            self.cache[i] = kept
        self.positions = self.positions[rows]
        if self.blocked is not None:
            self.blocked = self.blocked[rows]

    def step(self, tokens: Tensor) -> Tensor:
        """Reads one token (B,) of each and gives the logits of the next, (B, V)."""
        batch, dim, now = len(tokens), self.head_dim, self.length
        x = self.embedding[tokens]  # (B, C)
        cos, sin = self.cos[self.positions][:, None], self.sin[self.positions][:, None]  # (B, 1, D)
        blocked = None if self.blocked is None else self.blocked[..., : now + 1]
        num_queries, num_keys = self.num_heads, self.num_kv_heads
        for layer, (keys, values) in zip(self.layers, self.cache):
            heads = F.linear(self._normed(x, layer["attention_norm"]), layer["qkv"], layer["qkv_bias"])
            heads = heads.view(batch, num_queries + 2 * num_keys, dim)
            turned, value = heads[:, : num_queries + num_keys], heads[:, num_queries + num_keys :]
            if layer["qk_norm"] is not None:
                turned = F.rms_norm(turned, (dim,), eps=self.eps) * layer["qk_norm"]
            first, second = turned.chunk(2, -1)
            turned = turned * cos + torch.cat([-second, first], -1) * sin
            query = turned[:, :num_queries, None]  # (B, H, 1, D)
            keys[:, :, now], values[:, :, now] = turned[:, num_queries:], value
            found = F.scaled_dot_product_attention(
                query, keys[:, :, : now + 1], values[:, :, : now + 1], blocked, enable_gqa=num_queries != num_keys
            )
            x = x + F.linear(found.reshape(batch, num_queries * dim), layer["out"], layer["out_bias"])
            gate, up = F.linear(self._normed(x, layer["mlp_norm"]), layer["gate_up"], layer["gate_up_bias"]).chunk(
                2, -1
            )
            x = x + F.linear(F.silu(gate) * up, layer["down"], layer["down_bias"])
        self.length += 1
        self.positions = self.positions + 1
        return F.linear(self._normed(x, self.norm), self.head)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.eps)


def _laid_out(layer) -> dict[str, Tensor | None]:
    attention, mlp = layer.self_attn, layer.mlp
    num_queries = attention.config.num_attention_heads
    num_keys = attention.config.num_key_value_heads
    qk_norm = None
    if hasattr(attention, "q_norm"):
        qk_norm = torch.cat(
            [attention.q_norm.weight.expand(num_queries, -1), attention.k_norm.weight.expand(num_keys, -1)]
        )  # (H + K, D)
    return {
        "attention_norm": layer.input_layernorm.weight,
        "mlp_norm": layer.post_attention_layernorm.weight,
        "qk_norm": qk_norm,
        **_joined("qkv", attention.q_proj, attention.k_proj, attention.v_proj),
        **_joined("out", attention.o_proj),
        **_joined("gate_up", mlp.gate_proj, mlp.up_proj),
        **_joined("down", mlp.down_proj),
    }


def _joined(name: str, *modules: torch.nn.Linear) -> dict[str, Tensor | None]:
    """The weights and biases of layers that read the same, as those of one."""
    biases = [module.bias for module in modules]
    return {
        name: torch.cat([module.weight for module in modules]) if len(modules) > 1 else modules[0].weight,
        f"{name}_bias": None if biases[0] is None else torch.cat(biases),
    }


class FastRollouts(FastHead):
    """Mixed into GRPOTrainer, before it: draws by `rollout` where that can be, and learns from what teaches something.

    Models that `rollout` knows read a batch without padding, and a prompt once for all its completions (`packed.py`).

    Completions of a group that all got the same reward have advantage 0 and no part in the gradient, early and late in a
    training more than half of them; they are left out of the forward and backward pass. The loss stays what it was,
    as its sum is divided by the tokens of all. Logged entropy and clip ratios are of the completions that are left.
    """

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        model = self.accelerator.unwrap_model(self.model)
        if not self._draws_plainly() or not is_fast_for(model):
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        was_training = model.training
        model.eval()
        try:
            with self.accelerator.autocast():
                drawn = rollout(
                    model, prompt_ids, self.max_completion_length, self.eos_token_ids, self.args.temperature
                )
        finally:
            model.train(was_training)
        return drawn, None

    def _draws_plainly(self) -> bool:
        args = self.args
        unset = (args.min_p or 0.0) == 0.0 and args.repetition_penalty == 1.0 and not args.generation_kwargs
        elsewhere = self.use_vllm or self.use_transformers_continuous_batching
        return unset and args.top_p == 1.0 and args.top_k == 0 and not args.cache_implementation and not elsewhere

    def _get_per_token_logps_and_entropies(
        self,
        model,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **pictures,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """TRL's signature; log-probabilities and entropies (B, T), of the completions' tokens at the temperature."""
        bare = self.accelerator.unwrap_model(model)
        if compute_aux_loss or any(x is not None for x in pictures.values()) or not is_packable(bare):
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **pictures,
            )
        logps, entropies, size = [], [], batch_size or len(input_ids)
        for ids, mask in zip(input_ids.split(size), attention_mask.split(size)):
            packed = pack(ids, mask, logits_to_keep)
            labels = F.pad(packed.labels, (packed.num_shared, 0), value=-100)[None]
            with self.accelerator.autocast():
                found = read(model, packed, bare, shift_labels=labels, fused_lm_head=True)
            logps.append(packed.padded(found.log_probs[0, packed.num_shared :]))
            if compute_entropy:
                entropies.append(packed.padded(found.entropy[0, packed.num_shared :]))
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def _compute_loss(self, model, inputs: dict) -> Tensor:
        if self._loses_nothing(inputs):
            num_rows = inputs["advantages"].count_nonzero()[None]
            # The same on all processes, which gather figures of each row.
            inputs = learned_from(inputs, int(self.accelerator.gather(num_rows).max()))
        return super()._compute_loss(model, inputs)

    def _loses_nothing(self, inputs: dict) -> bool:
        """Whether a completion's advantage of 0 means no gradient, and its leaving changes no divisor."""
        plain = not (self._entropy_bonus_enabled or self.aux_loss_enabled) and self.top_entropy_quantile == 1.0
        by_tokens = self.loss_type in ("dapo", "cispo") and inputs["advantages"].dim() == 1
        return plain and by_tokens and self.beta == 0 and self.model.training


def learned_from(inputs: dict, at_least: int = 1) -> dict:
    """A batch of TRL's without the completions whose advantage is 0, and without columns that are then empty.

    Some of those stay if there are fewer than `at_least` others, and one in any case: other processes wait for its backward.
    """
    teaches = inputs["advantages"] != 0
    num_kept = max(int(teaches.sum()), at_least, 1)
    rows = (~teaches).int().argsort(stable=True)[:num_kept].sort().values
    num_rows, width = inputs["completion_mask"].shape
    starts = int((inputs["prompt_mask"][rows].sum(0) == 0).sum())  # padded on the left
    ends = int(inputs["completion_mask"][rows].sum(1).max())

    def left(name: str, value):
        if not torch.is_tensor(value) or value.dim() == 0 or value.shape[0] != num_rows:
            return value
        if name in ("prompt_ids", "prompt_mask"):
            return value[rows, starts:]
        return value[rows, :ends] if value.dim() == 2 and value.shape[1] == width else value[rows]

    return {name: left(name, value) for name, value in inputs.items()}
