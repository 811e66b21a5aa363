"""What PPO computes of rewards and values: advantages, the value loss, and the weight of the KL divergence."""

import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation (https://arxiv.org/abs/1506.02438).

    Args:
        rewards: (B, T), of each token.
        values: (B, T), of the state before each token.
        mask: (B, T), 1 for what the model wrote, 0 for what a tool said between and for all after the end.

    Returns:
        advantages and returns, both (B, T) and 0 where masked. A token's next one is the next that the model wrote;
        nothing comes after the last, be it an end or the place where a completion was cut.
    """
    mask = mask.bool()
    advantages = torch.zeros_like(values)
    following, next_values = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        advantage = rewards[:, t] + gamma * next_values - values[:, t] + gamma * lam * following
        following = torch.where(mask[:, t], advantage, following)
        next_values = torch.where(mask[:, t], values[:, t], next_values)
        advantages[:, t] = torch.where(mask[:, t], advantage, 0)
    return advantages, (advantages + values) * mask


def value_losses(values: Tensor, old_values: Tensor, returns: Tensor, cliprange: float) -> tuple[Tensor, Tensor]:
    """Half the squared error of each token, of the value or of its clipped one, whichever is larger; and which were clipped.

    As in OpenAI's baselines (ppo2); all tensors (B, T).
    """
    clipped = old_values + (values - old_values).clamp(-cliprange, cliprange)
    errors, clipped_errors = (values - returns).square(), (clipped - returns).square()
    return 0.5 * torch.max(errors, clipped_errors), clipped_errors > errors


def adapted(beta: float, kl: float, target: float, num_completions: int, horizon: int) -> float:
    """The weight of the KL divergence after a rollout: Ziegler's controller (https://arxiv.org/abs/1909.08593, 2.2)."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * num_completions / horizon)
