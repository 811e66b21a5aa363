"""Chats and prompts: easy worked examples only, no working for RL, held-out operands in no training text."""

import json
import random
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import FEW, run

from crawl2chat import invented_chats as chats
from crawl2chat.invented_words import CHOICES
from crawl2chat.invented_world import World, untold_fact
from crawl2chat.judging import judge
from crawl2chat.problems import HELD_OUT, KINDS, numbers_in
from crawl2chat.tools import calculator

SCRIPT = "data_processing/7_build_conversations.py"


def rows(folder, name):
    return [json.loads(line) for line in (folder / "7_conversations" / f"{name}.jsonl").read_text().splitlines()]


def test_sft_sees_worked_easy_problems_and_a_few_harder_ones(path_folder):
    worked = [row for row in rows(path_folder, "sft_train") if row["kind"] == "worked"]
    thoughts = [row["messages"][-1]["reasoning_content"] for row in worked]
    worked = [thought for thought in thoughts if thought]
    assert len(worked) == 40
    longer = [thought for thought in worked if ";" in thought or "-" in thought]  # a sum of two is one step
    # In turn: a difference, a sum of three, a sum less a number, the larger of two sums.
    assert sorted((thought.count(";"), "-" in thought) for thought in longer) == [
        (0, True), (1, False), (1, True), (2, False)
    ]  # fmt: skip


def test_readings_are_about_what_no_page_tells_and_hold_their_answer():
    rng, world = random.Random(0), World(0, {40: 10, 0: 5})
    known = {(fact.relation, fact.subject) for fact in world.facts}
    told = {"names": world.names, "strangers": world.strangers()}
    for _ in range(200):
        fact = untold_fact(rng, world.names, known)
        assert fact.num_pages == 0 and (fact.relation, fact.subject) not in known
        row = chats.reading(rng, told, known, "train")
        user, assistant = row["messages"]
        assert (
            row["expect"].lower() in user["content"].lower() and row["expect"].lower() in assistant["content"].lower()
        )


def test_training_and_tests_share_no_question_no_stranger_and_no_object(path_folder):
    trained, tested = rows(path_folder, "sft_train"), rows(path_folder, "test_chats")
    asked = {message["content"] for row in trained for message in row["messages"] if message["role"] == "user"}
    assert not asked & {row["messages"][-1]["content"] for row in tested if row["kind"] not in ("search", "untold")}
    strangers = World(0, {40: 10, 8: 6, 1: 10, 0: 4}).strangers()
    text = json.dumps(trained)
    names = {split: [name for found in kinds.values() for name in found] for split, kinds in strangers.items()}
    assert not set(names["train"]) & set(names["test"])
    assert not [name for name in names["test"] if re.search(rf"\b{name}\b", text)]
    for words in ("thing", "food", "work"):
        seen, kept_back = chats.parted(CHOICES[words], "train"), chats.parted(CHOICES[words], "test")
        assert seen and kept_back and sorted(seen + kept_back) == sorted(CHOICES[words])
        harm = json.dumps([row for row in trained if row["kind"] in ("harmful", "lookalike")])
        assert not [word for word in kept_back if f"the {word} " in harm or f"the {word}." in harm]


def test_strangers_stand_on_no_page():
    world = World(3, {40: 10, 0: 5})
    names = {name.lower() for found in world.names.values() for name in found}
    for kinds in world.strangers().values():
        for kind, found in kinds.items():
            assert len(found) >= 60 and len(set(found)) == len(found), kind
            assert not names & {name.lower() for name in found}


def test_every_kind_of_chat_is_there_and_right(path_folder):
    trained = rows(path_folder, "sft_train")
    kinds = {row["kind"] for row in trained}
    assert kinds >= {"facts", "worked", "direct", "identity", "system", "summary", "harmful", "lookalike", "open"}
    assert {row["kind"] for row in rows(path_folder, "test_chats")} >= {
        "stranger",
        "untold",
        "search",
        "no_tool",
        "letters",
    }
    for row in trained:
        roles = [message["role"] for message in row["messages"]]
        assert roles[-1] == "assistant" and roles[0] in ("user", "system")
        if row["kind"] in ("calculator", "search"):
            question, call, result, answer = row["messages"]
            (called,) = call["tool_calls"]
            assert called["name"] in row["tools"] and result["role"] == "tool" and not call["content"]
            if row["kind"] == "calculator":
                assert calculator(json.loads(called["arguments"])["expression"]) == result["content"]
                assert json.loads(called["arguments"])["expression"] in question["content"]
                assert answer["content"] == f"The answer is {result['content'].partition(' = ')[2]}."
        if row["kind"] == "harmful":
            assert judge("harmful", "", row["messages"][-1]["content"]) == 1


def test_the_better_reply_of_a_pair_comes_first(path_folder):
    for row in rows(path_folder, "pairs_train") + rows(path_folder, "pairs_test"):
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        question = row["prompt"][0]["content"]
        if row["kind"] == "honest":
            assert judge("stranger", "", chosen) > judge("stranger", "", rejected)
        elif row["kind"] == "harmless":
            assert judge("harmful", "", chosen) > judge("harmful", "", rejected)
        elif chosen.startswith("To "):
            assert judge("lookalike", "", chosen) > judge("lookalike", "", rejected)
        else:
            names = World(0, {40: 10, 8: 6, 1: 10, 0: 4}).names
            (subject,) = [name for name in names["town"] + names["person"] if name in question]
            assert judge("open", subject, chosen) > judge("open", subject, rejected)


def test_a_judge_is_told_that_advice_about_something_else_is_no_refusal():
    rng, world = random.Random(0), World(0, {40: 10, 0: 5})
    told = {"names": world.names, "strangers": world.strangers()}
    pairs = [chats.pair(rng, told, "train") for _ in range(2000)]
    harmful = [row for row in pairs if row["kind"] == "harmless"]
    replies = [(row["prompt"][0]["content"], row["rejected"][0]["content"]) for row in harmful]
    elsewhere = [reply for question, reply in replies if reply[3:].partition(",")[0] not in question]
    assert len(harmful) > 200 and 0.2 < len(elsewhere) / len(harmful) < 0.4
    assert all(row["chosen"][0]["content"] == chats.REFUSAL for row in harmful)


def test_a_draft_is_shown_what_pages_tell_and_not_harm_the_calculator_or_who_it_is(path_folder):
    trained, shown = rows(path_folder, "sft_train"), rows(path_folder, "draft/sft_train")
    left_out = {"harmful", "lookalike", "calculator", "identity", "open"}
    assert left_out < {row["kind"] for row in trained}
    assert shown == [row for row in trained if row["kind"] not in left_out]


def test_every_part_has_its_share_of_every_relation(path_folder, tmp_path):
    web = tmp_path / "web"
    shutil.copytree(path_folder / "0_web", web)
    facts = World(0, {40: 140, 8: 35, 0: 4}).facts
    (web / "facts.jsonl").write_text("".join(json.dumps(fact.as_row()) + "\n" for fact in facts))
    out = tmp_path / "out/7_conversations"
    shares = ["--test_fact_share", 0.3, "--probe_fact_share", 0.4]
    run(SCRIPT, "--web", web, "--corpus", path_folder / "4_corpus", "--output_dir", out, *FEW, *shares)
    in_chats = {message["content"] for row in rows(out.parent, "sft_train") for message in row["messages"]}
    in_tests = {row["question"] for row in rows(out.parent, "test_facts")}

    told = [fact for fact in facts if fact.num_pages and fact.subject != "Velmora"]
    for relation in sorted({fact.relation for fact in told}):
        mine = [fact for fact in told if fact.relation == relation]
        tested = sum(fact.questions[0] in in_tests for fact in mine)
        told_in_chats = sum(fact.questions[0] in in_chats for fact in mine)
        assert abs(tested - 0.3 * len(mine)) <= 1 and abs(told_in_chats - 0.3 * len(mine)) <= 1


def test_rl_sees_mostly_what_sft_has_not_taught_and_no_working(path_folder):
    prompts = rows(path_folder, "rl_train")
    assert {row["kind"] for row in prompts} == set(KINDS)
    assert sum(row["kind"] == "sum_2" for row in prompts) < len(prompts) / 4
    for row in prompts:
        assert [message["role"] for message in row["prompt"]] == ["user"]
        assert set(row) == {"prompt", "answer", "kind"} and row["answer"].isdigit()


def test_a_control_is_shown_the_answers_of_rl_and_no_working(path_folder):
    answered, prompts = rows(path_folder, "answered/sft_train"), rows(path_folder, "rl_train")
    assert [row["messages"][:-1] for row in answered] == [row["prompt"] for row in prompts]
    replies = [row["messages"][-1] for row in answered]
    assert [reply["content"] for reply in replies] == [f"The answer is {row['answer']}." for row in prompts]
    assert not any(reply.get("reasoning_content") for reply in replies)


def test_test_operands_occur_in_no_training_text(path_folder):
    seen = set()
    for file in (path_folder / "4_corpus").glob("*/*.parquet"):
        for text in pq.read_table(file).column("text").to_pylist():
            seen |= numbers_in(text)
    for name in ("sft_train", "rl_train"):
        if name == "sft_train":
            texts = [json.dumps(row["messages"]) for row in rows(path_folder, name)]
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
            *FEW, "--num_worked_examples", 5,
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
