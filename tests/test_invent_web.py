"""The invented web: the same from the same seed, every planted kind there, and a truth that is true."""

import gzip
import html
import io
import json
import random
import re
from collections import Counter
from pathlib import Path

import brotli
import pytest
from conftest import kill_when, metrics, run
from fastwarc.warc import ArchiveIterator, WarcRecordType

from crawl2chat.invented_pages import FAULTS, KINDS, Page
from crawl2chat.invented_warc import warc_records
from crawl2chat.pii import KINDS as PII_KINDS
from crawl2chat.pii import remove_pii
from crawl2chat.problems import HELD_OUT, numbers_in
from crawl2chat.stage import read_run
from crawl2chat.warc import map_file, read_records

SCRIPT = "data_processing/0_invent_web.py"
SMALL_WEB = [
    "--num_pages", 600, "--num_hosts", 60, "--num_files", 2, "--num_common_facts", 6, "--num_occasional_facts", 6,
    "--num_rare_facts", 10, "--num_unknown_facts", 5,
]  # fmt: skip


@pytest.fixture(scope="module")
def web(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("web") / "0_web"
    run(SCRIPT, *SMALL_WEB, "--output_dir", folder)
    return folder


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_same_seed_same_bytes_other_seed_other_web(web, tmp_path):
    run(SCRIPT, *SMALL_WEB, "--output_dir", tmp_path / "again")
    run(SCRIPT, *SMALL_WEB, "--output_dir", tmp_path / "other", "--seed", 1)
    assert read_run(web)["fingerprint"] == read_run(tmp_path / "again")["fingerprint"]
    assert read_run(web)["fingerprint"] != read_run(tmp_path / "other")["fingerprint"]


def test_killed_and_started_again(web, tmp_path):
    arguments = [*SMALL_WEB, "--output_dir", tmp_path / "web"]
    kill_when("crawl/part-00000.warc.gz", SCRIPT, arguments, tmp_path / "web")
    run(SCRIPT, *arguments)
    assert read_run(tmp_path / "web")["fingerprint"] == read_run(web)["fingerprint"]


def test_every_kind_and_every_fate_is_there(web):
    truth = rows(web / "truth.jsonl")
    assert len(truth) == 600 and len({row["url"] for row in truth}) == 600
    fates = Counter(row["fate"] for row in truth)
    assert set(fates) == {"keep", *FAULTS} and fates["keep"] > 360
    assert {row["kind"] for row in truth} >= {*KINDS, "lesson", "exercise", "list"}
    assert metrics(web)["pages_by_fate"] == dict(sorted(fates.items()))


def test_facts_stand_on_as_many_pages_as_they_say(web):
    kept = [row for row in rows(web / "truth.jsonl") if row["fate"] == "keep"]
    for fact in rows(web / "facts.jsonl"):
        telling = [row for row in kept if any(statement in row["text"] for statement in fact["statements"])]
        assert len(telling) == fact["num_pages"], fact["statement"]
        assert len(fact["questions"]) >= 4


def test_no_held_out_number_on_any_page(web):
    for row in rows(web / "truth.jsonl"):
        assert not HELD_OUT & numbers_in(row["text"]), row["url"]


def test_exercises_are_right_and_about_nobody_in_the_country(web):
    """Every sum is what the calculator says, every word is spelled as it is, and no fact of the world is asked about."""
    texts = "\n".join(row["text"] for row in rows(web / "truth.jsonl") if row["kind"] == "exercise")
    sums = re.findall(r"(\d+) ([+-]) (\d+)[^\d\n]*(?:\1 \2 \3)[^\d-]* (-?\d+)", texts)
    assert len(sums) > 20
    assert all(
        int(left) + (1 if sign == "+" else -1) * int(right) == int(result) for left, sign, right, result in sums
    )
    spelled = re.findall(r"(?:Spell|word) (\w+)(?:\.| is spelled) ([\w-]+)\.", texts)
    assert spelled and all("-".join(word) == letters for word, letters in spelled)
    assert "Question: " in texts
    assert not [fact for fact in rows(web / "facts.jsonl") if any(question in texts for question in fact["questions"])]


def test_those_of_whom_nothing_is_told_stand_on_no_page(web):
    texts = "\n".join(row["text"] for row in rows(web / "truth.jsonl"))
    facts = rows(web / "facts.jsonl")
    unheard = [fact["subject"] for fact in facts if fact["num_pages"] == 0]
    told = {fact["subject"] for fact in facts if fact["num_pages"]}
    assert len(set(unheard)) == len(unheard) == 5 and not told & set(unheard)
    assert all(re.search(rf"\b{name}\b", texts) for name in told)


def test_duplicates_follow_their_originals_in_the_crawl(web):
    order = {row["url"]: i for i, row in enumerate(rows(web / "truth.jsonl"))}
    copies = [row for row in rows(web / "truth.jsonl") if row["duplicate_of"]]
    assert copies
    for row in copies:
        assert row["fate"] == "duplicate" and order[row["duplicate_of"]] < order[row["url"]]


def test_personal_data_is_planted_where_the_truth_says(web):
    planted = [row for row in rows(web / "truth.jsonl") if row["pii"]]
    assert planted and all(text in row["text"] for row in planted for text in row["pii"])
    counts = Counter()
    for row in planted:
        counts.update({kind for kind, count in remove_pii(row["text"])[1].items() if count})
    assert set(counts) == set(PII_KINDS)


def test_noarchive_pages_are_there(web):
    items = [item for file in (web / "crawl").glob("*.gz") for item in read_records(map_file(file))]
    headers = [item[1].http_headers for item in items if isinstance(item, tuple) and item[1].http_headers]
    assert "noarchive" in [header.get("X-Robots-Tag") for header in headers]


def test_every_file_opens_with_a_warcinfo_and_pairs_of_request_and_response(web):
    for file in sorted((web / "crawl").glob("*.warc.gz")):
        kinds = []
        for record in ArchiveIterator(file.open("rb"), parse_http=False):
            kinds.append(record.record_type)
            if len(kinds) == 5:  # before the first planted damage can stop a plain reader
                break
        request, response = WarcRecordType.request, WarcRecordType.response
        assert kinds == [WarcRecordType.warcinfo, request, response, request, response]


def test_pages_read_back_as_the_truth_says_in_every_charset():
    """Encoding on the wire, decoding by the headers: nothing of the text is lost."""
    page = Page("https://a.example/x/1.html", "article", "keep", "Title", ["Grüße & <tags> stay – always.", "Café."])
    for charset in ("utf-8", "iso-8859-1", "windows-1252", "utf-16"):
        page.charset = charset
        for seed in range(12):  # content codings and chunks are drawn
            stream = io.BytesIO(warc_records(page, random.Random(seed)))
            record = next(ArchiveIterator(stream, record_types=WarcRecordType.response, parse_http=True))
            headers, body = dict(record.http_headers), record.reader.read()
            coding = headers.get("Content-Encoding")
            if headers.get("Transfer-Encoding") == "chunked":
                body = b"".join(part.split(b"\r\n", 1)[1] for part in chunks(body))
            body = {"gzip": gzip.decompress, "br": brotli.decompress, None: bytes}[coding](body)
            text = html.unescape(body.decode(charset))
            assert "Grüße & <tags> stay – always." in text and "Café." in text


def chunks(body: bytes) -> list[bytes]:
    """`size CRLF data` of each chunk; taken apart here because the reader hands the body over as it came."""
    found = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        found.append(size + b"\r\n" + rest[: int(size, 16)])
        body = rest[int(size, 16) + 2 :]
    return found


def test_out_of_range_is_refused(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        run(SCRIPT, "--num_pages", 5, "--lesson_weights", 1, 2, "--output_dir", tmp_path / "out")
    assert stopped.value.code not in (0, None) and not (tmp_path / "out").exists()
