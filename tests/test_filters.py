"""Reasons to drop a page by its address, language or passages, and what is replaced. Quality: `test_quality.py`.

pytest tests/test_filters.py
"""

import pytest
from datatrove.data import Document
from tiny_warc import page, paragraphs, prose

from crawl2chat.extract import (
    CpuTimeout,
    ExtractText,
    LanguageFilter,
    LanguageGate,
    OptOutFilter,
    cpu_limit,
    extract_text,
    licence_of,
)
from crawl2chat.filters import BlockedHosts, ProtectedFilter
from crawl2chat.personal_data import remove_personal_data
from crawl2chat.truth import score, token_f1

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


@pytest.mark.parametrize(
    "head, metadata, reason",
    [
        ("", {}, ""),
        ('<meta name="robots" content="index, noai">', {}, "noai_meta"),
        ("<META CONTENT='NoImageAI' NAME=Robots>", {}, "noai_meta"),
        ('<meta name="description" content="what noai means">', {}, ""),
        ('<meta name="tdm-reservation" content="1">', {}, "tdm_meta"),
        ('<meta name="tdm-reservation" content="0">', {}, ""),
        ("", {"robots": "otherbot: noindex, noai"}, "noai_header"),
        ("", {"robots": "noindex"}, ""),
        ("", {"tdm_reservation": "1"}, "tdm_header"),
        ("", {"tdm_reservation": "0"}, ""),
        ("<!-- © 2026, all rights reserved -->", {}, ""),
    ],
)
def test_opt_outs(head, metadata, reason):
    assert OptOutFilter().reason_to_drop(document(page("x", head), **metadata)) == reason


def test_licences():
    assert (
        licence_of('<a rel="license" href="https://creativecommons.org/licenses/by-nc-sa/4.0/">') == "cc-by-nc-sa-4.0"
    )
    assert licence_of("https://creativecommons.org/publicdomain/zero/1.0/") == "cc0-1.0"
    assert licence_of("<footer>© 2026 a baker</footer>") == "copyright"
    assert licence_of("<p>text</p>") == ""


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


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Write to jane.doe+x@mail.example-shop.co.uk.", "Write to email@example.com."),
        ("The server 93.184.216.34 is up.", "The server 192.0.2.1 is up."),
        ("At home 192.168.0.1 and 127.0.0.1.", "At home 192.168.0.1 and 127.0.0.1."),
        ("Version 1.2.3.4.5 and 300.1.1.1", "Version 1.2.3.4.5 and 300.1.1.1"),
        ("It is 2606:2800:220:1:248:1893:25c8:1946 today.", "It is 2001:db8::1 today."),
        ("At 12:30:15 we met.", "At 12:30:15 we met."),
        ("Call +44 20 7946 0123 now.", "Call 555-0100 now."),
        ("Call +1 (212) 867-5309.", "Call 555-0100."),
        ("Ring (212) 867-5309 or 212-867-5309.", "Ring 555-0100 or 555-0100."),
        ("Tel: 030 1234 5678, Monday", "Tel: 555-0100, Monday"),
        ("Phone 0171-555-1234!", "Phone 555-0100!"),
    ],
)
def test_personal_data_is_replaced(text, expected):
    assert remove_personal_data(text)[0] == expected


@pytest.mark.parametrize(
    "text",
    [
        "In 1914-1918 and on 2024-05-17, 1,234,567 people.",
        "47 + 38 = 85, 12 + 345 = 357 and 1234567 - 234 = 1234333.",
        "ISBN 978-3-16-148410-0 costs 12.50.",
        "    123\n  + 456\n  -----\n    579",
        "They were @home at 3.14159.",
    ],
)
def test_what_is_not_personal_stays(text):
    assert remove_personal_data(text) == (text, {"num_emails": 0, "num_ips": 0, "num_phones": 0})


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
