"""Corpus -> memory-mapped token shards (datatrove's `.ds` format), documents shuffled by seed, each ended by a token.

    python data_processing/6_tokenize_corpus.py --config data_processing/6_tokenize_corpus.yaml \
        --corpus outputs/tiny/4_corpus --tokenizer outputs/tiny/5_tokenizer --output_dir outputs/tiny/6_tokens
"""

from dataclasses import dataclass, field
from pathlib import Path

from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.tokens import DocumentTokenizer

from crawl2chat.chat import END_OF_TEXT, check_chat_tokens, load_tokenizer
from crawl2chat.executors import run_pipeline
from crawl2chat.stage import StageError, bounded, run_stage
from crawl2chat.tokens import num_tokens


@dataclass
class TokenizeConfig:
    corpus: str = field(metadata={"help": "Folder with train/*.parquet and validation/*.parquet."})
    tokenizer: str = field(metadata={"help": "Folder of 5_train_tokenizer.py, or any with a tokenizer.json."})
    output_dir: str = field(metadata={"help": "Where train/*.ds and validation/*.ds go."})
    seed: int = bounded(0, "Seed of the order of documents.", low=0)
    num_workers: int = bounded(2, "Processes.", low=1)


def preflight(config: TokenizeConfig) -> dict:
    if not Path(config.tokenizer, "tokenizer.json").is_file():
        raise StageError(f"{config.tokenizer} has no tokenizer.json; name the folder of a fast tokenizer.")
    for split in ("train", "validation"):
        if not list(Path(config.corpus, split).glob("*.parquet")):
            raise StageError(f"{config.corpus}/{split} holds no .parquet file; run 4_build_corpus.py first.")
    tokenizer = load_tokenizer(config.tokenizer)
    check_chat_tokens(tokenizer, config.tokenizer)
    return {"vocab_size": len(tokenizer)}


def main(config: TokenizeConfig) -> dict:
    # The tokenizer travels with its shards: what reads them can check that it has the right one, and can count bytes.
    load_tokenizer(config.tokenizer).save_pretrained(config.output_dir)

    for split in ("train", "validation"):
        source, target = Path(config.corpus, split), Path(config.output_dir, split)
        steps = [
            ParquetReader(str(source), glob_pattern="*.parquet"),
            DocumentTokenizer(
                str(target),
                tokenizer_name_or_path=str(Path(config.tokenizer, "tokenizer.json")),
                eos_token=END_OF_TEXT,
                seed=config.seed,
                shuffle_documents=split == "train",
            ),
        ]
        num_files = len(list(source.glob("*.parquet")))
        run_pipeline(steps, num_files, config.num_workers, Path(config.output_dir, "logs", split))
    folder = Path(config.output_dir)
    return {"train_tokens": num_tokens(folder / "train"), "validation_tokens": num_tokens(folder / "validation")}


if __name__ == "__main__":
    run_stage(main, TokenizeConfig, inputs=lambda config: [config.corpus, config.tokenizer], preflight=preflight)
