"""Runs of n words as 64-bit hashes: by them MinHash, protected passages and decontamination compare texts."""

import re
from collections.abc import Iterable, Iterator

import numpy as np
from xxhash import xxh3_64_intdigest

FACTOR = 0x9E3779B97F4A7C15  # odd; 2^64 over the golden ratio
MAX_TABLE_BITS = 26


def plain_words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def word_hashes(words: list[str]) -> np.ndarray:
    return np.fromiter((xxh3_64_intdigest(w.encode("utf-8", "replace")) for w in words), np.uint64, len(words))


def n_gram_hashes(hashes: np.ndarray, n: int) -> np.ndarray:
    """Of each run of n words one hash: a polynomial in the hashes of its words, modulo 2^64. None of fewer words.

    Args:
        hashes: of the words, by `word_hashes`.
    """
    num_runs = max(0, len(hashes) - n + 1)
    runs = np.zeros(num_runs, np.uint64)
    for i in range(n if num_runs else 0):
        runs *= np.uint64(FACTOR)
        runs += hashes[i : i + num_runs]
    return runs


class NGramIndex:
    """Finds runs of `num_words` words of known passages in a text, and shorter passages as a whole.

    Held as sorted arrays, 12 bytes an n-gram, behind a table of their first bits that rules out nearly all others, 32 to
    64 bytes an n-gram and 64 MB at most. Two different n-grams are taken for one with a probability of 2^-64.

    Args:
        passages: number and text of each; a number may stand more than once.
        min_words: shorter passages are left out.
    """

    def __init__(self, passages: Iterable[tuple[int, str]], num_words: int, min_words: int = 1):
        found: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}  # by their length: nearly always one
        for number, passage in passages:
            hashes = word_hashes(plain_words(passage))
            if len(hashes) >= min_words:
                n = min(num_words, len(hashes))
                runs = np.unique(n_gram_hashes(hashes, n))
                found.setdefault(n, []).append((runs, np.full(len(runs), number, np.uint32)))
        self.n_grams: dict[int, tuple[np.ndarray, ...]] = {}
        for n in list(found):
            runs, numbers = map(np.concatenate, zip(*found.pop(n)))
            order = np.lexsort((numbers, runs))
            shift = np.uint64(64 - min(MAX_TABLE_BITS, len(runs).bit_length() + 5))
            table = np.zeros(1 << (64 - int(shift)), bool)
            table[runs >> shift] = True
            self.n_grams[n] = runs[order], numbers[order], table, shift

    def hits(self, words: list[str]) -> Iterator[tuple[int, int, int]]:
        """Number of the passage, position and length of each run of words that stands in one."""
        hashes = word_hashes(words)
        for n, (known, numbers, table, shift) in self.n_grams.items():
            runs = n_gram_hashes(hashes, n)
            for position in np.flatnonzero(table[runs >> shift]):
                i = np.searchsorted(known, runs[position])
                while i < len(known) and known[i] == runs[position]:
                    yield int(numbers[i]), int(position), n
                    i += 1
