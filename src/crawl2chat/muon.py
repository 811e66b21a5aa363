"""Muon for the matrices of the layers, AdamW for embeddings, head and norms, behind one optimizer.

Muon orthogonalises the momentum of each matrix (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/). A
Trainer wants a single optimizer to step, schedule and save: `MuonAdamW` is it.
"""

import torch
from torch import nn

from crawl2chat.training import has_fast_bf16

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's: the steepest at zero, for the fewest steps
NUM_NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` at its defaults and without weight decay, but with matrices of one shape in one batch.

    torch's works on one matrix at a time and always in bf16, which a processor without bf16 instructions emulates: there
    a step took 9.8 s where forward and backward took 1.1.

    Args:
        params: matrices, each (M, N).
    """

    def __init__(self, params: list[nn.Parameter], lr: float):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for (num_rows, num_columns), parameters in by_shape.items():
                gradients = [parameter.grad for parameter in parameters]
                momenta = [self._momentum(parameter) for parameter in parameters]
                torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
                updates = torch.stack(torch._foreach_lerp(gradients, momenta, MOMENTUM))  # Nesterov's; (B, M, N)
                updates = orthogonalize(updates).unbind()
                # A tall matrix needs the longer step to change its outputs as much.
                lr = group["lr"] * max(1, num_rows / num_columns) ** 0.5
                torch._foreach_add_(parameters, [update.float() for update in updates], alpha=-lr)

    def _momentum(self, parameter: nn.Parameter) -> torch.Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices (B, M, N) with singular values near 1 and the same singular vectors, by Newton-Schulz iteration."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16() if has_fast_bf16(matrices.device) else matrices
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(NUM_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT  # (B, M, M)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


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
            Muon([p for p in inside if p.ndim == 2], lr=matrix_lr),
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
