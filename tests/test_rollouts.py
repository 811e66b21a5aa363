"""Fast rollouts: the same tokens as `generate`, the same distribution, the same gradient."""

import pytest
import torch
from conftest import GRPO, ROOT, metrics, run
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from crawl2chat import heads, rollouts
from crawl2chat.chat import load_model, load_tokenizer
from crawl2chat.generation import complete
from crawl2chat.heads import is_fast_for
from crawl2chat.rollouts import FastRollouts, learned_from, rollout

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
PROMPTS = [[5, 6, 7], [9], [5, 6, 7], [4, 3, 2, 1, 8, 11, 12], [5, 6, 7]]


def small(model_class=Qwen3ForCausalLM, **options):
    torch.manual_seed(0)
    config_class = {Qwen3ForCausalLM: Qwen3Config, LlamaForCausalLM: LlamaConfig}[model_class]
    model = model_class(config_class(**{**SHAPE, "num_key_value_heads": 4, **options})).eval()
    with torch.no_grad():  # at its start a model says one thing all the time
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return model


def generated(model, prompts, max_new_tokens, end):
    said = []
    for prompt in prompts:  # one by one, so that nothing is padded
        given = {"input_ids": torch.tensor([prompt]), "attention_mask": torch.ones(1, len(prompt), dtype=torch.long)}
        ids = model.generate(**given, max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=end, pad_token_id=0)
        said.append(ids[0, len(prompt) :].tolist())
    return said


@pytest.mark.parametrize(
    "model",
    [
        small(),
        small(num_key_value_heads=2, head_dim=16),
        small(attention_bias=True, tie_word_embeddings=True),
        small(LlamaForCausalLM, num_key_value_heads=1, rope_theta=500.0),
        small(LlamaForCausalLM, attention_bias=True, mlp_bias=True),
    ],
    ids=["qwen3", "fewer keys, wider heads", "biases, tied", "llama", "llama with biases"],
)
def test_greedy_says_what_generate_says(model):
    ends = {row[3] for row in generated(model, PROMPTS, 4, None)}  # so that some end and others go on
    end = ends.pop()
    expected = generated(model, PROMPTS, 12, end)
    assert len({len(row) for row in expected}) > 1
    assert rollout(model, PROMPTS, 12, [end], temperature=0) == expected


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_half_precision(weights):
    """As a GPU trains: mixed by autocast, or weights in bf16; rounding may change a choice between equals."""
    model = small(LlamaForCausalLM, num_key_value_heads=2).to(weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        greedy, drawn = rollout(model, PROMPTS, 6, [99], temperature=0), rollout(model, PROMPTS, 6, [99])
    assert [len(row) for row in greedy + drawn] == [6] * 10 and max(map(max, drawn)) < 50
    exact = rollout(model.float(), PROMPTS, 6, [99], temperature=0)
    same = sum(a == b for ours, theirs in zip(greedy, exact) for a, b in zip(ours, theirs))
    assert same >= 15, "of 30"


def test_tokens_are_drawn_as_often_as_they_are_likely():
    model = small()
    prompts, temperature = [[5, 6, 7]] * 4000, 2.0
    torch.manual_seed(1)
    drawn = torch.tensor(rollout(model, prompts, 2, [99], temperature))  # (4000, 2)
    with torch.no_grad():
        first = torch.softmax(model(torch.tensor([[5, 6, 7]])).logits[0, -1] / temperature, -1)
        after = torch.tensor([[5, 6, 7, token] for token in range(50)])
        second = first @ torch.softmax(model(after).logits[:, -1] / temperature, -1)
    for column, likely in zip(drawn.T, (first, second)):
        found = torch.bincount(column, minlength=50) / len(column)
        spread = (likely * (1 - likely) / len(column)).sqrt()
        assert ((found - likely).abs() < 5 * spread + 1e-3).all()
        assert found.max() > 5 * found.min(), "all alike would show nothing"


def test_models_it_does_not_know_are_left_to_generate(monkeypatch):
    assert is_fast_for(small()) and is_fast_for(small(LlamaForCausalLM))
    assert not is_fast_for(GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2)))
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}
    assert not is_fast_for(small(LlamaForCausalLM, rope_parameters=scaled))
    assert not is_fast_for(small(use_sliding_window=True, sliding_window=4, max_window_layers=0))
    monkeypatch.setattr(heads, "MAX_PARAMETERS", 1000)
    assert not is_fast_for(small())


def test_evaluation_is_the_same_either_way(path_folder, monkeypatch):
    tokenizer = load_tokenizer(path_folder / "base")
    model = load_model(path_folder / "base", tokenizer)
    prompts = ["<|im_start|>user\nWhat is 3 + 4?<|im_end|>\n<|im_start|>assistant\n", "The old", "A"]
    fast = complete(model, tokenizer, prompts, 20)
    monkeypatch.setattr("crawl2chat.generation.is_fast_for", lambda model: False)
    assert complete(model, tokenizer, prompts, 20) == fast


# --- in training


def trainer_of(folder, tmp_path, trainer_class, **options):
    tokenizer = load_tokenizer(folder)
    options = {"max_completion_length": 8, "learning_rate": 1e-3, "max_steps": 1, "loss_type": "dapo", **options}
    options |= {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "report_to": "none",
    }
    options |= {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "save_strategy": "no"}
    return trainer_class(
        model=load_model(folder, tokenizer),
        reward_funcs=[lambda completions, **_: [float(i % 3 == 0 and i < 4) for i in range(len(completions))]],
        args=GRPOConfig(**options),
        train_dataset=Dataset.from_list(
            [{"prompt": [{"role": "user", "content": f"Say {word}."}]} for word in ("one", "twenty two")]
        ),
        processing_class=tokenizer,
    )


class Fast(FastRollouts, GRPOTrainer):
    pass


def gradients(trainer, batch) -> list[torch.Tensor]:
    trainer.model.train()
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    trainer._compute_loss(trainer.model, batch).backward()
    return [weight.grad.clone() for weight in trainer.model.parameters()]


@pytest.mark.parametrize("loss_type", ["dapo", "cispo"])
def test_groups_without_an_advantage_are_left_out_and_change_nothing(path_folder, tmp_path, loss_type):
    trainer = trainer_of(path_folder / "base", tmp_path, Fast, loss_type=loss_type)
    plain = trainer_of(path_folder / "base", tmp_path, GRPOTrainer, loss_type=loss_type)
    trainer.model.train()
    batch = trainer._generate_and_score_completions([row for row in trainer.train_dataset for _ in range(4)])
    assert batch["advantages"].tolist()[4:] == [0.0] * 4 and batch["advantages"][:4].all()
    kept = learned_from(batch)
    assert len(kept["completion_ids"]) == 4 and kept["prompt_mask"].sum(1).min() == kept["prompt_mask"].shape[1]
    for ours, theirs in zip(gradients(trainer, batch), gradients(plain, batch)):
        assert theirs.abs().max() > 0 or ours.abs().max() == 0
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_one_completion_stays_where_all_are_alike():
    batch = {"advantages": torch.zeros(3), "completion_mask": torch.ones(3, 2), "prompt_mask": torch.ones(3, 2)}
    assert len(learned_from({**batch, "completion_ids": torch.ones(3, 2)})["completion_ids"]) == 1


def test_as_many_stay_as_another_process_needs():
    advantages = torch.tensor([0.0, 0.5, 0.0, -0.5, 0.0])
    batch = {"advantages": advantages, "completion_mask": torch.ones(5, 2), "prompt_mask": torch.ones(5, 2)}
    assert learned_from(batch)["advantages"].tolist() == [0.5, -0.5]
    assert learned_from(batch, 1)["advantages"].tolist() == [0.5, -0.5]
    assert learned_from(batch, 4)["advantages"].tolist() == [0.0, 0.5, 0.0, -0.5]
    assert len(learned_from(batch, 5)["advantages"]) == 5


@pytest.mark.parametrize("options", [{"loss_type": "grpo"}, {"beta": 0.1}, {"entropy_coef": 0.1}])
def test_nothing_is_left_out_where_it_would_change_the_loss(path_folder, tmp_path, options):
    trainer = trainer_of(path_folder / "base", tmp_path, Fast, **options)
    trainer.model.train()
    assert not trainer._loses_nothing({"advantages": torch.zeros(2)})


@pytest.mark.parametrize(
    "options, is_fast", [({}, True), ({"top_p": 0.9}, False), ({"repetition_penalty": 1.1}, False)]
)
def test_other_ways_of_drawing_are_left_to_generate(path_folder, tmp_path, monkeypatch, options, is_fast):
    calls = []
    monkeypatch.setattr(rollouts, "rollout", lambda *args: calls.append(args) or [[7]] * len(args[1]))
    trainer = trainer_of(path_folder / "base", tmp_path, Fast, **options)
    trainer.model.train()
    drawn, _ = trainer._generate_single_turn([[5, 6]] * 2, None, {}, 2)
    assert bool(calls) == is_fast == (drawn == [[7]] * 2) and trainer.model.training


def test_the_recipe_draws_fast(guesser, tmp_path, monkeypatch):
    calls = []
    draw = rollouts.rollout
    monkeypatch.setattr(rollouts, "rollout", lambda *args: calls.append(1) or draw(*args))
    given = ["--model", guesser / "guesser", "--prompts", guesser / "guesses", "--per_device_train_batch_size", 8]
    given += ["--max_completion_length", 8, "--max_steps", 1, "--output_dir", tmp_path / "grpo"]
    run(GRPO, "--config", ROOT / "recipes/06_grpo/tiny.yaml", *given)
    assert calls and metrics(tmp_path / "grpo")["steps"] == 1
