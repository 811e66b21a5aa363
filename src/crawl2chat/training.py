"""What the training stages share: resuming, precision, bits per byte, saving a self-sufficient folder."""

import errno
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from peft import PeftModel
from safetensors import SafetensorError
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset, Sampler
from transformers import GenerationConfig, PreTrainedModel, Trainer, TrainerCallback, TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler

from crawl2chat.adapters import merge
from crawl2chat.chat import END_OF_TEXT, END_OF_TURN
from crawl2chat.products import multiply_fast
from crawl2chat.stage import StageError


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """The newest checkpoint to resume from, or None. Half-written ones are deleted, with a warning.

    `trainer_state.json` is written last (`train` sees to it), so a checkpoint without it, or with half of it, is not whole.
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

    Without bf16 and `torch_compile`, processors multiply as `products.py` says.

    Emulated, a step takes fifty times as long as in float32. Decided before the Trainer's arguments are, because they
    hand the precision to accelerate as they are made.
    """

    def __post_init__(self):
        if self.bf16 and not self.use_cpu and not torch.accelerator.is_available():
            self.use_cpu = True
            warnings.warn("there is no GPU here: `use_cpu: true` is taken.", stacklevel=2)
        device = "cpu" if self.use_cpu or not torch.accelerator.is_available() else "cuda"
        if self.bf16 and not has_fast_bf16(device):
            self.bf16 = False
            warnings.warn(
                "`bf16: true` has no effect: this processor would emulate it; float32 is used.", stacklevel=2
            )
        if device == "cpu" and not (self.bf16 or self.torch_compile):
            multiply_fast()
        super().__post_init__()


class SameOrder:
    """Mixed into a trainer: batches of like length come in an order that only the seed and the epoch decide.

    transformers draws it from torch's state at the start of an epoch, which a run that resumes in the middle of one no
    longer has.
    """

    def _get_train_sampler(self, *arguments, **options) -> Sampler | None:
        sampler = super()._get_train_sampler(*arguments, **options)
        return OfEpoch(sampler, self.args.seed) if isinstance(sampler, LengthGroupedSampler) else sampler


class OfEpoch(Sampler):
    """A sampler with a generator of its own for every epoch."""

    def __init__(self, sampler: LengthGroupedSampler, seed: int):
        self.sampler, self.seed, self.epoch = sampler, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        self.sampler.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(self.sampler)


class Speed(TrainerCallback):
    """Times the steps, without evaluations and checkpoints: tokens a second, MFU, and what is left.

    MFU is the share of the devices' peak that goes into the model's own FLOPs (PaLM, https://arxiv.org/abs/2204.02311).

    Args:
        tokens_per_step: of all processes.
        flops_per_token: forward and backward.
        peak_flops: of all devices, FLOP/s.
    """

    def __init__(self, tokens_per_step: int, flops_per_token: float, peak_flops: float):
        self.tokens_per_step, self.flops_per_token, self.peak_flops = tokens_per_step, flops_per_token, peak_flops
        self.seconds: list[float] = []  # of each step since the start or resume

    def on_step_begin(self, args, state, control, **kwargs):
        self.started_at = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.perf_counter() - self.started_at)

    def figures(self, state: TrainerState) -> dict[str, float]:
        """Of the steps since the last log."""
        last = max((row["step"] for row in state.log_history if "loss" in row), default=0)
        recent = self.seconds[-max(1, state.global_step - last) :]
        found = self._of(recent)
        return found | {
            "eta_minutes": round((state.max_steps - state.global_step) * sum(recent) / len(recent) / 60, 1)
        }

    def total(self) -> dict[str, float]:
        """Of all steps since the start or resume, but for the first ones, in which memory is taken and code compiled."""
        return self._of(self.seconds[3:] or self.seconds) if self.seconds else {}

    def _of(self, seconds: list[float]) -> dict[str, float]:
        tokens_per_second = self.tokens_per_step * len(seconds) / sum(seconds)
        mfu = tokens_per_second * self.flops_per_token / self.peak_flops
        return {"tokens_per_second": round(tokens_per_second), "mfu": round(mfu, 4)}


def asked_for() -> str:
    """How `accelerate launch` was told to share the training among processes, by the variables it sets."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        return f"ZeRO-{os.environ.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', '2')}"
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        return f"FSDP{os.environ.get('FSDP_VERSION', '1')}"
    return "DDP" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "one process"


def got(model: torch.nn.Module) -> str:
    """The same of a model that a Trainer has prepared."""
    model = getattr(model, "_orig_mod", model)  # of a compiled one
    if hasattr(model, "zero_optimization_stage"):
        return f"ZeRO-{model.zero_optimization_stage()}"
    if any(isinstance(module, FSDPModule) for module in model.modules()):
        return "FSDP2"
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        return "FSDP1"
    is_shared = isinstance(model, DistributedDataParallel) and torch.distributed.get_world_size() > 1
    return "DDP" if is_shared else "one process"


class AsAskedFor(TrainerCallback):
    """Refuses a training that is shared in another way than its accelerate config asks: FSDP2 has become DDP unsaid."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        asked, found = asked_for(), got(self.trainer.model_wrapped)
        if asked != found:
            raise StageError(f"the accelerate config asks for {asked}, but the training is {found}; check its keys.")


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
    trainer.add_callback(AsAskedFor(trainer))
    save_rng_state = trainer._save_rng_state

    def save_the_last_part(folder: str) -> None:  # before `trainer_state.json`: the first process writes that alone
        save_rng_state(folder)
        trainer.accelerator.wait_for_everyone()

    trainer._save_rng_state = save_the_last_part
    with PartialState().main_process_first():  # it deletes what is half-written, and the others do not see it
        checkpoint = last_complete_checkpoint(trainer.args.output_dir)
    state = TrainerState.load_from_json(Path(checkpoint, "trainer_state.json")) if checkpoint else TrainerState()
    if checkpoint and state.global_step >= state.max_steps:
        # Killed between the last step and the save. A Trainer that resumes here would take one step too many; this one
        # loads everything, however it is split among processes, and stops.
        trainer._run_epoch = lambda **_: setattr(trainer.control, "should_training_stop", True)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except (RuntimeError, SafetensorError) as error:  # torch and safetensors write files by themselves
        if shutil.disk_usage(trainer.args.output_dir).free > 2**20:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
    losses = [[row["step"], row["loss"]] for row in trainer.state.log_history if "loss" in row]
    return {
        "train_loss": round(mean(loss for _, loss in losses), 4) if losses else None,
        "steps": trainer.state.global_step,
        "train_seconds": seconds_in(trainer.state),
        "losses": losses,
    }


def save(
    trainer: Trainer, tokenizer, change: Callable[[dict[str, torch.Tensor]], None] = lambda weights: None
) -> None:
    """Weights as safetensors, tokenizer with its template, and a generation config that stops where a turn ends.

    Of an adapter, `adapter/` holds its own weights and the folder those of the model (`args.model`) that it is merged into.

    Called on every process, as each may hold a part of the weights only; the whole ones are written by one.

    Args:
        change: what is done to the weights before they are written.
    """
    model, args = trainer.model, trainer.args
    # Whole on the process that writes; where the model is split, the others may get nothing.
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    vocabulary = tokenizer.get_vocab()  # another project's tokenizer may have one end only
    ends = dict.fromkeys([END_OF_TURN, END_OF_TEXT, tokenizer.eos_token])
    ends = [vocabulary[end] for end in ends if end in vocabulary]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, use_cache=True)
    model.config.use_cache = True
    if trainer.is_world_process_zero():
        weights = {name.replace("_orig_mod.", ""): tensor for name, tensor in weights.items()}  # of a compiled model
        change(weights)
        model = trainer.accelerator.unwrap_model(model)
        if isinstance(model, PeftModel):
            adapter = Path(args.output_dir, "adapter")
            model.save_pretrained(adapter, state_dict=weights)
            generation_config = model.generation_config
            model = merge(adapter, args.model, tokenizer)
            model.generation_config, weights = generation_config, model.state_dict()
        model.save_pretrained(args.output_dir, state_dict=weights)
        tokenizer.save_pretrained(args.output_dir)


@torch.no_grad()
def bits_per_byte(model: PreTrainedModel, windows: Dataset, token_bytes: torch.Tensor, batch_size: int = 32) -> float:
    """Mean negative log2-likelihood per UTF-8 byte of the text, comparable across tokenizers.

    Each process takes its share of the windows, all of them as many batches.

    Args:
        windows: items with `input_ids` (T + 1,), each overlapping the next by one token.
        token_bytes: bytes of each token id, shape (V,); tokens that stand for no byte do not count.
    """
    was_training = model.training
    model.eval()
    token_bytes = token_bytes.to(model.device)
    state = PartialState()
    share = range(state.process_index, len(windows), state.num_processes)
    num_batches = math.ceil(math.ceil(len(windows) / state.num_processes) / batch_size)
    totals = torch.zeros(2, dtype=torch.float64, device=model.device)  # nats, bytes
    for number in range(num_batches):
        chosen = share[number * batch_size : (number + 1) * batch_size]
        items = [windows[i]["input_ids"] for i in chosen or [0]]  # model parts on other processes wait for a batch
        ids = torch.stack(items).to(model.device)  # (B, T + 1)
        logits = model(input_ids=ids[:, :-1]).logits.float()  # (B, T, V)
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        sizes = token_bytes[ids[:, 1:].flatten()]  # (B * T,)
        if chosen:
            totals += torch.stack([losses[sizes > 0].double().sum(), sizes.double().sum()])
    model.train(was_training)
    nats, num_bytes = reduce(totals, "sum").tolist()
    return nats / math.log(2) / num_bytes
