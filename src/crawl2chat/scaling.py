"""One dial for a base model, and what its training costs before it starts.

`depth` sets all of a run that the user does not set:

- width 64 a layer, which keeps the aspect ratio where the loss is flat (Kaplan et al. 2020, https://arxiv.org/abs/2001.08361,
  section 3.1), heads of 64, or of 128 from a width of 1,024 on, and an MLP of 8/3 of the width, since SwiGLU has three
  matrices where GPT-2's has two (Shazeer 2020, https://arxiv.org/abs/2002.05202);
- 20 tokens a parameter that computes (Hoffmann et al. 2022, https://arxiv.org/abs/2203.15556);
- tokens a step 0.292 C^0.3271 for C FLOPs in all (DeepSeek LLM 2024, https://arxiv.org/abs/2401.02954, section 3.2),
  rounded to a power of two;
- AdamW's rates for embedding, head and norms are those of the recipes at width 256, falling with the root of the width;
  Muon's for the matrices stays, since its steps do not grow with the width. Neither was tried at other widths yet.

Depth 12 is the size of GPT-2 (124 million with its embedding counted once).
"""

import math
import time
from dataclasses import dataclass

import torch

HEAD_DIM, WIDE_HEAD_DIM, WIDE = 64, 128, 1024
WIDTH_A_LAYER = 64
TOKENS_A_PARAMETER = 20
MATRIX_RATE, EMBEDDING_RATE, HEAD_RATE, WIDTH_OF_RATES = 0.02, 0.05, 0.01, 256

DIALED = ("hidden_size", "num_layers", "num_heads", "intermediate_size", "total_tokens", "tokens_per_step")
DIALED += ("matrix_learning_rate", "embedding_learning_rate", "head_learning_rate")

# Dense bf16 (fp16 on the T4) without sparsity, from the makers' data sheets, FLOP/s; the first name that fits counts.
PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989.4e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989.4e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "MI300X": 1307.4e12,
    "RTX 5090": 209.5e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
    "T4": 65e12,
}


@dataclass(frozen=True)
class Shape:
    """What of a decoder costs time."""

    hidden_size: int
    num_layers: int
    intermediate_size: int
    vocab_size: int
    sequence_length: int

    @property
    def computing_parameters(self) -> int:
        """Those of the matrices a token is multiplied with: layers and head, without embedding and norms."""
        layer = 4 * self.hidden_size**2 + 3 * self.hidden_size * self.intermediate_size
        return self.num_layers * layer + self.hidden_size * self.vocab_size

    @property
    def flops_per_token(self) -> int:
        """Forward and backward, without what is computed again: 6 a parameter and 12 L T d for the attention.

        As in PaLM's appendix B (https://arxiv.org/abs/2204.02311), which does not halve the attention for the causal mask.
        """
        return 6 * self.computing_parameters + 12 * self.num_layers * self.sequence_length * self.hidden_size


def dial(config, vocab_size: int, at_most: int, unit: int) -> Shape:
    """Sets every field of `DIALED` that is None, by the rules above and `config.depth`; what is set stays.

    Args:
        at_most: no more tokens than that.
        unit: tokens that the processes take at once; a step by rule is a multiple of it.
    """

    def settle(**rules) -> None:
        for name, value in rules.items():
            if getattr(config, name) is None:
                setattr(config, name, value)

    depth = config.depth or config.num_layers
    width = config.hidden_size or WIDTH_A_LAYER * depth
    head = WIDE_HEAD_DIM if width >= WIDE and width % WIDE_HEAD_DIM == 0 else HEAD_DIM
    settle(
        num_layers=depth,
        hidden_size=width,
        num_heads=max(1, width // head),
        intermediate_size=-(-8 * width // 3 // 64) * 64,
        matrix_learning_rate=MATRIX_RATE,
        embedding_learning_rate=_adam_rate(EMBEDDING_RATE, width),
        head_learning_rate=_adam_rate(HEAD_RATE, width),
    )
    shape = Shape(width, config.num_layers, config.intermediate_size, vocab_size, config.sequence_length)
    settle(total_tokens=TOKENS_A_PARAMETER * shape.computing_parameters)
    config.total_tokens = min(config.total_tokens, at_most)
    tokens_per_step = 2 ** round(math.log2(0.292 * (shape.flops_per_token * config.total_tokens) ** 0.3271))
    settle(tokens_per_step=max(1, tokens_per_step // unit) * unit)
    return shape


def _adam_rate(rate: float, width: int) -> float:
    return float(f"{rate * (WIDTH_OF_RATES / width) ** 0.5:.3g}")


def peak_flops(device: torch.device | str, dtype: torch.dtype) -> float:
    """Of one device, FLOP/s: of a GPU in the table by its name, else what matrix products reach here."""
    device = torch.device(device)
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        found = peak_of(torch.cuda.get_device_name(device))
        if found:
            return found
    return measured_flops(device, dtype)


def peak_of(name: str) -> float | None:
    """The table's figure for a GPU's name, or None."""
    return next((flops for part, flops in PEAK_FLOPS.items() if part.lower() in name.lower()), None)


def measured_flops(device: torch.device, dtype: torch.dtype, size: int = 2048, seconds: float = 0.5) -> float:
    """The most that products of two matrices (size, size) reach within some `seconds`, FLOP/s."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    a @ b
    fastest, deadline = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        started_at = time.perf_counter()
        product = a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        fastest = min(fastest, time.perf_counter() - started_at)
    assert product.shape == (size, size)
    return 2 * size**3 / fastest


def cost(flops: float, peak: float, mfu: float, num_devices: int, price: float) -> dict:
    """Hours on the clock and money, at a share `mfu` of the peak on each device, and a price a device and hour."""
    hours = flops / (peak * mfu * num_devices) / 3600
    return {"flops": float(f"{flops:.3g}"), "hours": round(hours, 3), "dollars": round(hours * num_devices * price, 2)}
