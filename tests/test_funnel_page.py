"""The funnel page: whole, safe to open, fetching nothing, and the same when it is made again.

pytest tests/test_funnel_page.py
"""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT, run
from pyarrow import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from crawl2chat.funnel_page import histogram, write_funnel_page
from crawl2chat.pages import SCHEMA
from crawl2chat.stage import StageError, fingerprint

BUILD = "data_processing/4_build_corpus.py"
HOSTILE = (
    "</pre></details></style></title><script>alert(\"1\")</script><img src='https://a.test/x' onerror=f()> &lt;b&gt;"
)
SECRET = "the silver heron counts nine lanterns"


def step(name: str, num_in: int, reasons: dict[str, int], sizes: tuple[int, int], samples: dict[str, str]) -> dict:
    num_dropped = sum(reasons.values())
    return {
        "step": name,
        "num_in": num_in,
        "num_kept": num_in - num_dropped,
        "num_dropped": num_dropped,
        "bytes_in": sizes[0],
        "bytes_kept": sizes[1],
        "reasons": reasons,
        "samples": [
            {"url": f"http://a.test/{reason}?{HOSTILE}", "reason": f"{name}/{reason}", "id": "1", "text": text}
            for reason, text in samples.items()
        ],
    }


LANGUAGES = {f"x{number}": 20 - number for number in range(20)}  # 210 pages
FUNNEL = [
    step("read", 5_321, {"status_404": 21}, (90_000_000, 90_000_000), {"status_404": ""}),
    step("url", 5_300, {"blocked_host": 100}, (90_000_000, 88_000_000), {"blocked_host": SECRET}),
    step("language_gate", 5_200, LANGUAGES, (88_000_000, 80_000_000), {"x0": f"<html>{HOSTILE}", "x19": "last one"}),
    step("extract", 4_990, {}, (80_000_000, 20_000_000), {}),
    step("a_new_step", 4_990, {HOSTILE: 1, "bell": 2}, (20_000_000, 19_000_000), {"bell": "rung twice"}),
    step("protected", 4_987, {"passage": 4_900}, (19_000_000, 174_000), {"passage": SECRET}),
]
# The funnel's last step keeps the 87 pages that the folder holds.
ROWS = [
    {
        "text": "word " * (10 + 7 * number),
        "id": str(number),
        "url": f"http://host{number % 30}.test/{number}" if number else f"http://{HOSTILE}.test/",
        "date": "",
        "language": "en" if number else HOSTILE,
        "licence": ["", "copyright", "cc-by-4.0"][number % 3] if number else HOSTILE,
    }
    for number in range(87)
]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """What 2_filter_pages.py leaves (pages, funnel, metrics, run.yaml), and a corpus built of it."""
    folder = tmp_path_factory.mktemp("built") / "2_pages"
    (folder / "pages").mkdir(parents=True)
    pq.write_table(Table.from_pylist(ROWS, schema=SCHEMA), folder / "pages" / "00000.parquet")
    (folder / "funnel.json").write_text(json.dumps(FUNNEL))
    (folder / "fates.jsonl").write_text("")
    seconds = {"read": 10.642, "extract": 49.9, "protected": 0.4987, "personal_data": 0.087}
    replaced = {"num_emails": 41, "num_ips": 0, "num_ibans": 1}
    metrics = {"seconds_by_step": seconds, "num_damaged_records": 17, "num_replaced": replaced}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    record = {"stage": "2_filter_pages", "fingerprint": "f", "hardware": "a Babbage engine", "config": {"warc": "w"}}
    (folder / "run.yaml").write_text(yaml.safe_dump(record))
    run(BUILD, "--pages", folder, "--output_dir", folder.parent / "4_corpus")
    return folder.parent


@pytest.fixture
def corpus(built, tmp_path) -> Path:
    """A copy, in which the corpus names the copied pages."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    marker = tmp_path / "4_corpus" / "run.yaml"
    marker.write_text(marker.read_text().replace(str(built), str(tmp_path)))
    return tmp_path / "4_corpus"


@pytest.fixture
def pages(corpus) -> Path:
    return corpus.parent / "2_pages"


class Reader(HTMLParser):
    """Tags, attributes, text of the page and of its table rows, and the style sheet."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.text, self.rows, self.style, self.inside = [], [], "", [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag in ("tr", "style"):
            self.inside.append(tag)
        if tag == "tr":
            self.rows.append("")

    def handle_endtag(self, tag):
        if tag in ("tr", "style"):
            assert self.inside.pop() == tag

    def handle_data(self, data):
        if "style" in self.inside:
            self.style += data
            return
        self.text += data
        if self.inside:
            self.rows[-1] += data.strip() + " "


def read(folder: Path) -> Reader:
    return Reader((folder / "funnel.html").read_text(encoding="utf-8"))


def test_every_step_has_its_counts_and_reasons(corpus):
    page = read(corpus)
    assert "5,321 pages in, 87 kept" in page.text
    rows = page.rows[1:]  # below the head
    for expected, row in zip(FUNNEL, rows, strict=True):
        assert row.strip().startswith(expected["step"].replace("_", " ") + " ")
        for key in ("num_in", "num_dropped", "num_kept"):
            assert re.search(rf"(?<![\d,.]){expected[key]:,}(?![\d,.])", row), (expected["step"], key)
        assert f"{100 * expected['num_kept'] / 5_321:.1f}%" in row
        for reason, count in expected["reasons"].items():
            assert re.search(rf"{re.escape(reason)}\s+{count:,}\s", page.text), reason
    assert "8 more reasons with 36 pages" in page.text and "last one" in page.text
    assert "20.0 MB" in rows[3] and "60.0 MB" in rows[3]  # what extraction keeps and sheds
    assert "Dropped nothing: extract." in page.text
    assert "86 pages" not in page.text and "train 67, validation 20" in page.text


def test_the_shape_narrows_as_the_pages_do(corpus):
    points = [value for tag, name, value in read(corpus).attributes if (tag, name) == ("polygon", "points")]
    widths = []
    for polygon in points:
        left, right, right_below, left_below = (float(point.split(",")[0]) for point in polygon.split())
        widths.append((right - left, right_below - left_below))
    for expected, (above, below) in zip(FUNNEL, widths, strict=True):
        assert above == pytest.approx(1000 * expected["num_in"] / 5_321, abs=0.02)
        assert below == pytest.approx(1000 * expected["num_kept"] / 5_321, abs=0.02)


def test_text_from_the_web_never_becomes_markup(corpus):
    page = read(corpus)
    assert not {"script", "img", "base", "iframe", "object", "link"} & set(page.tags)
    assert page.tags.count("title") - page.tags.count("rect") < 2 and page.tags.count("style") == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.text.count(HOSTILE) >= 5 + 1 + 1  # samples' addresses, a reason, a text
    assert f"<html>{HOSTILE}" in page.text


def test_what_cannot_be_written_in_html_is_replaced(corpus):
    funnel = (corpus / "funnel.json").read_text()
    (corpus / "funnel.json").write_text(funnel.replace("rung twice", "\\u0007 \\u0000 \\u001b \\ud800 ."))
    write_funnel_page(corpus)
    text = read(corpus).text
    assert "\ufffd \ufffd \ufffd ? ." in text and not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)


def test_nothing_is_fetched(corpus):
    page = read(corpus)
    assert [value for _, name, value in page.attributes if name == "http-equiv"] == ["Content-Security-Policy"]
    assert "default-src 'none'" in (corpus / "funnel.html").read_text()
    for tag, name, value in page.attributes:
        assert name not in ("src", "srcset", "action", "data", "poster", "xlink:href"), (tag, name)
        assert name != "href" or (tag == "a" and value.startswith("#"))
        assert "url(" not in value and "://" not in value
    assert not re.search(r"url\(|@import|://", page.style)


def test_links_lead_somewhere(corpus):
    page = read(corpus)
    places = {value for _, name, value in page.attributes if name == "id"}
    links = [value[1:] for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert len(links) == 5 and set(links) <= places


def test_what_must_not_be_published_is_not_shown(corpus):
    assert SECRET in (corpus / "funnel.json").read_text()  # the page's own guard, not only the funnel's
    assert SECRET not in (corpus / "funnel.html").read_text()
    assert read(corpus).text.count("Its text is not shown") == 2


def test_time_damage_and_replacements_come_from_the_stage_before(corpus):
    text = read(corpus).text
    for expected in ("a Babbage engine", "17 damaged records", "41 e-mail addresses, 1 ibans."):
        assert expected in text
    assert re.search(r"read\s+2.00\s+2.00\s", text) and re.search(r"extract\s+9.38\s+10.00\s", text)
    assert re.search(r"personal data\s+0.02\s+1.00\s", text) and re.search(r"all steps\s+11.49\s", text)
    assert "Measured against the truth" not in text and "token" not in text


def test_made_again_it_is_the_same_byte_for_byte(corpus):
    first = (corpus / "funnel.html").read_bytes()
    command = [sys.executable, "-m", "crawl2chat.funnel_page", "4_corpus"]
    (corpus / "funnel.html").unlink()
    ran = subprocess.run(command, cwd=corpus.parent, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert (corpus / "funnel.html").read_bytes() == first


def test_moved_with_the_stages_before_it_is_the_same(corpus, tmp_path):
    first = (corpus / "funnel.html").read_bytes()
    (tmp_path / "moved").mkdir()
    for name in ("2_pages", "4_corpus"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    assert write_funnel_page(tmp_path / "moved" / "4_corpus").read_bytes() == first


def test_another_page_is_no_other_corpus(corpus):
    before = fingerprint(corpus)
    (corpus / "run.yaml").unlink()  # so that it is made from the files, not read
    (corpus / "funnel.html").write_text("another")
    assert fingerprint(corpus) == before


@pytest.mark.parametrize("change", ["gone", "another run", "unfinished", "no metrics of time"])
def test_works_without_the_earlier_stage(change, corpus, pages):
    if change == "gone":
        shutil.rmtree(pages)
    elif change == "another run":
        (pages / "funnel.json").write_text(json.dumps([{**FUNNEL[0], "num_in": 7}, *FUNNEL[1:]]))
    elif change == "unfinished":
        (pages / "run.yaml").unlink()
    else:
        (pages / "metrics.json").write_text("{}")
    write_funnel_page(corpus)
    text = read(corpus).text
    assert "5,321 pages in, 87 kept" in text
    assert "Where the time went" not in text and "damaged" not in text.replace("damaged_body", "")


def test_a_folder_that_names_itself_ends(corpus, pages):
    record = yaml.safe_load((corpus / "run.yaml").read_text())
    record["config"]["pages"] = "elsewhere/4_corpus"
    (corpus / "run.yaml").write_text(yaml.safe_dump(record))
    write_funnel_page(corpus)
    assert "Where the time went" not in read(corpus).text


def test_scores(corpus):
    scores = {
        "num_pages": 6_000,
        "num_lost": 3,
        "fates": {
            "keep": {"num_pages": 90, "recall": 0.9667},
            "protected": {"num_pages": 4_870, "recall": 1.0, "recall_by_its_step": 0.8125},
            "thin": {"num_pages": 0, "recall": None, "recall_by_its_step": None},
        },
        "steps": {
            "protected": {
                "num_dropped": 4_900,
                "precision": 0.9938,
                "precision_of_reason": 0.75,
                "fates": {"protected": 4_870, "keep": 30},
            }
        },
        "duplicates": {"num_groups": 12, "recall": None, "num_groups_lost": 1},
        "extraction_f1": 0.9871,
        "personal_data": {"num_planted": 148, "num_leaked": 2},
    }
    (corpus / "scores.json").write_text(json.dumps(scores))
    write_funnel_page(corpus)
    page = read(corpus)
    rows = [row.split() for row in page.rows]
    assert ["protected", "4,900", "30", "0.994", "0.750"] in rows
    assert ["protected", "4,870", "1.000", "0.812"] in rows
    assert ["to", "keep", "90", "0.967"] in rows and ["thin", "0", "–", "–"] in rows
    for expected in ("0.987", "of 148 planted", "12 groups, 1 lost whole", "of 6,000"):
        assert expected in page.text


def test_tokens_are_counted_where_there_is_text(corpus, tmp_path):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=258, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["word " * 9], trainer)
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    texts = [row["text"] for row in ROWS]
    ratio = sum(map(len, texts)) / sum(len(tokenizer.encode(text).ids) for text in texts)
    write_funnel_page(corpus, tmp_path / "tokenizer")
    page = read(corpus)
    assert f"{ratio:.3f} bytes a token on 0.14 MB" in page.text and "estimated" in page.text
    assert [row.count(" tok") for row in page.rows[1:]] == [0, 0, 0, 1, 3, 3]  # HTML has no tokens
    assert f"≈ {20 / ratio:.{1 if ratio < 2 else 2}f} M tok" in page.rows[4]


@pytest.mark.parametrize(
    "lengths", [[0], [5] * 9, [1, 1_000_000], range(900, 1_100), [3, 10, 100, 1_000, 10_000, 100_000]]
)
def test_every_page_is_in_the_histogram(lengths):
    lengths = np.array(lengths)
    found = histogram(lengths)
    assert sum(count for _, _, count in found["bins"]) == len(lengths)
    for low, high, count in found["bins"]:
        assert (
            count
            == ((np.maximum(lengths, 1) >= low * (1 - 1e-9)) & (np.maximum(lengths, 1) < high * (1 - 1e-9))).sum()
        )
    places = [place for _, place in (*found["ticks"], *found["quantiles"])]
    assert all(0 <= place <= 100 for place in places) and found["top"] >= max(count for _, _, count in found["bins"])


def test_quantiles_are_lengths_of_pages():
    assert [value for value, _ in histogram(np.arange(1, 101))["quantiles"]] == [5, 50, 95]


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("funnel.json", None, "has no funnel.json; name a folder of 4_build_corpus.py"),
        ("funnel.json", "[{", "is no JSON"),
        ("funnel.json", "[]", "is no list of steps with their counts"),
        ("funnel.json", '[{"step": "read"}]', "is no list of steps with their counts"),
        ("train/00000.parquet", None, "holds no pages in */*.parquet"),
        ("scores.json", "{", "is no JSON"),
    ],
)
def test_bad_input_gets_one_sentence(name, content, complaint, corpus):
    before = (corpus / "funnel.html").read_bytes()
    if content is None:
        (corpus / name).unlink()
        shutil.rmtree(corpus / "validation")
    else:
        (corpus / name).write_text(content)
    with pytest.raises(StageError, match=re.escape(complaint)):
        write_funnel_page(corpus)
    assert (corpus / "funnel.html").read_bytes() == before


def test_the_command_says_what_is_wrong(corpus, tmp_path):
    command = [sys.executable, "-m", "crawl2chat.funnel_page", corpus, "--tokenizer", tmp_path / "none"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 1 and "none has no tokenizer.json" in ran.stderr and "Traceback" not in ran.stderr
