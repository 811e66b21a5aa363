"""The fast last layer: TRL's numbers and gradients, and TRL's own where it does not apply."""

import pytest
import torch
from conftest import ROOT, SFT, run
from test_rollouts import small
from transformers import LlamaForCausalLM, Qwen3ForCausalLM
from trl.trainer.utils import add_fused_lm_head

from crawl2chat import heads
from crawl2chat.heads import score_whole

OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")


def outputs_and_gradients(model, **given):
    found = model(fused_lm_head=True, **given)
    model.zero_grad()
    (found.loss + (found.log_probs * found.entropy).sum()).backward()
    return found, [weight.grad.clone() for weight in model.parameters()]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("model_class", [Qwen3ForCausalLM, LlamaForCausalLM])
def test_it_is_what_trl_computes(model_class, shifted, temperature):
    torch.manual_seed(1)
    ids, mask = torch.randint(50, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask[0, 6:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :4] = labels[1] = -100  # of the second nothing is scored
    model = small(model_class)
    likeliest = model(input_ids=ids).logits[2].argmax(-1)
    labels[2, 5:] = likeliest[5:] if shifted else likeliest[4:-1]
    given = {"input_ids": ids, "attention_mask": mask, "shift_labels" if shifted else "labels": labels}
    add_fused_lm_head(model, temperature, outputs=OUTPUTS)
    theirs, their_gradients = outputs_and_gradients(model, **given)
    score_whole(model, temperature)
    ours, our_gradients = outputs_and_gradients(model, **given)
    assert torch.equal(ours.label_mask, theirs.label_mask) and torch.equal(ours.is_top1, theirs.is_top1)
    assert ours.is_top1.sum() == 4 and ours.log_probs.shape == (3, 9 if shifted else 8)
    for name in ("loss", "log_probs", "entropy", "mean_logits"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-5)
    for mine, other in zip(our_gradients, their_gradients):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())
    divided, _ = outputs_and_gradients(model, **given, num_items_in_batch=5)
    assert divided.loss.item() == pytest.approx(-ours.log_probs.sum().item() / 5)


def test_nothing_to_score_is_a_zero_with_a_gradient():
    model = small()
    add_fused_lm_head(model, outputs=OUTPUTS)
    score_whole(model)
    found = model(input_ids=torch.tensor([[1, 2]]), labels=torch.tensor([[-100, -100]]), fused_lm_head=True)
    found.loss.backward()
    assert found.loss.item() == 0 and model.lm_head.weight.grad is not None


@pytest.mark.parametrize("limit", ["MAX_LOGITS", "MAX_PARAMETERS"])
def test_what_is_too_large_is_left_to_trl(limit, monkeypatch):
    model = small()
    add_fused_lm_head(model)  # log-probabilities alone: theirs has no entropy
    score_whole(model)
    given = {"input_ids": torch.tensor([[1, 2, 3]]), "labels": torch.tensor([[1, 2, 3]])}
    assert model(**given, fused_lm_head=True).entropy is not None
    monkeypatch.setattr(heads, limit, 0)
    assert model(**given, fused_lm_head=True).entropy is None


def test_without_it_the_model_is_itself():
    model, plain = small(), small()
    add_fused_lm_head(model)
    score_whole(model)
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(model(input_ids=ids, labels=ids).loss, plain(input_ids=ids, labels=ids).loss)
    assert (
        model.generate(ids, max_new_tokens=4, do_sample=False).tolist()
        == plain.generate(ids, max_new_tokens=4).tolist()
    )


def test_the_recipes_use_it(path_folder, tmp_path, monkeypatch):
    """SFT of all weights, and of an adapter; DPO has it by the same class."""
    scored = []
    whole = torch.log_softmax
    monkeypatch.setattr(
        heads.torch, "log_softmax", lambda *given, **options: scored.append(1) or whole(*given, **options)
    )
    given = [
        "--config",
        ROOT / "recipes/02_sft/tiny.yaml",
        "--chats",
        path_folder / "7_conversations",
        "--max_steps",
        1,
    ]
    run(SFT, *given, "--model", path_folder / "base", "--output_dir", tmp_path / "sft")
    assert len(scored) == 1
    run(
        SFT,
        *given,
        "--model",
        tmp_path / "sft",
        "--use_peft",
        "true",
        "--lora_r",
        4,
        "--output_dir",
        tmp_path / "adapted",
    )
    assert len(scored) == 2
