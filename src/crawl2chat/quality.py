"""The quality rules of Gopher, C4 and FineWeb as plain functions: a text in, the reason to drop it or None out.

Rules, thresholds, the names of reasons, and the decisions on every text are those of datatrove's
`GopherRepetitionFilter`, `GopherQualityFilter`, `C4QualityFilter` and `FineWebQualityFilter` with FineWeb's arguments
(https://github.com/huggingface/datatrove/blob/main/examples/fineweb.py). They differ in how they get there: words come
out of a dictionary (`words.py`), and what costs time (repeated n-grams, sentences, the count of words) is found out only
where a bound that is quick to find leaves the decision open. `tests/test_quality.py` compares them.
"""

import re
from collections import Counter
from collections.abc import Collection

import numpy as np
from datatrove.utils.text import TERMINAL_PUNCTUATION

from crawl2chat.words import ALPHABETIC, REAL, Words, num_sentences, words_of

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # Gopher, appendix A.1.1
CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
POLICY_PHRASES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
# Gopher, table A1: https://arxiv.org/abs/2112.11446
TOP_N_GRAMS = ((2, 0.20), (3, 0.18), (4, 0.16))
DUPLICATE_N_GRAMS = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
SAFE = 0.999  # a bound on a share must keep so far below the limit, that rounding cannot matter
HASH_BASE = np.uint64(0x9E3779B97F4A7C15)


def repetition(text: str) -> str | None:
    """Gopher's repetition rules (https://arxiv.org/abs/2112.11446, table A1).

    Returns None, "empty", "dup_para_frac", "dup_para_char_frac", "dup_line_frac", "dup_line_char_frac", "top_{2,3,4}_gram"
    or "duplicated_{5..10}_n_grams".
    """
    if not text:
        return "empty"
    parts = {"line": text.split("\n")}
    if "\n\n" in text:
        parts = {"para": re.split(r"\n{2,}", text.strip()), "line": re.split(r"\n+", text)}
    for kind, texts in parts.items():
        num_duplicates, num_characters = _duplicates(texts)
        if num_duplicates / len(texts) > 0.30:
            return f"dup_{kind}_frac"
        if num_characters / len(text) > 0.20:
            return f"dup_{kind}_char_frac"

    words = words_of(text)
    n_grams = NGrams(words)
    for n, max_share in TOP_N_GRAMS:
        if n <= len(words) and not n_grams.all_rare(n, max_share * len(text)):
            if _top_characters(list(words), n) / len(text) > max_share:
                return f"top_{n}_gram"
    for n, max_share in DUPLICATE_N_GRAMS:
        if n <= len(words) and not n_grams.few_repeated(n, max_share * len(text)):
            if _repeated_characters(words, n) / len(text) > max_share:
                return f"duplicated_{n}_n_grams"
    return None


class NGrams:
    """Bounds on how many characters repeated n-grams have, by 64-bit hashes of their characters.

    Equal n-grams have equal hashes. Different ones may have equal hashes, too: that makes a bound wider, never wrong.
    """

    def __init__(self, words: Words):
        # As of Rabin and Karp: the sum of code * base^position, modulo 2^64, shifted to the last position.
        powers = np.multiply.accumulate(np.full(len(words.codes) + 1, HASH_BASE))
        sums = np.concatenate([[np.uint64(0)], np.cumsum(words.codes * powers[:-1])])
        self.bounds = words.bounds
        self.sums, self.shifts = sums[self.bounds], powers[::-1][self.bounds]

    def hashes(self, n: int) -> np.ndarray:
        return (self.sums[n:] - self.sums[:-n]) * self.shifts[:-n]

    def lengths(self, n: int) -> np.ndarray:
        return self.bounds[n:] - self.bounds[:-n]

    def all_rare(self, n: int, max_characters: float) -> bool:
        """Whether no n-gram comes so often that its characters, with spaces between words, exceed a number."""
        limit, hashes, lengths = SAFE * max_characters, self.hashes(n), self.lengths(n) + n - 1
        times = int(limit / lengths.max())
        ordered = np.sort(hashes)
        if times > 0 and not (ordered[times:] == ordered[:-times]).any():  # not even the longest
            return True
        order = hashes.argsort()
        firsts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        counts = np.diff(np.append(firsts, len(ordered)))
        return int((counts * lengths[order[firsts]]).max()) <= limit

    def few_repeated(self, n: int, max_characters: float) -> bool:
        """Whether the n-grams that were there before cannot have more characters than a number."""
        limit, hashes = SAFE * max_characters, self.hashes(n)
        ordered = np.sort(hashes)
        is_repeated = ordered[1:] == ordered[:-1]
        if np.count_nonzero(is_repeated) * int(self.lengths(n).max()) <= limit:
            return True
        repeated = hashes.argsort(kind="stable")[1:][is_repeated]  # positions of all but the first of each
        is_covered = np.zeros(len(self.bounds) - 1, dtype=bool)
        for i in range(n):
            is_covered[repeated + i] = True
        return int(self.lengths(1)[is_covered].sum()) <= limit


def _duplicates(parts: list[str]) -> tuple[int, int]:
    """How many parts stood before, and their characters."""
    if len(set(parts)) == len(parts):
        return 0, 0
    repeated = [(count - 1, len(part)) for part, count in Counter(parts).items() if count > 1]
    return sum(count for count, _ in repeated), sum(count * length for count, length in repeated)


def _top_characters(words: list[str], n: int) -> int:
    """Characters of all occurrences of the most frequent n-gram; of several, of the first."""
    gram, count = Counter(zip(*[words[i:] for i in range(n)])).most_common(1)[0]
    return (sum(map(len, gram)) + n - 1) * count


def _repeated_characters(words: Words, n: int) -> int:
    """Characters of n-grams that were there before, none counted twice."""
    bounds, seen, position, num_characters = words.bounds.tolist(), set(), 0, 0
    while position + n < len(bounds):
        gram = words.characters[bounds[position] : bounds[position + n]]
        if gram in seen:
            num_characters += len(gram)
            position += n
        else:
            seen.add(gram)
            position += 1
    return num_characters


def gopher_quality(
    text: str,
    min_words: int = 50,
    max_words: int = 100_000,
    min_alpha_words: float = 0.8,
    stop_words: Collection[str] = STOP_WORDS,
) -> str | None:
    """Gopher's quality rules (https://arxiv.org/abs/2112.11446, appendix A.1.1).

    Returns None, "short_doc", "long_doc", "below_avg_threshold", "above_avg_threshold", "too_many_hashes",
    "too_many_ellipsis", "too_many_bullets", "too_many_end_ellipsis", "below_alpha_threshold" or "enough_stop_words"
    (which means: not enough of them).

    Args:
        text: A page's text.
        min_words: At least 1; marks alone do not count.
        max_words: Marks alone do not count.
        min_alpha_words: The share of words, marks among them, that have a letter.
        stop_words: Of these at least two; another language has others. Empty takes the rule out.
    """
    words = words_of(text)
    if len(words) < min_words:
        return "short_doc"
    real_lengths = words.lengths[words.kinds & REAL != 0]
    if len(real_lengths) < min_words:
        return "short_doc"
    if len(real_lengths) > max_words:
        return "long_doc"
    mean_length = int(real_lengths.sum(dtype=np.int64)) / len(real_lengths)
    if mean_length < 3:
        return "below_avg_threshold"
    if mean_length > 10:
        return "above_avg_threshold"
    if text.count("#") / len(words) > 0.1:
        return "too_many_hashes"
    if (text.count("...") + text.count("…")) / len(words) > 0.1:
        return "too_many_ellipsis"
    lines = text.splitlines()
    if sum(line.lstrip().startswith(("•", "-")) for line in lines) / len(lines) > 0.9:
        return "too_many_bullets"
    if sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines) > 0.3:
        return "too_many_end_ellipsis"
    if int((words.kinds & ALPHABETIC != 0).sum()) / len(words) < min_alpha_words:
        return "below_alpha_threshold"
    if not stop_words:
        return None
    found = set()
    for word in words:  # two come soon
        if word in stop_words:
            found.add(word)
            if len(found) == 2:
                return None
    return "enough_stop_words"


def c4(text: str, min_sentences: int = 5) -> str | None:
    """C4's rules (https://jmlr.org/papers/v21/20-074.html).

    As in FineWeb, a line need not end in a punctuation mark: that rule removed most, and did not help
    (https://arxiv.org/abs/2406.17557, section 3.5).

    Returns None, "lorem_ipsum", "curly_bracket" or "too_few_sentences".

    Args:
        text: A page's text.
        min_sentences: At least 1, in the lines that stay (`c4_lines`).
    """
    return c4_lines(text, min_sentences)[0]


def c4_lines(text: str, min_sentences: int = 5) -> tuple[str | None, str]:
    """What `c4` returns, and of a page that it keeps the lines that stay."""
    has_citations, all_lower = "[" in text, (CITATION.sub("", text) if "[" in text else text).lower()
    is_plain = not any(phrase in all_lower for phrase in ("{", "javascript", "lorem ipsum", *POLICY_PHRASES))
    kept = []
    for line in text.splitlines():
        line = line.strip()
        has_few_words = len(line.split(None, 2)) < 3
        if len(line) > 1000 and any(len(word) > 1000 for word in line.split()):
            continue
        if has_citations:
            line = CITATION.sub("", line)
        if has_few_words:
            continue
        if not is_plain:
            lower = line.lower()
            if "lorem ipsum" in lower:
                return "lorem_ipsum", ""
            if "javascript" in lower:
                continue
            if "{" in line:
                return "curly_bracket", ""
            if any(phrase in lower for phrase in POLICY_PHRASES):
                continue
        kept.append(line)
    # Each line has a sentence at least.
    if len(kept) < min_sentences and sum(num_sentences(line, min_sentences) for line in kept) < min_sentences:
        return "too_few_sentences", ""
    return None, "\n".join(kept).strip()


def fineweb(text: str) -> str | None:
    """FineWeb's own rules (https://arxiv.org/abs/2406.17557, section 3.6), as its published recipe sets them.

    Returns None, "empty", "line_punct_ratio", "short_line_ratio", "char_dup_ratio" or "list_ratio".
    """
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    if not lines:
        return "empty"
    if sum(line[-1] in TERMINAL_PUNCTUATION for line in lines) / len(lines) < 0.12:
        return "line_punct_ratio"
    if sum(len(line) <= 30 for line in lines) / len(lines) > 0.67:
        return "short_line_ratio"
    if _duplicates(lines)[1] / len(text.replace("\n", "")) > 0.01:  # 0.1 in the paper, 0.01 in the recipe
        return "char_dup_ratio"
    num_newlines = text.count("\n")
    # A word has no white space in it: there are as many words as pieces between, or more.
    if num_newlines / len(text.split()) > 0.3 and num_newlines / len(words_of(text)) > 0.3:
        return "list_ratio"
    return None
