"""The quality rules of Gopher, C4 and FineWeb as plain functions: text and words in, the reason to drop it or "" out.

Rules, thresholds and the names of reasons are datatrove's (`GopherRepetitionFilter`, `GopherQualityFilter`,
`C4QualityFilter`, `FineWebQualityFilter`), with FineWeb's arguments. They differ in the words: datatrove tokenizes with
spaCy, twice to four times a page, which takes nine tenths of 36 ms a page; here one regular expression splits like
spaCy's English rules nearly everywhere, and the page is split once. `tests/test_filters.py` compares the decisions.
"""

import re
from collections import Counter
from functools import lru_cache

from datatrove.utils.text import PUNCTUATION_SET, TERMINAL_PUNCTUATION

WORD = re.compile(
    r"\d+(?:[.,:/]\d+)*(?!\w)"  # 1,000.50 and 12:30 and 1/2
    r"|n['’]t\b|['’](?:s|re|ve|ll|d|m)\b"
    r"|(?:\b[^\W\d_]\.)+|\b(?:Mrs?|Ms|Dr|St|vs|Jr|Sr|Prof|Inc|Corp|Ltd|Co|Rep|Sen|Gov|Gen)\."  # U.S. and Dr.
    r"|\b(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\."
    r"|(?:https?://|www\.)\S+"
    r"|\w+(?:\.\w+)*(?:-\d+\b)?(?:['’](?!(?:s|re|ve|ll|d|m|t)\b)\w+)*"  # example.com, Covid-19, O'Hara
    r"|\.{2,}|-{2,}|[^\w\s]",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"(?<!\b[A-Z])(?<!\b(?:Mr|Dr|St|vs))(?<!\bMrs)[.!?…。！？]+[\"'”’)\]]*\s+(?=\W*\w)")
STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}  # Gopher, appendix A.1.1
CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
POLICY_PHRASES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
LINE_ENDS = tuple(TERMINAL_PUNCTUATION)
# Gopher, table A1: https://arxiv.org/abs/2112.11446
TOP_N_GRAMS = ((2, 0.20), (3, 0.18), (4, 0.16))
DUPLICATE_N_GRAMS = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))


@lru_cache(maxsize=4)  # three rules ask for the words of one text
def words_of(text: str) -> list[str]:
    """Words and punctuation marks, split like spaCy's English tokenizer."""
    return WORD.findall(text.replace("n't", " n't").replace("n’t", " n’t"))  # "do" and "n't"


def repetition(text: str) -> str:
    """Gopher's repetition rules (https://arxiv.org/abs/2112.11446, table A1)."""
    if not text:
        return "empty"
    for kind, parts, max_share, max_characters in (
        ("para", re.split(r"\n{2,}", text.strip()), 0.30, 0.20),
        ("line", re.split(r"\n+", text), 0.30, 0.20),
    ):
        num_duplicates, num_characters = _duplicates(parts)
        if num_duplicates / len(parts) > max_share:
            return f"dup_{kind}_frac"
        if num_characters / len(text) > max_characters:
            return f"dup_{kind}_char_frac"

    words = words_of(text)
    for n, max_share in TOP_N_GRAMS:
        n_grams = Counter(zip(*[words[i:] for i in range(n)]))
        if n_grams:
            # The first of the most frequent, as in datatrove.
            gram, count = n_grams.most_common(1)[0]
            if (sum(map(len, gram)) + n - 1) * count / len(text) > max_share:
                return f"top_{n}_gram"
    for n, max_share in DUPLICATE_N_GRAMS:
        num_characters = _repeated_characters(words, n)
        if num_characters / len(text) > max_share:
            return f"duplicated_{n}_n_grams"
        if num_characters == 0:  # then no longer one is repeated
            break
    return ""


def _duplicates(parts: list[str]) -> tuple[int, int]:
    """How many parts stood before, and their characters."""
    repeated = [(count - 1, len(part)) for part, count in Counter(parts).items() if count > 1]
    return sum(count for count, _ in repeated), sum(count * length for count, length in repeated)


def _repeated_characters(words: list[str], n: int) -> int:
    n_grams = ["".join(gram) for gram in zip(*[words[i:] for i in range(n)])]
    if len(set(n_grams)) == len(n_grams):
        return 0
    seen, position, num_characters = set(), 0, 0
    while position < len(n_grams):
        gram = n_grams[position]
        if gram in seen:
            num_characters += len(gram)
            position += n
        else:
            seen.add(gram)
            position += 1
    return num_characters


def gopher_quality(text: str, min_words: int = 50, max_words: int = 100_000, min_alpha_words: float = 0.8) -> str:
    """Gopher's quality rules (https://arxiv.org/abs/2112.11446, appendix A.1.1)."""
    words = words_of(text)
    real_words = [word for word in words if not PUNCTUATION_SET.issuperset(word)]
    if len(real_words) < min_words:
        return "short_doc"
    if len(real_words) > max_words:
        return "long_doc"
    mean_length = sum(map(len, real_words)) / len(real_words)
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
    if sum(any(map(str.isalpha, word)) for word in words) / len(words) < min_alpha_words:
        return "below_alpha_threshold"
    if len(STOP_WORDS.intersection(words)) < 2:
        return "enough_stop_words"
    return ""


def c4(text: str, min_sentences: int = 5) -> tuple[str, str]:
    """C4's rules (https://jmlr.org/papers/v21/20-074.html): the reason to drop the page or "", and its lines that stay.

    As in FineWeb, a line need not end in a punctuation mark: that rule removed most, and did not help
    (https://arxiv.org/abs/2406.17557, section 3.5).
    """
    kept, num_sentences = [], 0
    for line in text.splitlines():
        words = line.split()
        if any(len(word) > 1000 for word in words):
            continue
        line = CITATION.sub("", line.strip())
        lower = line.lower()
        if len(words) < 3:
            continue
        if "lorem ipsum" in lower:
            return "lorem_ipsum", ""
        if "javascript" in lower:
            continue
        if "{" in line:
            return "curly_bracket", ""
        if any(phrase in lower for phrase in POLICY_PHRASES):
            continue
        if num_sentences < min_sentences:
            num_sentences += 1 + len(SENTENCE_END.findall(line))
        kept.append(line)
    if num_sentences < min_sentences:
        return "too_few_sentences", ""
    return "", "\n".join(kept).strip()


def fineweb(text: str) -> str:
    """FineWeb's own rules (https://arxiv.org/abs/2406.17557, section 3.6), as its published recipe sets them."""
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return "empty"
    if sum(line.endswith(LINE_ENDS) for line in lines) / len(lines) < 0.12:
        return "line_punct_ratio"
    if sum(len(line) <= 30 for line in lines) / len(lines) > 0.67:
        return "short_line_ratio"
    if _duplicates(lines)[1] / len(text.replace("\n", "")) > 0.01:  # 0.1 in the paper, 0.01 in the recipe
        return "char_dup_ratio"
    if text.count("\n") / len(words_of(text)) > 0.3:
        return "list_ratio"
    return ""
