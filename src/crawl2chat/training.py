"""What the training stages share: resuming, precision, bits per byte, saving a self-sufficient folder."""

import json
import math
import shutil
import time
import warnings
from pathlib import Path
from statistics import mean

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import GenerationConfig, PreTrainedModel, Trainer, TrainerCallback, TrainerState

from crawl2chat.chat import END_OF_TEXT, END_OF_TURN


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """The newest checkpoint to resume from, or None. Half-written ones are deleted, with a warning.

    The Trainer writes `trainer_state.json` last, so a checkpoint without it, or with half of it, is not whole.
    """
    checkpoints = sorted(Path(output_dir).glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for checkpoint in reversed(checkpoints):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())
            return str(checkpoint)
        except (OSError, json.JSONDecodeError):
            warnings.warn(f"{checkpoint} is half-written; it is deleted and the one before it used.", stacklevel=2)
            shutil.rmtree(checkpoint)
    return None


def has_fast_bf16(device: torch.device | str) -> bool:
    """Whether bf16 is computed there, and not emulated: on every accelerator, and on processors with the instructions."""
    if torch.device(device).type != "cpu":
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class FastPrecision:
    """Mixed into training arguments: turns `bf16` off, with a warning, on a processor that would emulate it.

    Emulated, a step takes fifty times as long as in float32. Decided before the Trainer's arguments are, because they
    hand the precision to accelerate as they are made.
    """

    def __post_init__(self):
        device = "cpu" if self.use_cpu or not torch.accelerator.is_available() else "cuda"
        if self.bf16 and not has_fast_bf16(device):
            self.bf16 = False
            warnings.warn(
                "`bf16: true` has no effect: this processor would emulate it; float32 is used.", stacklevel=2
            )
        super().__post_init__()


class SecondsCallback(TrainerCallback):
    """Writes the seconds trained so far into every row of the log, those before an interruption included."""

    started_at = None  # not while it only evaluates

    def on_train_begin(self, args, state, control, **kwargs):
        self.before, self.started_at = seconds_in(state), time.monotonic()

    def on_log(self, args, state, control, **kwargs):
        if self.started_at is not None:
            state.log_history[-1]["seconds"] = round(self.before + time.monotonic() - self.started_at, 1)


def seconds_in(state: TrainerState) -> float:
    return max((row.get("seconds", 0.0) for row in state.log_history), default=0.0)


def train(trainer: Trainer) -> dict:
    """Trains, resuming from the last complete checkpoint.

    Returns:
        `train_loss` (mean of `losses`), `steps`, `train_seconds` and `losses` ([step, loss]), of the whole training, however
        often it was interrupted.
    """
    trainer.add_callback(SecondsCallback())
    checkpoint = last_complete_checkpoint(trainer.args.output_dir)
    state = TrainerState.load_from_json(Path(checkpoint, "trainer_state.json")) if checkpoint else TrainerState()
    if checkpoint and state.global_step >= state.max_steps:
        # Killed between the last step and the save: a Trainer that resumes here would take one step too many.
        trainer._load_from_checkpoint(checkpoint)
        trainer.state = state
    else:
        trainer.train(resume_from_checkpoint=checkpoint)
    losses = [[row["step"], row["loss"]] for row in trainer.state.log_history if "loss" in row]
    return {
        "train_loss": round(mean(loss for _, loss in losses), 4) if losses else None,
        "steps": trainer.state.global_step,
        "train_seconds": seconds_in(trainer.state),
        "losses": losses,
    }


def save(model: PreTrainedModel, tokenizer, output_dir: str | Path) -> None:
    """Weights as safetensors, tokenizer with its template, and a generation config that stops where a turn ends."""
    ends = tokenizer.convert_tokens_to_ids([END_OF_TURN, END_OF_TEXT])
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, use_cache=True)
    model.config.use_cache = True
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)


@torch.no_grad()
def bits_per_byte(model: PreTrainedModel, windows: Dataset, token_bytes: torch.Tensor, batch_size: int = 32) -> float:
    """Mean negative log2-likelihood per UTF-8 byte of the text, comparable across tokenizers.

    Args:
        windows: items with `input_ids` (T + 1,), each overlapping the next by one token.
        token_bytes: bytes of each token id, shape (V,); tokens that stand for no byte do not count.
    """
    was_training = model.training
    model.eval()
    token_bytes = token_bytes.to(model.device)
    nats, num_bytes = 0.0, 0
    for batch in DataLoader(windows, batch_size=batch_size):
        ids = batch["input_ids"].to(model.device)  # (B, T + 1)
        logits = model(input_ids=ids[:, :-1]).logits.float()  # (B, T, V)
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        sizes = token_bytes[ids[:, 1:].flatten()]  # (B * T,)
        nats += losses[sizes > 0].sum().item()
        num_bytes += int(sizes.sum())
    model.train(was_training)
    return nats / math.log(2) / num_bytes
