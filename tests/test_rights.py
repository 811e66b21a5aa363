"""Each way to opt out, who is meant, what overrules what, the licences, and the policies.

pytest tests/test_rights.py
"""

import gzip
import json
import time

import pyarrow.parquet as pq
import pytest
from conftest import metrics, run
from datatrove.data import Document
from tiny_warc import info, member, page, prose, record, write_warc

from crawl2chat.rights import (
    LicenceFilter,
    OptOutFilter,
    TdmFiles,
    licence_of,
    load_tdm_rules,
    path_matches,
    tdm_records,
)

FILTER = "data_processing/2_filter_pages.py"
CC_BY = '<a rel="license" href="https://creativecommons.org/licenses/by/4.0/">CC BY</a>'


def document(text: str, url: str = "http://a.test/", **metadata) -> Document:
    return Document(text=text, id="x", metadata={"url": url, **metadata})


def drop(head: str = "", tail: str = "", policy: str = "drop_opt_out", noarchive: bool = True, **metadata) -> tuple:
    """The reason to drop, and what was recorded."""
    found = document(page("x", head, tail), **metadata)
    reason = OptOutFilter(policy, noarchive).reason_to_drop(found) or LicenceFilter(policy).reason_to_drop(found)
    assert not found.metadata.keys() & {"robots", "tdm_reservation"}
    return reason, found.metadata["opt_out"]


@pytest.mark.parametrize(
    "head, metadata, reason",
    [
        ("", {}, ""),
        ('<meta name="robots" content="index, noai">', {}, "noai_meta"),
        ('<meta name="robots" content="follow noai">', {}, "noai_meta"),
        ("<META CONTENT='NoImageAI' NAME=Robots>", {}, "noai_meta"),
        ('<meta name="robots" content="noml">', {}, "noai_meta"),
        ('<meta name="googlebot" content="noai">', {}, "noai_meta"),
        ('<meta name="somebot" content="noai">', {}, "noai_meta"),
        ('<meta http-equiv="X-Robots-Tag" content="noai">', {}, "noai_meta"),
        ('<meta name="description" content="what noai and noarchive mean">', {}, ""),
        ('<meta name="keywords" content="noai, robots, noarchive">', {}, ""),
        ('<meta name="robots" content="noindex, nofollow, noaim, max-snippet:-1">', {}, ""),
        ("", {"robots": "otherbot: noindex, noai"}, "noai_header"),
        ("", {"robots": "noindex\nNOAI"}, "noai_header"),
        ("", {"robots": "noindex"}, ""),
        ("", {"robots": "unavailable_after: 25 Jun 2027 15:00:00 PST, max-snippet: 20"}, ""),
        ('<meta name="robots" content="index,noarchive">', {}, "noarchive_meta"),
        ('<meta name="robots" content="NOCACHE">', {}, "noarchive_meta"),
        ('<meta name="bingbot" content="noarchive">', {}, "noarchive_meta"),
        ('<meta name="googlebot" content="noarchive">', {}, ""),
        ('<meta name="googlebot-news" content="noarchive">', {}, ""),
        ("", {"robots": "noarchive"}, "noarchive_header"),
        ("", {"robots": "googlebot: noarchive"}, ""),
        ("", {"robots": "googlebot: nofollow\nbingbot: noarchive"}, "noarchive_header"),
        ("", {"robots": "nofollow, ccbot: nofollow, noarchive"}, "noarchive_header"),
        ('<meta name="CCBot" content="noindex">', {}, "agent_meta"),
        ('<meta name="GPTBot" content="none">', {}, "agent_meta"),
        ('<meta name="google-extended" content="noindex">', {}, "agent_meta"),
        ('<meta name="GPTBot" content="nofollow">', {}, ""),
        ("", {"robots": "ccbot: noindex"}, "agent_header"),
        ("", {"robots": "googlebot: noindex"}, ""),
        ('<meta name="tdm-reservation" content="1">', {}, "tdm_meta"),
        ('<meta name="tdm-reservation" content="0">', {}, ""),
        ('<meta name="tdm-policy" content="https://a.test/1">', {}, ""),
        ("", {"tdm_reservation": " 1 "}, "tdm_header"),
        ("", {"tdm_reservation": "0"}, ""),
        ('<meta name="tdm-reservation" content="0">', {"tdm_reservation": "1"}, ""),
        ('<meta name="tdm-reservation" content="1">', {"tdm_reservation": "0"}, "tdm_meta"),
        ('<meta name="tdm-reservation" content="maybe">', {"tdm_reservation": "1"}, "tdm_header"),
        ("<!-- © 2026, all rights reserved -->", {}, ""),
        ("<meta" * 50, {}, ""),
    ],
)
def test_opt_outs(head, metadata, reason):
    assert drop(head, **metadata) == (reason, reason)


def test_all_opt_outs_are_recorded_and_the_clearest_is_the_reason():
    head = '<meta name="robots" content="noarchive"><meta name="tdm-reservation" content="1">'
    assert drop(head, robots="noai") == ("noai_header", "noai_header noarchive_meta tdm_meta")
    assert drop(head, noarchive=False) == ("tdm_meta", "noarchive_meta tdm_meta")
    assert drop('<meta name="robots" content="noarchive">', noarchive=False) == ("", "noarchive_meta")


def test_policies():
    noai = '<meta name="robots" content="noai">'
    assert drop(noai, policy="record") == ("", "noai_meta")
    assert drop("", policy="only_open_licence") == ("no_open_licence", "")
    assert drop("", CC_BY, policy="only_open_licence") == ("", "")
    assert drop("", CC_BY.replace("/by/", "/by-nc/"), policy="only_open_licence") == ("no_open_licence", "")
    assert drop("", CC_BY.replace('rel="license"', ""), policy="only_open_licence") == ("no_open_licence", "")
    assert drop(noai, CC_BY, policy="only_open_licence") == ("noai_meta", "noai_meta")


@pytest.mark.parametrize(
    "html, licence",
    [
        ('<a rel="license" href="https://creativecommons.org/licenses/by-nc-sa/4.0/">', "cc-by-nc-sa-4.0"),
        ("<a href='http://creativecommons.org/licenses/by/3.0/de/' rel='license noopener'>", "cc-by-3.0"),
        ('<link rel=license href="//creativecommons.org/publicdomain/zero/1.0/">', "cc0-1.0"),
        ('<link href="https://creativecommons.org/publicdomain/mark/1.0/" rel="license">', "public-domain-1.0"),
        ('<meta name="DC.rights" content="https://creativecommons.org/licenses/by-nd/4.0/">', "cc-by-nd-4.0"),
        ('<meta name="dcterms.license" content="https://creativecommons.org/licenses/by/4.0/">', "cc-by-4.0"),
        ('<a href="https://creativecommons.org/licenses/by-sa/4.0/">', "mentions cc-by-sa-4.0"),
        ("see https://creativecommons.org/licenses/by/", "mentions cc-by"),
        ('<img src="https://i.creativecommons.org/l/by/4.0/88x31.png">', ""),
        ("see https://creativecommons.org/about/ and creativecommons.org/licenses/sampling/1.0", ""),
        (CC_BY + '<a rel="license" href="https://creativecommons.org/licenses/by-nc/4.0/">', "cc-by-nc-4.0"),
        (CC_BY + '<a href="https://creativecommons.org/licenses/by-nc/4.0/">', "cc-by-4.0"),
        (CC_BY + "© 2026. All rights reserved.", "cc-by-4.0"),
        ("<footer>© 2026 a baker. All Rights Reserved.</footer>", "all-rights-reserved"),
        ("<footer>Alle Rechte vorbehalten</footer>", "all-rights-reserved"),
        ("<footer>© 2026 a baker</footer>", "copyright"),
        ("<footer>&copy; 2026 a baker</footer>", "copyright"),
        ("<p>text</p>", ""),
    ],
)
def test_licences(html, licence):
    assert licence_of(html) == licence


@pytest.mark.parametrize(
    "tag",
    [
        "<meta ",
        "<meta bot=",
        "<meta name=robots content=" + "x" * 1900 + "<meta>",
        "<a rel=creativecommons.org/licenses/by ",
    ],
)
def test_hostile_pages_take_no_long_time(tag):
    start = time.process_time()
    drop(tag * (2**21 // len(tag)))
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "pattern, path, matches",
    [
        ("/", "/", True), ("/", "/any/page?x=1", True), ("/a/", "/a", False), ("/a/", "/a/b", True), ("/a", "/ab", True),
        ("/a", "/A", False), ("/*.jpg", "/x/y.jpg", True), ("/*.jpg", "/x/y.jpg?z", True), ("/*.jpg$", "/x/y.jpg?z", False),
        ("/*.jpg$", "/x.jpg/y.jpg", True), ("/a$", "/a", True), ("/a$", "/ab", False), ("/a/*/c", "/a/b/c", True),
        ("/a/*/c", "/a/c", False), ("*", "/x", True), ("/a*a$", "/a", False), ("/a*a$", "/aa", True), ("", "/x", True),
    ],
)  # fmt: skip
def test_patterns(pattern, path, matches):
    assert path_matches(pattern, path) == matches


def tdm_record(host: str, rules, date: str = "2026-11-01T00:00:00Z", **options) -> bytes:
    body = rules if isinstance(rules, bytes | str) else json.dumps(rules)
    headers = {"Content-Type": "application/json", **options.pop("headers", {})}
    found = record(f"https://{host}/.well-known/tdmrep.json", body, headers=headers, **options)
    return found.replace(b"2026-11-01T00:00:00Z", date.encode())


def rule(location: str, reservation) -> dict:
    return {"location": location, "tdm-reservation": reservation}


@pytest.fixture
def rules(tmp_path) -> str:
    """Of several hosts, in two files, before and after their pages."""
    packed = gzip.compress(json.dumps([rule("/", 1)]).encode())
    first = [
        tdm_record("a.test", [rule("/free/", 0), rule("/", 1)]),
        record("http://a.test/x", page("x", '<a href="/.well-known/tdmrep.json">')),
        tdm_record("old.test", [rule("/", 1)], date="2026-10-01T00:00:00Z"),
        tdm_record("gone.test", [rule("/", 1)], status=404),
        tdm_record("bad.test", "<html>not found</html>"),
        tdm_record("deep.test", "[" * 100_000),
        tdm_record("large.test", " " * 2**20 + "[]"),
        tdm_record("packed.test", packed, headers={"Content-Encoding": "gzip"}),
    ]
    second = [
        tdm_record("old.test", [rule("/", 0)]),
        tdm_record("one.test", rule("/caf%C3%A9/%7Ejane", "1")),
        tdm_record("odd.test", ["x", {"location": 3}, {"location": "/all"}, rule("/b", 1)]),
    ]
    files = [write_warc(tmp_path / "1.warc.gz", first), write_warc(tmp_path / "2.warc", second)]
    for rank in (0, 1):
        list(TdmFiles(files, str(tmp_path / "rules")).run(rank=rank, world_size=2))
    return str(tmp_path / "rules")


@pytest.mark.parametrize(
    "url, reason",
    [
        ("http://a.test/", "tdm_file"), ("https://a.test/free", "tdm_file"), ("https://a.test/free/x", ""),
        ("http://www.a.test/", ""), ("http://old.test/", ""), ("http://gone.test/", ""), ("http://bad.test/", ""),
        ("http://deep.test/", ""), ("http://large.test/", ""), ("http://packed.test/x", "tdm_file"),
        ("http://one.test/café/~jane/x", "tdm_file"), ("http://one.test/caf%c3%a9/~jane", "tdm_file"),
        ("http://one.test/", ""), ("http://odd.test/all", ""), ("http://odd.test/b", "tdm_file"), ("hard::url", ""),
    ],
)  # fmt: skip
def test_tdm_files(url, reason, rules):
    opt_outs = OptOutFilter(tdm_rules=rules)
    opt_outs.begin(0)
    assert opt_outs.reason_to_drop(document(page("x"), url)) == reason


def test_header_and_meta_overrule_the_tdm_file(rules):
    opt_outs = OptOutFilter(tdm_rules=rules)
    opt_outs.begin(0)
    free = '<meta name="tdm-reservation" content="0">'
    assert opt_outs.reason_to_drop(document(page("x"), tdm_reservation="0")) == ""
    assert opt_outs.reason_to_drop(document(page("x", free))) == ""
    assert opt_outs.reason_to_drop(document(page("x", free), "http://a.test/free/", tdm_reservation="1")) == ""
    assert opt_outs.reason_to_drop(document(page("x"), "http://a.test/free/", tdm_reservation="1")) == "tdm_header"


def test_tdm_files_are_found_around_damage_and_in_one_member():
    wanted, other = tdm_record("a.test", [rule("/", 1)]), record("http://a.test/", page(prose(0)))
    parts = [member(info()), member(other)[:200], member(wanted), member(other)[:-9]]
    assert len(list(tdm_records(b"".join(parts)))) == 1
    assert len(list(tdm_records(member(info() + other + wanted + other)))) == 1
    assert len(list(tdm_records(info() + other + wanted + other))) == 1
    assert list(tdm_records(b"".join(map(member, [info(), other])))) == []


def test_the_filter_step_reads_the_crawls_tdm_files_and_keeps_what_it_records(tmp_path):
    pages = [record(f"http://{host}.test/1", page(prose(n, 20), tail=CC_BY)) for n, host in enumerate("abc")]
    pages[2] = record("http://c.test/1", page(prose(2, 20)), headers={"X-Robots-Tag": "noarchive"})
    write_warc(tmp_path / "in" / "1.warc.gz", pages)
    write_warc(tmp_path / "in" / "2.warc.gz", [tdm_record("a.test", [rule("/", 1)])])

    def kept(*arguments) -> dict:
        out = ["--output_dir", tmp_path / "out", "--overwrite", "true", "--num_workers", 1]
        run(FILTER, "--warc", tmp_path / "in", *out, *arguments)
        rows = [
            row for file in (tmp_path / "out" / "pages").glob("*.parquet") for row in pq.read_table(file).to_pylist()
        ]
        assert metrics(tmp_path / "out")["num_pages_kept"] == len(rows)
        return {row["url"].split("/")[2][0]: (row["licence"], row["opt_out"]) for row in rows}

    assert kept() == {"b": ("cc-by-4.0", "")}
    assert kept("--noarchive_opts_out", "false").keys() == {"b", "c"}
    everything = kept("--rights_policy", "record")
    assert everything == {"a": ("cc-by-4.0", "tdm_file"), "b": ("cc-by-4.0", ""), "c": ("", "noarchive_header")}
    assert kept("--tdmrep", tmp_path / "in" / "1.warc.gz").keys() == {"a", "b"}
    assert load_tdm_rules(tmp_path / "out" / "tdmrep") == {}


def test_unknown_policy_and_missing_tdm_files_are_refused(tmp_path, capsys):
    warc = write_warc(tmp_path / "1.warc.gz", [record("http://a.test/", page(prose(0)))])
    (tmp_path / "empty").mkdir()
    for arguments, complaint in [
        (["--rights_policy", "keep"], "`rights_policy` must be one of record, drop_opt_out, only_open_licence"),
        (["--tdmrep", tmp_path / "empty"], "empty has no *.warc.gz or *.warc in it"),
        (["--blocked_words", tmp_path / "none.txt"], "none.txt does not exist"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            run(FILTER, "--warc", warc, "--output_dir", tmp_path / "out", *arguments)
        assert stopped.value.code == 2 and complaint in capsys.readouterr().err
