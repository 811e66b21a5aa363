"""A learned judge of quality: hashed words and word pairs, a weight each -> a score on the scale of the labels.

What it learns is up to the labels: FineWeb-Edu's are 0 to 5 for educational value (https://arxiv.org/abs/2406.17557,
section 4), DCLM's are good or not (https://arxiv.org/abs/2406.11794, section 4). The model is DCLM's, a fastText
classifier with word pairs (https://arxiv.org/abs/1607.01759), whose two linear layers are one where there is one output.
It is trained here because the fastText in use (`fasttext-predict`) can only predict, and kept as safetensors because a
pickle may run code when it is opened. Own features, because scikit-learn's HashingVectorizer alone takes 1.00 ms for a
page that is scored here in .50 ms (131 real pages of 5,050 characters, medians of 15 alternating runs, processor time on
an AMD EPYC), and its LogisticRegression on them ranked no better: AUC .941 .998 .966 against .966 .999 .969
on three pairs of left-out sources.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import safetensors.numpy
from datatrove.data import Document
from safetensors import SafetensorError
from tqdm import tqdm
from xxhash import xxh3_64_intdigest

from crawl2chat.pages import DroppedPages, PageFilter
from crawl2chat.stage import StageError, write_atomically

WORD = re.compile(r"\w+|[^\w\s]")  # no line ends: those tell the extractor rather than the text
MAX_CHARACTERS = 10_000  # of a text are read; FineWeb-Edu's classifier reads 512 tokens
FEATURES = "lower-case words, marks, and pairs of them; numbers as 0; xxh3"  # what the weights belong to
PAIR, SPREAD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)  # odd, so that no bit is lost
WEIGHTS, CONFIG = "model.safetensors", "config.json"


def words_of(text: str) -> list[str]:
    return WORD.findall(text[:MAX_CHARACTERS].lower())


class _Hashes(dict):
    """word -> 64-bit hash, remembered: half the time of an lru_cache, and most words come again."""

    def __missing__(self, word: str) -> int:
        if len(self) >= 1 << 17:
            self.clear()
        self[word] = found = xxh3_64_intdigest(b"0" if word.isdecimal() else word.encode("utf-8", "replace"))
        return found


HASHES = _Hashes()


def buckets_of(words: list[str], num_bits: int) -> np.ndarray:
    """Numbers below 2**num_bits of N words and then of their N - 1 pairs, shape (2N - 1,)."""
    hashes = np.fromiter(map(HASHES.__getitem__, words), np.uint64, len(words))
    hashes = np.concatenate([hashes, (hashes[:-1] * PAIR ^ hashes[1:]) * SPREAD])
    return (hashes >> np.uint64(64 - num_bits)).astype(np.int32)


def features_of(text: str, num_bits: int) -> np.ndarray:
    """The buckets of a text, each once. Three times as fast as np.unique."""
    buckets = np.sort(buckets_of(words_of(text), num_bits))
    return np.concatenate([buckets[:1], buckets[1:][buckets[1:] != buckets[:-1]]])


class QualityClassifier:
    """Scores texts from `low` to `high`, the scale of its labels: logistic regression, stretched to that scale.

    A feature counts once a text, and 1 / sqrt(number of features), so that length by itself says nothing.
    """

    def __init__(self, weights: np.ndarray, bias: float, low: float, high: float):
        self.weights, self.bias, self.low, self.high = weights, bias, low, high
        self.num_bits = len(weights).bit_length() - 1

    def score(self, text: str) -> float:
        """The quality of a text; `low` if it has no word."""
        return self.score_features(features_of(text, self.num_bits))

    def score_features(self, features: np.ndarray) -> float:
        if not len(features):
            return self.low
        logit = self.bias + float(self.weights[features].sum()) / math.sqrt(len(features))
        return self.low + (self.high - self.low) * sigmoid(logit)

    def save(self, folder: str | Path) -> None:
        """`config.json` and `model.safetensors`, each whole or not there."""
        weights = {"weights": self.weights, "bias": np.array([self.bias])}
        temporary = Path(folder, WEIGHTS + ".tmp")
        temporary.write_bytes(safetensors.numpy.save(weights))
        temporary.replace(Path(folder, WEIGHTS))
        config = {"features": FEATURES, "max_characters": MAX_CHARACTERS, "low": self.low, "high": self.high}
        write_atomically(Path(folder, CONFIG), json.dumps(config, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "QualityClassifier":
        """The model of a folder.

        Raises:
            StageError: it has none, one that is damaged, or one of other features.
        """
        remedy = "name a folder that train_quality_classifier.py wrote."
        if missing := [name for name in (CONFIG, WEIGHTS) if not Path(folder, name).is_file()]:
            raise StageError(f"quality_model {folder} has no {' and no '.join(missing)}; {remedy}")
        try:
            config = json.loads(Path(folder, CONFIG).read_text(encoding="utf-8"))
            tensors = safetensors.numpy.load(Path(folder, WEIGHTS).read_bytes())
        except (ValueError, SafetensorError) as error:
            raise StageError(f"quality_model {folder} is damaged ({error}); train it again.") from error
        if not isinstance(config, dict) or "features" not in config or set(tensors) != {"weights", "bias"}:
            raise StageError(f"quality_model {folder} holds another kind of model; {remedy}")
        if (config["features"], config["max_characters"]) != (FEATURES, MAX_CHARACTERS):
            raise StageError(f"quality_model {folder} is of another version ({config['features']}); train it again.")
        weights, bias = tensors["weights"], float(tensors["bias"][0])
        if weights.ndim != 1 or len(weights) & (len(weights) - 1) or not np.isfinite(weights.sum() + bias):
            raise StageError(f"quality_model {folder} is damaged (weights of shape {weights.shape}); train it again.")
        return cls(weights, bias, config["low"], config["high"])


def sigmoid(logit: float) -> float:
    return 0.5 + 0.5 * math.tanh(0.5 * logit)  # exp would overflow


def train(
    features: list[np.ndarray],
    scores: np.ndarray,
    num_bits: int,
    num_epochs: int,
    learning_rate: float,
    seed: int,
) -> QualityClassifier:
    """Stochastic gradient descent, a text a step, with AdaGrad (https://jmlr.org/papers/v12/duchi11a.html).

    The loss is the cross-entropy of the score as a share of its scale: for labels 0 and 1 that of logistic regression,
    between them that of fractional regression, which cannot leave the scale as linear regression does. Classes are not
    weighted, so a score means what the labels mean at their own frequency; with 3% of bad texts, weights did not raise the
    AUC on sources left out (.9913 and .9453 without, .9907 and .9445 with).
    """
    low, high = float(scores.min()), float(scores.max())
    targets = ((scores - low) / (high - low)).tolist()
    weights, squares = np.zeros((2, 1 << num_bits), np.float32)
    squares += np.float32(1e-8)  # of the gradients so far
    bias, bias_square, rng = 0.0, 1e-8, np.random.default_rng(seed)
    for _ in tqdm(range(num_epochs), desc="train", unit="epoch"):
        for i in rng.permutation(len(features)):
            found, value = features[i], max(1, len(features[i])) ** -0.5
            logit = bias + float(weights[found].sum()) * value
            gradient = sigmoid(logit) - targets[i]
            squares[found] += np.float32((gradient * value) ** 2)
            weights[found] -= np.float32(learning_rate * gradient * value) / np.sqrt(squares[found])
            bias_square += gradient**2
            bias -= learning_rate * gradient / math.sqrt(bias_square)
    return QualityClassifier(weights, bias, low, high)


def indicative_terms(classifier: QualityClassifier, texts: Iterable[str]) -> list[tuple[str, float, int]]:
    """(word or pair, weight, texts with it) from the best sign to the worst, of those in a hundredth of the texts.

    Rarer ones are left out: there are many, and some share a bucket with one that matters.
    """
    num_texts, counts = 0, Counter()
    for text in texts:
        words = ["0" if word.isdecimal() else word for word in words_of(text)]
        terms = [*words, *map(" ".join, pairwise(words))]
        counts.update(set(zip(terms, buckets_of(words, classifier.num_bits).tolist())))
        num_texts += 1
    found = [
        (term, float(classifier.weights[bucket]), count)
        for (term, bucket), count in counts.items()
        if count >= max(3, num_texts / 100)
    ]
    return sorted(found, key=lambda row: (-row[1], row[0]))


def check_min_quality(folder: str | Path, min_quality: float) -> None:
    """Raises a `StageError` for a threshold that no score of the classifier in `folder` lies below or above."""
    model = QualityClassifier.load(folder)
    if not model.low <= min_quality <= model.high:
        raise StageError(
            f"min_quality is {min_quality}, but {folder} scores from {model.low:g} to {model.high:g}; choose one between, "
            "its metrics.json says what each keeps."
        )


class QualityFilter(PageFilter):
    """Drops pages that a trained classifier scores below `min_quality`."""

    name = "quality"

    def __init__(self, quality_model: str, min_quality: float, dropped: DroppedPages | None = None):
        super().__init__(dropped)
        self.quality_model, self.min_quality = quality_model, min_quality

    def begin(self, rank: int) -> None:
        self.classifier = QualityClassifier.load(self.quality_model)

    def reason_to_drop(self, document: Document) -> str:
        return "low_quality" if self.classifier.score(document.text) < self.min_quality else ""
