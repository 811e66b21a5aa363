"""The learned judge of quality: learns, is saved whole, refuses bad input, and drops pages in the path.

pytest tests/test_quality_classifier.py
"""

import json
import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import yaml
from conftest import ROOT, metrics, refusal, run
from tiny_warc import page, prose, record, write_warc

from crawl2chat.quality_classifier import QualityClassifier, features_of, indicative_terms, train
from crawl2chat.stage import StageError

TRAIN = "data_processing/train_quality_classifier.py"
FILTER = "data_processing/2_filter_pages.py"
DATA = Path(os.environ.get("CRAWL2CHAT_DATA", ROOT.parent / "shared" / "data"))
LOUD = "amazing cheap discount exclusive offers shopping bargain vouchers".split()


def advert(seed: int) -> str:
    """The prose of tiny_warc, with every fourth word or so from a shop: the rules let it pass."""
    rng = random.Random(seed)
    return " ".join(f"{word} {rng.choice(LOUD)}" if rng.random() < 0.3 else word for word in prose(seed).split())


def text_of(good: bool, seed: int) -> str:
    return prose(seed) if good else advert(seed)


def rows_of(num_good: int, num_bad: int, num_hosts: int = 97) -> list[dict]:
    labels = [1] * num_good + [0] * num_bad
    return [
        {"text": text_of(bool(good), i), "score": good, "url": f"http://site{i % num_hosts}.test/{i}"}
        for i, good in enumerate(labels)
    ]


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("labels") / "labels.jsonl", rows_of(300, 100))


def trained(data: Path, out: Path, *arguments) -> Path:
    run(TRAIN, "--data", data, "--output_dir", out, "--num_bits", 14, *arguments)
    return out


@pytest.fixture(scope="module")
def model(data) -> Path:
    return trained(data, data.parent / "model", "--group_column", "url")


def test_features_are_words_and_pairs_once_each_in_any_case():
    def size(text: str) -> int:
        return len(features_of(text, 20))

    assert size("") == size(" \n ") == 0 and size("lamp") == 1
    assert size("the lamp burns") == 5 and size("the lamp the lamp") == 4  # "lamp the" is a pair, too
    assert size("a river, wide") == 7
    for same, other in (("The LAMP", "the lamp"), ("in 1914", "in 27"), ("one\n\ntwo", "one two")):
        assert np.array_equal(features_of(same, 20), features_of(other, 20))
    for text, other in (("lamp the", "the lamp"), ("no. lamp", "no lamp")):
        assert not np.array_equal(features_of(text, 20), features_of(other, 20))
    assert features_of(prose(0), 10).max() < 1024 and features_of("a \udc80 b", 20).size == 5
    assert features_of("lamp " * 10**6, 20).size == 2  # only the beginning is read
    assert indicative_terms(QualityClassifier(np.zeros(1024, np.float32), 0.0, 0.0, 1.0), ["a 12 a 7"] * 3) == [
        ("0", 0.0, 3), ("0 a", 0.0, 3), ("a", 0.0, 3), ("a 0", 0.0, 3)
    ]  # fmt: skip


def test_learns_what_it_did_not_see(model):
    found = metrics(model)
    assert found["num_train"] + found["num_held_out"] == 400 and 40 < found["num_held_out"] < 120
    assert found["auc"] > 0.95 and found["mean_score"]["1.0"] - found["mean_score"]["0.0"] > 0.4
    classifier = QualityClassifier.load(model)
    good, bad = ([classifier.score(text_of(side, seed)) for seed in range(5000, 5040)] for side in (True, False))
    assert np.mean(np.greater.outer(good, bad)) > 0.95  # the AUC
    assert 0.0 <= min(bad) and max(good) <= 1.0
    assert classifier.score("") == classifier.low == 0.0
    table = [row for row in found["thresholds"] if row["min_quality"] == 0.5]
    assert table[0]["balanced_accuracy"] > 0.8
    shares = [row["share_kept"] for row in found["thresholds"]]
    assert shares == sorted(shares, reverse=True)


def test_labels_without_meaning_teach_nothing(data, tmp_path):
    """The held-out score must be honest: with shuffled labels it is chance."""
    rows = rows_of(200, 200)
    scores = [row["score"] for row in rows]
    random.Random(0).shuffle(scores)
    rows = [{**row, "score": score} for row, score in zip(rows, scores)]
    out = trained(write_rows(tmp_path / "labels.jsonl", rows), tmp_path / "out", "--test_fraction", 0.5)
    assert 0.35 < metrics(out)["auc"] < 0.65


def test_near_copies_do_not_leak_into_the_test(tmp_path):
    """Twenty copies of each text, labelled at random by text: knowing a copy would give an AUC of 1."""
    rng, rows = random.Random(0), []
    for seed in range(60):
        score = rng.randrange(2)
        rows += [
            {"text": f"{prose(seed)} Copy {i}.", "score": score, "url": f"http://s{seed}.test/{i}"} for i in range(20)
        ]
    file = write_rows(tmp_path / "labels.jsonl", rows)
    for number, flags in enumerate(([], ["--group_column", "url"])):
        out = trained(file, tmp_path / f"out{number}", "--test_fraction", 0.5, *flags)
        assert metrics(out)["auc"] < 0.8


def test_scores_of_any_scale(tmp_path):
    rng = random.Random(0)
    rows = []
    for seed in range(400):
        score, words = rng.randrange(6), prose(seed).split()
        words = [rng.choice(LOUD) if rng.random() < 0.1 * (5 - score) else word for word in words]
        rows.append({"body": " ".join(words), "edu": score})
    rows += [{"body": "a text without a score", "edu": None}, {"body": None, "edu": 0}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "labels.parquet")
    columns = ["--text_column", "body", "--score_column", "edu"]
    out = trained(tmp_path / "labels.parquet", tmp_path / "out", *columns, "--good_from", 4)
    found = metrics(out)
    assert found["spearman"] > 0.85 and found["auc"] > 0.9 and found["scale"] == [0.0, 5.0]
    assert found["num_train"] + found["num_held_out"] == 401
    means = [found["mean_score"][f"{score}.0"] for score in range(6)]
    assert means == sorted(means) and means[0] < 1.5 and means[5] > 3.5


def test_saved_and_loaded_it_scores_the_same(model, tmp_path):
    texts = [text_of(seed % 2 == 0, seed) for seed in range(40)]
    labels = np.array([1.0, 0.0] * 20)
    classifier = train([features_of(text, 12) for text in texts], labels, 12, 2, 0.1, 0)
    classifier.save(tmp_path)
    loaded = QualityClassifier.load(tmp_path)
    scores = [classifier.score(text) for text in texts]
    assert len(set(scores)) == 40 and [loaded.score(text) for text in texts] == scores
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_same_seed_same_model(data, model, tmp_path):
    again = trained(data, tmp_path / "again", "--group_column", "url")
    other = trained(data, tmp_path / "other", "--group_column", "url", "--seed", 1)
    fingerprints = [
        yaml.safe_load((folder / "run.yaml").read_text())["fingerprint"] for folder in (model, again, other)
    ]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2] and metrics(again) == metrics(model)


def test_words_are_readable(model):
    table = (model / "words.md").read_text()
    bad = [line.split(" | ")[1] for line in table.splitlines() if line.startswith("| ``")]
    assert sum(any(word in cell for word in LOUD) for cell in bad[:8]) >= 6, table


def test_named_labels_and_a_draw(tmp_path):
    fates = ["keep", "spam", "thin", "duplicate"]
    rows = [{"text": text_of(i % 4 == 0, i), "fate": fates[i % 4], "host": f"s{i % 30}.test"} for i in range(400)]
    file = write_rows(tmp_path / "truth.jsonl", rows)
    out = tmp_path / "out"
    config = ["--config", ROOT / "data_processing/train_quality_classifier.yaml", "--num_bits", 14]
    run(TRAIN, *config, "--data", file, "--output_dir", out, "--max_texts", 200, "--test_fraction", 0.3)
    found = metrics(out)
    assert found["num_train"] + found["num_held_out"] == 200 and found["auc"] > 0.9
    assert 30 < found["num_train_good"] < 60  # of 100 good and 200 bad ones; duplicates are neither


@pytest.mark.parametrize(
    "change, flags, complaint",
    [
        ({}, ["--text_column", "body"], "has no text_column body; its columns are text, score, url"),
        ({}, ["--score_column", "a", "--group_column", "b"], "has no score_column a and no group_column b"),
        ({}, ["--text_column", "score"], "text_column score of"),
        ({}, ["--score_column", "url"], "does not hold numbers"),
        ({"score": 1}, [], "has 400 good and 0 bad texts, and both are needed"),
        ({}, ["--good_from", 7], "has 0 good and 400 bad texts, and both are needed"),
        ({}, ["--score_column", "url", "--good_labels", "x", "--bad_labels", "y"], "has 0 good and 0 bad texts"),
        ({}, ["--max_texts", 40], "20 and 10 of each are needed"),
        ({"url": "http://one.test/"}, ["--group_column", "url"], "20 and 10 of each are needed"),
        ({}, ["--good_labels", "x"], "`good_labels` and `bad_labels` need each other"),
        ({}, ["--good_labels", "x", "--bad_labels", "x"], "x cannot be among"),
        ({}, ["--pages", "nowhere"], "input nowhere does not exist"),
    ],
)
def test_bad_labels_are_refused(change, flags, complaint, tmp_path, capsys):
    file = write_rows(tmp_path / "labels.jsonl", [{**row, **change} for row in rows_of(300, 100)])
    assert complaint in refusal(capsys, TRAIN, "--data", file, "--output_dir", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_data_that_is_not_there_or_not_readable(tmp_path, capsys):
    assert "does not exist" in refusal(capsys, TRAIN, "--data", tmp_path / "a.jsonl", "--output_dir", tmp_path / "out")
    (tmp_path / "b.parquet").write_bytes(b"no parquet")
    said = refusal(capsys, TRAIN, "--data", tmp_path / "b.parquet", "--output_dir", tmp_path / "out")
    assert "b.parquet cannot be read by `datasets`" in said
    (tmp_path / "empty").mkdir()
    said = refusal(capsys, TRAIN, "--data", tmp_path / "empty", "--output_dir", tmp_path / "out")
    assert "cannot be read by `datasets`" in said


@pytest.fixture(scope="module")
def crawl(tmp_path_factory) -> Path:
    records = [
        record(f"http://{'good' if good else 'bad'}.test/{seed}", page(text_of(good, seed)))
        for seed in range(9000, 9020)
        for good in (True, False)
    ]
    return write_warc(tmp_path_factory.mktemp("crawl") / "a.warc.gz", records)


def hosts_kept(folder: Path) -> list[str]:
    rows = [row for file in sorted((folder / "pages").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    return [row["url"].split("/")[2] for row in rows]


def test_pages_of_low_quality_are_dropped_and_none_without_a_model(model, crawl, tmp_path):
    run(FILTER, "--warc", crawl, "--output_dir", tmp_path / "all")
    assert len(hosts_kept(tmp_path / "all")) == 40 and "quality" not in metrics(tmp_path / "all")["num_dropped"]
    run(FILTER, "--warc", crawl, "--output_dir", tmp_path / "best", "--quality_model", model, "--min_quality", 0.6)
    assert (
        hosts_kept(tmp_path / "best").count("good.test") >= 18 and hosts_kept(tmp_path / "best").count("bad.test") <= 2
    )
    lines = [json.loads(line) for line in (tmp_path / "best" / "fates.jsonl").read_text().splitlines()]
    assert {line["reason"] for line in lines} == {"quality/low_quality"}
    funnel = json.loads((tmp_path / "best" / "funnel.json").read_text())
    step = next(step for step in funnel if step["step"] == "quality")
    assert step["num_in"] == 40 and step["num_dropped"] == len(lines) == step["reasons"]["low_quality"]
    assert step["samples"][0]["text"]


def test_thresholds_that_keep_the_best_share_of_a_crawl(data, model, crawl, tmp_path):
    run(FILTER, "--warc", crawl, "--output_dir", tmp_path / "all")
    out = trained(data, tmp_path / "model", "--group_column", "url", "--pages", tmp_path / "all")
    thresholds = metrics(out)["min_quality_to_keep"]
    assert list(thresholds) == [f"0.{tenth}" for tenth in range(1, 10)]
    best = ["--quality_model", out, "--min_quality", thresholds["0.3"]]
    run(FILTER, "--warc", crawl, "--output_dir", tmp_path / "best", *best)
    assert len(hosts_kept(tmp_path / "best")) == 12 and set(hosts_kept(tmp_path / "best")) == {"good.test"}


def damaged(model: Path, copy: Path, kind: str) -> Path:
    if kind == "absent":
        return copy
    shutil.copytree(model, copy)
    config, weights = copy / "config.json", copy / "model.safetensors"
    if kind == "no weights":
        weights.unlink()
    elif kind == "cut":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif kind == "not finite":
        tensors = safetensors.numpy.load(weights.read_bytes())
        weights.write_bytes(safetensors.numpy.save({**tensors, "bias": tensors["bias"] * np.nan}))
    elif kind == "other features":
        config.write_text(config.read_text().replace("xxh3", "md5"))
    elif kind == "another model":
        config.write_text('{"model_type": "llama"}')
    elif kind == "unfinished":
        (copy / "run.yaml").rename(copy / "started.yaml")
    return copy


@pytest.mark.parametrize(
    "kind, complaint",
    [
        ("absent", "does not exist"),
        ("no weights", "has no model.safetensors; name a folder that train_quality_classifier.py wrote"),
        ("cut", "is damaged"),
        ("not finite", "is damaged"),
        ("other features", "of another version"),
        ("another model", "holds another kind of model"),
        ("unfinished", "is unfinished"),
    ],
)
def test_models_that_cannot_be_applied(kind, complaint, model, crawl, tmp_path, capsys):
    folder = damaged(model, tmp_path / "model", kind)
    flags = ["--quality_model", folder, "--min_quality", 0.5]
    said = refusal(capsys, FILTER, "--warc", crawl, "--output_dir", tmp_path / "out", *flags)
    assert complaint in said and str(folder) in said and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (["--quality_model", "MODEL"], "`quality_model` and `min_quality` need each other"),
        (["--min_quality", 0.5], "`quality_model` and `min_quality` need each other"),
        (["--quality_model", "MODEL", "--min_quality", 3], "min_quality is 3"),
        (["--quality_model", "MODEL", "--min_quality", "nan"], "min_quality"),
    ],
)
def test_thresholds_that_cannot_be(flags, complaint, model, crawl, tmp_path, capsys):
    flags = [model if flag == "MODEL" else flag for flag in flags]
    assert complaint in refusal(capsys, FILTER, "--warc", crawl, "--output_dir", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


@pytest.mark.real_data
def test_real_texts_of_sources_it_never_saw():
    """News, speeches and product reviews to learn from; books and overheard talk to judge."""
    file = DATA / "text" / "train.parquet"
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    texts: dict[str, list[str]] = {}
    for row in pq.read_table(file).to_pylist():
        texts.setdefault(row["source"], []).append(row["text"])
    good, bad = texts["abc"][:300] + texts["state_union"], texts["problem_reports"][:400]
    labels = np.array([1.0] * len(good) + [0.0] * len(bad))
    classifier = train([features_of(text, 20) for text in [*good, *bad]], labels, 20, 3, 0.1, 0)
    unseen, start = [texts["brown"], texts["webtext"]], time.process_time()
    edited, overheard = ([classifier.score(text) for text in some] for some in unseen)
    milliseconds = 1000 * (time.process_time() - start) / sum(map(len, unseen))
    assert np.mean(np.greater.outer(edited, overheard)) > 0.9 and milliseconds < 2


def test_a_stage_error_names_the_folder(tmp_path):
    with pytest.raises(StageError, match=r"has no config\.json and no model\.safetensors"):
        QualityClassifier.load(tmp_path)
