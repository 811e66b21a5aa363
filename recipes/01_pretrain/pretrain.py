"""Token shards -> base model: next-token prediction with transformers' Trainer.

Departs from a plain Trainer run in three ways: Muon trains the matrices (AdamW the rest), the schedule is
warmup-stable-decay, and the model starts as in nanochat: output projections and head at zero. The model class is Qwen3
(its norm on queries and keys keeps large learning rates stable), which every inference engine knows.

`--depth` sets shape, batch, rates and tokens by the rules of crawl2chat/scaling.py, but for what is given; `--dry_run`
prints all of it with the FLOPs, hours and money that the run will cost.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/01_pretrain/pretrain.py \
        --config recipes/01_pretrain/tiny.yaml --tokens outputs/tiny/6_tokens --output_dir outputs/tiny/base
"""

import json
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed

from crawl2chat import scaling
from crawl2chat.chat import END_OF_TEXT, check_chat_tokens, load_tokenizer, start_chat_tokens
from crawl2chat.muon import muon_adamw
from crawl2chat.stage import StageError, bounded, run_stage, write_atomically
from crawl2chat.tokens import (
    DataPosition,
    TokenWindows,
    WindowSampler,
    bytes_per_token,
    document_positions,
    num_tokens,
)
from crawl2chat.training import FastPrecision, Speed, bits_per_byte, save, train


@dataclass
class PretrainConfig(FastPrecision, TrainingArguments):
    tokens: str = field(default="", metadata={"help": "Folder of 6_tokenize_corpus.py."})
    sequence_length: int = bounded(256, "Tokens a window.", low=8)
    depth: int | None = bounded(None, "Layers; sets what is not given of the next nine.", low=1)
    hidden_size: int | None = bounded(None, "Width.", low=16)
    num_layers: int | None = bounded(None, "Layers.", low=1)
    num_heads: int | None = bounded(None, "Attention heads; divides hidden_size.", low=1)
    intermediate_size: int | None = bounded(None, "Width of the MLP.", low=16)
    total_tokens: int | None = bounded(None, "Tokens to train on, repeats included.", low=1)
    tokens_per_step: int | None = bounded(None, "Of all processes together; sets the gradient accumulation.", low=1)
    matrix_learning_rate: float | None = bounded(None, "Muon's, for the matrices of the layers.", low=0.0)
    embedding_learning_rate: float | None = bounded(None, "AdamW's, for the embedding.", low=0.0)
    head_learning_rate: float | None = bounded(None, "AdamW's, for the head and the norms.", low=0.0)
    max_passes: float = bounded(4.0, "Over the corpus; a small one gets fewer tokens than total_tokens.", low=0.01)
    decay_share: float = bounded(
        0.6, "Share of the steps in which the learning rate falls to zero.", low=0.0, high=1.0
    )
    tie_word_embeddings: bool = bounded(False, "One matrix for embedding and head.")
    document_attention: bool = bounded(False, "No token attends to another document of its window.")
    sample_prompts: list[str] = field(default_factory=list, metadata={"help": "Continued at every evaluation."})
    estimate_for: str = bounded(
        "", "GPU whose hours are estimated; none: this machine.", choices=["", *scaling.PEAK_FLOPS]
    )
    estimated_mfu: float = bounded(0.4, "Share of the peak that the estimate counts on.", low=0.01, high=1.0)
    dollars_per_hour: float = bounded(0.0, "Price of one device, for the estimate.", low=0.0)

    def problems(self) -> list[str]:
        found = [] if self.tokens else ["--tokens needs the folder that 6_tokenize_corpus.py wrote."]
        missing = [name for name in scaling.DIALED if getattr(self, name) is None]
        if missing and self.depth is None:
            found.append(f"give --depth, or also {', '.join(missing)}.")
        if self.hidden_size and self.num_heads and self.hidden_size % self.num_heads:
            found.append(f"`hidden_size` {self.hidden_size} must be a multiple of `num_heads` {self.num_heads}.")
        if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true" and self.max_grad_norm:
            found.append("DeepSpeed would clip what Muon has orthogonalised already; set `max_grad_norm` to 0.")
        if self.gradient_accumulation_steps != 1:
            found.append("`gradient_accumulation_steps` follows from `tokens_per_step` here; give that.")
        return found

    @property
    def windows_per_step(self) -> int:
        return self.tokens_per_step // self.sequence_length

    @property
    def num_steps(self) -> int:
        return self.total_tokens // self.tokens_per_step

    @property
    def reads_even_windows(self) -> bool:
        """Whether the last token of a window, T + 1 long, is predicted only, and not read: T divides better.

        Not by a processor that compiles nothing. That would take 9% less time (docs/log.md) but round otherwise, and its
        runs are to stay those of docs/results.md.
        """
        return self.torch_compile or self.device.type != "cpu"

    @property
    def compute_type(self) -> torch.dtype:
        return torch.bfloat16 if self.bf16 else torch.float32


def settle(config: PretrainConfig, vocab_size: int) -> scaling.Shape:
    """Sets by the dial what was not given, caps the tokens at `max_passes` over the corpus, and divides each step up."""
    if config.depth and all(getattr(config, name) is not None for name in scaling.DIALED):
        warnings.warn("`depth` has no effect: all that it would set is given.", stacklevel=2)
    once = config.per_device_train_batch_size * config.world_size * config.sequence_length
    shape = scaling.dial(config, vocab_size, at_most=int(config.max_passes * corpus_tokens(config)), unit=once)
    if config.tokens_per_step % once:
        raise StageError(
            f"`tokens_per_step` {config.tokens_per_step} must be a multiple of {once}, which is `sequence_length` "
            f"{config.sequence_length} x `per_device_train_batch_size` {config.per_device_train_batch_size} x "
            f"{config.world_size} processes; change one of them."
        )
    if config.total_tokens < config.tokens_per_step:
        raise StageError(
            f"`total_tokens` {config.total_tokens} (at most {config.max_passes} passes over the corpus) is less than "
            f"one step of {config.tokens_per_step} tokens; give more tokens or a smaller `tokens_per_step`."
        )
    config.gradient_accumulation_steps = config.tokens_per_step // once
    return shape


def build_model(config: PretrainConfig, tokenizer) -> Qwen3ForCausalLM:
    shape = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        head_dim=config.hidden_size // config.num_heads,
        max_position_embeddings=4 * config.sequence_length,
        tie_word_embeddings=config.tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(END_OF_TEXT),
        pad_token_id=tokenizer.pad_token_id,
    )
    set_seed(config.seed)
    model = Qwen3ForCausalLM(shape)
    if config.torch_compile and config.device.type == "cpu":
        model.set_attn_implementation("eager")  # written out and compiled, faster than PyTorch's own (docs/log.md)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.5)
    if not config.tie_word_embeddings:
        torch.nn.init.zeros_(model.lm_head.weight)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


class PretrainTrainer(Trainer):
    """A Trainer with Muon, windows in an order that a resumed run keeps, and bits per byte of held-out text."""

    def __init__(self, *args, token_bytes: torch.Tensor, speed: Speed, **kwargs):
        super().__init__(*args, **kwargs)
        self.token_bytes, self.speed = token_bytes, speed
        self.add_callback(speed)

    def _get_train_sampler(self, train_dataset=None) -> WindowSampler:
        num_samples = self.args.max_steps * self.args.windows_per_step
        return WindowSampler(len(self.train_dataset), num_samples, self.args.seed)

    def create_optimizer(self, model=None):
        config = self.args
        if self.is_deepspeed_enabled:  # Muon needs the whole gradient of a matrix
            self.accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]["reduce_scatter"] = False
        self.optimizer = muon_adamw(
            self.model,
            matrix_lr=config.matrix_learning_rate,
            embedding_lr=config.embedding_learning_rate,
            head_lr=config.head_learning_rate,
            norm_lr=config.head_learning_rate,
            deepspeed=self.is_deepspeed_enabled,
        )
        return self.optimizer

    def compute_loss(self, model, inputs, **kwargs):
        if self.args.reads_even_windows:
            labels = inputs["labels"][:, 1:].contiguous()
            inputs = {"input_ids": inputs["input_ids"][:, :-1], "labels": labels, "shift_labels": labels}
        if self.args.document_attention:
            # Positions that begin anew make transformers' masks keep documents apart, but not beside a cache.
            positions = document_positions(inputs["input_ids"], self.model.config.eos_token_id)
            inputs |= {"position_ids": positions, "use_cache": False}
        return super().compute_loss(model, inputs, **kwargs)

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if not loss.isfinite():  # before the optimizer's step, so that no checkpoint is spoiled
            step, windows = self.state.global_step, self.args.windows_per_step
            order = list(WindowSampler(len(self.train_dataset), (step + 1) * windows, self.args.seed, step * windows))
            raise StageError(
                f"the loss is {loss.item()} at step {step + 1}, whose batch is the windows {order} of "
                f"{self.train_dataset.folder}; the last checkpoint is good: start again with lower learning rates and "
                "--overwrite, or look at those windows."
            )
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs | (self.speed.figures(self.state) if "loss" in logs else {}), start_time)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        with self.autocast_smart_context_manager():
            metrics = {"eval_bits_per_byte": bits_per_byte(self.model, self.eval_dataset, self.token_bytes)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class SampleCallback(TrainerCallback):
    """Continues the prompts greedily at every evaluation, and keeps the texts, and what could come next, in `samples/`."""

    def __init__(self, tokenizer, prompts: list[str], output_dir: str):
        self.tokenizer, self.prompts, self.folder = tokenizer, prompts, Path(output_dir, "samples")

    def on_evaluate(self, args, state, control, model, **kwargs):
        # On every process, since each may hold a part of the weights only.
        texts = [continuation(model, self.tokenizer, prompt) for prompt in self.prompts]
        likely = {prompt: next_tokens(model, self.tokenizer, prompt) for prompt in self.prompts}
        if state.is_world_process_zero and texts:
            self.folder.mkdir(exist_ok=True)
            file = Path(self.folder, f"step-{state.global_step:06d}.txt")
            file.write_text("\n---\n".join(texts) + "\n")
            write_atomically(file.with_suffix(".json"), json.dumps(likely))


@torch.no_grad()
def continuation(model, tokenizer, prompt: str, max_new_tokens: int = 48) -> str:
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).to(model.device)
    was_training = model.training
    model.eval()
    output = model.generate(**ids, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    model.train(was_training)
    return tokenizer.decode(output[0], skip_special_tokens=True)


@torch.no_grad()
def next_tokens(model, tokenizer, prompt: str, number: int = 8) -> list[list]:
    """The likeliest tokens after a prompt, each with its probability."""
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"].to(model.device)
    was_training = model.training
    model.eval()
    found = torch.softmax(model(input_ids=ids).logits[0, -1].float(), -1).topk(number)
    model.train(was_training)
    return [
        [tokenizer.decode([token]), round(p, 4)] for p, token in zip(found.values.tolist(), found.indices.tolist())
    ]


def corpus_tokens(config: PretrainConfig) -> int:
    return num_tokens(Path(config.tokens, "train"))


def preflight(config: PretrainConfig) -> dict:
    tokenizer = load_tokenizer(config.tokens)
    check_chat_tokens(tokenizer, config.tokens)
    for split in ("train", "validation"):
        TokenWindows(Path(config.tokens, split), config.sequence_length, tokenizer, num_embeddings=len(tokenizer))
    shape = settle(config, len(tokenizer))
    with torch.device("meta"):
        parameters = build_model(config, tokenizer).num_parameters()
    trained_tokens = config.num_steps * config.tokens_per_step
    peak = scaling.PEAK_FLOPS.get(config.estimate_for) or scaling.peak_flops(config.device, config.compute_type)
    return {
        "parameters": parameters,
        **{name: getattr(config, name) for name in scaling.DIALED},
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "steps": config.num_steps,
        "passes_over_the_corpus": round(trained_tokens / corpus_tokens(config), 2),
        # weights, gradients and at most two optimizer states, all float32
        "memory_mb_without_activations": round(parameters * 16 / 2**20),
        "flops_per_token": shape.flops_per_token,
        "estimate": f"{config.world_size} x {config.estimate_for or 'this machine'} ({peak / 1e12:.3g} TFLOP/s each)",
        **scaling.cost(
            shape.flops_per_token * trained_tokens, peak, config.estimated_mfu, config.world_size,
            config.dollars_per_hour,
        ),
    }  # fmt: skip


def main(config: PretrainConfig) -> dict:
    tokenizer = load_tokenizer(config.tokens)
    shape = settle(config, len(tokenizer))
    train_windows = TokenWindows(Path(config.tokens, "train"), config.sequence_length, tokenizer)
    validation_windows = TokenWindows(Path(config.tokens, "validation"), config.sequence_length, tokenizer)

    config.max_steps = config.num_steps
    config.lr_scheduler_type = "warmup_stable_decay"
    config.lr_scheduler_kwargs = {
        "num_decay_steps": int(config.decay_share * config.max_steps),
        "decay_type": "linear",
    }

    peak = scaling.peak_flops(config.device, config.compute_type)
    speed = Speed(config.tokens_per_step, shape.flops_per_token, config.world_size * peak)
    trainer = PretrainTrainer(
        model=build_model(config, tokenizer),
        args=config,
        train_dataset=train_windows,
        eval_dataset=validation_windows,
        token_bytes=bytes_per_token(tokenizer),
        speed=speed,
        callbacks=[
            SampleCallback(tokenizer, config.sample_prompts, config.output_dir),
            DataPosition(len(train_windows), config.windows_per_step, config.seed),
        ],
    )
    trained = train(trainer)
    evaluated = trainer.evaluate()
    save(trainer, tokenizer, change=lambda weights: start_chat_tokens(weights, tokenizer))
    return {
        "bits_per_byte": round(evaluated["eval_bits_per_byte"], 4),
        "parameters": trainer.model.num_parameters(),
        "tokens": config.max_steps * config.tokens_per_step,
        **speed.total(),
        **trained,
        "bits_per_byte_by_step": [
            [row["step"], row["eval_bits_per_byte"]]
            for row in trainer.state.log_history
            if "eval_bits_per_byte" in row
        ],
    }


if __name__ == "__main__":
    run_stage(main, PretrainConfig, inputs=lambda config: [config.tokens], preflight=preflight)
