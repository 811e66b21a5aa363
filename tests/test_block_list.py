"""Block lists: what a host, an address or a word in it blocks, as datatrove's filter does.

pytest tests/test_block_list.py
"""

import json

import numpy as np
import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import URLFilter
from tldextract import TLDExtract

from crawl2chat import block_list
from crawl2chat.block_list import BlockList, compile_block_list, split_url
from crawl2chat.stage import StageError

LINES = (
    "# bad ones\nbad.test\nwww.worse.test  # a comment\n\nhttps://fine.test/but/not/this/\nfine.test/a?b=1\n10.0.0.1\n"
)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    def folder(library_name: str, namespace: str, subfolder: str):
        path = tmp_path / "cache" / subfolder
        path.mkdir(parents=True, exist_ok=True)
        return path

    monkeypatch.setattr(block_list, "cached_assets_path", folder)


@pytest.fixture
def listed(tmp_path) -> BlockList:
    (tmp_path / "hosts.txt").write_text(LINES)
    return BlockList(compile_block_list([str(tmp_path / "hosts.txt")]))


@pytest.mark.parametrize(
    "url, reason",
    [
        ("http://bad.test/", "blocked_host"),
        ("https://a.b.bad.test/x", "blocked_host"),
        ("http://BAD.test:8080/x", "blocked_host"),
        ("http://worse.test", "blocked_host"),
        ("http://www.worse.test.", "blocked_host"),
        ("http://10.0.0.1/x", "blocked_host"),
        ("http://notbad.test/bad.test", ""),
        ("http://test/", ""),
        ("http://fine.test/", ""),
        ("http://fine.test/but/not/this", "blocked_url"),
        ("http://www.fine.test/but/not/this/", "blocked_url"),
        ("http://fine.test/but/not/this/too", ""),
        ("https://fine.test/a?b=1", "blocked_url"),
        ("https://fine.test/a?b=2", ""),
        ("hard::bad.test-page.html", ""),
        ("http://[oops", ""),
        ("", ""),
    ],
)
def test_hosts_and_addresses(url, reason, listed):
    assert listed.reason(url) == reason


def test_a_folder_of_ut1(tmp_path):
    for category, hosts in (("adult", "one.test\n"), ("phishing", "two.test\n")):
        (tmp_path / "ut1" / category).mkdir(parents=True)
        (tmp_path / "ut1" / category / "domains").write_text(hosts)
    (tmp_path / "ut1" / "adult" / "urls").write_text("three.test/x\n")
    whole = BlockList(compile_block_list([str(tmp_path / "ut1")]))
    part = BlockList(compile_block_list([str(tmp_path / "ut1" / "phishing")]))
    urls = ("http://one.test/", "http://two.test/", "http://three.test/x")
    assert [whole.reason(url) for url in urls] == ["blocked_host", "blocked_host", "blocked_url"]
    assert [part.reason(url) for url in urls] == ["", "blocked_host", ""]


def test_empty_and_missing_lists(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "folder").mkdir()
    assert BlockList(compile_block_list([str(tmp_path / "empty.txt")])).reason("http://a.test/") == ""
    for name in ("folder", "nowhere"):
        with pytest.raises(
            StageError, match=f"block list .*{name} is no file, and no folder with files named domains"
        ):
            compile_block_list([str(tmp_path / name)])


def test_a_compilation_cut_short_is_made_again(tmp_path):
    (tmp_path / "hosts.txt").write_text(LINES)
    folder = compile_block_list([str(tmp_path / "hosts.txt")])
    (folder / "words.json").unlink()  # written last
    (folder / "hosts.npy").write_bytes(b"half")
    assert BlockList(compile_block_list([str(tmp_path / "hosts.txt")])).reason("http://bad.test/") == "blocked_host"
    (tmp_path / "hosts.txt").write_text("other.test\n")  # another list has another folder
    assert BlockList(compile_block_list([str(tmp_path / "hosts.txt")])).reason("http://bad.test/") == ""


def test_another_process_compiles_the_same_meanwhile(tmp_path, monkeypatch):
    (tmp_path / "hosts.txt").write_text(LINES)
    unique = np.unique

    def meanwhile(hashes):
        monkeypatch.setattr(np, "unique", unique)
        compile_block_list([str(tmp_path / "hosts.txt")])
        return unique(hashes)

    monkeypatch.setattr(np, "unique", meanwhile)
    folder = compile_block_list([str(tmp_path / "hosts.txt")])
    assert {file.name for file in folder.iterdir()} == {"hosts.npy", "urls.npy", "words.json"}
    assert BlockList(folder).reason("http://bad.test/") == "blocked_host"


@pytest.mark.filterwarnings("ignore:The .registered_domain. property")
def test_words_decide_as_datatrove_does(tmp_path, monkeypatch):
    """The words that datatrove brings; the hosts are few, so that the test is quick."""
    import tarfile

    (tmp_path / "domains").write_text("bad.com\nsub.domain.com\n")
    (tmp_path / "urls").write_text("")
    with tarfile.open(tmp_path / "lists.tar.gz", "w:gz") as archive:
        for name in ("domains", "urls"):
            archive.add(tmp_path / name, arcname=name)
    monkeypatch.setattr(block_list, "BUNDLED_LISTS", tmp_path / "lists.tar.gz")
    ours = BlockList(compile_block_list([block_list.FINEWEB]))

    words = {name: (block_list.BUNDLED / f"{name}.txt").read_text().splitlines() for name in block_list.WORD_LISTS}
    theirs = URLFilter(
        use_integrated_lists=False,
        extra_domains=["bad.com", "sub.domain.com"],
        banned_words=words["banned_words"],
        soft_banned_words=words["soft_banned_words"],
        banned_subwords=words["banned_subwords"],
    )
    theirs.tldextractor = TLDExtract(suffix_list_urls=())  # the list it brings; the newest is on the network
    rng = np.random.default_rng(0)
    plain = ["news", "town", "2024", "Garden", "a", "shop", "index", "the"]
    pool = [*plain * 10, *(word for name in words for word in words[name] if not word.startswith("#"))]
    counts = dict.fromkeys(["", "blocked_host", "blocked_word", "soft_words", "blocked_subword"], 0)
    for _ in range(3000):
        host = rng.choice(
            ["bad.com", "a.bad.com", "sub.domain.com", "good.com", "x.good.com"], p=[0.05] * 3 + [0.5, 0.35]
        )
        path = "".join(f"{rng.choice(['/', '-', '_', '.', ''])}{rng.choice(pool)}" for _ in range(4))
        url = f"https://{host}/{path}".replace("#", "")
        reason = ours.reason(url)
        answer = theirs.filter(Document("", "0", metadata={"url": url}))
        assert (answer is True) == (reason == ""), (url, reason, answer)
        counts[reason] += 1
    assert min(counts.values()) > 20, counts


def test_what_is_compiled_is_small_and_sorted(listed, tmp_path):
    [folder] = (tmp_path / "cache").iterdir()
    hosts = np.load(folder / "hosts.npy")
    assert hosts.dtype == np.uint64 and (np.diff(hosts.astype(float)) > 0).all() and len(hosts) == 3
    assert set(json.loads((folder / "words.json").read_text())) == set(block_list.WORD_LISTS)


def test_split_url():
    assert split_url("http://www.A.test:80/x/?q=1#part") == ("a.test", "/x?q=1")
    assert split_url("a.test/x/") == ("a.test", "/x")
    assert split_url("WWW.A.test.") == ("a.test", "")
