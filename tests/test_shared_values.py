"""PPO whose values are a linear layer on the policy: the right numbers from the same pass, and a training that learns."""

import pytest
import torch
from conftest import killed_at, metrics, run
from safetensors.torch import load_file
from test_ppo import PPO, arguments, models, rollout, trainer
from transformers import AutoModelForCausalLM

from crawl2chat import rollouts
from crawl2chat.ppo import PPOTrainer, shared_head


def shared(guesser, tmp_path, **options) -> PPOTrainer:
    head = shared_head(models(guesser / "guesser")[1])
    with torch.no_grad():
        head.weight.copy_(torch.linspace(-1, 1, head.in_features))
        head.bias.fill_(0.5)
    return trainer(guesser, tmp_path, value_model=head, **options)


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("num_iterations", [1, 2])  # with two TRL itself asks for the log-probabilities of the rollout
def test_values_are_those_of_the_hidden_states(guesser, tmp_path, monkeypatch, is_packed, num_iterations):
    monkeypatch.setattr(rollouts, "is_packable", lambda model: is_packed)
    ppo = shared(guesser, tmp_path, num_iterations=num_iterations)
    batch = rollout(ppo)
    mask = batch["completion_mask"]
    ids, attention_mask, _ = ppo._of(batch)
    with torch.no_grad():
        hidden = ppo.model.model(input_ids=ids, attention_mask=attention_mask).last_hidden_state
        expected = ppo.model.value_model(hidden)[:, -mask.shape[1] - 1 : -1, 0] * mask
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(batch["old_values"], expected, rtol=1e-4, atol=1e-5)
    loss = ppo._compute_loss(ppo.model, batch)
    loss.backward()
    assert ppo.model.value_model.weight.grad.abs().max() > 0


def test_values_cost_no_pass(guesser, tmp_path):
    ppo, passes = shared(guesser, tmp_path, beta=0.0), []
    ppo.model.model.register_forward_hook(lambda module, given, found: passes.append(1))
    batch = rollout(ppo)
    passes.clear()
    ppo._compute_loss(ppo.model, batch)
    assert len(passes) == 1


def test_at_the_start_every_value_is_0(guesser, tmp_path):
    head = shared_head(models(guesser / "guesser")[1])
    batch = rollout(trainer(guesser, tmp_path, value_model=head, whiten_advantages=False))
    assert not batch["old_values"].any() and torch.equal(batch["advantages"], batch["returns"])


def test_a_reward_rises_and_an_interruption_changes_nothing(guesser, tmp_path):
    given = ["--shared_values", "true", "--save_steps", 8, "--vf_coef", 0.02]
    run(PPO, *arguments(guesser, tmp_path / "whole"), *given)
    found = metrics(tmp_path / "whole")
    assert found["first_score"] < 0.8 and found["last_score"] > 0.95
    before, after = (load_file(folder / "model.safetensors") for folder in (guesser / "guesser", tmp_path / "whole"))
    assert before.keys() == after.keys() and not [name for name in before if torch.equal(before[name], after[name])]
    AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    head = load_file(tmp_path / "whole/value_model/head.safetensors")
    assert head.keys() == {"weight", "bias"} and all(weights.any() for weights in head.values())

    with killed_at(16, PPOTrainer):
        run(PPO, *arguments(guesser, tmp_path / "killed"), *given)
    run(PPO, *arguments(guesser, tmp_path / "killed"), *given)
    again = load_file(tmp_path / "killed/model.safetensors")
    assert all(torch.equal(after[name], again[name]) for name in after)
    assert metrics(tmp_path / "killed")["curve"] == found["curve"]
