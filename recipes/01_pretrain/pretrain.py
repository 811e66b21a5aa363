"""Token shards -> base model: next-token prediction with transformers' Trainer.

Departs from a plain Trainer run in three ways: Muon trains the matrices (AdamW the rest), the schedule is
warmup-stable-decay, and the model starts as in nanochat: output projections and head at zero. The model class is Qwen3
(its norm on queries and keys keeps large learning rates stable), which every inference engine knows.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/01_pretrain/pretrain.py \
        --config recipes/01_pretrain/tiny.yaml --tokens outputs/tiny/6_tokens --output_dir outputs/tiny/base
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed

from crawl2chat.chat import END_OF_TEXT, check_chat_tokens, load_tokenizer, start_chat_tokens
from crawl2chat.muon import MuonAdamW
from crawl2chat.stage import bounded, run_stage
from crawl2chat.tokens import DataPosition, TokenWindows, WindowSampler, bytes_per_token, num_tokens
from crawl2chat.training import FastPrecision, bits_per_byte, save, train


@dataclass
class PretrainConfig(FastPrecision, TrainingArguments):
    tokens: str = field(default="", metadata={"help": "Folder of 6_tokenize_corpus.py."})
    sequence_length: int = bounded(256, "Tokens a window.", low=8)
    total_tokens: int = bounded(2_500_000, "Tokens to train on, repeats included.", low=1)
    max_passes: float = bounded(4.0, "Over the corpus; a small one gets fewer tokens than total_tokens.", low=0.01)
    hidden_size: int = bounded(256, "Width.", low=16)
    num_layers: int = bounded(4, "Layers.", low=1)
    num_heads: int = bounded(4, "Attention heads; divides hidden_size.", low=1)
    intermediate_size: int = bounded(768, "Width of the MLP.", low=16)
    matrix_learning_rate: float = bounded(0.02, "Muon's, for the matrices of the layers.", low=0.0)
    embedding_learning_rate: float = bounded(0.05, "AdamW's, for the embedding.", low=0.0)
    head_learning_rate: float = bounded(0.01, "AdamW's, for the head and the norms.", low=0.0)
    decay_share: float = bounded(
        0.6, "Share of the steps in which the learning rate falls to zero.", low=0.0, high=1.0
    )
    sample_prompts: list[str] = field(default_factory=list, metadata={"help": "Continued at every evaluation."})

    def problems(self) -> list[str]:
        found = [] if self.tokens else ["--tokens needs the folder that 6_tokenize_corpus.py wrote."]
        if any(os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ("DEEPSPEED", "FSDP")):
            found.append(
                "Muon needs whole matrices, which DeepSpeed and FSDP cut up; use accelerate_configs/ddp.yaml."
            )
        if self.hidden_size % self.num_heads:
            found.append(f"`hidden_size` {self.hidden_size} must be a multiple of `num_heads` {self.num_heads}.")
        if self.total_tokens < self.tokens_per_step:
            found.append(f"`total_tokens` {self.total_tokens} is less than one step of {self.tokens_per_step} tokens.")
        return found

    @property
    def windows_per_step(self) -> int:
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size

    @property
    def tokens_per_step(self) -> int:
        return self.windows_per_step * self.sequence_length


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
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(END_OF_TEXT),
        pad_token_id=tokenizer.pad_token_id,
    )
    set_seed(config.seed)
    model = Qwen3ForCausalLM(shape)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.5)
    torch.nn.init.zeros_(model.lm_head.weight)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


class PretrainTrainer(Trainer):
    """A Trainer whose optimizer is `MuonAdamW` and whose evaluation is bits per byte of held-out text."""

    def __init__(self, *args, token_bytes: torch.Tensor, **kwargs):
        super().__init__(*args, **kwargs)
        self.token_bytes = token_bytes

    def _get_train_sampler(self, train_dataset=None) -> WindowSampler:
        num_samples = self.args.max_steps * self.args.windows_per_step
        return WindowSampler(len(self.train_dataset), num_samples, self.args.seed)

    def create_optimizer(self, model=None):
        config = self.args
        self.optimizer = MuonAdamW(
            self.model,
            matrix_lr=config.matrix_learning_rate,
            embedding_lr=config.embedding_learning_rate,
            head_lr=config.head_learning_rate,
            norm_lr=config.head_learning_rate,
        )
        return self.optimizer

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        with self.autocast_smart_context_manager():
            metrics = {"eval_bits_per_byte": bits_per_byte(self.model, self.eval_dataset, self.token_bytes)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class SampleCallback(TrainerCallback):
    """Continues the prompts greedily at every evaluation, and keeps the texts in `samples/`."""

    def __init__(self, tokenizer, prompts: list[str], output_dir: str):
        self.tokenizer, self.prompts, self.folder = tokenizer, prompts, Path(output_dir, "samples")

    def on_evaluate(self, args, state, control, model, **kwargs):
        if not state.is_world_process_zero or not self.prompts:
            return
        self.folder.mkdir(exist_ok=True)
        texts = [continuation(model, self.tokenizer, prompt) for prompt in self.prompts]
        Path(self.folder, f"step-{state.global_step:06d}.txt").write_text("\n---\n".join(texts) + "\n")


@torch.no_grad()
def continuation(model, tokenizer, prompt: str, max_new_tokens: int = 48) -> str:
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).to(model.device)
    was_training = model.training
    model.eval()
    output = model.generate(**ids, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    model.train(was_training)
    return tokenizer.decode(output[0], skip_special_tokens=True)


def corpus_tokens(config: PretrainConfig) -> int:
    return num_tokens(Path(config.tokens, "train"))


def num_steps(config: PretrainConfig) -> int:
    """Of `total_tokens`, or of as many passes as the corpus bears."""
    tokens = min(config.total_tokens, int(config.max_passes * corpus_tokens(config)))
    return max(1, tokens // config.tokens_per_step)


def preflight(config: PretrainConfig) -> dict:
    tokenizer = load_tokenizer(config.tokens)
    check_chat_tokens(tokenizer, config.tokens)
    with torch.device("meta"):
        model = build_model(config, tokenizer)
    parameters = sum(p.numel() for p in model.parameters())
    for split in ("train", "validation"):
        TokenWindows(Path(config.tokens, split), config.sequence_length, tokenizer, model.config.vocab_size)
    return {
        "parameters": parameters,
        "tokens_per_step": config.tokens_per_step,
        "steps": num_steps(config),
        "passes_over_the_corpus": round(num_steps(config) * config.tokens_per_step / corpus_tokens(config), 2),
        # weights, gradients and at most two optimizer states, all float32
        "memory_mb_without_activations": round(parameters * 16 / 2**20),
    }


def main(config: PretrainConfig) -> dict:
    tokenizer = load_tokenizer(config.tokens)
    train_windows = TokenWindows(Path(config.tokens, "train"), config.sequence_length, tokenizer)
    validation_windows = TokenWindows(Path(config.tokens, "validation"), config.sequence_length, tokenizer)

    config.max_steps = num_steps(config)
    config.lr_scheduler_type = "warmup_stable_decay"
    config.lr_scheduler_kwargs = {
        "num_decay_steps": int(config.decay_share * config.max_steps),
        "decay_type": "linear",
    }

    trainer = PretrainTrainer(
        model=build_model(config, tokenizer),
        args=config,
        train_dataset=train_windows,
        eval_dataset=validation_windows,
        token_bytes=bytes_per_token(tokenizer),
        callbacks=[
            SampleCallback(tokenizer, config.sample_prompts, config.output_dir),
            DataPosition(len(train_windows), config.windows_per_step, config.seed),
        ],
    )
    trained = train(trainer)
    evaluated = trainer.evaluate()
    start_chat_tokens(trainer.model, tokenizer)
    save(trainer.model, tokenizer, config.output_dir)
    return {
        "bits_per_byte": round(evaluated["eval_bits_per_byte"], 4),
        "parameters": trainer.model.num_parameters(),
        "tokens": config.max_steps * config.tokens_per_step,
        "tokens_per_second": round(config.max_steps * config.tokens_per_step / trained["train_seconds"]),
        **trained,
        "bits_per_byte_by_step": [
            [row["step"], row["eval_bits_per_byte"]]
            for row in trainer.state.log_history
            if "eval_bits_per_byte" in row
        ],
    }


if __name__ == "__main__":
    run_stage(main, PretrainConfig, inputs=lambda config: [config.tokens], preflight=preflight)
