"""Token shards: memory-mapped windows for training, and the bytes each token stands for."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from crawl2chat.stage import StageError


def token_type(vocab_size: int) -> type:
    """Two bytes a token where the vocabulary allows it, else four; datatrove's rule."""
    return np.uint16 if vocab_size <= np.iinfo(np.uint16).max + 1 else np.uint32


def num_tokens(folder: str | Path) -> int:
    """Tokens in the `.ds` shards of a folder, from the indexes that datatrove writes beside them."""
    return sum(int(np.fromfile(index, np.uint64)[-1]) for index in sorted(Path(folder).glob("*.ds.index")))


class TokenWindows(Dataset):
    """Windows of `sequence_length` + 1 tokens over the shards of a folder, each overlapping the next by one token.

    So every token but the first of a shard is predicted exactly once in a pass. Items are `{"input_ids", "labels"}`,
    both of shape (sequence_length + 1,); the model shifts the labels itself.

    Raises:
        StageError: no shards, a truncated shard, or one too short for a single window.
    """

    def __init__(self, folder: str | Path, sequence_length: int, vocab_size: int):
        self.sequence_length = sequence_length
        self.shards, lengths = [], []
        for path in sorted(Path(folder).glob("*.ds")):
            shard = np.memmap(path, dtype=token_type(vocab_size), mode="r")
            promised = int(np.fromfile(f"{path}.index", np.uint64)[-1])
            if len(shard) != promised:
                raise StageError(
                    f"{path} holds {len(shard)} tokens, its index says {promised}; tokenize the corpus again."
                )
            self.shards.append(shard)
            lengths.append((len(shard) - 1) // sequence_length)
        if sum(lengths) == 0:
            raise StageError(
                f"{folder} has no shard of more than {sequence_length} tokens; use a shorter sequence_length or more text."
            )
        self.starts = np.cumsum([0, *lengths])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        shard = int(np.searchsorted(self.starts, item, side="right")) - 1
        begin = (item - int(self.starts[shard])) * self.sequence_length
        window = self.shards[shard][begin : begin + self.sequence_length + 1]
        ids = torch.from_numpy(window.astype(np.int64))  # (T + 1,)
        return {"input_ids": ids, "labels": ids}


def bytes_per_token(tokenizer) -> torch.Tensor:
    """The UTF-8 bytes each token id stands for, shape (V,); special tokens stand for none."""
    special = set(tokenizer.all_special_ids)
    vocabulary = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    added = set(tokenizer.get_added_vocab())
    # A byte-level BPE token is written with one character for each byte; an added token as itself.
    sizes = [
        0 if i in special else len(token.encode()) if token in added else len(token)
        for i, token in enumerate(vocabulary)
    ]
    return torch.tensor(sizes)
