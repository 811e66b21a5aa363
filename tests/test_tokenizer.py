"""The tokenizer: any text survives, digits stand alone, the template marks what is trained."""

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from crawl2chat.chat import END_OF_TURN, SPECIAL_TOKENS, THINK_TOKENS, load_tokenizer, split_thinking

_TOKENIZERS = {}


def tokenizer_of(folder: Path):
    return _TOKENIZERS.setdefault(folder, load_tokenizer(folder / "5_tokenizer", for_chat=True))


def test_round_trip_of_any_text(path_folder):
    tokenizer = tokenizer_of(path_folder)

    @settings(max_examples=200, deadline=None)
    @given(st.text())
    def round_trip(text):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text

    round_trip()


def test_every_digit_is_a_token(path_folder):
    tokenizer = tokenizer_of(path_folder)
    assert tokenizer.tokenize("1847+25") == ["1", "8", "4", "7", "+", "2", "5"]


def test_special_tokens_and_thinking(path_folder):
    tokenizer = tokenizer_of(path_folder)
    assert tokenizer.eos_token == END_OF_TURN and tokenizer.pad_token != tokenizer.eos_token
    for token in SPECIAL_TOKENS + THINK_TOKENS:
        assert len(tokenizer(token, add_special_tokens=False)["input_ids"]) == 1
    ids = tokenizer("<think>1+2=3</think>3<|im_end|>", add_special_tokens=False)["input_ids"]
    # A reward function sees the text without special tokens: the thinking must still be told apart.
    assert split_thinking(tokenizer.decode(ids, skip_special_tokens=True)) == ("1+2=3", "3")


def test_vocabulary_is_as_large_as_asked_and_reported(path_folder):
    assert len(tokenizer_of(path_folder)) == 400
    found = json.loads((path_folder / "5_tokenizer" / "metrics.json").read_text())
    assert found["vocab_size"] == 400 and 1.0 < found["bytes_per_token"] < 6.0


def test_earlier_thinking_is_dropped_from_the_prompt(path_folder):
    messages = [
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "content": "3", "reasoning_content": "1+2=3"},
        {"role": "user", "content": "And 2 + 2?"},
    ]
    text = tokenizer_of(path_folder).apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert "<think>" not in text and text.endswith("<|im_start|>assistant\n")


def test_split_thinking():
    assert split_thinking("Hello.") == ("", "Hello.")
    assert split_thinking("<think>a\nb</think>\nc") == ("a\nb", "c")
    assert split_thinking("<think>a, b") == ("a, b", "")
