"""Writes token shards (`tokens.py` says what they are): a task a file of a corpus."""

import os
from collections.abc import Iterator
from json import dumps
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from datatrove.pipeline.base import PipelineStep

from crawl2chat.bpe import Encoder, fingerprint_of
from crawl2chat.chat import END_OF_TEXT, load_tokenizer
from crawl2chat.stage import fingerprint, write_atomically
from crawl2chat.tokens import token_type

ROWS = 512  # read and encoded together
COMPARED_CHARACTERS = 200_000  # at the start of each file, by tiktoken and `tokenizers`: a quarter of a second


class WriteShard(PipelineStep):
    """Encodes the column `text` of a Parquet file, ends each document by a token, and shuffles the documents by seed.

    Shuffling reads the tokens back from disk, so memory does not grow with the file. Empty texts are left out.
    """

    name, type = "write shard", "tokens"

    def __init__(self, files: list[Path], tokenizer: str, folder: Path, seed: int | None):
        super().__init__()
        self.files, self.tokenizer, self.folder, self.seed = files, tokenizer, folder, seed

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator:
        tokenizer = load_tokenizer(self.tokenizer)
        dtype, end = token_type(len(tokenizer)), tokenizer.convert_tokens_to_ids(END_OF_TEXT)
        shard, encoder = self.folder / f"{rank:05d}.ds", Encoder(tokenizer)
        self.folder.mkdir(parents=True, exist_ok=True)
        in_order, temporary = shard.with_name(f"{shard.name}.in_order.tmp"), shard.with_name(f"{shard.name}.tmp")
        compared, num_bytes, lengths = 0, 0, []
        with in_order.open("wb") as out, self.track_time():
            for batch in pq.ParquetFile(self.files[rank]).iter_batches(ROWS, columns=["text"]):
                texts = [text for text in batch["text"].to_pylist() if text]
                if encoder.is_fast and compared < COMPARED_CHARACTERS:
                    before = compared + np.cumsum([0, *map(len, texts)])
                    encoder.check([text for text, place in zip(texts, before) if place < COMPARED_CHARACTERS])
                    compared = int(before[-1])
                rows = [np.append(encoder.encode(text), end).astype(dtype) for text in texts]
                out.writelines(row.data for row in rows)
                lengths += map(len, rows)
                num_bytes += sum(len(text.encode()) for text in texts)
        ends = np.cumsum(lengths, dtype="<u8")
        if self.seed is not None and len(ends):
            order = np.random.default_rng([self.seed, rank]).permutation(len(ends))
            tokens = np.memmap(in_order, dtype=dtype, mode="r")
            begins = ends - np.array(lengths, "<u8")
            with temporary.open("wb") as out:
                out.writelines(tokens[begins[i] : ends[i]].data for i in order)
            in_order.unlink()
            ends = np.cumsum(np.array(lengths)[order], dtype="<u8")
        else:
            in_order.replace(temporary)
        _into_place(temporary, shard)
        index = shard.with_name(f"{shard.name}.index")
        ends.tofile(f"{index}.tmp")
        _into_place(Path(f"{index}.tmp"), index)
        note = {
            "num_documents": len(lengths),
            "num_bytes": num_bytes,
            "num_tokens": sum(lengths),
            "dtype": dtype.str,
            "vocab_size": len(tokenizer),
            "tokenizer": fingerprint_of(tokenizer),
            "end_of_text": end,
            "shuffle_seed": self.seed,
            "sha256": fingerprint(shard),
        }
        write_atomically(shard.with_name(f"{shard.name}.json"), dumps(note, indent=2) + "\n")
        for name in ("num_documents", "num_bytes", "num_tokens"):
            self.stat_update(name, value=note[name])
        yield from ()


def _into_place(temporary: Path, path: Path) -> None:
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
