"""Token shards as training sees them: windows of any length, their order by seed, and the place a run has reached.

A folder of 6_tokenize_corpus.py holds `train/`, `validation/` and the tokenizer. A shard is three files, the first two as
datatrove writes them:

    00000.ds        the tokens, little-endian, two bytes each (four if the vocabulary has more than 65,536 entries)
    00000.ds.index  where each document ends, in tokens, as uint64
    00000.ds.json   written last: counts, type, fingerprint of the tokenizer, checksum

Every document ends in `<|endoftext|>`, and that token stands nowhere else, so `document_positions` finds the boundaries
in a batch.

    windows = TokenWindows("outputs/tiny/6_tokens/train", 256, tokenizer, num_embeddings=2048)
    sampler = WindowSampler(len(windows), num_windows_to_read, seed)   # for Trainer._get_train_sampler
    callback = DataPosition(len(windows), windows_per_step, seed)      # for Trainer(callbacks=...)

The order is a function of the seed alone: step s of a run reads places s * windows_per_step and following, whatever
the number of processes, since accelerate deals each global batch out. So the Trainer's own resume, which skips indices
and reads no tokens (1 s for 10 million windows), goes on exactly where a checkpoint stands, and `DataPosition` refuses
to go on where the place would be another: with other data, another seed, or another number of windows a step.

    python -m crawl2chat.tokens outputs/tiny/6_tokens     counts, and whether every checksum is right
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from crawl2chat.stage import StageError, fingerprint


def token_type(vocab_size: int) -> np.dtype:
    """Two bytes a token where the vocabulary allows it, else four; datatrove's rule."""
    return np.dtype("<u2" if vocab_size <= np.iinfo(np.uint16).max + 1 else "<u4")


def read_shards(folder: str | Path) -> dict[Path, dict]:
    """What is noted of each shard of a folder, in order, the sizes of the files compared with it.

    Raises:
        StageError: no shards, or one that is unfinished or truncated.
    """
    shards = {}
    for path in sorted(Path(folder).glob("*.ds")):
        note = path.with_name(f"{path.name}.json")
        if not note.is_file():
            raise StageError(f"{path} is unfinished (no {note.name}); run 6_tokenize_corpus.py again.")
        shards[path] = shard = json.loads(note.read_text())
        size, promised = path.stat().st_size, shard["num_tokens"] * np.dtype(shard["dtype"]).itemsize
        if size != promised:
            raise StageError(f"{path} is {size} bytes and should be {promised}; run 6_tokenize_corpus.py again.")
    if not shards:
        raise StageError(f"{folder} holds no *.ds; name a folder of 6_tokenize_corpus.py.")
    return shards


def num_tokens(folder: str | Path) -> int:
    """Tokens in the shards of a folder."""
    return sum(shard["num_tokens"] for shard in read_shards(folder).values())


def check_sums(folder: str | Path) -> None:
    """Raises a `StageError` if a shard's content is not what was written; reads all of it."""
    for path, shard in read_shards(folder).items():
        if fingerprint(path) != shard["sha256"]:
            raise StageError(f"{path} is damaged: its SHA-256 is not the noted one; run 6_tokenize_corpus.py again.")


class TokenWindows(Dataset):
    """Windows of `sequence_length` + 1 tokens over the shards of a folder, each overlapping the next by one token.

    The shards are read as one long row, so every token but the first is predicted exactly once in a pass, and only the
    last, incomplete window of the folder is left out. Items are `{"input_ids", "labels"}`, both of shape
    (sequence_length + 1,), int64; the model shifts the labels itself.

    Args:
        tokenizer: the one the shards must have been made with.
        num_embeddings: rows of the model's embedding, if there is a model.

    Raises:
        StageError: no shards, a truncated one, one of another tokenizer, ids that have no embedding, or fewer tokens in
            all than one window.
    """

    def __init__(self, folder: str | Path, sequence_length: int, tokenizer, num_embeddings: int | None = None):
        from crawl2chat.bpe import fingerprint_of

        self.folder, self.sequence_length = Path(folder), sequence_length
        shards, ours = read_shards(folder), fingerprint_of(tokenizer)
        for path, shard in shards.items():
            if shard["tokenizer"] != ours:
                raise StageError(
                    f"{path} was made with another tokenizer ({shard['tokenizer']}, not {ours}): its ids stand for "
                    "other text. Use the tokenizer that lies with the shards, or tokenize the corpus again."
                )
            if num_embeddings is not None and shard["vocab_size"] > num_embeddings:
                raise StageError(
                    f"{path} has ids up to {shard['vocab_size'] - 1}, but the model's embedding only {num_embeddings} "
                    "rows; give the model as many as the tokenizer has tokens."
                )
        self.paths, self.types = list(shards), [shard["dtype"] for shard in shards.values()]
        self.starts = np.cumsum([0, *(shard["num_tokens"] for shard in shards.values())])  # of each shard, and the end
        self.num_windows = max(0, int(self.starts[-1]) - 1) // sequence_length
        if not self.num_windows:
            raise StageError(
                f"{folder} holds {self.starts[-1]} tokens, too few for a sequence_length of {sequence_length} and the "
                "token after it; use a shorter sequence_length or more text."
            )
        self.maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.num_windows

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        if not 0 <= item < self.num_windows:
            raise IndexError(f"window {item} of {self.num_windows}")
        begin = item * self.sequence_length
        end = begin + self.sequence_length + 1
        first, last = np.searchsorted(self.starts, [begin, end - 1], side="right") - 1
        parts = [
            self._shard(shard)[max(0, begin - self.starts[shard]) : end - self.starts[shard]]
            for shard in range(first, last + 1)
        ]
        ids = torch.from_numpy(np.concatenate(parts).astype(np.int64))  # (T + 1,)
        return {"input_ids": ids, "labels": ids}

    def _shard(self, number: int) -> np.ndarray:
        if number not in self.maps:
            if not self.starts[number + 1] - self.starts[number]:
                return np.zeros(0, self.types[number])  # an empty file cannot be mapped
            self.maps[number] = np.memmap(self.paths[number], dtype=self.types[number], mode="r")
        return self.maps[number]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"maps": {}}  # or a worker would be sent the tokens themselves


class WindowSampler(Sampler[int]):
    """The order in which a run reads windows: all of them by a permutation, then again by another, as long as it lasts.

    Args:
        num_samples: how many the whole run reads, those before an interruption included.
        position: how many of them to leave out; the Trainer skips by itself and needs none.
    """

    def __init__(self, num_windows: int, num_samples: int, seed: int, position: int = 0):
        self.num_windows, self.num_samples, self.seed, self.position = num_windows, num_samples, seed, position

    def __len__(self) -> int:
        return self.num_samples - self.position

    def __iter__(self) -> Iterator[int]:
        place = self.position
        while place < self.num_samples:
            number, skipped = divmod(place, self.num_windows)
            order = np.random.default_rng([self.seed, number]).permutation(self.num_windows)
            order = order[skipped : skipped + self.num_samples - place]
            for start in range(0, len(order), 1 << 16):  # a list of them all would take 40 bytes a window
                yield from order[start : start + (1 << 16)].tolist()
            place += len(order)


class DataPosition(TrainerCallback, ExportableState):
    """Keeps in every checkpoint (`trainer_state.json`) how many windows were read and of what, and checks it on resume.

    Raises:
        StageError: training goes on from a checkpoint whose place would not be the same here.
    """

    def __init__(self, num_windows: int, windows_per_step: int, seed: int):
        self.order = {"num_windows": num_windows, "windows_per_step": windows_per_step, "seed": seed}
        self.position = 0

    def state(self) -> dict:
        return {"args": self.order, "attributes": {"position": self.position}}

    def on_train_begin(self, args, state, control, **kwargs):
        saved = (state.stateful_callbacks or {}).get("DataPosition") if state.global_step else None
        if saved and saved["args"] != self.order:
            changed = [
                f"{key} ({saved['args'].get(key)}, not {value})"
                for key, value in self.order.items()
                if saved["args"].get(key) != value
            ]
            raise StageError(
                f"the checkpoint at step {state.global_step} was made with other {', '.join(changed)}, so its place in "
                "the data is another here. Keep them the same: on other processes change "
                "gradient_accumulation_steps or per_device_train_batch_size; or begin anew with --overwrite."
            )
        self.position = state.global_step * self.order["windows_per_step"]

    def on_step_end(self, args, state, control, **kwargs):
        self.position = state.global_step * self.order["windows_per_step"]


def document_positions(ids: torch.Tensor, end_of_text: int) -> torch.Tensor:
    """The place of each token in its document, from 0; the last dimension of `ids` is the row of tokens.

    As `position_ids` it keeps attention inside a document where the implementation packs (flash attention, varlen).
    A document that began before the row counts from the row's start.
    """
    places = torch.arange(ids.shape[-1], device=ids.device).expand_as(ids)
    begins = torch.zeros_like(ids)
    begins[..., 1:] = torch.where(ids[..., :-1] == end_of_text, places[..., 1:], 0)
    return places - begins.cummax(dim=-1).values


def bytes_per_token(tokenizer) -> torch.Tensor:
    """The UTF-8 bytes each token id stands for, shape (V,); special tokens stand for none."""
    from crawl2chat.bpe import token_bytes

    sizes = torch.tensor([len(token) for token in token_bytes(tokenizer)])
    sizes[list(tokenizer.all_special_ids)] = 0
    return sizes


if __name__ == "__main__":
    try:
        for split in sorted({path.parent for path in Path(sys.argv[1]).rglob("*.ds")}):
            check_sums(split)
            found = read_shards(split).values()
            counts = {key: sum(shard[key] for shard in found) for key in ("num_documents", "num_bytes", "num_tokens")}
            sys.stdout.write(f"{split}: {len(found)} shards, {json.dumps(counts)}, checksums right\n")
    except (StageError, IndexError) as error:
        sys.exit(
            f"tokens: error: {error if isinstance(error, StageError) else 'name a folder of 6_tokenize_corpus.py'}"
        )
