"""Every reason to drop a page by its address or text, and the same decisions as datatrove's filters.

pytest tests/test_filters.py
"""

import os
import random
from pathlib import Path

import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from tiny_warc import page, paragraphs, prose

from crawl2chat import quality
from crawl2chat.extract import (
    CpuTimeout,
    ExtractText,
    LanguageFilter,
    LanguageGate,
    cpu_limit,
    extract_text,
)
from crawl2chat.filters import BlockedHosts, BlockedWords, ProtectedFilter
from crawl2chat.stage import StageError
from crawl2chat.truth import score, token_f1

DATA = Path(os.environ.get("CRAWL2CHAT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
GERMAN = "Der Bäcker hat am Morgen das Brot in den Ofen geschoben, und die Kinder sind zur Schule gegangen. " * 6


def document(text: str, url: str = "http://a.test/", **metadata) -> Document:
    return Document(text=text, id="x", metadata={"url": url, **metadata})


def test_blocked_hosts(tmp_path):
    file = tmp_path / "hosts.txt"
    file.write_text("# bad ones\nbad.test\nwww.worse.test  # a comment\n\n")
    blocked = BlockedHosts(str(file))
    blocked.begin(0)
    for host, reason in {
        "bad.test": "blocked_host", "a.b.bad.test": "blocked_host", "BAD.test:8080": "blocked_host",
        "notbad.test": "", "worse.test": "blocked_host", "www.worse.test": "blocked_host", "test": "",
    }.items():  # fmt: skip
        assert blocked.reason_to_drop(document("", f"http://{host}/bad.test")) == reason
    assert blocked.reason_to_drop(document("", "hard::bad.test-page.html")) == ""


def test_blocked_hosts_may_be_an_empty_file(tmp_path):
    (tmp_path / "hosts.txt").write_text("")
    blocked = BlockedHosts(str(tmp_path / "hosts.txt"))
    blocked.begin(0)
    assert blocked.reason_to_drop(document("", "http://a.test/")) == ""


def test_language_before_and_after_extraction():
    gate, after = LanguageGate(["en"], 0.2), LanguageFilter(["en"], 0.65)
    gate.begin(0), after.begin(0)
    assert gate.reason_to_drop(document(page(prose(0)))) == ""
    assert gate.reason_to_drop(document(page(GERMAN))) == "de"
    assert gate.reason_to_drop(document("<html><script>x = 1</script></html>")) == "no_text"
    english = document(prose(0))
    assert after.reason_to_drop(english) == "" and english.metadata["language"] == "en"
    assert after.reason_to_drop(document(GERMAN)) == "de"
    assert after.reason_to_drop(document("1 2 3")) == "none"


def test_extraction_keeps_the_article_a_paragraph_a_line():
    text = prose(3)
    found = extract_text(page(text, tail="<script>let x = 1</script>"))
    assert all(paragraph in found.split("\n") for paragraph in paragraphs(text))
    assert "Imprint" not in found and "let x" not in found and "Home page" not in found
    assert ExtractText(5.0).reason_to_drop(document("<html><body></body></html>")) == "empty"


def test_cpu_limit_stops_work_but_not_waiting():
    with pytest.raises(CpuTimeout), cpu_limit(0.05):
        while True:
            sum(range(1000))
    with cpu_limit(0.05):
        pass
    sum(range(3_000_000))  # the clock was stopped


GOOD = "\n".join(paragraphs(prose(5)))


@pytest.mark.parametrize(
    "rule, text, reason",
    [
        (quality.repetition, GOOD, ""),
        (quality.repetition, "", "empty"),
        (quality.repetition, "\n\n".join([GOOD.split("\n")[0]] * 4), "dup_para_frac"),
        (quality.repetition, "\n".join(["a line"] * 9), "dup_line_frac"),
        (quality.repetition, "Buy lamps now " * 60, "top_2_gram"),
        (quality.repetition, GOOD + "\n" + GOOD.replace("\n", " "), "duplicated_5_n_grams"),
        (quality.gopher_quality, GOOD, ""),
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
        (quality.fineweb, GOOD, ""),
        (quality.fineweb, " \n ", "empty"),
        (quality.fineweb, "a line without an end of some length here\n" * 9, "line_punct_ratio"),
        (quality.fineweb, "".join(f"Line {i}.\n" for i in range(9)), "short_line_ratio"),
        (quality.fineweb, GOOD + "\n" + GOOD.split("\n")[0], "char_dup_ratio"),
    ],
)
def test_quality_rules(rule, text, reason):
    assert rule(text) == reason


def test_c4_drops_lines_and_pages():
    lines = GOOD.split("\n")
    text = "\n".join(
        [*lines, "Please enable javascript to go on.", "We are not to blame: see our privacy policy here.", "Ho."]
    )
    assert quality.c4(text) == ("", GOOD)
    assert quality.c4(GOOD + " And [12] more.")[1].endswith("And  more.")
    assert quality.c4(GOOD + "\nLorem ipsum dolor sit amet.")[0] == "lorem_ipsum"
    assert quality.c4(GOOD + "\nfunction f() { return 1 }")[0] == "curly_bracket"
    assert quality.c4("One sentence stands here. And one more is there.")[0] == "too_few_sentences"


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


def theirs(rule, text: str) -> str:
    result = rule.filter(Document(text=text, id="x"))
    return "" if result is True else result[1].removeprefix("gopher_")


RULES = {
    "repetition": (GopherRepetitionFilter, quality.repetition),
    "gopher": (GopherQualityFilter, quality.gopher_quality),
    "c4": (lambda: C4QualityFilter(filter_no_terminal_punct=False), lambda text: quality.c4(text)[0]),
    "fineweb": (FineWebQualityFilter, quality.fineweb),
}


@pytest.mark.parametrize("name", RULES)
def test_same_decisions_as_datatrove(name):
    make, ours = RULES[name]
    rule, rng = make(), random.Random(0)
    pairs = [(theirs(rule, text), ours(text)) for text in (mangled(rng) for _ in range(250))]
    assert 10 < sum(bool(reason) for reason, _ in pairs)  # the texts put the rule to the test
    assert sum(a == b for a, b in pairs) >= 248, [pair for pair in pairs if pair[0] != pair[1]]


@pytest.mark.real_data
@pytest.mark.parametrize("name", RULES)
def test_same_decisions_as_datatrove_on_real_pages(name, real_texts):
    make, ours = RULES[name]
    rule = make()
    pairs = [(bool(theirs(rule, text)), bool(ours(text))) for text in real_texts]
    assert sum(a == b for a, b in pairs) >= 0.97 * len(pairs)


@pytest.fixture(scope="module")
def real_texts() -> list[str]:
    from crawl2chat.warc import map_file, page_of, read_records

    file = DATA / "web_pages.warc.gz"
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    texts, gate = [], LanguageGate(["en"], 0.2)
    gate.begin(0)
    for _, found in read_records(map_file(file)):
        if found.http_headers is not None:
            document, reason, _ = page_of(found, "x")
            if not reason and not gate.reason_to_drop(document) and (text := extract_text(document.text)):
                texts.append(text)
        if len(texts) == 60:
            break
    return texts


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
