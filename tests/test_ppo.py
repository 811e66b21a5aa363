"""PPO: advantages, losses and penalties as computed by hand; what it shares with REINFORCE and GRPO; a reward that rises."""

import math

import pytest
import torch
from conftest import GRPO, ROOT, killed_at, metrics, refusal, run
from datasets import Dataset
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from trl import GRPOConfig, GRPOTrainer

from crawl2chat.advantages import adapted, gae, value_losses
from crawl2chat.chat import load_tokenizer
from crawl2chat.ppo import PPOConfig, PPOTrainer
from crawl2chat.rewards import reward_function
from crawl2chat.stage import StageError

PPO = "recipes/05_ppo/ppo.py"


def test_gae_by_hand():
    rewards = torch.tensor([[0.0, 1.0, 2.0], [3.0, 9.0, 9.0]])
    values = torch.tensor([[1.0, 2.0, 4.0], [0.5, 9.0, 9.0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    advantages, returns = gae(rewards, values, mask, gamma=0.5, lam=0.5)
    # deltas from the end: 2 - 4 = -2; 1 + .5 * 4 - 2 = 1; 0 + .5 * 2 - 1 = 0. Each adds a quarter of the advantage after it.
    assert advantages.tolist() == [[0.125, 0.5, -2.0], [2.5, 0.0, 0.0]]
    assert returns.tolist() == [[1.125, 2.5, 2.0], [3.0, 0.0, 0.0]]


@pytest.mark.parametrize("gamma, lam", [(1.0, 1.0), (0.9, 0.0), (0.97, 0.8)])
def test_gae_is_the_sum_of_discounted_deltas(gamma, lam):
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)
    lengths = [6, 1, 4]
    mask = torch.tensor([[float(t < length) for t in range(6)] for length in lengths])
    advantages, _ = gae(rewards, values, mask, gamma, lam)
    for row, length in enumerate(lengths):
        v = [*values[row, :length].tolist(), 0.0]
        deltas = [rewards[row, t].item() + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected = sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, length))
            assert math.isclose(advantages[row, t].item(), expected, rel_tol=1e-9, abs_tol=1e-12)


def test_value_losses_by_hand():
    values, old, returns = (torch.tensor([row]) for row in ([1.0, 0.1, 2.0], [0.0, 0.0, 2.5], [1.0, 1.0, 0.0]))
    losses, clipped = value_losses(values, old, returns, cliprange=0.2)
    # 1 is clipped to .2, .1 stays, 2 is clipped to 2.3; the larger error counts.
    assert torch.allclose(losses, torch.tensor([[0.5 * 0.64, 0.5 * 0.81, 0.5 * 5.29]]))
    assert clipped.tolist() == [[True, False, True]]


def test_beta_is_adapted_towards_the_target():
    assert math.isclose(adapted(0.1, kl=6.6, target=6.0, num_completions=100, horizon=1000), 0.1 * (1 + 0.1 * 0.1))
    assert math.isclose(adapted(0.1, kl=60.0, target=6.0, num_completions=100, horizon=1000), 0.1 * 1.02)
    assert math.isclose(adapted(0.1, kl=0.0, target=6.0, num_completions=100, horizon=1000), 0.1 * 0.98)


# --- the trainer


def threes(completions, **columns) -> list[float]:
    return [float("3" in completion[0]["content"]) for completion in completions]


def models(folder):
    tokenizer = load_tokenizer(folder)
    settings = AutoConfig.from_pretrained(folder, num_labels=1)
    settings.classifier_dropout = 0.0
    torch.manual_seed(1)
    value_model = AutoModelForTokenClassification.from_pretrained(folder, config=settings)
    return tokenizer, AutoModelForCausalLM.from_pretrained(folder), value_model


def trainer(guesser, tmp_path, rewards=threes, value_model=None, **given) -> PPOTrainer:
    tokenizer, model, own = models(guesser / "guesser")
    rows = [{"prompt": [{"role": "user", "content": "Say a number."}], "answer": "3"} for _ in range(16)]
    options = {"output_dir": str(tmp_path), "per_device_train_batch_size": 8, "max_completion_length": 8}
    options |= {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none"}
    return PPOTrainer(
        model=model,
        value_model=value_model or own,
        reward_funcs=[rewards],
        args=PPOConfig(**{"save_strategy": "no", "logging_steps": 1, "max_steps": 1, **options, **given}),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def rollout(ppo: PPOTrainer) -> dict[str, torch.Tensor]:
    ppo.model.train()
    ppo.current_gradient_accumulation_steps = 1
    return ppo._prepare_inputs([ppo.train_dataset[i] for i in range(8)])


def test_rewards_of_a_rollout(guesser, tmp_path):
    """The score falls on the last token; the KL divergence to another model is taken from every one."""
    ppo = trainer(guesser, tmp_path, beta=0.5, gamma=1.0, lam=1.0, whiten_advantages=False)
    with torch.no_grad():
        for weights in ppo.ref_model.lm_head.parameters():
            weights.mul_(0.5)
    batch = rollout(ppo)
    mask = batch["completion_mask"]
    kl = (batch["old_per_token_logps"] - batch["ref_per_token_logps"]) * mask
    texts = ppo.processing_class.batch_decode(batch["completion_ids"], skip_special_tokens=True)
    scores = torch.tensor([float("3" in text) for text in texts])
    assert 0 < scores.sum() < len(scores) and kl.abs().sum() > 0.1
    after = (-0.5 * kl).flip(1).cumsum(1).flip(1)  # of this token and those after it
    assert torch.allclose(batch["returns"], (after + scores[:, None]) * mask, atol=1e-5)
    assert torch.allclose(batch["advantages"], (batch["returns"] - batch["old_values"]) * mask, atol=1e-6)


@pytest.mark.parametrize("script, config", [(PPO, "05_ppo/tiny_sums"), (GRPO, "06_grpo/tiny")])
def test_fewer_prompts_than_a_rollout_asks(script, config, guesser, tmp_path, capsys):
    """TRL would train no step on them, and say nothing."""
    row = (guesser / "guesses/rl_train.jsonl").read_text().splitlines()[0]
    (tmp_path / "one.jsonl").write_text(row + "\n")
    given = ["--config", ROOT / f"recipes/{config}.yaml", "--model", guesser / "guesser"]
    given += ["--prompts", tmp_path / "one.jsonl", "--output_dir", tmp_path / "out"]
    said = refusal(capsys, script, *given)
    assert "one.jsonl has 1 prompts, and a rollout asks " in said and not (tmp_path / "out/run.yaml").exists()


def test_advantages_are_whitened_over_the_tokens(guesser, tmp_path):
    batch = rollout(trainer(guesser, tmp_path))
    found = batch["advantages"][batch["completion_mask"].bool()]
    assert abs(found.mean()) < 1e-5 and abs(found.var(unbiased=False) - 1) < 1e-4
    assert not batch["advantages"][~batch["completion_mask"].bool()].any()


def test_an_answer_that_is_cut_off_is_punished(guesser, tmp_path):
    ppo = trainer(guesser, tmp_path, max_completion_length=2, missing_eos_penalty=2.0, beta=0.0, lam=1.0)
    rollout(ppo)
    assert ppo._metrics["train"]["objective/scores"] == [-2.0]
    assert "val/explained_variance" not in ppo._metrics["train"]  # all returns are -2


def test_the_first_update_starts_at_ratio_1(guesser, tmp_path):
    ppo = trainer(guesser, tmp_path, num_iterations=2, max_steps=2, learning_rate=1e-3)
    ppo.train()
    first, second = [row for row in ppo.state.log_history if "val/ratio" in row]
    assert (
        abs(first["val/ratio"] - 1) < 1e-5
        and abs(first["policy/approxkl_avg"]) < 1e-6
        and abs(first["objective/kl"]) < 1e-4
    )
    assert second["policy/approxkl_avg"] > 1e-6


def gradients(ppo, batch) -> dict[str, torch.Tensor]:
    ppo.model.zero_grad()
    ppo._compute_loss(ppo.model, batch).backward()
    return {name: weights.grad.clone() for name, weights in ppo.model.named_parameters() if weights.grad is not None}


def test_without_values_it_is_reinforce(guesser, tmp_path):
    """Lambda 1, gamma 1 and a value of 0 everywhere: the gradient of -reward * log pi(completion), a mean over tokens."""
    _, _, zero = models(guesser / "guesser")
    torch.nn.init.zeros_(zero.score.weight)
    torch.nn.init.zeros_(zero.score.bias)
    given = {"beta": 0.0, "gamma": 1.0, "lam": 1.0, "whiten_advantages": False, "vf_coef": 0.0}
    ppo = trainer(guesser, tmp_path, value_model=zero, **given)
    batch = rollout(ppo)
    found = gradients(ppo, batch)

    ppo.model.zero_grad()
    ids, attention, mask = ppo._of(batch)
    logits = ppo.model(input_ids=ids, attention_mask=attention).logits[:, -mask.shape[1] - 1 : -1]
    logps = logits.log_softmax(-1).gather(2, batch["completion_ids"][..., None])[..., 0]
    texts = ppo.processing_class.batch_decode(batch["completion_ids"], skip_special_tokens=True)
    rewards = torch.tensor([float("3" in text) for text in texts])
    (-(rewards[:, None] * logps * mask).sum() / mask.sum()).backward()
    for name, weights in ppo.model.named_parameters():
        if not name.startswith("value_model."):
            assert torch.allclose(found[name], weights.grad, atol=1e-6), name


def test_given_advantages_give_the_loss_of_grpo(guesser, tmp_path):
    ppo = trainer(guesser, tmp_path, beta=0.0, vf_coef=0.0)
    batch = rollout(ppo)
    batch["old_per_token_logps"] = batch["old_per_token_logps"] + 0.3 * torch.randn(batch["advantages"].shape)
    tokenizer, model, _ = models(guesser / "guesser")
    arguments = {"output_dir": str(tmp_path), "per_device_train_batch_size": 8, "use_cpu": True, "bf16": False}
    grpo = GRPOTrainer(
        model=model,
        reward_funcs=[threes],
        args=GRPOConfig(**arguments, num_generations=8, gradient_checkpointing=False, report_to="none"),
        train_dataset=ppo.train_dataset,
        processing_class=tokenizer,
    )
    grpo.model.train()
    grpo.current_gradient_accumulation_steps = 1
    expected = grpo._compute_loss(grpo.model, batch)
    assert torch.allclose(ppo._compute_loss(ppo.model, batch), expected, atol=1e-6)
    assert expected.abs() > 1e-3


def test_a_value_model_of_another_tokenizer_is_refused(guesser, tmp_path):
    settings = AutoConfig.from_pretrained(guesser / "guesser", num_labels=1, vocab_size=77)
    other = AutoModelForTokenClassification.from_config(settings)
    with pytest.raises(StageError, match="embedding has 77 rows"):
        trainer(guesser, tmp_path, value_model=other)


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_a_reward_that_is_no_number_is_refused(guesser, tmp_path, bad):
    def broken(completions, **columns):
        return [1.0] * (len(completions) - 1) + [bad]

    with pytest.raises(StageError, match="the reward broken of a completion at step 0 is"):
        trainer(guesser, tmp_path, rewards=broken).train()


def test_accumulated_as_at_once(guesser, tmp_path):
    """One step on 8 completions, and on 2 parts of 4: the same weights, but for the rounding."""
    found = []
    for size, parts in ((8, 1), (4, 2)):
        ppo = trainer(
            guesser, tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=parts, max_grad_norm=0.0,
            optim="sgd", learning_rate=0.1, value_learning_rate=0.1, warmup_steps=0, lr_scheduler_type="constant",
        )  # fmt: skip
        ppo.train()
        found.append({name: weights.detach().clone() for name, weights in ppo.model.named_parameters()})
    start = dict(models(guesser / "guesser")[1].named_parameters())
    assert not torch.allclose(found[0]["lm_head.weight"], start["lm_head.weight"], atol=1e-5)
    for name in found[0]:
        assert torch.allclose(found[0][name], found[1][name], atol=1e-5), name


# --- the recipe


def arguments(guesser, out) -> list:
    return [
        "--config", ROOT / "recipes/05_ppo/tiny_sums.yaml", "--model", guesser / "guesser", "--prompts", guesser / "guesses",
        "--per_device_train_batch_size", 16, "--max_completion_length", 8, "--learning_rate", 3e-3,
        "--temperature", 1.0, "--value_learning_rate", 3e-3, "--max_steps", 32, "--logging_steps", 2, "--output_dir", out,
    ]  # fmt: skip


def both(folder) -> dict[str, torch.Tensor]:
    value = load_file(folder / "value_model/model.safetensors")
    return load_file(folder / "model.safetensors") | {
        f"value_model.{name}": weights for name, weights in value.items()
    }


@pytest.fixture(scope="module")
def trained(guesser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ppo")
    run(PPO, *arguments(guesser, folder / "ppo"), "--save_steps", 8, "--beta", 0.01, "--kl_target", 0.5)
    return folder / "ppo"


def test_a_reward_rises(trained, guesser):
    found = metrics(trained)
    assert found["first_score"] < 0.8 and found["last_score"] > 0.95
    before, after = load_file(guesser / "guesser/model.safetensors"), both(trained)
    assert before.keys() == load_file(trained / "model.safetensors").keys()
    assert not [name for name in before if torch.equal(before[name], after[name])]
    start = dict(models(guesser / "guesser")[2].named_parameters())
    still = [name for name in start if torch.equal(start[name], after[f"value_model.{name}"])]
    assert not still
    AutoModelForCausalLM.from_pretrained(trained)
    assert AutoModelForTokenClassification.from_pretrained(trained / "value_model").num_labels == 1


def test_interrupted_as_uninterrupted(trained, guesser, tmp_path):
    given = [*arguments(guesser, tmp_path / "ppo"), "--save_steps", 8, "--beta", 0.01, "--kl_target", 0.5]
    with killed_at(16, PPOTrainer):
        run(PPO, *given)
    assert (tmp_path / "ppo/checkpoint-8/trainer_state.json").is_file()
    run(PPO, *given)
    one, other = both(trained), both(tmp_path / "ppo")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert metrics(trained)["curve"] == metrics(tmp_path / "ppo")["curve"]


def test_adapters_of_policy_and_values(guesser, tmp_path):
    """A reward rises, an interrupted run is as an uninterrupted one, and both folders hold merged models."""
    lora = ["--use_peft", "true", "--learning_rate", 3e-3, "--temperature", 0.7]
    lora += ["--save_steps", 8, "--beta", 0.01, "--max_steps", 48, "--logging_steps", 8]
    run(PPO, *arguments(guesser, tmp_path / "one"), *lora)
    with killed_at(16, PPOTrainer):
        run(PPO, *arguments(guesser, tmp_path / "other"), *lora)
    assert (tmp_path / "other/checkpoint-8/value_model.safetensors").is_file()
    run(PPO, *arguments(guesser, tmp_path / "other"), *lora)
    one, other = both(tmp_path / "one"), both(tmp_path / "other")
    assert all(torch.equal(one[name], other[name]) for name in one)
    found = metrics(tmp_path / "one")
    assert found["last_score"] > max(found["first_score"], 0.8)

    before = load_file(guesser / "guesser/model.safetensors")
    start = dict(models(guesser / "guesser")[2].named_parameters())
    moved = {name for name in one if not torch.equal(one[name], (start | before)[name.removeprefix("value_model.")])}
    assert all(("proj" in name) == (name in moved) for name in one if "score" not in name)
    assert "value_model.score.weight" in moved
    AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    AutoModelForTokenClassification.from_pretrained(tmp_path / "one/value_model")


def test_the_policy_waits_for_the_values(guesser, tmp_path):
    run(PPO, *arguments(guesser, tmp_path), "--max_steps", 3, "--value_warmup_steps", 3, "--weight_decay", 0.1)
    before, after = load_file(guesser / "guesser/model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    start = dict(models(guesser / "guesser")[2].named_parameters())
    values = load_file(tmp_path / "value_model/model.safetensors")
    assert not [name for name in values if torch.equal(start[name], values[name])]


@pytest.mark.parametrize(
    "given, said",
    [
        (["--rewards", "crawl2chat.rewards.wrong"], "there is no reward `crawl2chat.rewards.wrong`"),
        (["--rewards", "crawl2chat.stage.__doc__"], "the reward `crawl2chat.stage.__doc__` is no function"),
        (["--prompts_file", "none.jsonl"], "none.jsonl does not exist"),
        (["--temperature", 0], "`temperature` 0 draws the same completion"),
        (["--lam", 1.5], "`lam` must be in [0.0, 1.0]"),
        (["--save_steps", 5, "--num_iterations", 2], "`save_steps` 5 falls into a rollout"),
        (["--reward_model", "guesser"], "guesser"),
    ],
)
def test_bad_input(guesser, tmp_path, capsys, given, said):
    assert said in refusal(capsys, PPO, *arguments(guesser, tmp_path), *given)


def test_fsdp_is_refused(guesser, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("crawl2chat.training.asked_for", lambda: "FSDP2")
    assert "FSDP cannot split policy and value model as one" in refusal(capsys, PPO, *arguments(guesser, tmp_path))


def test_a_reward_model_scores_and_lends_its_values(guesser, tmp_path):
    """The completions get its score, and the values begin with its head."""
    tokenizer, _, _ = models(guesser / "guesser")
    torch.manual_seed(2)
    judge = AutoModelForSequenceClassification.from_pretrained(guesser / "guesser", num_labels=1)
    judge.config.pad_token_id = tokenizer.pad_token_id
    judge.save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    given = [
        "--reward_model",
        tmp_path / "judge",
        "--max_steps",
        1,
        "--value_learning_rate",
        0,
        "--num_generations",
        1,
    ]
    run(PPO, *arguments(guesser, tmp_path / "ppo"), *given)
    values = load_file(tmp_path / "ppo/value_model/model.safetensors")
    assert torch.equal(values["score.weight"], judge.score.weight)

    prompt = [{"role": "user", "content": "Say a number."}]
    chats = [[*prompt, {"role": "assistant", "content": f"The answer is {number}."}] for number in (3, 4)]
    texts = tokenizer.apply_chat_template(chats, tokenize=False)
    with torch.no_grad():
        scores = judge(**tokenizer(texts, return_tensors="pt", add_special_tokens=False)).logits[:, 0].tolist()
    found = metrics(tmp_path / "ppo")["first_score"]  # 16 completions that say 3, which is right, or 4
    share = (found - scores[1]) / (scores[0] + 1 - scores[1])
    assert 0 <= share <= 1 and math.isclose(16 * share, round(16 * share), abs_tol=1e-2)


def test_a_recipe_needs_something_that_scores(guesser, tmp_path, capsys):
    given = ["--model", guesser / "guesser", "--prompts", guesser / "guesses", "--output_dir", tmp_path]
    said = refusal(
        capsys, PPO, "--config", ROOT / "recipes/05_ppo/tiny.yaml", *given, "--prompts_file", "rl_train.jsonl"
    )
    assert "nothing scores the completions" in said


def test_a_reward_is_found_by_its_path():
    (found,) = reward_function("crawl2chat.rewards.correct")([[{"content": "The answer is 3."}]], answer=["3"])
    assert found == 1.0
