"""Duplicates: keys of each page, links between pages of one key, clusters of linked pages, and which of them stay.

Four steps, laid out as datatrove's MinHash blocks, so that the same executors run, resume and spread them:

1. `WriteKeys`, a task a file of pages: hashes of the address and of the text, the date, MinHash signature and its bands.
2. `FindLinks`, a task a kind of key: pages with one key are linked; those of a band only if their signatures are alike.
3. `choose`, in one process: connected components of all links are clusters, and of each cluster the best pages stay.
4. `DuplicateFilter`, a task a file of pages: drops the others.

MinHash as in FineWeb (https://arxiv.org/abs/2406.17557, section 3.4), 112 hashes of 5-grams of words, with two
departures. The hashes are cut into 14 bands of 8 not once but in two ways, rows and columns of a 14 x 8 matrix; and a
pair that shares a band counts only if at least 70% of its hashes are equal, which estimates the Jaccard similarity J
with a standard error of .04. Of 4,000 pairs of random sets each were found: FineWeb's 14 x 8 alone finds

| J | .5 | .6 | .7 | .75 | .8 | .85 | .9 |
|---|---|---|---|---|---|---|---|
| 14 x 8 | .05 | .20 | .56 | .78 | .936 | .993 | 1.00 |
| here | .000 | .005 | .43 | .88 | .989 | 1.00 | 1.00 |

Cost, on one shared core: .39 ms of CPU for a page of 865 words and .12 ms for 195 in step 1 (datatrove's signature of
390 words: 9.7 ms). A million pages, 0.3 million of them near copies, took 17 s of CPU in step 2 and 5 s in step 3,
60 MB of memory beyond the 85 MB of the process in either, and 700 MB on disk.

The best page of a cluster is the one crawled first, ties in the order of the crawl: copies are made after their
source, a mirror's frame makes them longer and not better, and what stays hardly changes when later crawls are added.
(datatrove keeps the root of its union-find, whichever that is; TxT360 prefers the latest crawl.) Every page that goes
equals or resembles one that stays: in a chain A ~ B ~ C whose ends differ, A and C stay.
"""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice, pairwise
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow.parquet as pq
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from rensa import RMinHash
from xxhash import xxh3_64_intdigest

from crawl2chat.executors import ClusterConfig, run_pipeline
from crawl2chat.ngrams import n_gram_hashes, plain_words, word_hashes
from crawl2chat.pages import DroppedPages, PageFilter, page_files

N_GRAM, NUM_BANDS, HASHES_A_BAND, SEED = 5, 14, 8, 1
NUM_HASHES = NUM_BANDS * HASHES_A_BAND
MIN_SIMILARITY = 0.7
URL, TEXT, DATE, BANDS = 0, 1, 2, 3  # rows of a file of keys; 2 * NUM_BANDS rows follow the first three
LINKED = [URL, TEXT, *range(BANDS, BANDS + 2 * NUM_BANDS)]
REASONS = ["", "same_url", "same_text", "near_duplicate"]
MIN_PAGES_TO_SHARE = 200_000  # linking fewer takes seconds, about as long as starting workers
BATCH, PAIRS_AT_ONCE, CLUSTERS_AT_ONCE = 1000, 1 << 14, 5000

DEFAULT_PORTS = {"http": 80, "https": 443}
# Parameters that name a visit and not a page.
TRACKING = re.compile(
    r"utm_\w+|gclid|gclsrc|dclid|gbraid|wbraid|fbclid|msclkid|yclid|twclid|ttclid|igshid|mc_[ce]id|_ga|_gl"
    r"|phpsessid|jsessionid|aspsessionid\w*|cfid|cftoken",
    re.IGNORECASE,
)


def url_key(url: str) -> str:
    """The address by which two captures are taken for one page.

    Dropped: scheme http or https, case of the host and its last dot, default port, fragment (but for "#!..."), slash at
    the end of a path, session ids, tracking parameters, the order of parameters. That is what the keys of Common Crawl's
    index leave out (SURT, https://github.com/internetarchive/surt), except "www.", case of the path and of parameters,
    which distinguish pages on some hosts.
    """
    url = url.strip()
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), (parts.hostname or "").rstrip("."), parts.port
    except ValueError:  # "http://[oops"
        return url
    if scheme not in DEFAULT_PORTS or not host:
        return url
    path = re.sub(r";jsessionid=\w+$", "", parts.path, flags=re.IGNORECASE).rstrip("/")
    query = "&".join(sorted(p for p in parts.query.split("&") if p and not TRACKING.fullmatch(p.split("=")[0])))
    key = f"{parts.username}@{host}" if parts.username else host
    key += f":{port}" if port and port != DEFAULT_PORTS[scheme] else ""
    key += path + (f"?{query}" if query else "")
    return key + (f"#{parts.fragment}" if parts.fragment.startswith("!") else "")


def signatures_of(texts: list[str]) -> np.ndarray:  # (N, NUM_HASHES)
    """MinHash signatures of the 5-grams of words, lower case, without punctuation; numbers count as words.

    A text of fewer words is one n-gram; one without any, such as "?!", is its own.
    """
    shingles = []
    for text in texts:
        hashes = word_hashes(plain_words(text)) if text else np.empty(0, np.uint64)
        hashes = hashes if len(hashes) else word_hashes([text])
        shingles.append(n_gram_hashes(hashes, min(N_GRAM, len(hashes))))
    offsets = np.cumsum([0, *map(len, shingles)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(shingles), offsets, NUM_HASHES, SEED)
    return np.array(matrix.to_rows(), np.uint32)


def bands_of(signatures: np.ndarray) -> np.ndarray:  # (2 * NUM_BANDS, N)
    """One 64-bit key a band: bands of neighbouring hashes, then bands of every fourteenth."""
    rows = signatures.reshape(-1, NUM_BANDS, HASHES_A_BAND)
    columns = signatures.reshape(-1, HASHES_A_BAND, NUM_BANDS).transpose(0, 2, 1)
    both = np.ascontiguousarray(np.concatenate([rows, columns], axis=1))  # (N, 2 * NUM_BANDS, HASHES_A_BAND)
    keys = [xxh3_64_intdigest(both[i, band]) for band in range(2 * NUM_BANDS) for i in range(len(both))]
    return np.array(keys, np.uint64).reshape(2 * NUM_BANDS, len(both))


def keys_of(pages: list[Document], signatures: np.ndarray) -> np.ndarray:  # (BANDS + 2 * NUM_BANDS, N)
    named = [url_key(page.metadata["url"] or "") or page.id for page in pages]  # a dataset may have no addresses
    urls = [xxh3_64_intdigest(name.encode("utf-8", "replace")) for name in named]
    texts = [xxh3_64_intdigest(" ".join(page.text.split()).encode("utf-8", "replace")) for page in pages]
    dates = [_seconds(page.metadata.get("date") or "") for page in pages]
    return np.concatenate([np.array([urls, texts, dates], np.uint64), bands_of(signatures)])


def _seconds(date: str) -> int:
    """Since 1970; a page without a readable date counts as the last."""
    try:
        moment = datetime.fromisoformat(date)
    except ValueError:
        return 2**63
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0, int(moment.timestamp()))


class PageReader(PipelineStep):
    """One file of pages a task, every row in order: datatrove's reader leaves out pages without text."""

    type, name = "📖 - READER", "read"

    def __init__(self, pages: str):
        super().__init__()
        self.files = page_files(pages)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for batch in pq.ParquetFile(self.files[rank]).iter_batches(BATCH):
            for row in batch.to_pylist():
                yield Document(text=row.pop("text") or "", id=row.pop("id") or "", metadata=row)


class WriteKeys(PipelineStep):
    """`keys/<rank>.npy` and `signatures/<rank>.npy` of one file of pages."""

    type, name = "🫂 - DEDUP", "keys"

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        keys, signatures = [], []
        while pages := list(islice(data, BATCH)):
            with self.track_time():
                signatures.append(signatures_of([page.text for page in pages]))
                keys.append(keys_of(pages, signatures[-1]))
        no_page = np.empty((0, NUM_HASHES), np.uint32)
        save(self.folder / "signatures" / f"{rank:06d}.npy", np.concatenate([no_page, *signatures]))
        no_key = np.empty((BANDS + 2 * NUM_BANDS, 0), np.uint64)
        save(self.folder / "keys" / f"{rank:06d}.npy", np.concatenate([no_key, *keys], axis=1))


class Pages:
    """What `WriteKeys` wrote of all pages, which are numbered in the order of the crawl.

    Files are mapped for one look only: what stays mapped would count as memory of this process.
    """

    def __init__(self, folder: Path):
        self.keys = sorted((folder / "keys").glob("*.npy"))
        self.signatures = [folder / "signatures" / file.name for file in self.keys]
        self.starts = np.cumsum([0, *(mapped(file).shape[1] for file in self.keys)])

    def key(self, kind: int) -> np.ndarray:
        return np.concatenate([mapped(file)[kind] for file in self.keys])

    def signatures_at(self, pages: np.ndarray) -> np.ndarray:  # (N, NUM_HASHES)
        rows = np.empty((len(pages), NUM_HASHES), np.uint32)
        files = np.searchsorted(self.starts, pages, side="right") - 1
        for file in np.unique(files):
            here = files == file
            rows[here] = mapped(self.signatures[file])[pages[here] - self.starts[file]]
        return rows

    def alike(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Of each pair, whether its signatures agree."""
        found = [np.empty(0, bool)]
        for i in range(0, len(left), PAIRS_AT_ONCE):
            pair = slice(i, i + PAIRS_AT_ONCE)
            found.append(agree(self.signatures_at(left[pair]), self.signatures_at(right[pair])))
        return np.concatenate(found)


def agree(signatures: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.count_nonzero(signatures == others, axis=-1) >= MIN_SIMILARITY * NUM_HASHES


class FindLinks(PipelineStep):
    """`links/<rank>.npy`: the pairs of pages linked by one kind of key."""

    type, name = "🫂 - DEDUP", "links"

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        pages, kind = Pages(self.folder), LINKED[rank]
        with self.track_time():
            links = links_between(pages.key(kind), pages.alike if kind >= BANDS else None)
        save(self.folder / "links" / f"{rank:06d}.npy", links)


def links_between(keys: np.ndarray, alike: Callable | None) -> np.ndarray:  # (N, 2)
    """Pairs (first page of a key, another of that key); those unlike the first are held against their own first."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    same = np.zeros(len(keys) + 1, bool)  # as the one before
    same[1:-1] = keys[1:] == keys[:-1]
    shared = same[1:] | same[:-1]
    pages, keys = order[shared], keys[shared]
    links = [np.empty((0, 2), np.int64)]
    while len(pages):
        is_first = np.append(True, keys[1:] != keys[:-1])
        first = pages[is_first][np.cumsum(is_first) - 1]
        left, right, keys = first[~is_first], pages[~is_first], keys[~is_first]
        yes = alike(left, right) if alike else np.ones(len(left), bool)
        links.append(np.stack([left, right], axis=1)[yes])
        pages, keys = right[~yes], keys[~yes]
    return np.concatenate(links)


def components(links: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All linked pages, ascending, and for each the first page of its connected component.

    Union-find for arrays: the larger root hooks on the smaller, then paths are halved until each points to its root
    (after Shiloach and Vishkin, 1982).
    """
    pages, ends = np.unique(links, return_inverse=True)
    left, right = ends.reshape(-1, 2).T
    root = np.arange(len(pages))
    while True:
        a, b = root[left], root[right]
        if (a == b).all():
            return pages, pages[root]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while (root[root] != root).any():
            root = root[root]


def choose(folder: Path) -> int:
    """Writes `reasons/<file>.npy`, for each page why it goes (an index in `REASONS`), and returns the number of clusters."""
    pages = Pages(folder)
    num_pages = pages.starts[-1]
    pairs = np.empty(0, np.int64)  # each as one number; many are linked by all bands
    for file in sorted((folder / "links").glob("*.npy")):
        pairs = np.sort(np.append(pairs, np.load(file) @ np.array([num_pages, 1])))
        pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]]
    linked, cluster = components(np.stack(np.divmod(pairs, max(1, num_pages)), axis=1))
    order = np.lexsort((linked, pages.key(DATE)[linked], cluster))  # best first
    linked, cluster = linked[order], cluster[order]
    url, text = pages.key(URL)[linked], pages.key(TEXT)[linked]

    reasons = np.zeros(num_pages, np.uint8)
    starts = np.append(np.unique(cluster, return_index=True)[1], len(cluster))
    for i in range(0, len(starts) - 1, CLUSTERS_AT_ONCE):
        bounds = starts[i : i + CLUSTERS_AT_ONCE + 1]
        signatures = pages.signatures_at(linked[bounds[0] : bounds[-1]])
        for start, stop in pairwise(bounds):
            mine = signatures[start - bounds[0] : stop - bounds[0]]
            reasons[linked[start:stop]] = fates(url[start:stop], text[start:stop], mine)
    for number, (start, stop) in enumerate(pairwise(pages.starts)):
        save(folder / "reasons" / f"{number:06d}.npy", reasons[start:stop])
    return len(starts) - 1


def fates(url: np.ndarray, text: np.ndarray, signatures: np.ndarray) -> np.ndarray:
    """Why each page of a cluster, the best first, goes: the first stays with all that are unlike it, and so on."""
    reasons, left = np.zeros(len(url), np.uint8), np.arange(len(url))
    while len(left):
        best, left = left[0], left[1:]
        reason = 3 * agree(signatures[best], signatures[left]).astype(np.uint8)
        reason[text[left] == text[best]] = 2
        reason[url[left] == url[best]] = 1
        reasons[left] = reason
        left = left[reason == 0]
    return reasons


def find_duplicates(pages: str, folder: Path, num_workers: int, cluster: ClusterConfig | None = None) -> int:
    """Steps 1 to 3; returns the number of clusters."""
    files = page_files(pages)
    keys = [PageReader(pages), WriteKeys(folder)]
    run_pipeline(keys, len(files), num_workers, folder / "logs_keys", cluster, files)
    num_pages = sum(pq.read_metadata(file).num_rows for file in files)
    linkers = num_workers if num_pages >= MIN_PAGES_TO_SHARE else 1
    run_pipeline([FindLinks(folder)], len(LINKED), linkers, folder / "logs_links", cluster)
    return choose(folder)


class DuplicateFilter(PageFilter):
    """Drops the pages that `choose` named."""

    name = "duplicate"

    def __init__(self, folder: Path, dropped: DroppedPages | None = None):
        super().__init__(dropped)
        self.folder = folder

    def begin(self, rank: int) -> None:
        self.reasons: Iterator[int] = iter(np.load(self.folder / "reasons" / f"{rank:06d}.npy"))

    def reason_to_drop(self, document: Document) -> str:
        return REASONS[next(self.reasons)]


def mapped(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r")


def save(file: Path, array: np.ndarray) -> None:
    """Writes a whole file or none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    with temporary.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)
    temporary.replace(file)
