"""Which pages are duplicates, which of them stay, recall by similarity, and the same result on every run.

pytest tests/test_duplicates.py
"""

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import kill_when, metrics, run
from tiny_warc import prose

from crawl2chat import duplicates
from crawl2chat.duplicates import (
    HASHES_A_BAND,
    NUM_BANDS,
    NUM_HASHES,
    agree,
    bands_of,
    components,
    links_between,
    signatures_of,
    url_key,
)
from crawl2chat.ngrams import NGramIndex, plain_words
from crawl2chat.pages import SCHEMA
from crawl2chat.stage import read_run

DEDUPLICATE = "data_processing/3_deduplicate.py"


def page(url: str, text: str, date: str = "2026-11-01T00:00:00Z") -> dict:
    return {"text": text, "id": f"<{url}>", "url": url, "date": date, "language": "en", "licence": ""}


def write_pages(folder: Path, *files: list[dict]) -> Path:
    """A folder as 2_filter_pages.py leaves it."""
    (folder / "pages").mkdir(parents=True)
    for number, rows in enumerate(files):
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "pages" / f"{number:05d}.parquet")
    num_pages = sum(map(len, files))
    counts = {"num_in": num_pages, "num_kept": num_pages, "num_dropped": 0, "bytes_in": 9, "bytes_kept": 9}
    (folder / "funnel.json").write_text(json.dumps([{"step": "read", **counts, "reasons": {}, "samples": []}]))
    (folder / "fates.jsonl").write_text("")
    return folder


def deduplicate(tmp_path: Path, *files: list[dict], num_workers: int = 1) -> dict[str, str]:
    """url (or "url id" where it stands twice) -> reason, "" if it stays."""
    pages, out = write_pages(tmp_path / "2", *files), tmp_path / "3"
    run(DEDUPLICATE, "--pages", pages, "--output_dir", out, "--num_workers", num_workers)
    dropped = [
        json.loads(line) for file in (out / "dropped").rglob("*.jsonl") for line in file.read_text().splitlines()
    ]
    fates = {line["id"]: line["reason"].removeprefix("duplicate/") for line in dropped}
    kept = [row["id"] for file in sorted((out / "pages").glob("*")) for row in pq.read_table(file).to_pylist()]
    assert not fates.keys() & set(kept) and len(kept) + len(dropped) == sum(map(len, files))
    return {key.strip("<>"): reason for key, reason in (fates | dict.fromkeys(kept, "")).items()}


def edited(text: str, num_words: int, seed: int = 0) -> str:
    """So many words replaced, far from one another: each changes five 5-grams."""
    words = text.split()
    step = len(words) // num_words
    for i in range(num_words):
        words[i * step + (5 + 15 * seed) % step] = f"other{seed}x{i}"
    return " ".join(words)


def jaccard(a: str, b: str) -> float:
    a, b = ({tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in map(plain_words, (a, b)))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize(
    "url",
    [
        "https://a.test/x?b=2&c=3",
        "HTTP://A.Test:80/x?b=2&c=3",
        "https://a.test.:443/x/?c=3&b=2#part",
        "http://a.test/x?utm_source=mail&b=2&UTM_Medium=feed&c=3&gclid=1",
        "http://a.test/x;jsessionid=0A1B?b=2&c=3&PHPSESSID=77",
        " http://a.test/x?&b=2&c=3& ",
    ],
)
def test_addresses_of_one_page(url):
    assert url_key(url) == "a.test/x?b=2&c=3"


def test_addresses_of_different_pages():
    different = [
        "http://a.test", "http://www.a.test/", "http://a.test:8080/", "http://a.test/x", "http://a.test/X",
        "http://a.test/x?id=1", "http://a.test/x?id=2", "http://a.test/x?ID=1", "http://a.test/x?source=1",
        "http://a.test/#!/x", "http://me@a.test/", "http://[oops", "http://a.test:port/", "ftp://a.test/", "",
    ]  # fmt: skip
    assert len({url_key(url) for url in different}) == len(different)
    assert url_key("http://a.test") == url_key("https://a.test/#top") == url_key("http://a.test/?utm_id=4")


def test_each_reason(tmp_path):
    text = prose(1)
    fates = deduplicate(
        tmp_path,
        [page("http://a.test/1", text), page("http://a.test/2", prose(2)), page("https://a.test/1#top", prose(3))],
        [page("http://b.test/1", text.replace(" ", "\n")), page("http://b.test/2", edited(text, 2))],
        [page("http://b.test/3", text.upper() + "!"), page("http://b.test/4", edited(text, 30))],
    )
    assert fates == {
        "http://a.test/1": "",
        "http://a.test/2": "",
        "https://a.test/1#top": "same_url",
        "http://b.test/1": "same_text",
        "http://b.test/2": "near_duplicate",
        "http://b.test/3": "near_duplicate",
        "http://b.test/4": "",
    }
    counts = metrics(tmp_path / "3")
    assert (
        counts["num_dropped"] == {"near_duplicate": 2, "same_text": 1, "same_url": 1} and counts["num_clusters"] == 1
    )


def test_the_page_crawled_first_stays_wherever_it_stands(tmp_path):
    texts = [edited(prose(5), 1, seed) for seed in range(4)]
    dates = ["2026-11-03T00:00:00Z", "", "2026-11-01T02:00:00+02:00", "2026-11-01T00:00:01Z"]
    rows = [page(f"http://{i}.test/", text, date) for i, (text, date) in enumerate(zip(texts, dates))]
    fates = deduplicate(tmp_path, rows[:2], rows[2:])
    assert [url for url, reason in fates.items() if not reason] == ["http://2.test/"]
    (tmp_path / "ties").mkdir()
    fates = deduplicate(tmp_path / "ties", [row | {"date": ""} for row in rows[:3]], [rows[3] | {"date": None}])
    assert [url for url, reason in fates.items() if not reason] == ["http://0.test/"]


def test_what_goes_resembles_what_stays(tmp_path):
    """Of a chain whose ends differ both stay if an end comes first, and the middle if that does."""
    text = prose(6, 40)
    left, right = edited(text, 16, 1), edited(text, 16, 2)
    assert jaccard(left, text) > 0.75 and jaccard(text, right) > 0.75 and jaccard(left, right) < 0.65
    rows = [page("http://left/", left), page("http://middle/", text), page("http://right/", right)]
    fates = deduplicate(tmp_path, rows)
    assert fates == {"http://left/": "", "http://middle/": "near_duplicate", "http://right/": ""}
    (tmp_path / "b").mkdir()
    fates = deduplicate(tmp_path / "b", [rows[1], rows[0]], [rows[2]])
    assert fates == {"http://left/": "near_duplicate", "http://middle/": "", "http://right/": "near_duplicate"}


def test_address_and_text_join_one_cluster(tmp_path):
    """The second goes by its address; the third has its text, but neither address nor text of what stays."""
    rows = [page("http://a/", prose(1)), page("http://a/#2", prose(2)), page("http://b/", prose(2))]
    assert deduplicate(tmp_path, rows) == {"http://a/": "", "http://a/#2": "same_url", "http://b/": ""}
    assert metrics(tmp_path / "3")["num_clusters"] == 1


def test_texts_of_few_words_or_none(tmp_path):
    texts = ["", "?!", "!!", "Yes.", "yes", "No.", "One two three four", "one, two, three, four!", "one two three", ""]
    fates = deduplicate(tmp_path, [], [page(f"http://{i}/", text) for i, text in enumerate(texts)])
    dropped = {int(url[7]): reason for url, reason in fates.items() if reason}
    assert dropped == {4: "near_duplicate", 7: "near_duplicate", 9: "same_text"}


def test_numbers_tell_pages_apart(tmp_path):
    """datatrove takes all numbers for one; pages of worked sums differ in nothing else."""
    sums = [
        " ".join(f"We add {rng.randrange(999)} and {rng.randrange(999)} to get the sum." for _ in range(30))
        for rng in (random.Random(1), random.Random(2))
    ]
    assert not any(deduplicate(tmp_path, [page("http://1/", sums[0]), page("http://2/", sums[1])]).values())


def linked_pairs(similarity: float, num_pairs: int, num_words: int = 300) -> float:
    """Share of the pairs of random texts, so similar, that the bands link."""
    rng = random.Random(similarity)
    texts = []
    common = round(2 * num_words * similarity / (1 + similarity))
    for _ in range(num_pairs):
        words = [f"w{rng.getrandbits(60)}" for _ in range(2 * num_words - common + 8)]
        texts += [" ".join(words[: num_words + 4]), " ".join(words[num_words - common : 2 * num_words - common + 4])]
    assert abs(jaccard(*texts[:2]) - similarity) < 0.01
    signatures = signatures_of(texts)
    links = [links_between(keys, lambda a, b: agree(signatures[a], signatures[b])) for keys in bands_of(signatures)]
    found = {tuple(pair) for pair in np.concatenate(links).tolist()}
    assert all(left + 1 == right and left % 2 == 0 for left, right in found)
    return len(found) / num_pairs


def test_recall_rises_steeply_with_similarity():
    assert linked_pairs(0.5, 500) == 0.0
    assert linked_pairs(0.6, 500) < 0.03  # 14 x 8 bands alone: 0.2
    assert linked_pairs(0.8, 1000) > 0.975  # 14 x 8 bands alone: 0.92
    assert linked_pairs(0.85, 500) > 0.99 and linked_pairs(0.95, 300) == 1.0


def test_the_estimate_is_the_similarity():
    text = prose(7, 60)
    for num_words in (4, 12, 30):
        other = edited(text, num_words)
        estimate = (signatures_of([text]) == signatures_of([other])).mean()
        assert abs(estimate - jaccard(text, other)) < 0.15  # four standard errors


def test_a_shared_band_alone_links_nothing():
    rng = np.random.default_rng(0)
    signatures = rng.integers(0, 2**32, (40, NUM_HASHES), dtype=np.uint32)
    signatures[1:, :HASHES_A_BAND] = signatures[0, :HASHES_A_BAND]
    signatures[20:] = signatures[20]  # two groups within one band: 20 strangers, and 20 copies
    keys = bands_of(signatures)[0]
    assert len(set(keys.tolist())) == 1
    links = links_between(keys, lambda a, b: agree(signatures[a], signatures[b]))
    assert links.tolist() == [[20, i] for i in range(21, 40)]
    assert len(links_between(keys, None)) == 39


def test_bands_are_rows_and_columns():
    signature = np.arange(NUM_HASHES, dtype=np.uint32)
    for moved in range(NUM_HASHES):
        other = signature.copy()
        other[moved] += 1
        differ = np.flatnonzero((bands_of(signature[None]) != bands_of(other[None]))[:, 0])
        assert differ.tolist() == [moved // HASHES_A_BAND, NUM_BANDS + moved % NUM_BANDS]


def test_components_are_those_of_a_search():
    rng = random.Random(0)
    for num_links in (0, 1, 5, 60, 400):
        links = [[rng.randrange(300), rng.randrange(300)] for _ in range(num_links)]
        neighbours: dict[int, set[int]] = {}
        for a, b in links:
            neighbours.setdefault(a, set()).add(b)
            neighbours.setdefault(b, set()).add(a)
        expected = {}
        for start in sorted(neighbours):
            stack = [start]
            while stack:
                if (node := stack.pop()) not in expected:
                    expected[node] = start
                    stack += neighbours[node]
        pages, first = components(np.array(links, np.int64).reshape(-1, 2))
        assert dict(zip(pages.tolist(), first.tolist())) == expected
    path = np.stack([np.arange(9999), np.arange(1, 10000)], axis=1)
    assert (components(np.random.default_rng(0).permutation(path))[1] == 0).all()


def many_pages() -> list[dict]:
    rng = random.Random(1)
    rows = []
    for i in range(60):
        copies = [prose(i), edited(prose(i), 1), edited(prose(i), 2), prose(i)][: rng.randrange(1, 5)]
        rows += [
            page(f"http://{i}.test/{j}", text, f"2026-11-01T00:{i:02d}:{j:02d}Z") for j, text in enumerate(copies)
        ]
    rng.shuffle(rows)
    return rows


def test_workers_and_split_into_files_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "MIN_PAGES_TO_SHARE", 0)
    rows = many_pages()
    results = []
    for name, files, num_workers in (
        ("one", [rows[:50], rows[50:100], rows[100:]], 1),
        ("two", [rows[:50], rows[50:100], rows[100:]], 2),
        ("split", [rows[100:], rows[:100]], 1),
    ):
        (tmp_path / name).mkdir()
        results.append(deduplicate(tmp_path / name, *files, num_workers=num_workers))
    assert results[0] == results[1] == results[2]
    assert [url for url, reason in results[0].items() if not reason] and all(
        bool(reason) == (not url.endswith("/0")) for url, reason in results[0].items()
    )
    assert read_run(tmp_path / "one" / "3")["fingerprint"] == read_run(tmp_path / "two" / "3")["fingerprint"]
    for file in ("keys/000001.npy", "links/000004.npy", "reasons/000002.npy"):
        one, two = (tmp_path / name / "3" / "logs" / "minhash" / file for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("appears", ["logs/minhash/signatures/000001.npy", "logs/minhash/reasons/*"])
def test_killed_and_started_again(appears, tmp_path):
    rows = many_pages()
    deduplicate(tmp_path, rows[:50], rows[50:100], rows[100:])
    arguments = ["--pages", tmp_path / "2", "--output_dir", tmp_path / "killed", "--num_workers", 1]
    kill_when(appears, DEDUPLICATE, arguments, tmp_path / "killed")
    run(DEDUPLICATE, *arguments)
    assert read_run(tmp_path / "killed")["fingerprint"] == read_run(tmp_path / "3")["fingerprint"]


def test_no_page_at_all(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        deduplicate(tmp_path, [], [])
    assert stopped.value.code == 2 and f"{tmp_path / '2'} holds no page;" in capsys.readouterr().err
    assert not (tmp_path / "3").exists()


def test_n_grams_are_those_of_sets_of_words():
    rng = random.Random(3)
    passages = [" ".join(rng.choices("abcde", k=rng.randrange(0, 12))) for _ in range(30)]
    index = NGramIndex(enumerate(passages), 6, min_words=3)
    for _ in range(200):
        words = rng.choices("abcde", k=rng.randrange(0, 40))
        expected = set()
        for number, passage in enumerate(map(str.split, passages)):
            n = min(6, len(passage))
            runs = [passage[i : i + n] for i in range(len(passage) - n + 1)] if n >= 3 else []
            expected |= {(number, i, n) for i in range(len(words) - n + 1) if words[i : i + n] in runs}
        assert set(index.hits(words)) == expected
