"""The words of an English text as datatrove's filters see them, by spaCy's rules at the speed of a dictionary.

spaCy splits a text at white space, and each chunk between by regular expressions, some 20 µs a chunk; datatrove clears
spaCy's memory of chunks after each text. Here a chunk is split once, by the same rules in the same order
(`Tokenizer._split_affixes` and `_attach_tokens`, https://github.com/explosion/spaCy/blob/v3.8.11/spacy/tokenizer.pyx),
and remembered. One thing is left to spaCy itself: its last pass over all words, where they can be joined to a special
case (")" and ":" to the smiley "):"). A word "IS_ALPHA" is taken out: on it spaCy raises errors or not, by what came
before, and datatrove then takes it out.
`tests/test_quality.py` compares words and sentences.
"""

import re
import string
import sys
from array import array
from collections.abc import Iterator
from functools import cache, cached_property, lru_cache
from itertools import pairwise

import numpy as np
from datatrove.utils.text import PUNCTUATION_SET, split_into_sentences, split_into_words
from datatrove.utils.typeshelper import Languages

from crawl2chat.english import NLP

STUMBLING_BLOCK = "IS_ALPHA"
MAX_CHUNKS_KEPT = 1 << 17
MAX_CHUNK_KEPT = 64  # characters
JOINED = 1 << 31  # added to the length of a chunk's first word if spaCy's last pass joins words of the chunk
REAL, ALPHABETIC = 1, 2  # kinds of characters: no punctuation mark, a letter

LETTERS = frozenset(string.ascii_letters)
LETTERS_AND_DIGITS = LETTERS.union(string.digits)
LOWER_OR_DIGIT = frozenset(string.ascii_lowercase + string.digits)
CLOSING = frozenset(",;:!?)]}\"'”’»")  # each is a suffix, and the last character of no longer one
MAX_SUFFIX = 8  # characters of a suffix that is no run of dots, with those before it that a rule looks at
# Letters and a suffix: what most chunks of a text are.
WORD_AND_MARK = re.compile("([A-Za-z]+)([,;:?!)\"'”’]|(?<=[a-z])[.])?")
ONE = (1).to_bytes(4, "little")
DIGIT, SPACE_OR_CHUNK = re.compile("[0-9]"), re.compile(r"\s+|\S+")


class Words:
    """The words of a text: their characters without white space between, and where each ends."""

    def __init__(self, characters: str, lengths: np.ndarray):
        self.characters, self.lengths = characters, lengths
        self.bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[str]:
        for start, end in pairwise(self.bounds.tolist()):
            yield self.characters[start:end]

    @cached_property
    def codes(self) -> np.ndarray:
        """Code points of the characters."""
        return np.frombuffer(self.characters.encode("utf-32-le", "surrogatepass"), dtype="<u4")

    @cached_property
    def kinds(self) -> np.ndarray:
        """Which kinds of characters each word has: `REAL`, `ALPHABETIC`, both or none."""
        return np.bitwise_or.reduceat(_kinds_of_characters()[self.codes], self.bounds[:-1])


@lru_cache(maxsize=2)  # several rules ask for the words of one text
def words_of(text: str) -> Words:
    """Words and punctuation marks of a text, equal to datatrove's `split_into_words(text)`."""
    text = _without_stumbling_block(text)
    return Words("".join(text.split()), _lengths_of_words(text))


def _lengths_of_words(text: str) -> np.ndarray:
    chunks, splitter = text.split(), _splitter()
    lengths = np.frombuffer(b"".join(map(splitter.__getitem__, chunks)), dtype=np.uint32)
    if not len(lengths) or lengths.max() < JOINED:
        return lengths
    if not splitter.may_join_across(chunks):
        return lengths & (JOINED - 1)
    lines = text.split("\n")  # nothing is joined across lines
    if len(lines) > 1:
        return np.concatenate(list(map(_lengths_of_words, lines)))
    return _lengths(split_into_words(text, Languages.english))


def _without_stumbling_block(text: str) -> str:
    if STUMBLING_BLOCK in text and STUMBLING_BLOCK in Words("".join(text.split()), _lengths_of_words(text)):
        return text.replace(STUMBLING_BLOCK, "")
    return text


def _lengths(words: list[str]) -> np.ndarray:
    return np.array(list(map(len, words)), dtype=np.uint32)


def num_sentences(line: str, enough: int) -> int:
    """Sentences of a line, equal to `len(split_into_sentences(line))` of datatrove, or `enough` if there are more.

    spaCy's rule: after a mark that ends sentences, the next word that is no punctuation mark begins a new one.
    """
    from spacy.lang.lex_attrs import is_punct

    splitter, count, ended, line = _splitter(), 1, False, _without_stumbling_block(line)
    for match in SPACE_OR_CHUNK.finditer(line):
        chunk = match[0]
        if chunk == " ":
            continue
        if chunk.isspace():  # a word to spaCy
            lengths = [len(chunk)]
        else:
            lengths = array("I", splitter[chunk])
            if lengths[0] >= JOINED:
                return min(enough, len(split_into_sentences(line, Languages.english)))
        end = 0
        for length in lengths:
            word = chunk[end : end + length]
            end += length
            if word in splitter.sentence_ends:
                ended = True
            elif ended and not is_punct(word):
                count, ended = count + 1, False
                if count >= enough:
                    return count
    return min(enough, count)


class Splitter(dict):
    """Chunk of characters without white space -> the lengths of its words, as bytes of 32-bit little-endian numbers."""

    def __init__(self):
        tokenizer = NLP.tokenizer
        self.sentence_ends = NLP.get_pipe("sentencizer").punct_chars
        self.find_prefix, self.find_suffix = tokenizer.prefix_search, tokenizer.suffix_search
        self.find_infixes, self.is_url = tokenizer.infix_finditer, tokenizer.url_match
        # The last pass looks for the special cases that have an affix. `joined`: those whose words it changes, by
        # their first part; `pairs`: the neighbours in any of them.
        self.special_cases, self.joined, self.pairs = {}, {}, set()
        special_cases = {chunk: _spelled(tokens) for chunk, tokens in tokenizer.rules.items()}
        for chunk, words in special_cases.items():
            if self.find_prefix(chunk) or self.find_suffix(chunk) or any(self.find_infixes(chunk)):
                parts = self.split(chunk)  # there are no special cases yet
                self.pairs.update(pairwise(parts))
                if parts != words:
                    self.joined.setdefault(parts[0], []).append(parts)
        self.special_cases = special_cases

    def __missing__(self, chunk: str) -> bytes:
        match, special_cases = WORD_AND_MARK.fullmatch(chunk), self.special_cases
        if match and chunk not in special_cases and match[1] not in special_cases:
            lengths = match.end(1).to_bytes(4, "little") + (ONE if match[2] else b"")
        else:
            lengths = self.lengths_of(chunk).tobytes()
        if len(chunk) <= MAX_CHUNK_KEPT:
            if len(self) >= MAX_CHUNKS_KEPT:
                self.clear()
            self[chunk] = lengths
        return lengths

    def lengths_of(self, chunk: str) -> array:
        words = self.split(chunk)
        lengths = array("I", map(len, words))
        if not self.joined.keys().isdisjoint(words) and self.has_joined(words):
            lengths = array("I", map(len, split_into_words(chunk, Languages.english)))
            lengths[0] |= JOINED
        return lengths

    def has_joined(self, words: list[str]) -> bool:
        return any(
            words[i : i + len(parts)] == parts
            for i, word in enumerate(words)
            if word in self.joined
            for parts in self.joined[word]
        )

    def may_join_across(self, chunks: list[str]) -> bool:
        """Whether the last pass may find a special case that reaches from a chunk with joined words to the next.

        Such a one changes nothing itself (it has a space in it), but it goes before shorter ones.
        """
        joined = [i for i, chunk in enumerate(chunks) if self[chunk][3] > 127]  # the byte with the bit of JOINED
        return any(
            (self.split(left)[-1], self.split(right)[0]) in self.pairs
            for i in joined
            for left, right in pairwise(chunks[max(0, i - 1) : i + 2])
        )

    def split(self, chunk: str) -> list[str]:
        """Words of a chunk without white space, before the last pass."""
        special_cases, prefixes, suffixes, num_left = self.special_cases, [], [], 0
        while chunk and len(chunk) != num_left and chunk not in special_cases and not _is_plain(chunk):
            num_left = len(chunk)
            start = self.prefix_length(chunk)
            if start and chunk[start:] in special_cases:
                prefixes.append(chunk[:start])
                chunk = chunk[start:]
                break
            end = self.suffix_length(chunk[start:])
            if end and chunk[:-end] in special_cases:
                suffixes.append(chunk[-end:])
                chunk = chunk[:-end]
                break
            if start:
                prefixes.append(chunk[:start])
            if end:
                suffixes.append(chunk[-end:])
            chunk = chunk[start : len(chunk) - end]
        if chunk in special_cases:
            prefixes += special_cases[chunk]
        elif _is_plain(chunk) or ("." in chunk and self.is_url(chunk)):
            prefixes.append(chunk)
        else:
            # Words between infixes, and these; an infix at the start is none.
            bounds = [bound for match in self.find_infixes(chunk) if match.start() for bound in match.span()]
            prefixes += [chunk[a:b] for a, b in pairwise([0, *bounds, len(chunk)]) if a < b]
        return prefixes + suffixes[::-1]

    def prefix_length(self, chunk: str) -> int:
        if chunk[0] in LETTERS_AND_DIGITS and "$" not in chunk:  # "US$"
            return 0
        match = self.find_prefix(chunk)
        return match.end() if match else 0

    def suffix_length(self, chunk: str) -> int:
        last, before = chunk[-1:], chunk[-2:-1]
        if last in CLOSING or (last == "." and before in LOWER_OR_DIGIT):
            return 1
        if last in LETTERS and before not in "'’" and not DIGIT.search(chunk):  # no "'s", no "12km"
            return 0
        match = self.find_suffix(chunk, max(0, len(chunk.rstrip(".")) - MAX_SUFFIX))
        return match.end() - match.start() if match else 0


def _is_plain(chunk: str) -> bool:
    """Letters of ASCII only: no rule splits these but a special case."""
    return chunk.isascii() and chunk.isalpha()


def _spelled(tokens: list[dict]) -> list[str]:
    from spacy.symbols import ORTH

    return [token[ORTH] for token in tokens]


@cache
def _splitter() -> Splitter:
    return Splitter()


@cache
def _kinds_of_characters() -> np.ndarray:
    """`REAL` and `ALPHABETIC` of each code point."""
    characters = np.arange(sys.maxunicode + 1, dtype=np.uint32).view("U1")
    kinds = np.char.isalpha(characters).astype(np.uint8) * ALPHABETIC | REAL
    kinds[list(map(ord, PUNCTUATION_SET))] -= REAL
    return kinds
