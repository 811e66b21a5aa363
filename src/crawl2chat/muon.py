"""Muon for the matrices of the layers, AdamW for embeddings, head and norms, behind one optimizer.

Muon orthogonalises the momentum of each matrix (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/); the
implementation is `torch.optim.Muon`. A Trainer wants a single optimizer to step, schedule and save: this is it.
"""

import torch
from torch import nn


class MuonAdamW(torch.optim.Optimizer):
    """One optimizer over two: the groups are shared, so a scheduler that sets their `lr` sets the inner ones'.

    Args:
        model: a causal language model with `get_input_embeddings` and `get_output_embeddings`.
        matrix_lr: learning rate of the 2-D weights inside the layers.
        embedding_lr, head_lr, norm_lr: learning rates under AdamW (betas .8 .95, no weight decay).
    """

    def __init__(self, model: nn.Module, matrix_lr: float, embedding_lr: float, head_lr: float, norm_lr: float):
        embedding = model.get_input_embeddings().weight
        head = model.get_output_embeddings().weight
        outside = {id(embedding), id(head)}
        inside = [p for p in model.parameters() if id(p) not in outside and p.requires_grad]
        adam_groups = [
            {"params": [embedding], "lr": embedding_lr},
            {"params": [p for p in inside if p.ndim < 2], "lr": norm_lr},
        ]
        if head is not embedding:
            adam_groups.append({"params": [head], "lr": head_lr})
        self.inner = [
            torch.optim.Muon([p for p in inside if p.ndim == 2], lr=matrix_lr, weight_decay=0.0),
            torch.optim.AdamW(adam_groups, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.0, foreach=True),
        ]
        super().__init__([group for optimizer in self.inner for group in optimizer.param_groups], {})
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [group for optimizer in self.inner for group in optimizer.param_groups]

    @torch.no_grad()
    def step(self, closure=None):
        for optimizer in self.inner:
            optimizer.step()

    def state_dict(self) -> dict:
        return {"inner": [optimizer.state_dict() for optimizer in self.inner]}

    def load_state_dict(self, state_dict: dict) -> None:
        for optimizer, state in zip(self.inner, state_dict["inner"], strict=True):
            optimizer.load_state_dict(state)
        self._share_groups()
