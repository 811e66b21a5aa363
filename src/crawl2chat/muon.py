"""Muon for the matrices of the layers, AdamW for embeddings, head and norms, behind one optimizer.

Muon orthogonalises the momentum of each matrix (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/). A
Trainer wants a single optimizer to step, schedule and save: `MuonAdamW` is it, on one process, under DDP and under
FSDP2. DeepSpeed cuts all weights into one flat row, so there its own Muon does the same.
"""

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from crawl2chat.training import has_fast_bf16

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's: the steepest at zero, for the fewest steps
NUM_NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95
ADAM = {"betas": (0.8, 0.95), "eps": 1e-10, "weight_decay": 0.0}


def muon_adamw(
    model: nn.Module, matrix_lr: float, embedding_lr: float, head_lr: float, norm_lr: float, deepspeed: bool = False
) -> torch.optim.Optimizer:
    """An optimizer for all weights of a causal language model with `get_input_embeddings` and `get_output_embeddings`.

    Args:
        matrix_lr: learning rate of the 2-D weights inside the layers, under Muon.
        embedding_lr, head_lr, norm_lr: learning rates under AdamW (betas .8 .95, no weight decay).
        deepspeed: DeepSpeed's own, which works on the parts that ZeRO makes of the weights. It orthogonalises before
            gradients are clipped, so `max_grad_norm` must be 0.
    """
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    inside = [p for p in model.parameters() if p is not embedding and p is not head and p.requires_grad]
    matrices = {"params": [p for p in inside if p.ndim == 2], "lr": matrix_lr}
    others = [
        {"params": [embedding], "lr": embedding_lr},
        {"params": [p for p in inside if p.ndim < 2], "lr": norm_lr},
    ]
    if head is not embedding:
        others.append({"params": [head], "lr": head_lr})
    if not deepspeed:
        return MuonAdamW(matrices, others)

    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    for group in (matrices, *others):
        group["use_muon"] = group is matrices
        group.update({"momentum": MOMENTUM} if group["use_muon"] else ADAM)
        for parameter in group["params"]:
            parameter.use_muon = group["use_muon"]
    return MuonWithAuxAdam([matrices, *others], adam_optimizer=torch.optim.AdamW)


class MuonAdamW(torch.optim.Optimizer):
    """Muon on one group of matrices, `torch.optim.AdamW` on other groups; one state, as of any optimizer.

    The Muon is `torch.optim.Muon` at its defaults and without weight decay, but with matrices of one shape in one batch.
    torch's works on one matrix at a time and always in bf16, which a processor without bf16 instructions emulates: there
    a step took 9.8 s where forward and backward took 1.1.

    Args:
        matrices: `{"params": [...], "lr": ...}`, each parameter (M, N); DTensors of FSDP2 are gathered one batch at a time.
        others: groups for AdamW.
    """

    def __init__(self, matrices: dict, others: list[dict]):
        self.adam = torch.optim.AdamW(others, **ADAM, foreach=True)
        super().__init__([matrices, *self.adam.param_groups], {})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        # Loading a checkpoint has put new objects in the place of the groups and the state.
        matrices, *self.adam.param_groups = self.param_groups
        self.adam.state = self.state
        self.adam.step()

        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in matrices["params"]:
            if parameter.grad is not None:
                by_shape.setdefault(parameter.shape, []).append(parameter)
        for (num_rows, num_columns), parameters in by_shape.items():
            momenta = [self._momentum(parameter) for parameter in parameters]
            gradients = [parameter.grad for parameter in parameters]
            torch._foreach_lerp_(_parts(momenta), _parts(gradients), 1 - MOMENTUM)
            nesterov = torch._foreach_lerp(_parts(gradients), _parts(momenta), MOMENTUM)
            updates = orthogonalize(torch.stack(_gathered(nesterov, parameters))).float().unbind()  # each (M, N)
            # A tall matrix needs the longer step to change its outputs as much.
            lr = matrices["lr"] * max(1, num_rows / num_columns) ** 0.5
            torch._foreach_add_(_parts(parameters), _scattered(updates, parameters), alpha=-lr)

    def _momentum(self, parameter: nn.Parameter) -> torch.Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def _parts(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """What this process holds of each; all of it unless FSDP2 has split it."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def _gathered(parts: list[torch.Tensor], parameters: list[nn.Parameter]) -> list[torch.Tensor]:
    """The whole tensors of which these are the parts, split as the parameters are."""
    return [
        DTensor.from_local(
            part, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
        ).full_tensor()
        if isinstance(parameter, DTensor)
        else part
        for part, parameter in zip(parts, parameters)
    ]


def _scattered(tensors: list[torch.Tensor], parameters: list[nn.Parameter]) -> list[torch.Tensor]:
    """This process's part of each whole tensor, all processes holding the same."""
    return [
        distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()
        if isinstance(parameter, DTensor)
        else tensor
        for tensor, parameter in zip(tensors, parameters)
    ]


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
