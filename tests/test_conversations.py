"""Chats and prompts: easy worked examples only, no working for RL, held-out operands in no training text."""

import json
import random
import runpy
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, run

from crawl2chat.invented_world import World, untold_fact
from crawl2chat.problems import HELD_OUT, KINDS, numbers_in

SCRIPT = "data_processing/7_build_conversations.py"


def rows(folder, name):
    return [json.loads(line) for line in (folder / "7_conversations" / f"{name}.jsonl").read_text().splitlines()]


def test_sft_sees_worked_easy_problems_and_a_few_of_three_numbers(path_folder):
    thoughts = [row["messages"][-1]["reasoning_content"] for row in rows(path_folder, "sft_train")]
    worked = [thought for thought in thoughts if thought]
    assert len(worked) == 40
    longer = [thought for thought in worked if ";" in thought or "-" in thought]  # a sum of two is one step
    assert len(longer) == 4 and all(thought.count(";") == 1 and "-" not in thought for thought in longer)


def test_readings_are_about_what_no_page_tells_and_hold_their_answer():
    rng, world = random.Random(0), World(0, {40: 10, 0: 5})
    known = {(fact.relation, fact.subject) for fact in world.facts}
    build = runpy.run_path(str(ROOT / SCRIPT))
    for _ in range(200):
        fact = untold_fact(rng, world.names, known)
        assert fact.num_pages == 0 and (fact.relation, fact.subject) not in known
        user, assistant = build["reading"](rng, world.names, known)
        last_word = assistant["content"].rstrip(".").split()[-1]
        assert last_word in user["content"]


def test_rl_sees_every_kind_and_no_working(path_folder):
    prompts = rows(path_folder, "rl_train")
    assert {row["kind"] for row in prompts} == set(KINDS)
    for row in prompts:
        assert [message["role"] for message in row["prompt"]] == ["user"]
        assert set(row) == {"prompt", "answer", "kind"} and row["answer"].isdigit()


def test_test_operands_occur_in_no_training_text(path_folder):
    seen = set()
    for file in (path_folder / "4_corpus").glob("*/*.parquet"):
        for text in pq.read_table(file).column("text").to_pylist():
            seen |= numbers_in(text)
    for name in ("sft_train", "rl_train"):
        if name == "sft_train":  # the names of towns in the facts carry numbers of their own here
            texts = [json.dumps(row) for row in rows(path_folder, name) if row["messages"][-1]["reasoning_content"]]
        else:
            texts = [json.dumps(row) for row in rows(path_folder, name)]
        for text in texts:
            seen |= numbers_in(text)
    problems = rows(path_folder, "test_problems")
    assert {row["kind"] for row in problems} == set(KINDS)
    for row in problems:
        assert not numbers_in(row["question"]) & seen


def test_test_facts_are_asked_nowhere(path_folder):
    asked = json.dumps(rows(path_folder, "sft_train"))
    facts = rows(path_folder, "test_facts")
    assert facts and all(fact["question"] not in asked and fact["num_pages"] > 0 for fact in facts)


def test_numbers_that_leak_into_the_corpus_are_not_tested(path_folder, tmp_path, capsys):
    shutil.copytree(path_folder / "0_web", tmp_path / "0_web")
    for leaked, works in ((4, True), (14, False)):
        text = " ".join(map(str, sorted(HELD_OUT)[:leaked]))
        corpus = tmp_path / f"corpus{leaked}"
        (corpus / "train").mkdir(parents=True)
        pq.write_table(pa.table({"text": [text]}), corpus / "train" / "0.parquet")
        arguments = [
            "--web", tmp_path / "0_web", "--corpus", corpus, "--output_dir", tmp_path / f"out{leaked}",
            "--num_worked_examples", 5, "--num_rl_prompts", 12, "--num_test_problems", 12,
        ]  # fmt: skip
        if works:
            run(SCRIPT, *arguments)
            problems = (tmp_path / "out4" / "test_problems.jsonl").read_text().splitlines()
            assert all(not numbers_in(json.loads(row)["question"]) & numbers_in(text) for row in problems)
        else:
            with pytest.raises(SystemExit) as stopped:
                run(SCRIPT, *arguments)
            assert stopped.value.code not in (0, None)
            assert not (tmp_path / "out14" / "run.yaml").exists()
