"""Chats beside reinforcement learning: what RL no longer asks, a model unlearns, and tools and its own name first.

To the loss of every step the mean loss of a few chats is added, as SFT has it: on the tokens of the assistant alone. That is
PPO-ptx of InstructGPT (https://arxiv.org/abs/2203.02155, section 3.5) with two departures: the text rehearsed is chats, and
not what the base model read, and the loss is a mean over tokens, so that `chats_coef` does not depend on their number.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from crawl2chat.chat import local
from crawl2chat.chats import check_masks, read_chats, tokens_and_mask
from crawl2chat.packed import is_packable, pack, read
from crawl2chat.stage import bounded


@dataclass
class Rehearses:
    """Options of RL that goes on with SFT's chats."""

    chats: str = field(default="", metadata={"help": "Folder or Hub dataset of chats, as SFT's, that are rehearsed."})
    chats_coef: float = bounded(0.3, "Their loss counts so many times.", low=0.0)
    chats_per_batch: int = bounded(16, "Chats beside each batch of a device.", low=1)

    def problems(self) -> list[str]:
        found = super().problems()
        defaults = Rehearses.chats_coef, Rehearses.chats_per_batch
        if not self.chats and (self.chats_coef, self.chats_per_batch) != defaults:
            found.append("`chats_coef` and `chats_per_batch` are of `chats`; name their folder.")
        return found

    def inputs(self) -> list[str]:
        return [*super().inputs(), *local(self.chats)]

    def rehearsed(self, tokenizer, model) -> list[tuple[list[int], list[int]]]:
        """Of each chat the tokens, and 1 for those that are trained."""
        if not self.chats:
            return []
        chats, _ = read_chats(self.chats, tokenizer, model.config.max_position_embeddings)
        check_masks(tokenizer, chats)
        return [tokens_and_mask(tokenizer, chat) for chat in chats]


class Rehearsal:
    """Mixed into GRPOTrainer or ours of PPO, before it.

    Which chats come beside which step follows from the seed alone, so that a training that was interrupted goes on the same.

    Args:
        chats: as `Rehearses.rehearsed` gives them; none: the trainer is what it was.
    """

    def __init__(self, *args, chats: list[tuple[list[int], list[int]]], **kwargs):
        super().__init__(*args, **kwargs)
        self._chats, self._drawn_for = chats, None

    def _compute_loss(self, model: nn.Module, inputs: dict) -> Tensor:
        loss = super()._compute_loss(model, inputs)
        if not self._chats or not self.model.training:
            return loss
        rehearsed = self._chats_loss(self.accelerator.unwrap_model(model), *self._next_chats())
        self._metrics["train"]["chats/loss"].append(self.accelerator.gather(rehearsed.detach()).mean().item())
        return loss + self.args.chats_coef * rehearsed / self.current_gradient_accumulation_steps

    def _chats_loss(self, model: nn.Module, ids: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """The mean over the labels of chats in rows, (B, T); for models that `packed.py` knows without the padding."""
        with self.accelerator.autocast():
            if not is_packable(model):
                return model(input_ids=ids, labels=labels, use_cache=False).loss
            packed = pack(ids, mask, ids.shape[1] - 1)
            labels = labels[:, 1:].flatten()[packed.places]
            hidden = read(model.model, packed).last_hidden_state[0, packed.num_shared :]
            trained = labels != -100
            return cross_entropy(model.lm_head(hidden[trained]).float(), labels[trained])

    def _next_chats(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, labels and mask of the next few, (B, T), padded on the right."""
        if self._drawn_for != self.state.global_step:
            self._drawn_for = self.state.global_step
            place = self._drawn_for * self.accelerator.num_processes + self.accelerator.process_index
            self._generator = torch.Generator().manual_seed(self.args.seed + 1_000_003 * place)
        drawn = torch.randint(len(self._chats), (self.args.chats_per_batch,), generator=self._generator)
        chats = [[torch.tensor(row) for row in self._chats[number]] for number in drawn.tolist()]
        columns = (
            ([tokens for tokens, _ in chats], self.processing_class.pad_token_id),
            ([torch.where(trained == 1, tokens, -100) for tokens, trained in chats], -100),
            ([torch.ones_like(tokens) for tokens, _ in chats], 0),
        )
        return tuple(pad_sequence(rows, True, value).to(self.model.device) for rows, value in columns)
