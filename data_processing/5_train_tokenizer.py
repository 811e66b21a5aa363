"""Corpus -> byte-level BPE tokenizer in transformers' format, with the chat template inside.

The split pattern is GPT-4's (`cl100k_base`) with one change: every digit stands alone, so that arithmetic is done on
digits and never on chunks of numbers (as in Llama 1 and 2 and DeepSeek; GPT-4 groups up to three).

    python data_processing/5_train_tokenizer.py --config data_processing/5_train_tokenizer.yaml \
        --corpus outputs/tiny/4_corpus --output_dir outputs/tiny/5_tokenizer
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from crawl2chat.chat import END_OF_TURN, PADDING, SPECIAL_TOKENS, THINK_TOKENS, chat_template
from crawl2chat.stage import StageError, bounded, run_stage

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass
class TokenizerConfig:
    corpus: str = field(
        metadata={"help": "Folder of 4_build_corpus.py, or any with train/*.parquet and a column text."}
    )
    output_dir: str = field(metadata={"help": "Where the tokenizer goes."})
    vocab_size: int = bounded(2048, "Entries, special tokens included.", low=300, high=1_000_000)
    model_max_length: int = bounded(1024, "Longest input the tokenizer lets pass without a warning.", low=16)


def preflight(config: TokenizerConfig) -> dict:
    files = {split: len(list(Path(config.corpus, split).glob("*.parquet"))) for split in ("train", "validation")}
    for split, count in files.items():
        if not count:
            raise StageError(f"{config.corpus}/{split} holds no .parquet file; run 4_build_corpus.py first.")
    return files


def main(config: TokenizerConfig) -> dict:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()

    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size - len(THINK_TOKENS),
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # all 256 bytes: any text can be encoded
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(config.corpus, "train"), trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in THINK_TOKENS])

    chat_tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=PADDING,
        model_max_length=config.model_max_length,
        clean_up_tokenization_spaces=False,
        chat_template=chat_template(),
    )
    if len(chat_tokenizer) < config.vocab_size:
        warnings.warn(f"the corpus has text for {len(chat_tokenizer)} entries, not {config.vocab_size}.", stacklevel=2)
    chat_tokenizer.save_pretrained(config.output_dir)
    return {"vocab_size": len(chat_tokenizer), **compression(tokenizer, texts(config.corpus, "validation"))}


def texts(corpus: str, split: str) -> Iterator[str]:
    """Every text of one split of a corpus folder."""
    for file in tqdm(sorted(Path(corpus, split).glob("*.parquet")), desc=f"read {split}", unit="file"):
        for batch in pq.ParquetFile(file).iter_batches(columns=["text"]):
            yield from batch.column("text").to_pylist()


def compression(tokenizer: Tokenizer, documents: Iterator[str]) -> dict:
    """Bytes per token on held-out text."""
    documents = list(documents)
    num_bytes = sum(len(document.encode()) for document in documents)
    num_tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(documents))
    return {"validation_bytes": num_bytes, "bytes_per_token": round(num_bytes / max(num_tokens, 1), 3)}


if __name__ == "__main__":
    run_stage(main, TokenizerConfig, inputs=lambda config: [config.corpus], preflight=preflight)
