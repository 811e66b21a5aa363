"""Low-rank adapters (LoRA, https://arxiv.org/abs/2106.09685; on a base in 4 bits QLoRA, https://arxiv.org/abs/2305.14314).

Written for the training stages: the options stand in their YAMLs under the names that TRL gives them, the adapter is kept
in `adapter/`, and the folder around it holds the merged model, which needs no peft.
"""

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from transformers import BitsAndBytesConfig, PreTrainedModel

from crawl2chat.chat import load_model
from crawl2chat.stage import StageError, bounded


@dataclass
class Adapted:
    """Options of a stage that may train an adapter instead of all weights."""

    use_peft: bool = field(default=False, metadata={"help": "Train a low-rank adapter, and not all weights."})
    lora_r: int = bounded(16, "Rank of the adapter.", low=1)
    lora_alpha: int = bounded(32, "The adapter counts `lora_alpha` / `lora_r` times.", low=1)
    lora_dropout: float = bounded(0.0, "Dropout before the adapter.", low=0.0, high=1.0)
    load_in_4bit: bool = field(default=False, metadata={"help": "The base in 4 bits (QLoRA); needs bitsandbytes."})

    def adapter(self) -> LoraConfig | None:
        """For TRL's trainers; on every linear layer but the head, as QLoRA's authors found best."""
        if self.load_in_4bit and not self.use_peft:
            raise StageError("`load_in_4bit` trains an adapter on the 4-bit weights; set `use_peft: true`, too.")
        if not self.use_peft:
            return None
        return LoraConfig(
            r=self.lora_r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )

    def load(self, folder: str | Path, tokenizer) -> PreTrainedModel:
        """The model to train, in 4 bits if asked."""
        if not self.load_in_4bit:
            return load_model(folder, tokenizer)
        if find_spec("bitsandbytes") is None:
            raise StageError("`load_in_4bit` needs bitsandbytes; pip install bitsandbytes on a machine with a GPU.")
        four_bits = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            bnb_4bit_use_double_quant=True,
        )
        return load_model(folder, tokenizer, quantization_config=four_bits)


def merge(adapter: str | Path, base: str | Path, tokenizer) -> PreTrainedModel:
    """The base model in full precision with an adapter merged into it.

    Raises:
        StageError: the adapter was trained on another model.
    """
    model = load_model(base, tokenizer)
    try:
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StageError(f"the adapter {adapter} does not fit the model {base}: {reason}") from error
