"""The byte-level BPE: what cannot be trained, what it cuts, and that tiktoken and `tokenizers` give the same ids.

pytest tests/test_bpe.py
"""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import ROOT, run
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import Table
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from crawl2chat.bpe import MIN_VOCAB_SIZE, SPLIT, Encoder, fingerprint_of, token_bytes, train_bpe
from crawl2chat.chat import ADDED_TOKENS, SPECIAL_TOKENS, chat_template, load_tokenizer
from crawl2chat.stage import StageError
from crawl2chat.tokenizer_report import write_report
from crawl2chat.tools import CALCULATOR

TRAIN = "data_processing/5_train_tokenizer.py"
DATA = Path(os.environ.get("CRAWL2CHAT_DATA", ROOT.parent / "shared" / "data"))
TEXT = ["The harbour's 12 boats, it's said, don't sail.\n\n  Ein Bäcker aß 34 Brötchen; 日本語 हिन्दी ไทย\r\n"] * 3
TEXT += [f"number {i} is {i * i}\t\t(and  so   on...)" for i in range(300)]


def wrapped(core: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|padding|>", chat_template=chat_template()
    )


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return wrapped(train_bpe(TEXT, 340))


@pytest.fixture(scope="module")
def encoder(tokenizer) -> Encoder:
    encoder = Encoder(tokenizer)
    assert encoder.is_fast
    return encoder


def reference_ids(encoder: Encoder, text: str) -> list[int]:
    return encoder.reference.encode(text, add_special_tokens=False).ids


# Text that mixes what the pattern treats apart, and any text at all.
mixed = st.lists(
    st.one_of(
        st.sampled_from(["'ll", "'S", " ", "  ", "\n", "\r\n", "\t", "12", "a", "é", "e\u0301", "ไ", "<think>", "!?"]),
        st.sampled_from([*SPECIAL_TOKENS, "\u00a0", "\u2028", "\x85", "\u200d", "number", " harbour"]),
        st.text(max_size=5),
    ),
    max_size=40,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(st.text(), mixed))
def test_same_ids_and_the_same_bytes_again(text, encoder, tokenizer):
    ids = encoder.encode(text).tolist()
    assert ids == reference_ids(encoder, text)
    pieces = token_bytes(tokenizer)
    assert b"".join(pieces[i] for i in ids) == text.encode()
    assert tokenizer.decode(ids) == text


@settings(max_examples=300, deadline=None)
@given(data=st.binary())
def test_any_bytes_can_be_written_in_tokens(data, encoder, tokenizer):
    pieces = token_bytes(tokenizer)
    assert b"".join(pieces[i] for i in encoder.fast._encode_bytes(data)) == data


def test_same_ids_on_every_code_point(encoder):
    """All of the planes that hold characters, and some of those that hold none yet."""
    points = [*range(0xD800), *range(0xE000, 0x34000), *range(0x34000, 0xE0000, 97), *range(0xE0000, 0xE1000)]
    for start in range(0, len(points), 256):
        encoder.check(["".join(f"a{chr(c)}{chr(c)} {chr(c)}1 \n{chr(c)}." for c in points[start : start + 256])])


@pytest.mark.parametrize("text", ["a" * 10**6, " " * 10**6 + "x", "\n" * 10**6, "\t " * 500_000, "!" * 10**6])
def test_same_ids_on_a_million_of_the_same(text, encoder):
    assert encoder.encode(text).tolist() == reference_ids(encoder, text)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["text/train.parquet", "text/validation.parquet", "gsm8k/train.jsonl"])
def test_same_ids_on_all_the_real_text(name):
    file = DATA / name
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    if file.suffix == ".parquet":
        texts = pq.read_table(file, columns=["text"])["text"].to_pylist()
    else:
        texts = [line["question"] + line["answer"] for line in map(json.loads, file.read_text().splitlines())]
    encoder = Encoder(wrapped(train_bpe(texts[:400], 4096)))
    assert encoder.is_fast and sum(map(len, texts)) > 1e6
    encoder.check(texts)


def test_the_pattern_cuts_where_it_says():
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")

    def cut(text):
        return [piece for piece, _ in split.pre_tokenize_str(text)]

    assert cut("x = 1847+25") == ["x", " =", " ", "1", "8", "4", "7", "+", "2", "5"]
    assert cut("don't 'stop' it's") == ["don", "'t", " '", "stop", "'", " it", "'s"]
    assert cut("हिन्दी ไทยที่ cafe\u0301") == ["हिन्दी", " ไทยที่", " cafe\u0301"]
    assert cut("a\n\n    return x;\n") == ["a", "\n\n", "   ", " return", " x", ";\n"]


def test_control_tokens_in_a_document_are_plain_text(encoder, tokenizer):
    text = "He wrote <|endoftext|> and <think>, <|im_end|> and <tool_call>."
    control = set(tokenizer.convert_tokens_to_ids([*SPECIAL_TOKENS, *ADDED_TOKENS]))
    assert not control & set(encoder.encode(text).tolist()) and tokenizer.decode(encoder.encode(text)) == text
    assert len(control) == 10 and control & set(tokenizer(text)["input_ids"])


def test_tool_tokens_are_ordinary_and_the_vocabulary_is_as_asked(tokenizer):
    assert len(tokenizer) == 340
    ids = tokenizer("<tool_call>2+2</tool_call><|im_end|>")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<tool_call>2+2</tool_call>"


def test_what_cannot_be_trained():
    with pytest.raises(StageError, match="`vocab_size` 265 has no room for the 256 bytes and the 10"):
        train_bpe(TEXT, MIN_VOCAB_SIZE - 1)
    with pytest.raises(StageError, match="every text of it is empty"):
        train_bpe(["", ""], 400)
    with pytest.raises(StageError, match=r"5000 cannot be reached: the 17 bytes .* or --vocab_size 27\d"):
        train_bpe(["so little, little"], 5000)
    assert len(wrapped(train_bpe(TEXT, MIN_VOCAB_SIZE))) == MIN_VOCAB_SIZE


def corpus(folder: Path, texts: list[str]) -> Path:
    for split in ("train", "validation"):
        (folder / split).mkdir(parents=True)
        table = Table.from_pydict(
            {"text": texts, "language": ["en", "de"] * (len(texts) // 2) + ["en"] * (len(texts) % 2)}
        )
        pq.write_table(table, folder / split / "0.parquet")
    return folder


@pytest.mark.parametrize(
    "texts, flags, complaint",
    [
        (TEXT, ["--vocab_size", 200], "no room for the 256 bytes"),
        (["", ""], [], "every text of it is empty"),
        (["a b", "c d"], [], "cannot be reached"),
        (TEXT, ["--vocab_size", 340, "--compare", "nowhere/at_all"], "nowhere/at_all holds no tokenizer"),
    ],
)
def test_stage_says_what_is_wrong(texts, flags, complaint, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(TRAIN, "--corpus", corpus(tmp_path / "corpus", texts), "--output_dir", tmp_path / "out", *flags)
    error = capsys.readouterr().err
    assert complaint in error and "Traceback" not in error


def test_fingerprint_is_of_the_ids_only(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "one")
    again = load_tokenizer(tmp_path / "one")
    again.model_max_length, again.chat_template = 7, "other"
    again(["a", "b c"], padding=True, truncation=True, max_length=4)  # changes the state of the backend
    assert fingerprint_of(again) == fingerprint_of(tokenizer)
    again.add_tokens(["<new>"])
    assert fingerprint_of(again) != fingerprint_of(tokenizer) != fingerprint_of(wrapped(train_bpe(TEXT, 341)))


def gpt2_like() -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=["<|endoftext|>"],
    )  # fmt: skip
    core.train_from_iterator(TEXT, trainer)
    return core


def test_other_tokenizers_are_encoded_right(tokenizer):
    other = Encoder(PreTrainedTokenizerFast(tokenizer_object=gpt2_like()))
    assert other.is_fast  # GPT-2's split
    other.check(TEXT)
    core = gpt2_like()
    core.normalizer = normalizers.NFC()
    slow = Encoder(PreTrainedTokenizerFast(tokenizer_object=core))
    assert not slow.is_fast and slow.encode("e\u0301").tolist() == core.encode("é").ids


def test_merges_of_no_training_are_refused(tokenizer):
    """`abc` is made of `ab` and `c` only; tiktoken would make it of `a` and `bc`, too."""
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary = letters | {"bc": 256, "ab": 257, "abc": 258}
    core = Tokenizer(models.BPE(vocabulary, [("b", "c"), ("a", "b"), ("ab", "c")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoder = Encoder(PreTrainedTokenizerFast(tokenizer_object=core))
    with pytest.raises(StageError, match="tiktoken gives other ids"):
        encoder.check(["ab", "abc"])


def test_report_and_page(tokenizer, tmp_path):
    mine, other = tmp_path / "mine", tmp_path / "other"
    tokenizer.save_pretrained(mine)
    PreTrainedTokenizerFast(tokenizer_object=gpt2_like()).save_pretrained(other)
    files = [corpus(tmp_path / "corpus", [*TEXT, "</span><script>alert(1)</script>"]) / "train" / "0.parquet"]
    report = write_report(mine, files, [str(other)])
    assert json.loads((mine / "report.json").read_text()) == report
    texts = [row["text"] for row in pq.read_table(files[0]).to_pylist()]
    ids = [i for text in texts for i in Encoder(tokenizer).encode(text)]
    num_bytes = sum(len(text.encode()) for text in texts)
    assert (report["num_tokens"], report["num_bytes"]) == (len(ids), num_bytes)
    assert report["bytes_per_token"] == round(num_bytes / len(ids), 3)
    groups = {(group["by"], group["name"]): group for group in report["groups"]}
    assert set(groups) == {("all", ""), ("language", "en"), ("language", "de")}
    assert groups["language", "de"]["num_bytes"] == sum(len(text.encode()) for text in texts[1::2])
    theirs = sum(len(gpt2_like().encode(text).ids) for text in texts)
    assert groups["all", ""]["bytes_per_token"][str(other)] == round(num_bytes / theirs, 3)
    assert report["entries_with_several_digits"] == 0 and report["coverage"]["bytes_covered"] == 256
    assert report["digits"]["1847+25"] == ["1", "8", "4", "7", "+", "2", "5"]
    assert "".join(report["spelling"][" strawberry"]) == " strawberry"
    sizes = [entry["num_bytes"] for entry in report["longest"]]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == max(map(int, report["lengths"]))
    assert {entry["token"]: entry["special"] for entry in report["control_tokens"]} == {
        **dict.fromkeys(SPECIAL_TOKENS, True), **dict.fromkeys(ADDED_TOKENS, False),
    }  # fmt: skip
    page = (mine / "tokenizer.html").read_text()
    assert "<script" not in page and "http:" not in page and "https:" not in page and ">other<br>300<" in page
    first = page
    write_report(mine, files, [str(other)])
    assert (mine / "tokenizer.html").read_text() == first


def test_report_without_text(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "mine")
    pq.write_table(Table.from_pydict({"text": [""]}), tmp_path / "empty.parquet")
    with pytest.raises(StageError, match="holds no text"):
        write_report(tmp_path / "mine", [tmp_path / "empty.parquet"])


def test_template_writes_tools(tokenizer):
    assert "{% generation %}" in tokenizer.chat_template or "{%- generation %}" in tokenizer.chat_template
    call = {"type": "function", "function": {"name": "calculator", "arguments": {"sum": "17*23"}}}
    messages = [
        {"role": "user", "content": "What is 17 * 23?"},
        {"role": "assistant", "content": "", "reasoning_content": "ask", "tool_calls": [call]},
        {"role": "tool", "content": "391"},
        {"role": "assistant", "content": "It is 391."},
    ]
    tools = [CALCULATOR, {"type": "function", "function": {"name": "now", "parameters": {}}}]
    text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    listed = "Tools:\ncalculator(expression: string): works out a sum\nnow()"
    assert text.startswith(f"<|im_start|>system\n{listed}<|im_end|>\n<|im_start|>user\n")
    messages[1]["tool_calls"] = [{"name": "calculator", "arguments": '{"sum": "17*23"}'}]  # as OpenAI writes them
    assert tokenizer.apply_chat_template(messages, tools=tools, tokenize=False) == text
    assert (
        '<|im_start|>assistant\n<think>ask</think><tool_call>{"name": "calculator", "arguments": {"sum": "17*23"}}'
        "</tool_call><|im_end|>\n<|im_start|>tool\n<tool_response>391</tool_response><|im_end|>\n" in text
    )
    encoded = tokenizer.apply_chat_template(messages, tools=tools, return_dict=True, return_assistant_tokens_mask=True)
    trained = [i for i, mask in zip(encoded["input_ids"], encoded["assistant_masks"]) if mask]
    assert tokenizer.decode(trained) == (
        '<think>ask</think><tool_call>{"name": "calculator", "arguments": {"sum": "17*23"}}</tool_call><|im_end|>'
        "It is 391.<|im_end|>"
    )
