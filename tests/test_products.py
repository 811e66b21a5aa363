"""Products by oneDNN change who multiplies, and nothing that a model learns from."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from crawl2chat import products


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(products, "is_amd", lambda: True)
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    yield LlamaForCausalLM(LlamaConfig(vocab_size=128, num_key_value_heads=1, **shape))
    torch.backends.mkldnn.matmul.fp32_precision = before
    ALL_ATTENTION_FUNCTIONS.register("sdpa", sdpa_attention_forward)


def loss_and_gradients(model) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    ids = torch.arange(2 * 24).view(2, 24)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    loss = model(input_ids=ids, attention_mask=mask, labels=ids).loss
    loss.backward()
    return loss.item(), [weight.grad.clone() for weight in model.parameters()]


def test_gradients_are_the_same(model):
    loss, gradients = loss_and_gradients(model)
    products.multiply_fast()
    fast_loss, fast_gradients = loss_and_gradients(model)
    tolerance = 1e-5 if not torch.cpu._is_amx_tile_supported() else 2e-2  # there the products are in bf16
    assert fast_loss == pytest.approx(loss, rel=tolerance)
    for gradient, fast in zip(gradients, fast_gradients):
        torch.testing.assert_close(fast, gradient, rtol=tolerance, atol=tolerance)


def test_attention_is_left_to_mkl_both_ways(model, monkeypatch):
    seen = []

    class Look(torch.autograd.Function):
        @staticmethod
        def forward(ctx, attended):
            seen.append(("forward", torch.backends.mkldnn.matmul.fp32_precision))
            return attended.view_as(attended)

        @staticmethod
        def backward(ctx, gradient):
            seen.append(("backward", torch.backends.mkldnn.matmul.fp32_precision))
            return gradient

    def looked_at(*arguments, **options):
        attended, weights = sdpa_attention_forward(*arguments, **options)
        return Look.apply(attended), weights

    monkeypatch.setattr(products, "sdpa_attention_forward", looked_at)
    products.multiply_fast()
    loss_and_gradients(model)
    assert seen == [("forward", "ieee")] * 2 + [("backward", "ieee")] * 2
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    with torch.no_grad():
        model(input_ids=torch.arange(8)[None])
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"


def test_other_processors_keep_mkl(model, monkeypatch):
    monkeypatch.setattr(products, "is_amd", lambda: False)
    before = torch.backends.mkldnn.matmul.fp32_precision, ALL_ATTENTION_FUNCTIONS["sdpa"]
    products.multiply_fast()
    assert (torch.backends.mkldnn.matmul.fp32_precision, ALL_ATTENTION_FUNCTIONS["sdpa"]) == before
