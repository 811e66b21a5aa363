"""What RL will hold in the memory of a device, as far as it is known before the start."""

import warnings

import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, TrainingArguments

from crawl2chat.machine import memory_bytes
from crawl2chat.training import asked_for

MOMENTS_AND_GRADIENT = 3  # AdamW's two, and the gradient, each as large as the weights that are trained


def footprint(
    model: PreTrainedModel, args: TrainingArguments, prompt_tokens: int, adapter: LoraConfig | None = None
) -> dict[str, int]:
    """MB on one device that holds all of it; activations, which hang on the lengths, and vLLM's own memory come on top.

    Warns if that is more than the device has.

    Args:
        args: of GRPOTrainer or one like it.
        prompt_tokens: of a usual prompt.
        adapter: if only that is trained; the reference is then the model without it.
    """
    trained = [weight for weight in model.parameters() if weight.is_floating_point()]
    weights = reference = _bytes(list(model.parameters()))
    if adapter is not None:
        reference = 0
        trained = [weight for weight in get_peft_model(model, adapter).parameters() if weight.requires_grad]
        weights += _bytes(trained)
    config = model.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    a_token = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * model.dtype.itemsize
    completions = args.generation_batch_size // args.world_size
    on_gpu = torch.cuda.is_available()
    found = {
        "memory_mb_without_activations": weights
        + MOMENTS_AND_GRADIENT * _bytes(trained)
        + reference * bool(args.beta),
        "rollout_cache_mb": completions * (prompt_tokens + args.max_completion_length) * a_token,
        "device_memory_mb": torch.cuda.get_device_properties(0).total_memory if on_gpu else memory_bytes(),
    }
    needed = found["memory_mb_without_activations"] + (0 if args.use_vllm else found["rollout_cache_mb"])
    if needed > found["device_memory_mb"] and asked_for() in ("one process", "DDP"):
        warnings.warn(
            f"weights, optimizer and cache take {needed >> 20:,} MB, and this device has "
            f"{found['device_memory_mb'] >> 20:,}: train an adapter (`use_peft: true`), halve "
            "`per_device_train_batch_size`, or share them among devices (zero3, fsdp2).",
            stacklevel=2,
        )
    return {name: round(size / 2**20) for name, size in found.items()}


def _bytes(weights: list[torch.Tensor]) -> int:
    return sum(weight.numel() * weight.element_size() for weight in weights)
