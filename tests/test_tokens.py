"""Token shards: what is written, what is read, in which order, and from where after an interruption.

pytest tests/test_tokens.py
"""

import itertools
import json
import pickle
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, skip_first_batches
from conftest import PRETRAIN, kill_when, metrics, pretrain_arguments, run
from pyarrow import Table
from torch.utils.data import BatchSampler, DataLoader
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainerState, TrainingArguments

from crawl2chat.bpe import Encoder
from crawl2chat.chat import END_OF_TEXT, load_tokenizer
from crawl2chat.stage import StageError, read_run
from crawl2chat.tokens import (
    DataPosition,
    TokenWindows,
    WindowSampler,
    check_sums,
    document_positions,
    num_tokens,
    read_shards,
    token_type,
)

TOKENIZE = "data_processing/6_tokenize_corpus.py"
TEXTS = [[f"File {file}, document {i}: {'so ' * (i % 7)}it goes." for i in range(40)] for file in range(3)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for split in ("train", "validation"):
        (folder / split).mkdir()
        for number, texts in enumerate(TEXTS):
            table = Table.from_pydict({"text": [*texts, "", f"<|endoftext|> in file {number}"]})
            pq.write_table(table, folder / split / f"{number}.parquet")
    return folder


def arguments(corpus: Path, path_folder: Path, out: Path) -> list:
    return ["--corpus", corpus, "--tokenizer", path_folder / "5_tokenizer", "--output_dir", out]


@pytest.fixture(scope="module")
def tokens(corpus, path_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tokens") / "6_tokens"
    run(TOKENIZE, *arguments(corpus, path_folder, out), "--num_workers", 1)
    return out


@pytest.fixture(scope="module")
def tokenizer(tokens):
    return load_tokenizer(tokens)


def documents(shard: Path, tokenizer) -> list[str]:
    ids, ends = np.fromfile(shard, "<u2"), np.fromfile(f"{shard}.index", "<u8")
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    assert (np.flatnonzero(ids == end) + 1 == ends).all(), (
        "the token that ends documents stands there and nowhere else"
    )
    return [tokenizer.decode(ids[a : b - 1]) for a, b in zip([0, *ends], ends)]


def test_every_document_is_there_shuffled_within_its_file(tokens, tokenizer):
    for number, texts in enumerate(TEXTS):
        expected = [*texts, f"<|endoftext|> in file {number}"]
        assert documents(tokens / "validation" / f"{number:05d}.ds", tokenizer) == expected
        found = documents(tokens / "train" / f"{number:05d}.ds", tokenizer)
        assert sorted(found) == sorted(expected) and found != expected
    note = read_shards(tokens / "train")[tokens / "train" / "00000.ds"]
    assert note["num_bytes"] == sum(len(text) for text in TEXTS[0]) + len("<|endoftext|> in file 0")
    assert (note["num_documents"], note["dtype"], note["vocab_size"]) == (41, "<u2", len(tokenizer))
    assert metrics(tokens)["train_tokens"] == num_tokens(tokens / "train")
    check_sums(tokens / "train")


def test_datatrove_reads_the_shards(tokens):
    from datatrove.utils.dataset import DatatroveFileDataset

    dataset = DatatroveFileDataset(str(tokens / "train" / "00000.ds"), seq_len=16, token_size=2)
    assert dataset[1]["input_ids"].tolist() == np.fromfile(tokens / "train" / "00000.ds", "<u2")[17:34].tolist()


@pytest.mark.parametrize("appears", ["train/00000.ds", "logs/train/completions/00001"])
def test_number_of_workers_and_a_kill_change_nothing(appears, corpus, path_folder, tokens, tmp_path):
    given = [*arguments(corpus, path_folder, tmp_path / "out"), "--num_workers", 2]
    kill_when(appears, TOKENIZE, given, tmp_path / "out")
    run(TOKENIZE, *given)
    assert read_run(tmp_path / "out")["fingerprint"] == read_run(tokens)["fingerprint"]
    assert metrics(tmp_path / "out") == metrics(tokens)


def test_a_large_vocabulary_takes_four_bytes():
    assert token_type(65_536) == np.dtype("<u2") and token_type(65_537) == np.dtype("<u4")


@pytest.mark.parametrize("length", [8, 64, 700])
def test_windows_of_any_length_go_on_over_shards(length, tokens, tokenizer):
    windows = TokenWindows(tokens / "train", length, tokenizer)
    everything = np.concatenate([np.fromfile(path, "<u2") for path in sorted((tokens / "train").glob("*.ds"))])
    assert len(windows) == (len(everything) - 1) // length
    for i in range(len(windows)):
        assert windows[i]["input_ids"].tolist() == everything[i * length : (i + 1) * length + 1].tolist()
    with pytest.raises(IndexError):
        windows[len(windows)]


def test_windows_travel_to_workers_without_the_tokens(tokens, tokenizer):
    windows = TokenWindows(tokens / "train", 64, tokenizer)
    first = windows[0]["input_ids"]
    sent = pickle.dumps(windows)
    assert len(sent) < 2000 and torch.equal(pickle.loads(sent)[0]["input_ids"], first)  # noqa: S301


def test_positions_start_again_after_each_document(tokens, tokenizer):
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    assert document_positions(torch.tensor([[5, 6, end, 7, end, end, 8]]), end).tolist() == [[0, 1, 2, 0, 1, 0, 0]]
    ids = torch.from_numpy(np.fromfile(tokens / "train" / "00000.ds", "<u2").astype(np.int64))
    starts = [0, *np.fromfile(tokens / "train" / "00000.ds.index", "<u8")[:-1].tolist()]
    assert (document_positions(ids, end) == 0).nonzero().flatten().tolist() == starts


# --- bad input


def copy_of(tokens: Path, tmp_path: Path) -> Path:
    shutil.copytree(tokens, tmp_path / "tokens")
    (tmp_path / "tokens" / "run.yaml").unlink()
    return tmp_path / "tokens"


def refusal(capsys, tokens, path_folder, *flags) -> str:
    with pytest.raises(SystemExit):
        run(PRETRAIN, *pretrain_arguments(path_folder), "--tokens", tokens, "--output_dir", tokens / "base", *flags)
    error = capsys.readouterr().err
    assert "Traceback" not in error and error.count("error:") == 1
    return error


def test_shards_of_another_tokenizer(tokens, path_folder, corpus, tmp_path, capsys):
    changed = copy_of(tokens, tmp_path)
    other = ["--corpus", path_folder / "4_corpus", "--output_dir", tmp_path / "other", "--vocab_size", 390]
    run("data_processing/5_train_tokenizer.py", *other)
    shutil.copy(tmp_path / "other" / "tokenizer.json", changed)
    assert "was made with another tokenizer" in refusal(capsys, changed, path_folder)


def test_truncated_and_unfinished_shards(tokens, path_folder, tmp_path, capsys):
    changed = copy_of(tokens, tmp_path)
    shard = changed / "train" / "00001.ds"
    shard.write_bytes(shard.read_bytes()[:-10])
    assert "bytes and should be" in refusal(capsys, changed, path_folder)
    shard.with_name("00001.ds.json").unlink()
    assert "is unfinished (no 00001.ds.json)" in refusal(capsys, changed, path_folder)


def test_sequence_longer_than_all_shards(tokens, path_folder, tmp_path, capsys):
    said = refusal(capsys, copy_of(tokens, tmp_path), path_folder, "--sequence_length", 5000, "--total_tokens", 10**6)
    assert "too few for a sequence_length of 5000" in said


def test_ids_without_an_embedding(tokens, tokenizer):
    TokenWindows(tokens / "train", 8, tokenizer, num_embeddings=len(tokenizer))
    with pytest.raises(StageError, match=f"ids up to {len(tokenizer) - 1}, but the model's embedding only 64 rows"):
        TokenWindows(tokens / "train", 8, tokenizer, num_embeddings=64)


def test_no_shards_and_a_damaged_one(tokens, tmp_path):
    with pytest.raises(StageError, match=r"holds no \*\.ds"):
        read_shards(tmp_path)
    shard = copy_of(tokens, tmp_path) / "train" / "00000.ds"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StageError, match=r"00000\.ds is damaged"):
        check_sums(shard.parent)


def test_a_corpus_file_that_is_no_parquet(corpus, path_folder, tmp_path, capsys):
    broken = tmp_path / "corpus"
    shutil.copytree(corpus, broken)
    (broken / "train" / "1.parquet").write_bytes(b"no parquet")
    given = [*arguments(broken, path_folder, tmp_path / "out"), "--num_workers", 2]
    with pytest.raises(SystemExit):
        run(TOKENIZE, *given)
    assert "1 of 3 tasks failed: 1.parquet" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out" / "train").glob("*.json")) == [
        "00000.ds.json",
        "00002.ds.json",
    ]


# --- the order of windows


def test_each_pass_reads_every_window_once_in_an_order_of_its_own():
    order = list(WindowSampler(100, 250, seed=3))
    assert len(order) == 250
    first, second, rest = order[:100], order[100:200], order[200:]
    assert sorted(first) == sorted(second) == list(range(100)) and first != second and len(set(rest)) == 50
    assert order == list(WindowSampler(100, 250, seed=3)) != list(WindowSampler(100, 250, seed=4))
    for position in (0, 1, 99, 100, 101, 249, 250):
        assert list(WindowSampler(100, 250, seed=3, position=position)) == order[position:]


@pytest.mark.parametrize("num_processes, accumulation", [(1, 4), (2, 2), (4, 1)])
def test_processes_share_the_windows_of_a_step(num_processes, accumulation):
    """As accelerate deals batches out: the same windows a step, on any number of processes."""
    order, per_step = list(WindowSampler(37, 12 * 10, seed=0)), 3 * 4
    shards = [
        list(BatchSamplerShard(BatchSampler(WindowSampler(37, 12 * 10, seed=0), 3, False), num_processes, rank))
        for rank in range(num_processes)
    ]
    for step in range(10):
        batches = [batch for shard in shards for batch in shard[step * accumulation : (step + 1) * accumulation]]
        assert sorted(itertools.chain.from_iterable(batches)) == sorted(order[step * per_step : (step + 1) * per_step])


def test_skipping_reads_no_tokens_and_is_quick():
    class Never:
        def __len__(self):
            return 10**6

        def __getitem__(self, item):
            read.append(item)
            return item

    read: list[int] = []
    loader = DataLoader(Never(), batch_size=8, sampler=WindowSampler(10**6, 10**6, seed=0))
    started = time.process_time()
    batch = next(iter(skip_first_batches(loader, 100_000)))
    assert time.process_time() - started < 5
    assert batch.tolist() == read[:8] == list(WindowSampler(10**6, 800_008, seed=0, position=800_000))


class Line(PreTrainedModel):
    """One weight; notes which windows it is trained on."""

    config_class = PretrainedConfig

    def __init__(self, config):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[int] = []
        self.post_init()

    def forward(self, window, labels=None):
        self.seen += window.tolist()
        return {"loss": ((self.weight - window.float()) ** 2).mean() / 1e4}


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 37

    def __getitem__(self, item):
        return {"window": torch.tensor(item), "labels": torch.tensor(item)}


def trained(out: Path, resume: bool = False, batch: int = 2, accumulation: int = 2, seed: int = 0, stop: int = 0):
    """The windows that a Trainer reads in 20 steps of four, stopped after step `stop`, or resumed."""

    class InOrder(Trainer):
        def _get_train_sampler(self, train_dataset=None):
            return WindowSampler(37, 80, seed)

        def training_step(self, *args, **kwargs):
            if stop and self.state.global_step == stop:
                raise KeyboardInterrupt
            return super().training_step(*args, **kwargs)

    options = TrainingArguments(
        output_dir=str(out), max_steps=20, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
        save_steps=7, use_cpu=True, report_to="none", disable_tqdm=True, learning_rate=0.1,
    )  # fmt: skip
    model = Line(PretrainedConfig())
    callbacks = [DataPosition(37, batch * accumulation, seed)]
    trainer = InOrder(model=model, args=options, train_dataset=Numbers(), callbacks=callbacks)
    try:
        trainer.train(resume_from_checkpoint=str(out / "checkpoint-7") if resume else None)
    except KeyboardInterrupt:
        pass
    return model.seen, model.weight.item()


def test_a_resumed_run_reads_the_same_windows_in_the_same_order(tmp_path):
    seen, weight = trained(tmp_path / "whole")
    assert seen == list(WindowSampler(37, 80, 0))
    trained(tmp_path / "killed", stop=10)
    state = TrainerState.load_from_json(tmp_path / "killed" / "checkpoint-7" / "trainer_state.json")
    saved = {"args": {"num_windows": 37, "windows_per_step": 4, "seed": 0}, "attributes": {"position": 28}}
    assert state.stateful_callbacks["DataPosition"] == saved
    assert trained(tmp_path / "killed", resume=True) == (seen[28:], weight)
    # another split of the same step into batches is the same place
    assert trained(tmp_path / "killed", resume=True, batch=4, accumulation=1)[0] == seen[28:]


@pytest.mark.parametrize(
    "change, said", [({"batch": 4}, "windows_per_step (4, not 8)"), ({"seed": 1}, "seed (0, not 1)")]
)
def test_a_checkpoint_of_another_order_is_refused(change, said, tmp_path):
    trained(tmp_path, stop=8)
    with pytest.raises(StageError) as refused:
        trained(tmp_path, resume=True, **change)
    assert said in str(refused.value) and "checkpoint at step 7" in str(refused.value)


def test_encoder_of_the_path_is_fast(tokenizer):
    assert Encoder(tokenizer).is_fast and sys.byteorder == "little"
    assert json.loads(tokenizer.backend_tokenizer.to_str())["normalizer"] is None
