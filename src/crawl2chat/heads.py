"""The last layer of small models on a processor: logits once, and only where a token is scored.

TRL computes log-probabilities in chunks and computes each logit again for its gradient, so that the logits of a large
vocabulary never lie in memory at once; without Triton it does so at every place of a batch, prompts and padding included.
For a model of a few million parameters that is a third of a step. Here the same numbers come from one `log_softmax` over the
places that have a label (tests/test_heads.py).
"""

from functools import wraps
from types import MethodType

import torch
from peft import PeftModel
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen3ForCausalLM
from trl.trainer.utils import FusedCausalLMOutput

# Above, arithmetic is what costs time, and a second copy of the weights would cost memory.
MAX_PARAMETERS = 300_000_000
CAUSAL = (Qwen3ForCausalLM, LlamaForCausalLM)
MAX_LOGITS = 2**26  # a quarter of a gigabyte; for more, TRL's chunks


def is_fast_for(model, classes=CAUSAL) -> bool:
    """Whether the fast ways know this model: Qwen3 or Llama with all layers alike, small, and whole on this process."""
    if type(model) not in classes or model.num_parameters() > MAX_PARAMETERS:
        return False
    weights = list(model.parameters())
    # ZeRO-3's have an id, and are gathered and split as it goes.
    whole = all(type(weight) is torch.nn.Parameter and not hasattr(weight, "ds_id") for weight in weights)
    plain = whole and all(weight.numel() and weight.dim() < 3 for weight in weights)
    no_window = all(kind == "full_attention" for kind in getattr(model.config, "layer_types", None) or [])
    rope = getattr(model.config, "rope_parameters", None) or {}
    return plain and no_window and rope.get("rope_type", "default") == "default"


def score_whole(model: PreTrainedModel, temperature: float = 1.0) -> None:
    """`model(..., fused_lm_head=True)`, as TRL's trainers call it, by one `log_softmax` where that fits into memory."""
    chunked = model.forward

    @wraps(type(model).forward)  # `generate` looks at its signature
    def forward(self, *args, fused_lm_head=False, labels=None, shift_labels=None, num_items_in_batch=None, **kwargs):
        given = {"labels": labels, "shift_labels": shift_labels, "num_items_in_batch": num_items_in_batch}
        given = {name: value for name, value in given.items() if value is not None}
        if not fused_lm_head:
            return chunked(*args, **given, **kwargs)
        scored = labels[:, 1:] if shift_labels is None else shift_labels
        mask = scored != -100
        fits = self.device.type == "cpu" and mask.sum() * self.config.vocab_size <= MAX_LOGITS
        if not fits or not is_fast_for(self):
            return chunked(*args, fused_lm_head=True, **given, **kwargs)

        hidden = self.model(*args, **{**kwargs, "use_cache": False}).last_hidden_state[:, : scored.shape[1]]
        logits = self.lm_head(hidden[mask]).float() / temperature  # (M, V)
        likely = torch.log_softmax(logits, dim=-1)
        labels = scored[mask]
        log_probs = likely.gather(1, labels[:, None])[:, 0]
        found = {"log_probs": log_probs, "entropy": -(likely.exp() * likely).sum(-1)}
        with torch.no_grad():
            found |= {"mean_logits": logits.mean(-1), "is_top1": logits.argmax(-1) == labels}
        # Where nothing has a label the loss is a 0 with a gradient, as another process may wait for it.
        found = {name: x.new_zeros(mask.shape).masked_scatter(mask, x) for name, x in found.items()}
        num_scored = mask.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        return FusedCausalLMOutput(loss=-found["log_probs"].sum() / num_scored, label_mask=mask, **found)

    model.forward = MethodType(forward, model)


class FastHead:
    """Mixed into TRL's trainers, before them."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Neither is computed here.
        if getattr(self.args, "use_weighting", False) or getattr(self.args, "cast_lm_head_to_fp32", False):
            return
        temperature = getattr(self, "temperature", 1.0)
        for model in (self.model, getattr(self, "ref_model", None)):
            if model is not None:
                model = self.accelerator.unwrap_model(model)
                score_whole(model.get_base_model() if isinstance(model, PeftModel) else model, temperature)
