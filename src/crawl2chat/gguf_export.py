"""A model folder -> one GGUF file, for llama.cpp and what is built on it (Ollama, LM Studio, llama-cpp-python).

    python -m crawl2chat.gguf_export outputs/tiny/grpo --output outputs/tiny/grpo.gguf --type q8_0

Written with llama.cpp's own `gguf` library. Its converter would refuse the folder, since it knows tokenizers by the hash
of what they make of a certain text; the split pattern here is that of Qwen3.5 to the letter, which GGUF calls `qwen35`.
Beside a model of another class or a tokenizer with another pattern one line says what is the matter.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open

from crawl2chat.bpe import SPLIT
from crawl2chat.chat import load_tokenizer
from crawl2chat.stage import StageError

TYPES = ("f32", "f16", "bf16", "q8_0")


def export_gguf(folder: str | Path, output: str | Path, type: str = "bf16") -> None:
    """Writes weights, shape, tokenizer and chat template of a model folder; the whole file or none.

    Args:
        type: of the matrices (one of `TYPES`); vectors stay float32. Matrices whose rows do not fit q8_0's blocks of 32
            are written as f16.

    Raises:
        StageError: no Qwen3 model, or not our tokenizer.
    """
    import gguf

    folder, output = Path(folder), Path(output)
    config = json.loads((folder / "config.json").read_text()) if (folder / "config.json").is_file() else {}
    if config.get("model_type") != "qwen3":
        raise StageError(
            f"{folder} holds no Qwen3 model, which is what the path trains; llama.cpp's converter may do it."
        )
    temporary = output.with_name(output.name + ".tmp")
    writer = gguf.GGUFWriter(temporary, "qwen3")
    _add_shape(writer, config, folder.name)
    _add_tokenizer(writer, folder, config["vocab_size"])

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config["num_hidden_layers"])
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                tensor = tensors.get_tensor(name).float().numpy()
                kind = gguf.GGMLQuantizationType[_kind(tensor, type)]
                theirs = names.get_name(name, try_suffixes=(".weight",))
                writer.add_tensor(theirs, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=True)
    writer.close()
    temporary.replace(output)


def _kind(tensor: np.ndarray, type: str) -> str:
    if tensor.ndim < 2:
        return "F32"
    return "F16" if type == "q8_0" and tensor.shape[-1] % 32 else type.upper()


def _add_shape(writer, config: dict, name: str) -> None:
    writer.add_name(name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer, folder: Path, vocab_size: int) -> None:
    import gguf

    tokenizer = load_tokenizer(folder)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if SPLIT not in json.dumps(state["pre_tokenizer"], ensure_ascii=False).replace("\\\\", "\\"):
        raise StageError(
            f"the tokenizer in {folder} is none of 5_train_tokenizer.py; llama.cpp's converter may know it."
        )
    added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
    by_id = {i: token for token, i in tokenizer.get_vocab().items()}
    tokens = [by_id.get(i, f"[unused{i}]") for i in range(vocab_size)]
    kinds = [
        gguf.TokenType.UNUSED if i not in by_id
        else gguf.TokenType.NORMAL if token not in added
        else gguf.TokenType.CONTROL if added[token]
        else gguf.TokenType.USER_DEFINED
        for i, token in enumerate(tokens)
    ]  # fmt: skip
    writer.add_tokenizer_model("gpt2")  # byte-level BPE
    writer.add_tokenizer_pre("qwen35")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in state["model"]["merges"]]
    )
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    if tokenizer.chat_template:  # without the markers of what is trained, which other engines do not know
        writer.add_chat_template(re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", tokenizer.chat_template))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--type", choices=TYPES, default="bf16")
    arguments = parser.parse_args()
    try:
        export_gguf(arguments.folder, arguments.output, arguments.type)
    except StageError as error:
        sys.exit(f"gguf_export: error: {error}")


if __name__ == "__main__":
    main()
