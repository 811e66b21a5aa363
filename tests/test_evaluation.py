"""The evaluation of a model folder: every part of it, beside another model, killed and started again."""

import json
from pathlib import Path

import pytest
from conftest import EVALUATE, kill_when, metrics, refusal, run
from transformers import AutoModelForSequenceClassification


def arguments(folder: Path, *more) -> list:
    tests, corpus = folder / "7_conversations", folder / "4_corpus"
    return ["--model", folder / "base", "--tests", tests, "--corpus", corpus, "--max_new_tokens", 8, *more]


def rows(folder: Path, part: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{part}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def evaluated(path_folder, tmp_path_factory) -> Path:
    """A base model that is asked everything, and judged by a reward model that was not trained."""
    folder = tmp_path_factory.mktemp("evaluated")
    model = AutoModelForSequenceClassification.from_pretrained(path_folder / "base", num_labels=1)
    model.save_pretrained(folder / "reward")
    for file in (path_folder / "base").glob("*token*"):
        (folder / "reward" / file.name).write_bytes(file.read_bytes())
    template = path_folder / "base" / "chat_template.jinja"
    (folder / "reward" / template.name).write_bytes(template.read_bytes())
    parts = ["--parts", "problems", "facts", "chats", "requests"]
    judges = ["--reference", path_folder / "base", "--reward_model", folder / "reward"]
    run(EVALUATE, *arguments(path_folder, *parts, *judges), "--output_dir", folder / "eval")
    return folder


def test_every_part_is_scored(evaluated):
    found, folder = metrics(evaluated / "eval"), evaluated / "eval"
    assert found["num_problems"] == len(rows(folder, "problems")) == 12
    assert found["num_facts"] == len(rows(folder, "facts"))
    assert all(1 <= row["num_tokens"] <= 8 for row in rows(folder, "problems") + rows(folder, "facts"))
    chats = rows(folder, "chats")
    assert found["num_chats"] == len(chats) and set(found["chat_accuracy"]) == {row["kind"] for row in chats}
    assert found["chat_accuracy"]["lookalike"] == 1.0, "it does not know how to refuse"
    assert found["hallucination"] == 1.0, "nor how to say that it does not know"
    requests = rows(folder, "requests")
    assert found["kl"] == 0, "from itself"
    assert found["preference"] == round(sum(row["score"] for row in requests) / len(requests), 4)
    assert found["reward"] == round(sum(row["reward"] for row in requests) / len(requests), 4) != 0


def test_beside_another_model(evaluated, path_folder, tmp_path):
    """Of another seed, whose replies to the requests are others."""
    other = tmp_path / "other"
    (other / "eval").mkdir(parents=True)
    theirs = [{**row, "score": 0.0, "reward": row["reward"] + 100} for row in rows(evaluated / "eval", "requests")]
    (other / "eval/requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in theirs))
    more = ["--parts", "requests", "--reward_model", evaluated / "reward", "--against", other / "eval"]
    run(EVALUATE, *arguments(path_folder, *more), "--output_dir", tmp_path / "eval")
    ours = [row["score"] for row in rows(tmp_path / "eval", "requests")]
    expected = sum(1.0 if score > 0 else 0.5 for score in ours) / len(ours)
    assert metrics(tmp_path / "eval")["win_rate"] == round(expected, 4) > 0.5
    assert metrics(tmp_path / "eval")["win_rate_by_reward"] == 0


def test_bad_input(evaluated, path_folder, tmp_path, capsys):
    out = ["--output_dir", tmp_path / "e"]
    wrong = ["--base", "true", "--parts", "chats", "poems", "--reference", "x/y"]
    said = refusal(capsys, EVALUATE, *arguments(path_folder, *wrong), *out)
    assert "unknown part `poems`" in said and "a base model knows no chat" in said and "judge requests" in said
    other = tmp_path / "other"
    other.mkdir()
    against = arguments(path_folder, "--parts", "requests", "--against", other)
    assert "requests.jsonl does not exist" in refusal(capsys, EVALUATE, *against, *out)
    lines = (evaluated / "eval/requests.jsonl").read_text().splitlines(keepends=True)
    (other / "requests.jsonl").write_text("".join(lines[::-1]))
    assert "answered other requests" in refusal(capsys, EVALUATE, *against, *out)


def test_evaluation_killed_and_started_again(path_folder, tmp_path):
    given = arguments(path_folder)
    run(EVALUATE, *given, "--output_dir", tmp_path / "whole")
    kill_when("started.yaml", EVALUATE, [*given, "--output_dir", tmp_path / "killed"], tmp_path / "killed")
    run(EVALUATE, *given, "--output_dir", tmp_path / "killed")
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
