"""Products of float32 matrices on processors: by oneDNN where it is faster, by MKL where that is.

On AMD's processors with AVX-512 MKL does not use it, and oneDNN is more than twice as fast (docs/log.md). PyTorch takes
oneDNN where float32 may be computed in bf16, which on AMD's it is not: they have no AMX. Attention is many small products,
for each of which oneDNN looks up a kernel, so that MKL is faster there. On Intel's MKL is faster throughout.
"""

import os
from pathlib import Path

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def multiply_fast() -> None:
    """From here on, in this process, on AMD: for models whose attention is PyTorch's (`sdpa`, the default)."""
    if not is_amd():
        return
    # Batches of ever other lengths would fill both caches, 1,024 kernels each, with gigabytes that are not needed again.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "16")  # PyTorch's own
    _by_onednn(True)
    ALL_ATTENTION_FUNCTIONS.register("sdpa", attention)


def is_amd() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and "AuthenticAMD" in cpuinfo.read_text()


def attention(module, query: Tensor, key: Tensor, value: Tensor, *arguments, **options) -> tuple[Tensor, None]:
    """transformers' `sdpa`, whose products are MKL's."""
    query, key, value = Switch.apply(False, query, key, value)
    attended, _ = sdpa_attention_forward(module, query, key, value, *arguments, **options)
    return Switch.apply(True, attended)[0], None


class Switch(torch.autograd.Function):
    """Passes tensors on; from here oneDNN multiplies or does not, and the other way round once the gradients come by."""

    @staticmethod
    def forward(ctx, onednn: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.onednn = onednn
        _by_onednn(onednn)
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        _by_onednn(not ctx.onednn)
        return None, *gradients


def _by_onednn(on: bool) -> None:
    torch.backends.mkldnn.matmul.fp32_precision = "bf16" if on else "ieee"
