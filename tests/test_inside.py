"""A look inside a model: tokens as bytes, probabilities by hand, the tree of what may follow.

pytest tests/test_inside.py
"""

import math

import pytest
import torch
from transformers import Qwen3ForCausalLM

from crawl2chat.inside import Vocabulary, _sentencepiece_bytes, branches, candidates, expectation


@pytest.fixture(scope="module")
def model(chat_folder):
    return Qwen3ForCausalLM.from_pretrained(chat_folder).eval()


def test_a_text_is_its_tokens(byte_tokenizer):
    vocabulary = Vocabulary(byte_tokenizer)
    tokens = [vocabulary[id] for id in vocabulary.ids("é<think>")]
    assert [token.text for token in tokens] == ["\\xc3", "\\xa9", "<think>"]
    assert b"".join(token.bytes for token in tokens) == "é<think>".encode()
    assert vocabulary[10**6].bytes == b""


def test_what_is_no_text_is_shown_all_the_same(byte_tokenizer):
    vocabulary = Vocabulary(byte_tokenizer)
    assert b"".join(vocabulary[id].bytes for id in vocabulary.ids("a\x00\ud800")) == b"a\x00?"
    assert vocabulary.ids("") == []


def test_tokens_of_sentencepiece():
    class Other:
        def __len__(self):
            return 4

        def convert_ids_to_tokens(self, ids):
            return [["▁the", "<0xF0>", "<s>", None][id] for id in ids]

    assert _sentencepiece_bytes(Other()) == [b" the", b"\xf0", b"<s>", b""]


def test_what_a_model_expects(model):
    ids = [65, 66, 67, 68]
    seen = expectation(model, ids)
    with torch.no_grad():
        odds = model(torch.tensor([ids])).logits[0].softmax(-1)
    assert seen.probabilities.tolist() == pytest.approx(
        [1.0, *(float(odds[i, ids[i + 1]]) for i in range(3))], rel=1e-4
    )
    by_hand = [-sum(p * math.log2(p) for p in row.tolist() if p) for row in odds]
    assert seen.entropies.tolist() == pytest.approx(by_hand, rel=1e-4)
    assert torch.allclose(seen.logits.softmax(-1), odds[-1], atol=1e-6)
    assert expectation(model, [65]).probabilities.tolist() == [1.0]


def test_temperature_and_top_p_act_on_what_is_drawn_alone():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert candidates(logits, 1.0, 0.8, 3) == [
        (0, pytest.approx(0.5), pytest.approx(0.625)),
        (1, pytest.approx(0.3), pytest.approx(0.375)),
        (2, pytest.approx(0.15), 0.0),
    ]
    assert [drawn for _, _, drawn in candidates(logits, 0.0, 1.0, 9)] == [1, 0, 0, 0]


def test_the_tree_is_what_one_path_at_a_time_gives(model):
    ids = [65, 66]
    found = branches(model, ids, width=2, depth=3)
    assert len(found) == len(found[0].then) == len(found[1].then[1].then) == 2
    assert not found[0].then[0].then[0].then
    for first in found:
        for second in first.then:
            with torch.no_grad():
                odds = model(torch.tensor([[*ids, first.id, second.id]])).logits[0].softmax(-1)
            assert first.probability == pytest.approx(float(odds[1, first.id]), rel=1e-3)
            assert second.probability == pytest.approx(float(odds[2, second.id]), rel=1e-3)
            best = odds[3].topk(2)
            assert [leaf.id for leaf in second.then] == best.indices.tolist()
