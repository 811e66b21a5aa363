"""The rules of Gopher, C4 and FineWeb: each reason, and the decisions of datatrove's filters on every text.

pytest tests/test_quality.py
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.utils.text import split_into_sentences, split_into_words
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_warc import paragraphs, prose

from crawl2chat import quality, words

DATA = Path(os.environ.get("CRAWL2CHAT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
GOOD = "\n".join(paragraphs(prose(5)))
THEIRS = {
    "repetition": GopherRepetitionFilter(),
    "gopher": GopherQualityFilter(),
    "c4": C4QualityFilter(filter_no_terminal_punct=False),
    "fineweb": FineWebQualityFilter(),
}


@pytest.mark.parametrize(
    "rule, text, reason",
    [
        (quality.repetition, GOOD, None),
        (quality.repetition, "", "empty"),
        (quality.repetition, "\n\n".join([GOOD.split("\n")[0]] * 4), "dup_para_frac"),
        (quality.repetition, "\n".join(["a line"] * 9), "dup_line_frac"),
        (quality.repetition, "Buy lamps now " * 60, "top_2_gram"),
        (quality.repetition, GOOD + "\n" + GOOD.replace("\n", " "), "duplicated_5_n_grams"),
        (quality.gopher_quality, GOOD, None),
        (quality.gopher_quality, "Too short.", "short_doc"),
        (quality.gopher_quality, "a b " * 60, "below_avg_threshold"),
        (quality.gopher_quality, "Donaudampfschifffahrt " * 60, "above_avg_threshold"),
        (quality.gopher_quality, "lamp # " * 60, "too_many_hashes"),
        (quality.gopher_quality, "lamps are ... " * 60, "too_many_ellipsis"),
        (quality.gopher_quality, "- the lamp and the river\n" * 60, "too_many_bullets"),
        (
            quality.gopher_quality,
            "the lamp and the river and the hills are wide today ...\n" * 9,
            "too_many_end_ellipsis",
        ),
        (quality.gopher_quality, "lamp 1234 " * 60, "below_alpha_threshold"),
        (quality.gopher_quality, "lamp river " * 60, "enough_stop_words"),
        (quality.fineweb, GOOD, None),
        (quality.fineweb, " \n ", "empty"),
        (quality.fineweb, "a line without an end of some length here\n" * 9, "line_punct_ratio"),
        (quality.fineweb, "".join(f"Line {i}.\n" for i in range(9)), "short_line_ratio"),
        (quality.fineweb, GOOD + "\n" + GOOD.split("\n")[0], "char_dup_ratio"),
    ],
)
def test_quality_rules(rule, text, reason):
    assert rule(text) == reason


def test_other_languages_have_other_stop_words():
    german = "Der Hafen und die Lampe stehen am alten Ufer. " * 12
    assert quality.gopher_quality(german) == "enough_stop_words"
    assert quality.gopher_quality(german, stop_words=["und", "die"]) is None
    assert quality.gopher_quality(german, stop_words=["und", "ist"]) == "enough_stop_words", "two different ones"
    assert quality.gopher_quality(german, stop_words=[]) is None


def test_c4_drops_lines_and_pages():
    lines = GOOD.split("\n")
    text = "\n".join(
        [*lines, "Please enable javascript to go on.", "We are not to blame: see our privacy policy here.", "Ho."]
    )
    assert quality.c4_lines(text) == (None, GOOD)
    assert quality.c4_lines(GOOD + " And [12] more.")[1].endswith("And  more.")
    assert quality.c4(GOOD + "\nLorem ipsum dolor sit amet.") == "lorem_ipsum"
    assert quality.c4(GOOD + "\nfunction f() { return 1 }") == "curly_bracket"
    assert quality.c4("One sentence stands here. And one more is there.") == "too_few_sentences"


def mangled(rng: random.Random) -> str:
    """Prose made worse in the ways the rules look for, near their thresholds."""
    lines = paragraphs(prose(rng.randrange(10**6), rng.randrange(2, 30)))
    for _ in range(rng.randrange(4)):
        kind = rng.randrange(8)
        if kind == 0:
            lines += rng.choices(lines, k=rng.randrange(1, 4))
        elif kind == 1:
            lines = [line.rstrip(".") for line in lines]
        elif kind == 2:
            lines += [f"Item {rng.randrange(100)}" for _ in range(rng.randrange(1, 12))]
        elif kind == 3:
            lines = [line + " ..." if rng.random() < 0.4 else line for line in lines]
        elif kind == 4:
            lines.append(" ".join(str(rng.randrange(10**4)) for _ in range(rng.randrange(5, 80))))
        elif kind == 5:
            lines.append(
                "It's the baker's, isn't it? Dr. Brown doesn't think so, e.g. for $12.50 at 10:30. "
                * rng.randrange(1, 3)
            )
        elif kind == 6:
            lines.append(" ".join(rng.choice(lines).split()[:6] * rng.randrange(2, 9)))
        else:
            lines = ["- " + line for line in lines]
    rng.shuffle(lines)
    return "\n".join(lines)


def their_decision(rule, text: str) -> tuple[str, str]:
    """Reason and text as datatrove's block leaves it."""
    document = Document(text=text, id="x")
    result = rule.filter(document)
    return None if result is True else result[1].removeprefix("gopher_"), document.text


def assert_same_decisions(text: str) -> set[str]:
    """Of all rules on a text, and of FineWeb's on what C4 left of it; returns the reasons."""
    for_c4, rewritten = quality.c4_lines(text)
    decisions = {"c4": (for_c4, text if for_c4 else rewritten)}
    for name, rule in (("repetition", quality.repetition), ("gopher", quality.gopher_quality)):
        decisions[name] = rule(text), text
    assert decisions == {name: their_decision(THEIRS[name], text) for name in decisions}
    reasons = {reason for reason, _ in decisions.values()}
    for before in (text, rewritten):
        reason = quality.fineweb(before)
        assert (reason, before) == their_decision(THEIRS["fineweb"], before)
        reasons.add(reason)
    return reasons


def test_same_decisions_as_datatrove():
    rng = random.Random(0)
    reasons = set().union(*(assert_same_decisions(mangled(rng)) for _ in range(150)))
    assert len(reasons) > 12  # the texts put the rules to the test


NASTY = [
    *"the of and that to , . ; : ! ? - – — … ... .. .... ) ( [ ] { } \" ' ` ‘ ’ “ ” « » / \\ # * & % $ _ ~ • @ + =".split(),
    "<", ">", "|",
    *":) :-( ): =D 8) (: ;-) :1 :D <3 o.O >.< (*_*) ¯\\(ツ)/¯ Mr. U.S. e.g. a.m. 10a.m. Co. a. Ph.D. etc. and/or".split(),
    *"don't can't cannot It's it’s O'Hara dogs' n't ’Cause y’all Cant Ill. I'm they’ve 'em rock’n’roll".split(),
    *"12 1,000.50 12:30 5km 5km. 7% $5 US$5 €9 3°C. 1/2 2010-11-12 (2008): #tag @home C++ Covid-19 text:)".split(),
    "(D-Calif.)",
    *"http://a.test/b?c=d:e www.example.com a.b@c.org x.y.Z foo.Bar one,two well-known a--b über. Ж中文。".split(),
    "xIS_ALPHA", "😀", "👩‍👩‍👧", "e\u0301", "\u0301", "\u200b", "\ufeff", "a\x00b", "\x00", "™",
    "٪", "ـ", "q" * 70, "lorem ipsum", "javascript", "java[1]script", "[edit]", "[12]", "use cookies", "Privacy Policy",
    "Hello there.", "What is that?", "The end", "a" * 1001,
]  # fmt: skip
SPACES = (
    [" "] * 12
    + ["\n"] * 3
    + ["", "", "  ", "\n\n", "\t", "\u00a0", "\u2003", "\x1c", "\x85", "\u2028", "\r\n", " \n "]
)
# Hypothesis also draws strings that stand in our code, and spaCy's words of "IS_ALPHA" depend on what came before it.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda x: "IS_ALPHA" not in x)
PIECE = st.one_of(st.sampled_from(NASTY), st.sampled_from(NASTY), ANY_TEXT)
NASTY_TEXT = st.lists(st.tuples(PIECE, st.sampled_from(SPACES)), max_size=40).map(
    lambda x: "".join(a + b for a, b in x)
)


@settings(max_examples=400, deadline=None)
@given(NASTY_TEXT)
def test_words_and_sentences_are_spacys(text):
    assert list(words.words_of(text)) == split_into_words(text)
    for line in text.splitlines():
        assert words.num_sentences(line, 10**9) == len(split_into_sentences(line))
        assert words.num_sentences(line, 2) == min(2, len(split_into_sentences(line)))


def test_words_of_many_chunks_are_spacys():
    """Runs of the characters that spaCy's rules look at, and its special cases with something around them."""
    rng, special_cases = random.Random(0), sorted(words._splitter().special_cases)
    characters = "aZsSkm5.,'’\"()-–—:;/$%§+*^<>=@#&~_[]{}!?…“”‘´`»«€£US°FCKMBä²ÖжЯ中。！™①😀\u0301\u200b\x00\u0641"
    chunks = []
    for _ in range(4000):
        noise = "".join(rng.choices(characters, k=rng.randrange(9)))
        chunks += [noise, rng.choice(("", "(", '"')) + rng.choice(special_cases) + noise[:3], f"www.ab.c{noise}"]
    text = "\n".join(chunks)
    assert list(words.words_of(text)) == split_into_words(text)


@settings(max_examples=60, deadline=None)
@given(NASTY_TEXT, st.integers(0, 99), st.integers(1, 12), st.sampled_from(["", "\n", "\n\n"]))
def test_same_decisions_on_nasty_texts(text, seed, num_sentences, between):
    assert_same_decisions(between.join([prose(seed, num_sentences), text, text]))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["a", "ab", "b", "ba", "the", "of", "\n"]), max_size=150), st.integers(0, 200))
def test_same_repetition_where_n_grams_differ_only_in_their_words(few_words, num_others):
    text = " ".join([*few_words, *map(str, range(1000, 1000 + num_others))])
    assert quality.repetition(text) == their_decision(THEIRS["repetition"], text)[0]


@settings(max_examples=100, deadline=None)
@given(NASTY_TEXT, st.integers(1, 60), st.floats(0, 1), st.integers(0, 9))
def test_same_decisions_with_other_thresholds(text, min_words, min_alpha_words, min_sentences):
    text = f"{text} {text} the of and to"
    rule = GopherQualityFilter(min_doc_words=min_words, max_doc_words=90, max_non_alpha_words_ratio=min_alpha_words)
    assert quality.gopher_quality(text, min_words, 90, min_alpha_words) == their_decision(rule, text)[0]
    rule = C4QualityFilter(filter_no_terminal_punct=False, min_num_sentences=min_sentences)
    assert quality.c4(text, min_sentences) == their_decision(rule, text)[0]


def test_memory_for_chunks_is_bounded(monkeypatch):
    monkeypatch.setattr(words, "MAX_CHUNKS_KEPT", 10)
    text = " ".join(f"word{i}, can't-{i}" for i in range(50)) + " " + "long" * 99
    assert list(words.words_of(text)) == split_into_words(text)
    assert len(words._splitter()) <= 10 and "long" * 99 not in words._splitter()


def test_a_lone_surrogate_is_a_character_like_others():
    assert list(words.words_of("a \ud800, b")) == ["a", "\ud800", ",", "b"]  # datatrove raises UnicodeEncodeError
    assert quality.gopher_quality(GOOD + " \ud800") == quality.repetition(GOOD + " \ud800") is None


@pytest.mark.parametrize(
    "text", ["IS_ALPHA", "IS_ALPHA ", "IS_ALPHA. Now it goes on. Twice.", "(IS_ALPHA) x, aIS_ALPHA"]
)
def test_what_spacy_stumbles_on_is_taken_out(text):
    assert list(words.words_of(text)) == split_into_words(text.replace("IS_ALPHA", ""))
    assert words.num_sentences(text, 99) == max(1, len(split_into_sentences(text.replace("IS_ALPHA", ""))))


def test_words_come_without_torch():
    code = "import sys; from crawl2chat.quality import c4, repetition; print(repetition('To be. Or not?'), c4('To be so.'))"
    code += "; assert 'torch' not in sys.modules and 'spacy' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.real_data
@pytest.mark.parametrize("part", range(4))
def test_same_decisions_on_real_pages(part, real_pages):
    """All languages, as extracted by the pipeline."""
    texts = real_pages[part::4]
    assert len(texts) >= 75
    reasons = set().union(*map(assert_same_decisions, texts))
    assert {None, "enough_stop_words", "below_alpha_threshold"} < reasons


@pytest.fixture(scope="module")
def real_pages() -> list[str]:
    from crawl2chat.extract import extract_text
    from crawl2chat.warc import map_file, page_of, read_records

    file = DATA / "web_pages.warc.gz"
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    texts = []
    for _, found in read_records(map_file(file)):
        if found.http_headers is not None:
            document, reason, _ = page_of(found, "x")
            if not reason and (text := extract_text(document.text)):
                texts.append(text[:10_000])
        if len(texts) == 310:
            break
    return texts


@pytest.mark.real_data
def test_same_decisions_on_real_texts():
    file = DATA / "text" / "validation.parquet"
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    texts = pq.read_table(file, columns=["text"])["text"].to_pylist()
    for text in texts[:: len(texts) // 40]:
        assert_same_decisions(text[:10_000])
