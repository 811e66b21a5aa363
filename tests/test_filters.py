"""Reasons to drop a page by its address, language or passages, and what is replaced. Quality: `test_quality.py`.

pytest tests/test_filters.py
"""

from collections import Counter

import pytest
from datatrove.data import Document
from tiny_warc import page, paragraphs, prose

from crawl2chat.extract import MODES, CpuTimeout, ExtractText, cpu_limit, extract_text
from crawl2chat.filters import BlockedWords, ProtectedFilter
from crawl2chat.language import LanguageFilter, LanguageGate, detect
from crawl2chat.pages import DroppedPages, PageFilter, funnel_of, iter_lines
from crawl2chat.stage import StageError
from crawl2chat.truth import score, token_f1

GERMAN = "Der Bäcker hat am Morgen das Brot in den Ofen geschoben, und die Kinder sind zur Schule gegangen. " * 6


def document(text: str, url: str = "http://a.test/", **metadata) -> Document:
    return Document(text=text, id="x", metadata={"url": url, **metadata})


def test_language_before_and_after_extraction():
    gate, after = LanguageGate(["en"], 0.2), LanguageFilter(["en"], 0.65)
    assert gate.reason_to_drop(document(page(prose(0)))) == ""
    assert gate.reason_to_drop(document(page(GERMAN))) == "de"
    assert gate.reason_to_drop(document("<html><script>x = 1</script></html>")) == "no_text"
    english = document(prose(0))
    assert after.reason_to_drop(english) == "" and english.metadata["language"] == "en"
    assert after.reason_to_drop(document(GERMAN)) == "de"
    assert after.reason_to_drop(document("1 2 3")) == "none"


def test_detect():
    assert detect(prose(0))[0] == "en" and detect(GERMAN)[0] == "de" and detect("1 2 3") == ("none", 0.0)
    assert 0.65 < detect(GERMAN)[1] <= 1.01  # fastText rounds up


@pytest.mark.parametrize("mode", MODES)
def test_extraction_keeps_the_article_a_paragraph_a_line(mode):
    text = prose(3)
    found = extract_text(page(text, tail="<script>let x = 1</script>"), mode)
    assert all(paragraph in found.split("\n") for paragraph in paragraphs(text))
    assert "Imprint" not in found and "let x" not in found and "Home page" not in found
    assert ExtractText(5.0, mode).reason_to_drop(document("<html><body></body></html>")) == "empty"


def test_extraction_knows_its_modes():
    with pytest.raises(ValueError, match="mode is 'fast'; choose one of quality, speed"):
        extract_text("<p>text</p>", "fast")


class ByColour(PageFilter):
    name = "colour"

    def reason_to_drop(self, document: Document) -> str:
        return document.metadata["colour"]


def test_each_reason_has_a_sample_however_late_it_comes(tmp_path):
    colours = ["red"] * 30 + ["blue", ""] + ["red"] * 30 + ["green"] * 2 + ["blue"]
    for num_samples, expected in ((3, {"red": 3, "blue": 1, "green": 1}), (0, {})):
        out = tmp_path / str(num_samples)
        step, num_kept = ByColour(DroppedPages(str(out), "colour", num_samples)), 0
        for rank in range(2):  # in one process
            num_kept += len(list(step.run((document(f"{c} {i}", colour=c) for i, c in enumerate(colours)), rank)))
            lines = list(iter_lines(out / "dropped" / "colour" / f"{rank:05d}.jsonl"))
            assert len(lines) == 64
            assert Counter(line["reason"].removeprefix("colour/") for line in lines if "text" in line) == expected
        counts = {f"dropped_{colour}": 2 * colours.count(colour) for colour in ("red", "blue", "green")}
        (row,) = funnel_of([step], [{"num_in": 130, "num_kept": num_kept, "num_dropped": 128} | counts], out)
        assert row["reasons"] == {"blue": 4, "green": 4, "red": 120} and row["num_kept"] == 2
        samples = {sample["reason"]: sample["text"] for sample in row["samples"]}
        assert samples == (
            {"colour/red": "red 0", "colour/blue": "blue 30", "colour/green": "green 62"} if expected else {}
        )


def test_cpu_limit_stops_work_but_not_waiting():
    with pytest.raises(CpuTimeout), cpu_limit(0.05):
        while True:
            sum(range(1000))
    with cpu_limit(0.05):
        pass
    sum(range(3_000_000))  # the clock was stopped


GOOD = "\n".join(paragraphs(prose(5)))


def test_protected_passages(tmp_path):
    passage = "the silver heron counts nine lanterns over a frozen lake while all the bells of the harbour sleep"
    (tmp_path / "protected.txt").write_text(f"{passage}\n\nA short verse of five\n")
    rule = ProtectedFilter(str(tmp_path / "protected.txt"), 13)
    rule.begin(0)
    words = passage.split()
    assert rule.reason_to_drop(document(GOOD)) == ""
    assert rule.reason_to_drop(document(f"{GOOD} {passage}.")) == "passage"
    assert rule.reason_to_drop(document("He said: “" + " ".join(words[2:15]).upper() + "!” " + GOOD)) == "passage"
    assert rule.reason_to_drop(document(" ".join(words[2:14]) + ". " + GOOD)) == ""
    assert rule.reason_to_drop(document("It is a SHORT verse, of five. " + GOOD)) == "passage"


@pytest.fixture
def word_list(tmp_path) -> str:
    entries = [
        "darn",
        "Heck ",
        "",
        "two  words",
        "well-known oath",
        "@$$",
        "Straße",
        "Caf\u00e9",
        "\u99ac\u9e7f",
        "\U0001f595",
    ]
    (tmp_path / "words.txt").write_text("\n".join(entries), encoding="utf-8")
    return str(tmp_path / "words.txt")


@pytest.mark.parametrize(
    "text, num_found",
    [
        ("", 0),
        ("Nothing here is darned, hecks, 2words or undarn; a darn_it no more.", 0),
        ("Words two, and two of the words.", 0),
        ("Darn! DARN, darn.", 1),
        ("Oh (heck) of a darn.", 2),
        ("He said two\nwords, and TWO WORDS again.", 1),
        ("A well known oath and a Well-Known Oath.", 1),
        ("Kiss my @$$!", 1),
        ("x@$$ or @$$y, a $$ sign", 0),
        ("In the STRASSE a cafe\u0301 stands.", 2),
        ("\u4ed6\u662f\u99ac\u9e7f\u3060", 1),
        ("so \U0001f595 there", 1),
    ],
)
def test_blocked_words(text, num_found, word_list):
    for maximum in range(3):
        blocked = BlockedWords(word_list, maximum)
        blocked.begin(0)
        assert blocked.reason_to_drop(document(text)) == ("blocked_words" if num_found > maximum else "")


def test_blocked_words_may_be_an_empty_file_but_not_of_another_charset(tmp_path):
    (tmp_path / "words.txt").write_text("\n")
    blocked = BlockedWords(str(tmp_path / "words.txt"))
    blocked.begin(0)
    assert blocked.reason_to_drop(document("any word")) == ""
    (tmp_path / "words.txt").write_bytes("Straße".encode("latin-1"))
    with pytest.raises(StageError, match=r"words\.txt is not UTF-8 text .* at byte 4"):
        BlockedWords(str(tmp_path / "words.txt")).begin(0)


def test_scores_against_the_truth():
    truth = [
        {"url": "a", "fate": "keep", "text": "one two", "pii": ["x@y.z"]},
        {"url": "b", "fate": "keep", "text": "three"},
        {"url": "c", "fate": "duplicate", "text": "one two", "duplicate_of": "a"},
        {"url": "d", "fate": "duplicate", "text": "one two", "duplicate_of": "a"},
        {"url": "e", "fate": "spam", "text": "buy"},
        {"url": "f", "fate": "broken", "text": ""},
    ]
    fates = [{"url": "a", "reason": "duplicate/same_text"}, {"url": "b", "reason": "gopher/short_doc"}]
    fates += [{"url": "e", "reason": "gopher/short_doc"}]
    scores = score(truth, fates, kept={"c": "one two x@y.z", "d": "one two"})
    assert scores["duplicates"] == {"num_groups": 1, "recall": 0.5, "num_groups_lost": 0}
    assert scores["steps"]["gopher"]["precision"] == 0.5 and scores["steps"]["gopher"]["precision_of_reason"] == 0.5
    assert scores["fates"]["spam"]["recall_by_its_step"] == 1.0 and scores["num_lost"] == 0
    assert token_f1("one two", "two three") == 0.5
