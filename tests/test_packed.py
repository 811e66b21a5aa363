"""Packed batches: what padded ones give, from fewer tokens; log-probabilities, entropies, values, and all gradients."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from test_rollouts import Fast, gradients, small, trainer_of
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForTokenClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForTokenClassification,
)
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from crawl2chat import packed, rollouts
from crawl2chat.heads import score_whole
from crawl2chat.packed import attending, is_packable, pack
from crawl2chat.ppo import PPOTrainer

PAD = 0
PROMPTS = [[5, 6, 7], [5, 6, 7], [9], [4, 3, 2, 1, 8], [0, 5, 6, 7], [5, 6, 7]]  # one begins with the padding's id
COMPLETIONS = [[11, 12], [13, 14, 15, 16], [17], [18, 0, 19], [], [20, 21, 22, 23]]


def batch_of(prompts, completions):
    """Ids and mask as TRL pads them, (B, P + T), and T."""
    width, length = max(map(len, prompts)), max(map(len, completions))
    rows = [
        ([PAD] * (width - len(prompt)) + prompt, completion + [PAD] * (length - len(completion)))
        for prompt, completion in zip(prompts, completions)
    ]
    mask = [
        [0] * (width - len(prompt)) + [1] * (len(prompt) + len(completion)) + [0] * (length - len(completion))
        for prompt, completion in zip(prompts, completions)
    ]
    return torch.tensor([prompt + completion for prompt, completion in rows]), torch.tensor(mask), length


def test_the_row():
    """Three prompts, of which two tokens are shared, and three completions: by hand."""
    row = pack(*batch_of([[5, 6, 7], [9], [5, 6, 7]], [[11, 12], [17], [20, 21]]))
    assert row.ids[0].tolist() == [5, 6, 9, 7, 11, 7, 20] and row.num_shared == 2
    assert row.positions[0].tolist() == [0, 1, 0, 2, 3, 2, 3]
    assert row.labels.tolist() == [17, 11, 12, 20, 21]  # the shortest comes first
    assert row.padded(torch.arange(1.0, 6.0)).tolist() == [[2, 3], [1, 0], [4, 5]]


class Bare:
    """What of a trainer FastRollouts needs to read a batch."""

    def __init__(self, trainer_class, precision=nullcontext):
        plain = {"unwrap_model": lambda self, model: model, "autocast": lambda self: precision()}
        self.accelerator = type("Accelerator", (), plain)()
        read = trainer_class._get_per_token_logps_and_entropies
        self.read = getattr(read, "__wrapped__", read).__get__(self)  # without TRL's clock


MODELS = {
    "qwen3": lambda: small(),
    "fewer keys": lambda: small(num_key_value_heads=2, head_dim=16),
    "llama": lambda: small(LlamaForCausalLM, num_key_value_heads=1, attention_bias=True),
}


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "in TRL's chunks"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_log_probabilities_entropies_and_gradients(make, is_whole):
    ids, mask, length = batch_of(PROMPTS, COMPLETIONS)
    found = []
    for trainer_class in (Fast, GRPOTrainer):
        model = make()
        add_fused_lm_head(model, 1.3, outputs=("log_probs", "entropy"))
        if is_whole and trainer_class is Fast:
            score_whole(model, 1.3)
        for size in (None, 4):  # in one piece, and in two
            logps, entropies, _ = Bare(trainer_class).read(model, ids, mask, length, size, compute_entropy=True)
            own = mask[:, -length:]
            weights = torch.linspace(1, 2, logps.numel()).view(logps.shape) * own
            model.zero_grad()
            ((logps + 0.5 * entropies) * weights).sum().backward()
            found.append([logps * own, entropies * own, *(weight.grad.clone() for weight in model.parameters())])
    for others in found[:-1]:
        for ours, theirs in zip(others, found[-1]):
            assert theirs.abs().max() > 0
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


def test_in_bf16():
    """As a GPU trains: queries and keys come out of their norms in float32, values in bf16."""
    ids, mask, length = batch_of(PROMPTS, COMPLETIONS)
    model, found = small(num_key_value_heads=2), []
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    for trainer_class in (Fast, GRPOTrainer):
        bare = Bare(trainer_class, partial(torch.autocast, "cpu", dtype=torch.bfloat16))
        logps, _, _ = bare.read(model, ids, mask, length, compute_entropy=True)
        model.zero_grad()
        (logps * mask[:, -length:]).sum().backward()
        found.append([logps * mask[:, -length:], model.model.layers[0].self_attn.k_proj.weight.grad])
    for ours, theirs in zip(*found):
        assert (ours - theirs).norm() < 0.05 * theirs.norm()


@pytest.mark.parametrize("kind", [Qwen3ForTokenClassification, LlamaForTokenClassification])
def test_values_and_their_gradients(kind, monkeypatch):
    config_class = Qwen3Config if kind is Qwen3ForTokenClassification else LlamaConfig
    shape = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_labels": 1}
    torch.manual_seed(0)
    value_model = kind(config_class(**shape, num_attention_heads=4, num_key_value_heads=2, classifier_dropout=0.0))
    ids, mask, length = batch_of(PROMPTS[:4], COMPLETIONS[:4])
    bare, model = Bare(Fast), torch.nn.Module()
    model.value_model = value_model
    found, called = [], []
    monkeypatch.setattr("crawl2chat.ppo.pack", lambda *args: called.append(1) or pack(*args))
    for is_packed in (True, False):
        monkeypatch.setattr("crawl2chat.ppo.is_packable", lambda *_, is_packed=is_packed: is_packed)
        values = PPOTrainer._values(bare, model, ids, mask, length)
        own = mask[:, -length:]
        value_model.zero_grad()
        (values.square() * own).sum().backward()
        found.append([values * own, *(weight.grad.clone() for weight in value_model.parameters())])
    assert len(called) == 1
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_training_reads_each_prompt_once(path_folder, tmp_path, monkeypatch):
    rows = []
    monkeypatch.setattr(rollouts, "pack", lambda *args: rows.append((args[0], pack(*args))) or rows[-1][1])
    trainer = trainer_of(path_folder / "base", tmp_path, Fast)
    trainer.train()
    [(ids, row)] = rows  # the second group taught nothing
    assert len(ids) == 4 and row.prompts.real.shape == (1, row.num_shared)
    assert row.ids.numel() <= ids.numel() - 3 * row.num_shared - 4, (
        "a prompt but for its last token once, and no last token"
    )


def test_recomputed_layers_are_left_to_trl(path_folder, tmp_path, monkeypatch):
    """They would attend as if nothing were packed."""
    monkeypatch.setattr(rollouts, "pack", lambda *_: pytest.fail("packed"))
    fast = trainer_of(path_folder / "base", tmp_path, Fast)
    batch = fast._generate_and_score_completions([row for row in fast.train_dataset for _ in range(4)])
    fast.model.gradient_checkpointing_enable()
    assert any(gradient.abs().max() > 0 for gradient in gradients(fast, batch))


def test_the_models_own_attention_is_back_afterwards():
    model = small(Qwen3ForCausalLM)
    assert is_packable(model)
    with pytest.raises(RuntimeError), attending(model):
        assert model.config._attn_implementation == packed.ATTENTION and not is_packable(model)
        raise RuntimeError
    assert is_packable(model)
