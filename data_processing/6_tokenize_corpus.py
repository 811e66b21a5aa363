"""Corpus -> memory-mapped token shards: a shard a file, each document ended by a token, documents shuffled by seed.

Encoding is tiktoken's with the tokenizer's own merges, compared with `tokenizers` at the start of every file (`bpe.py`).
The sequence length is chosen when training reads the shards (`tokens.py`), and windows are shuffled over all shards then.

    python data_processing/6_tokenize_corpus.py --config data_processing/6_tokenize_corpus.yaml \
        --corpus outputs/tiny/4_corpus --tokenizer outputs/tiny/5_tokenizer --output_dir outputs/tiny/6_tokens
"""

from dataclasses import dataclass, field
from pathlib import Path

from crawl2chat.bpe import Encoder, corpus_files
from crawl2chat.chat import check_chat_tokens, load_tokenizer
from crawl2chat.executors import run_pipeline
from crawl2chat.stage import StageError, bounded, run_stage
from crawl2chat.tokenizing import WriteShard
from crawl2chat.tokens import num_tokens


@dataclass
class TokenizeConfig:
    corpus: str = field(metadata={"help": "Folder with train/*.parquet and validation/*.parquet."})
    tokenizer: str = field(metadata={"help": "Folder of 5_train_tokenizer.py, or any with a tokenizer.json."})
    output_dir: str = field(metadata={"help": "Where train/*.ds and validation/*.ds go."})
    seed: int = bounded(0, "Seed of the order of documents.", low=0)
    num_workers: int = bounded(2, "Processes; a file of the corpus is a task.", low=1)


def preflight(config: TokenizeConfig) -> dict:
    if not Path(config.tokenizer, "tokenizer.json").is_file():
        raise StageError(f"{config.tokenizer} has no tokenizer.json; name the folder of a fast tokenizer.")
    for split in ("train", "validation"):
        if not corpus_files(config.corpus, split):
            raise StageError(f"{config.corpus}/{split} holds no .parquet file; run 4_build_corpus.py first.")
    tokenizer = load_tokenizer(config.tokenizer)
    check_chat_tokens(tokenizer, config.tokenizer)
    return {"vocab_size": len(tokenizer), "encoder": "tiktoken" if Encoder(tokenizer).is_fast else "tokenizers"}


def main(config: TokenizeConfig) -> dict:
    # The tokenizer travels with its shards: what reads them can check that it has the right one, and can count bytes.
    load_tokenizer(config.tokenizer).save_pretrained(config.output_dir)

    metrics = {}
    for split in ("train", "validation"):
        files, target = corpus_files(config.corpus, split), Path(config.output_dir, split)
        step = WriteShard(files, config.tokenizer, target, config.seed if split == "train" else None)
        logs = Path(config.output_dir, "logs", split)
        [totals] = run_pipeline([step], len(files), config.num_workers, logs, files=files)
        metrics |= {f"{split}_tokens": num_tokens(target), f"{split}_bytes": totals["num_bytes"]}
    return metrics


if __name__ == "__main__":
    run_stage(main, TokenizeConfig, inputs=lambda config: [config.corpus, config.tokenizer], preflight=preflight)
