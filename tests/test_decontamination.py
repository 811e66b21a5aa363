"""Pages that hold texts of evaluation tasks, bad task files, and a corpus written in parts.

pytest tests/test_decontamination.py
"""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, metrics, run
from test_duplicates import page, write_pages
from tiny_warc import prose

from crawl2chat import corpus
from crawl2chat.decontamination import Decontamination, name_of
from crawl2chat.stage import read_run

BUILD = "data_processing/4_build_corpus.py"
DATA = Path(os.environ.get("CRAWL2CHAT_DATA", ROOT.parent / "shared" / "data"))
QUESTION = "A baker of Osford sold seven loaves on Monday and twice as many on Tuesday; how many were sold in all?"
ANSWER = "On Tuesday there were fourteen loaves, so twenty-one."  # 9 words


def words(start: int, stop: int) -> str:
    return " ".join(QUESTION.split()[start:stop])


@pytest.fixture
def task(tmp_path) -> Path:
    file = tmp_path / "quiz" / "test.jsonl"
    file.parent.mkdir()
    examples = [{"question": "Why is it so?", "answer": "No."}, {"question": QUESTION, "answer": ANSWER, "level": 3}]
    file.write_text("".join(json.dumps(example) + "\n" for example in examples))
    return file


@pytest.fixture
def pages(tmp_path) -> Path:
    kept = [page(f"http://a.test/{i}", prose(i)) for i in range(20)]
    hits = [
        page("http://b.test/question", f"{prose(30)} {QUESTION}"),
        page("http://b.test/answer", f"{prose(31)} {ANSWER}"),
    ]
    return write_pages(tmp_path / "3", kept[:10] + hits[:1], kept[10:] + hits[1:])


def build(pages: Path, out: Path, *arguments) -> dict[str, str]:
    run(BUILD, "--pages", pages, "--output_dir", out, *arguments)
    rows = [row for file in sorted(out.glob("*/*.parquet")) for row in pq.read_table(file).to_pylist()]
    return {row["url"]: row["text"] for row in rows}


@pytest.mark.parametrize(
    "text, hit",
    [
        (f"It is said: {QUESTION}", "a baker of osford sold seven loaves on monday and twice as many"),
        (
            words(3, 16).upper().replace(" ", ",\n"),
            "osford sold seven loaves on monday and twice as many on tuesday how",
        ),
        (words(3, 15), None),  # 12 words
        (words(0, 12) + " but " + words(12, 20), None),
        (f"So he said {ANSWER.lower()}", "on tuesday there were fourteen loaves so twenty one"),
        (ANSWER.rsplit("-", 1)[0], None),  # a shorter text counts as a whole only
        ("Why is it so? No.", None),  # too short to be looked for
        ("", None),
    ],
)
def test_overlaps(text, hit, task):
    found = Decontamination([f"{task}:question,answer"]).overlaps(text)
    assert [line["n_gram"] for line in found] == ([hit] if hit else [])
    assert all(line["task"] == "quiz/test" and line["example"] == "test.jsonl:2" for line in found)


def test_shorter_texts_and_other_lengths_on_request(task):
    assert Decontamination([f"{task}:question"], 13, 4).overlaps("Now, why is it so?")[0]["example"] == "test.jsonl:1"
    assert Decontamination([f"{task}:question"], 12).overlaps(words(3, 15))
    assert not Decontamination([f"{task}:answer"]).overlaps(QUESTION)


def test_files_of_all_kinds_and_texts_within(task, tmp_path):
    chats = [{"messages": [{"role": "user", "content": QUESTION}], "choices": {"text": ["no", ANSWER]}}]
    folder = tmp_path / "many"
    (folder / "deep").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([{"messages": None, "choices": None}, *chats]), folder / "a.parquet")
    with gzip.open(folder / "deep" / "b.jsonl.gz", "wt") as file:
        file.write("\n" + json.dumps(chats[0] | {"choices": [words(0, 20)[::-1]]}) + "\n")
    tasks = Decontamination([f"{folder}:messages,choices", f"{task}:answer"])
    assert tasks.num_texts == {f"{tmp_path.name}/many": 4, "quiz/test": 1}
    found = {line["task"]: line for line in tasks.overlaps(f"{QUESTION} {ANSWER}")}
    assert found[f"{tmp_path.name}/many"]["example"] == "a.parquet:2" and found["quiz/test"]["num_runs"] == 1
    assert name_of("quiz/test.jsonl.gz:a") == "quiz/test" and name_of("/folder/mmlu:q") == "folder/mmlu"


def test_pages_are_dropped_and_reported(task, pages, tmp_path):
    out = tmp_path / "4"
    kept = build(pages, out, "--eval_tasks", f"{task}:question,answer")
    assert len(kept) == 20 and not any("b.test" in url for url in kept)
    lines = [json.loads(line) for line in (out / "decontamination.jsonl").read_text().splitlines()]
    assert [line["url"] for line in lines] == ["http://b.test/question", "http://b.test/answer"]
    assert lines[1] == {
        "url": "http://b.test/answer",
        "id": "<http://b.test/answer>",
        "task": "quiz/test",
        "example": "test.jsonl:2",
        "num_runs": 1,
        "n_gram": "on tuesday there were fourteen loaves so twenty one",
    }
    assert metrics(out)["num_contaminated"] == {"quiz/test": 2}
    step = json.loads((out / "funnel.json").read_text())[-1]
    sizes = metrics(out)
    assert step["num_in"] == 22 and step["num_kept"] == 20 and step["reasons"] == {"quiz/test": 2}
    assert step["bytes_kept"] == sizes["train_bytes"] + sizes["validation_bytes"] == sum(map(len, kept.values()))
    assert step["bytes_in"] - step["bytes_kept"] == len(prose(30) + prose(31) + QUESTION + ANSWER) + 2
    assert step["samples"][0]["text"] == "a baker of osford sold seven loaves on monday and twice as many"
    card = (out / "README.md").read_text()
    assert "were dropped (quiz/test: 2)." in card and "| decontaminate | 22 | 2 | 20 |" in card


def test_pages_are_only_reported(task, pages, tmp_path):
    kept = build(pages, tmp_path / "4", "--eval_tasks", f"{task}:question", "--decontaminate", "report")
    assert len(kept) == 22 and metrics(tmp_path / "4")["num_contaminated"] == {"quiz/test": 1}
    assert json.loads((tmp_path / "4" / "decontamination.jsonl").read_text())["url"] == "http://b.test/question"
    assert "found and left in" in (tmp_path / "4" / "README.md").read_text()
    assert json.loads((tmp_path / "4" / "funnel.json").read_text())[-1]["num_dropped"] == 0


def test_nothing_is_done_by_default(pages, tmp_path):
    assert len(build(pages, tmp_path / "4")) == 22
    assert not (tmp_path / "4" / "decontamination.jsonl").exists() and "num_contaminated" not in metrics(
        tmp_path / "4"
    )
    assert [step["step"] for step in json.loads((tmp_path / "4" / "funnel.json").read_text())] == ["read"]
    assert "were not searched" in (tmp_path / "4" / "README.md").read_text()


def test_scores_know_what_went(task, pages, tmp_path):
    truth = [{"url": f"http://b.test/{name}", "fate": "keep", "text": ""} for name in ("question", "answer")]
    (tmp_path / "truth.jsonl").write_text("".join(json.dumps(line) + "\n" for line in truth))
    build(pages, tmp_path / "4", "--eval_tasks", f"{task}:question", "--truth", tmp_path / "truth.jsonl")
    scores = json.loads((tmp_path / "4" / "scores.json").read_text())
    assert scores["num_lost"] == 0 and scores["steps"]["decontaminate"]["num_dropped"] == 1


GOOD = json.dumps({"question": QUESTION, "n": 3}) + "\n"


@pytest.mark.parametrize(
    "name, content, fields, complaint",
    [
        ("gone.jsonl", None, ":question", "gone.jsonl does not exist"),
        ("t.jsonl", GOOD, "", "t.jsonl names no field with text; write"),
        ("t.jsonl", GOOD, ":", "names no field with text"),
        ("t.jsonl", GOOD, ":question,answer", "t.jsonl has no field answer; it has n, question."),
        ("t.jsonl", GOOD + "{oops}\n", ":question", "t.jsonl is no JSON Lines, at or after line 2 ("),
        ("t.jsonl", GOOD + "[1]\n", ":question", "at or after line 2 (list, not an object)"),
        ("t.jsonl", b"\xff\xfe\n", ":question", "t.jsonl is no JSON Lines"),
        ("t.jsonl", GOOD, ":n", "`n` of"),
        ("t.jsonl", "", ":question", "t.jsonl has no field question; it is empty."),
        ("t.jsonl", '{"question": "Why is it so?"}\n', ":question", "has 8 words or more, so there is nothing"),
        ("t.jsonl.gz", gzip.compress(GOOD.encode() * 9)[:-20], ":question", "t.jsonl.gz is no JSON Lines"),
        ("t.jsonl.gz", GOOD, ":question", "t.jsonl.gz is no JSON Lines"),
        ("t.parquet", GOOD, ":question", "t.parquet cannot be read as Parquet"),
        ("t.csv", GOOD, ":question", "t.csv is no .jsonl, .jsonl.gz, .parquet file"),
        ("folder/notes.txt", GOOD, ":question", "folder holds no .jsonl, .jsonl.gz, .parquet file"),
    ],
)
def test_bad_task_files(name, content, fields, complaint, pages, tmp_path, capsys):
    file = tmp_path / "tasks" / name
    file.parent.mkdir(parents=True)
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    file = file.parent if "/" in name else file
    with pytest.raises(SystemExit) as stopped:
        build(pages, tmp_path / "4", "--eval_tasks", f"{file}{fields}")
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and complaint in said and "Traceback" not in said
    assert not (tmp_path / "4").exists()


def test_no_page_is_left(task, tmp_path, capsys):
    pages = write_pages(tmp_path / "3", [page(f"http://{i}/", f"{prose(i)} {QUESTION}") for i in range(3)])
    with pytest.raises(SystemExit) as stopped:
        build(pages, tmp_path / "4", "--eval_tasks", f"{task}:question")
    assert stopped.value.code == 2 and "3 of 3 pages hold a text of the evaluation tasks" in capsys.readouterr().err


def test_shards_are_the_same_however_many_are_written_at_once(pages, tmp_path, monkeypatch):
    whole = build(pages, tmp_path / "whole")
    assert list(whole) != sorted(whole)  # shuffled
    parts = build(pages, tmp_path / "parts", "--pages_per_file", 3)
    assert [len(pq.read_table(file)) for file in sorted((tmp_path / "parts").glob("train/*"))] == [3, 3, 3, 2]
    assert list(parts.items()) == list(whole.items())
    monkeypatch.setattr(corpus, "MAX_OPEN_FILES", 2)
    monkeypatch.setattr(corpus, "BATCH", 4)
    build(pages, tmp_path / "few", "--pages_per_file", 3)
    assert read_run(tmp_path / "few")["fingerprint"] == read_run(tmp_path / "parts")["fingerprint"]
    assert not list(tmp_path.glob("*/heaps.tmp"))


@pytest.mark.real_data
def test_a_real_question_on_a_real_page():
    file = DATA / "gsm8k" / "train.jsonl"
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    questions = [json.loads(line)["question"] for line in file.read_text().splitlines()]
    tasks = Decontamination([f"{file}:question,answer"])
    for number in (0, 1234, 7472):
        (line,) = tasks.overlaps(f"{prose(1)} {questions[number]}")
        assert line["task"] == "gsm8k/train" and line["num_runs"] >= 1
    (prose_file,) = [DATA / "text" / "validation.parquet"]
    pages = pq.read_table(prose_file, columns=["text"])["text"].to_pylist()
    assert sum(bool(tasks.overlaps(text)) for text in pages[:100]) == 0
