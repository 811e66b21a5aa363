"""Corpus -> byte-level BPE tokenizer in transformers' format, with the chat template inside, and a report on it.

Every digit is a token of its own, so that arithmetic is done on digits and never on chunks of numbers; `bpe.py` states
the whole split pattern and why. `tokenizer.html` shows what came out, on the validation split.

    python data_processing/5_train_tokenizer.py --config data_processing/5_train_tokenizer.yaml \
        --corpus outputs/tiny/4_corpus --output_dir outputs/tiny/5_tokenizer
"""

from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerFast

from crawl2chat.bpe import check_vocab_size, corpus_files, texts_of, train_bpe
from crawl2chat.chat import END_OF_TURN, PADDING, chat_template, load_tokenizer
from crawl2chat.stage import StageError, bounded, run_stage
from crawl2chat.tokenizer_report import write_report


@dataclass
class TokenizerConfig:
    corpus: str = field(
        metadata={"help": "Folder of 4_build_corpus.py, or any with train/*.parquet and a column text."}
    )
    output_dir: str = field(metadata={"help": "Where the tokenizer goes."})
    vocab_size: int = bounded(2048, "Entries, special and added tokens included.", low=1, high=1_000_000)
    model_max_length: int = bounded(1024, "Longest input the tokenizer lets pass without a warning.", low=16)
    compare: list[str] = field(
        default_factory=list, metadata={"help": "Tokenizers to compare with: Hub ids or folders, e.g. gpt2."}
    )


def preflight(config: TokenizerConfig) -> dict:
    check_vocab_size(config.vocab_size)
    files = {split: len(corpus_files(config.corpus, split)) for split in ("train", "validation")}
    for split, count in files.items():
        if not count:
            raise StageError(f"{config.corpus}/{split} holds no .parquet file; run 4_build_corpus.py first.")
    for name in config.compare:
        load_tokenizer(name)
    return files


def main(config: TokenizerConfig) -> dict:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_bpe(texts_of(corpus_files(config.corpus, "train")), config.vocab_size),
        eos_token=END_OF_TURN,
        pad_token=PADDING,
        model_max_length=config.model_max_length,
        clean_up_tokenization_spaces=False,
        chat_template=chat_template(),
    )
    tokenizer.save_pretrained(config.output_dir)
    report = write_report(config.output_dir, corpus_files(config.corpus, "validation"), config.compare)
    sizes = {"validation_bytes": report["num_bytes"], "bytes_per_token": report["bytes_per_token"]}
    return {"vocab_size": len(tokenizer), **sizes}


if __name__ == "__main__":
    run_stage(main, TokenizerConfig, inputs=lambda config: [config.corpus], preflight=preflight)
