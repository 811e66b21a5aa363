"""What the owner of a page says on its use: opt-outs from training, and the licence.

Opt-outs, in the order in which they become the reason:

- `noai`, `noimageai` and `noml` in the robots meta tag or the X-Robots-Tag header, to whichever robot
  (https://www.deviantart.com/team/journal/A-New-Directive-for-Opting-Out-of-AI-Datasets-934500371, https://noml.info).
- `noarchive` and `nocache`, to all robots or to one that gathers training data. Once they were about a link to a cached
  copy; now they are how a page asks Bing and Amazon not to train on it
  (https://blogs.bing.com/webmaster/september-2023/Announcing-new-options-for-webmasters-to-control-usage-of-their-content-in-Bing-Chat,
  https://developer.amazon.com/amazonbot). What is said to googlebot is about search. Common Crawl and FineWeb pass over
  them, and older pages may not have meant it, so `noarchive_opts_out` turns them off.
- `noindex` or `none` to a robot that gathers training data, by its name.
- A TDM reservation of 1: /.well-known/tdmrep.json, overruled by the header, overruled by the meta tag
  (https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240510/).

Common Crawl obeys robots.txt itself. A copyright notice is no opt-out: it stands on nine of ten pages.
"""

import json
import mmap
import re
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from urllib.parse import quote, urlsplit

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from fastwarc.warc import WarcRecord, WarcRecordType
from selectolax.lexbor import LexborHTMLParser

from crawl2chat.filters import host_of
from crawl2chat.html import tree_of, utf8
from crawl2chat.pages import DroppedPages, PageFilter
from crawl2chat.stage import write_atomically
from crawl2chat.warc import GZIP_MAGIC, RECORD_END, RECORD_START, TooLarge, decode_body, map_file, read_records

POLICIES = "record", "drop_opt_out", "only_open_licence"
NO_AI, NO_ARCHIVE, NO_INDEX = {"noai", "noimageai", "noml"}, {"noarchive", "nocache"}, {"noindex", "none"}
ALL_ROBOTS = {"robots", "*"}
# Robots that gather training data, by the names they answer to (https://github.com/ai-robots-txt/ai.robots.txt).
TRAINING_ROBOTS = {
    "ccbot", "gptbot", "google-extended", "claudebot", "anthropic-ai", "amazonbot", "applebot-extended", "bytespider",
    "meta-externalagent", "facebookbot", "cohere-training-data-crawler", "ai2bot", "diffbot", "pangubot", "omgili",
}  # fmt: skip
HEED_NO_ARCHIVE = ALL_ROBOTS | TRAINING_ROBOTS | {"bingbot", "msnbot"}
MAX_TAG_BYTES, MAX_LICENCE_LINKS = 2000, 100  # of galleries, each picture with its own

# Free for any use by https://opendefinition.org/licenses/; the least free last.
OPEN_LICENCES = ["cc0", "public-domain", "cc-by", "cc-by-sa"]
LICENCES = [*OPEN_LICENCES, "cc-by-nd", "cc-by-nc", "cc-by-nc-sa", "cc-by-nc-nd"]
CREATIVE_COMMONS = re.compile(
    rb"creativecommons\.org/(?:licenses|publicdomain)/(by(?:-nc)?(?:-sa|-nd)?|zero|mark)\b(?:/(\d\.\d))?"
)
LICENCE_META = {"license", "licence", "rights", "copyright"}  # also dc.rights, dcterms.license, ...
LICENCE_LINK = re.compile(rb"""<(?:a|link|area)\s[^>]*\brel\s*=\s*(?:["'][^"'>]*\b)?licen[sc]e\b""")
RESERVED = [
    phrase.encode()
    for phrase in ("all rights reserved", "alle rechte vorbehalten", "tous droits r", "todos los derechos reservados",
                   "todos os direitos reservados", "tutti i diritti riservati")
]  # fmt: skip

TDM_PATH = "/.well-known/tdmrep.json"
MAX_TDM_BYTES, MAX_TDM_RULES = 512 * 2**10, 10_000


class OptOutFilter(PageFilter):
    """Records in `opt_out` how a page opts out of the use of its text, and drops it unless the policy is `record`.

    Args:
        policy: one of POLICIES; of the licence `LicenceFilter` takes care.
        noarchive_opts_out: take `noarchive` and `nocache` for an opt-out; they are recorded in any case.
        tdm_rules: folder of what `TdmFiles` wrote.
    """

    name = "opt_out"

    def __init__(
        self,
        policy: str = "drop_opt_out",
        noarchive_opts_out: bool = True,
        tdm_rules: str | None = None,
        dropped: DroppedPages | None = None,
    ):
        super().__init__(dropped)
        self.policy, self.noarchive_opts_out, self.tdm_rules = policy, noarchive_opts_out, tdm_rules
        self.rules: dict[str, list[tuple[str, bool]]] = {}

    def begin(self, rank: int) -> None:
        self.rules = load_tdm_rules(self.tdm_rules) if self.tdm_rules else {}

    def reason_to_drop(self, document: Document) -> str:
        metadata, tags = document.metadata, meta_tags(tree_of(document.text))
        opt_outs = _opt_outs(_header_directives(metadata.pop("robots", "")), "header")
        opt_outs |= _opt_outs(_meta_directives(tags), "meta")
        opt_outs |= self._tdm_reservation(metadata["url"], metadata.pop("tdm_reservation", ""), tags)
        metadata["opt_out"] = " ".join(sorted(opt_outs, key=_rank))

        if self.policy == "record":
            return ""
        valid = [reason for reason in opt_outs if self.noarchive_opts_out or not reason.startswith("noarchive")]
        return min(valid, key=_rank, default="")

    def _tdm_reservation(self, url: str, header: str, tags: list[tuple[str, str]]) -> set[str]:
        """What the file says is overruled by the header, and that by the meta tag (section 6.5 of the report)."""
        rules = self.rules.get(host_of(url)) if self.rules else None
        reason = "tdm_file" if rules and is_reserved(url, rules) else ""
        meta = [content for name, content in tags if name == "tdm-reservation"]
        for where, value in [("tdm_header", header), *[("tdm_meta", content) for content in meta]]:
            if value.strip() in ("0", "1"):
                reason = where if value.strip() == "1" else ""
        return {reason} - {""}


def _rank(reason: str) -> tuple[int, str]:
    return ["noai", "noarchive", "agent", "tdm"].index(reason.split("_")[0]), reason


def _opt_outs(directives: Iterator[tuple[str, str]], where: str) -> set[str]:
    found = set()
    for robot, directive in directives:
        if directive in NO_AI:
            found.add(f"noai_{where}")
        elif directive in NO_ARCHIVE and robot in HEED_NO_ARCHIVE:
            found.add(f"noarchive_{where}")
        elif directive in NO_INDEX and robot in TRAINING_ROBOTS:
            found.add(f"agent_{where}")
    return found


def _header_directives(values: str) -> Iterator[tuple[str, str]]:
    """(robot, directive) of X-Robots-Tag headers, one a line: "noindex, otherbot: noarchive, noai"."""
    for value in values.lower().splitlines():
        robot = "robots"
        for part in value.split(","):
            name, colon, rest = part.partition(":")
            if colon and not name.strip().startswith(("max-", "unavailable_after")):
                robot, part = name.strip(), rest
            for directive in part.split():
                yield robot, directive


def _meta_directives(tags: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for name, content in tags:
        if name == "x-robots-tag":
            yield from _header_directives(content)
        elif name in ALL_ROBOTS | TRAINING_ROBOTS or name.endswith("bot"):
            for directive in re.split(r"[\s,;]+", content):
                yield name, directive


def meta_tags(tree: LexborHTMLParser) -> list[tuple[str, str]]:
    """(name, content) of the meta tags of a page, in lower case."""
    tags = []
    for node in tree.css("meta[content]"):
        attributes = node.attributes
        name = attributes.get("name") or attributes.get("property") or attributes.get("http-equiv")
        if name:
            tags.append((name.strip().lower(), (attributes["content"] or "").lower()))
    return tags


class LicenceFilter(PageFilter):
    """Records the licence in `licence`; drops by `only_open_licence` what declares none of OPEN_LICENCES.

    It stands behind the language gate, since to search a page takes longer than to look at its tags.
    """

    name = "licence"

    def __init__(self, policy: str = "record", dropped: DroppedPages | None = None):
        super().__init__(dropped)
        self.policy = policy

    def reason_to_drop(self, document: Document) -> str:
        document.metadata["licence"] = licence = licence_of(document.text)
        is_open = re.sub(r"-\d\.\d$", "", licence) in OPEN_LICENCES
        return "" if is_open or self.policy != "only_open_licence" else "no_open_licence"


def licence_of(page: str) -> str:
    """What a page's HTML says on its licence, and "" if nothing.

    "cc-by-sa-4.0": declared, by `rel=license` or a meta tag on rights; of several the least free. "mentions
    cc-by-sa-4.0": a link to it, which may be about a picture or be the subject. "all-rights-reserved", and "copyright" for
    any other notice.
    """
    html = utf8(page).lower()  # bytes: lower and find are several times as fast as on text
    if b"creativecommons.org/" in html:
        meta = [content for name, content in meta_tags(tree_of(page)) if re.split("[.:]", name)[-1] in LICENCE_META]
        declared = [found for content in meta for found in CREATIVE_COMMONS.finditer(content.encode())]
        mentioned = list(islice(CREATIVE_COMMONS.finditer(html), MAX_LICENCE_LINKS))
        declared += [found for found in mentioned if _is_licence_link(html, found.start())]
        if declared or mentioned:
            name = _least_free(declared or mentioned)
            return name if declared else f"mentions {name}"
    if any(phrase in html for phrase in RESERVED):
        return "all-rights-reserved"
    return "copyright" if b"copyright" in html or "©".encode() in html or b"&copy;" in html else ""


def _is_licence_link(html: bytes, position: int) -> bool:
    start = html.rfind(b"<", max(0, position - MAX_TAG_BYTES), position)
    end = html.find(b">", position, position + MAX_TAG_BYTES)
    return start >= 0 and end >= 0 and bool(LICENCE_LINK.match(html, start, end))


def _least_free(found: list[re.Match]) -> str:
    names = []
    for match in found:
        kind, version = match[1].decode(), (match[2] or b"").decode()
        name = {"zero": "cc0", "mark": "public-domain"}.get(kind, f"cc-{kind}")
        names.append((LICENCES.index(name), f"{name}-{version}" if version else name))
    return max(names)[1]


# --- /.well-known/tdmrep.json


class TdmFiles(PipelineStep):
    """A first pass over WARC files: writes the rules of each tdmrep.json in them to `<rank>.jsonl`, for OptOutFilter.

    A host's file may come after its pages, and in another WARC file. Only the first kilobyte of each gzip member is
    inflated: 33 ms for 25 MB of 884 pages.
    """

    type, name = "📖 - READER", "tdm_files"

    def __init__(self, files: list[Path], output_dir: str):
        super().__init__()
        self.files, self.output_dir = files, output_dir

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        lines = []
        for file in self.files[rank::world_size]:
            if not file.stat().st_size:  # the main pass says so
                continue
            for record in tdm_records(map_file(file)):
                with self.track_time():
                    rules = parse_tdm_rules(record)
                    self.stat_update("num_unreadable" if rules is None else "num_files")
                    host = host_of((record.headers.get("WARC-Target-URI") or "").strip("<>"))
                    date = record.headers.get("WARC-Date") or ""
                    lines += [] if rules is None else [json.dumps({"host": host, "date": date, "rules": rules})]
        Path(self.output_dir).mkdir(parents=True, exist_ok=True)
        write_atomically(Path(self.output_dir, f"{rank:05d}.jsonl"), "".join(f"{line}\n" for line in lines))
        yield from ()


def load_tdm_rules(folder: str | Path) -> dict[str, list[tuple[str, bool]]]:
    """The rules by host; of several files of a host the newest."""
    files = sorted(Path(folder).glob("*.jsonl"))
    found = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return {line["host"]: line["rules"] for line in sorted(found, key=lambda line: (line["date"], str(line["rules"])))}


def tdm_records(data: mmap.mmap | bytes) -> Iterator[WarcRecord]:
    """The responses with a tdmrep.json in a WARC file."""
    offsets = dict.fromkeys(_offsets_of_tdm_files(data))
    if None in offsets:
        items = read_records(data)
    else:
        items = (next(read_records(data, offset), None) for offset in offsets)
    for item in items:
        if isinstance(item, tuple) and _is_tdm_file(item[1]):
            yield item[1]


def _offsets_of_tdm_files(data: mmap.mmap | bytes) -> Iterator[int | None]:
    """Where records start that may be one; None if all records are in one gzip member and must be read to know."""
    needle, position, num_members = TDM_PATH.encode(), 0, 0
    if data[:3] != GZIP_MAGIC:
        while (position := data.find(needle, position + 1)) >= 0:
            yield max(0, data.rfind(RECORD_START, 0, position))
        return
    while position >= 0:
        start = _start_of_member(data, position)
        num_members += start.startswith(RECORD_START)
        if needle in start:
            yield position
        position = data.find(GZIP_MAGIC, position + 1)
    if num_members < 2:
        yield None


def _start_of_member(data: mmap.mmap | bytes, offset: int) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(data[offset : offset + 2**10], 2**10).partition(RECORD_END)[0]
    except zlib.error:
        return b""


def _is_tdm_file(record: WarcRecord) -> bool:
    url = (record.headers.get("WARC-Target-URI") or "").strip("<>")
    return record.record_type == WarcRecordType.response and urlsplit(url).path == TDM_PATH


def parse_tdm_rules(record: WarcRecord) -> list[tuple[str, bool]] | None:
    """[(location, reserved), ...], or None of what is no rule file: then the host has none (section 6.1)."""
    http = record.http_headers
    if http is None or http.status_code != 200:
        return None
    try:
        codings = http.get("Transfer-Encoding") or "", http.get("Content-Encoding") or ""
        body = decode_body(record.reader.read(), *codings)
        rules = json.loads(body.decode("utf-8-sig")) if len(body) <= MAX_TDM_BYTES else None
    except (TooLarge, ValueError, RecursionError):
        return None
    if isinstance(rules, dict):  # one rule without the brackets
        rules = [rules]
    if not isinstance(rules, list) or len(rules) > MAX_TDM_RULES:
        return None
    return [
        (rule["location"], str(rule.get("tdm-reservation")) == "1")
        for rule in rules
        if isinstance(rule, dict) and isinstance(rule.get("location"), str)
    ]


def is_reserved(url: str, rules: list[tuple[str, bool]]) -> bool:
    """By the first rule whose location matches."""
    parts = urlsplit(url)
    path = _comparable((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
    return next((bool(reserved) for location, reserved in rules if path_matches(_comparable(location), path)), False)


def _comparable(path: str) -> str:
    """Percent-encoded letters, digits and -._~ decoded, all else that is not ASCII encoded."""
    path = re.sub(r"%([0-9A-Fa-f]{2})", _decode_unreserved, path)
    return quote(path, safe="/?#[]@!$&'()*+,;=:%|~")


def _decode_unreserved(match: re.Match) -> str:
    character = chr(int(match[1], 16))
    return character if character.isascii() and (character.isalnum() or character in "-._~") else match[0].upper()


def path_matches(pattern: str, path: str) -> bool:
    """As in robots.txt: a prefix, in which * stands for anything and $ at the end for the end. In linear time."""
    to_end = pattern.endswith("$")
    first, *rest = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    position = len(first)
    if not rest:
        return not to_end or position == len(path)
    last = rest.pop() if to_end else ""
    for piece in rest:
        found = path.find(piece, position)
        if found < 0:
            return False
        position = found + len(piece)
    return path.endswith(last) and len(path) - len(last) >= position
