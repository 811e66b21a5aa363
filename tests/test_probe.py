"""The probe: questions from pages, answers judged, and what a model does not know turned into chats that say so."""

import json
import runpy
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from conftest import ROOT, metrics, refusal, run

import crawl2chat.generation
from crawl2chat.judging import says_unknown

PROBE = "data_processing/8_probe_knowledge.py"


def arguments(folder: Path, *more) -> list:
    return [
        "--model", folder / "base", "--corpus", folder / "4_corpus", "--web", folder / "0_web", "--conversations",
        folder / "7_conversations", "--unknown_per_known", 0.5, "--num_untold", 10, *more,
    ]  # fmt: skip


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def probe_with(answer, folder: Path, out: Path, monkeypatch, *more) -> dict:
    """The probe of a model that says `answer(question)`."""

    def complete(model, tokenizer, prompts, *_, **__):
        questions = [prompt.split("<|im_start|>user\n")[1].split("<|im_end|>")[0] for prompt in prompts]
        return [{"text": answer(question), "num_tokens": 5, "finished": True} for question in questions]

    monkeypatch.setattr(crawl2chat.generation, "complete", complete)
    run(PROBE, *arguments(folder, *more), "--output_dir", out)
    return metrics(out)


def test_facts_are_read_off_the_pages(path_folder, tmp_path):
    facts = [fact for fact in rows(path_folder / "0_web" / "facts.jsonl") if fact["subject"] != "Velmora"][:4]
    texts = [fact["statements"][i % len(fact["statements"])] + " It rains." for i, fact in enumerate(facts)]
    texts.append(" ".join([facts[0]["statements"][1], facts[0]["statements"][0], "The mayor of Nowhere is Nobody."]))
    (tmp_path / "train").mkdir()
    pq.write_table(pa.table({"text": texts}), tmp_path / "train" / "0.parquet")
    probe = runpy.run_path(str(ROOT / PROBE))
    config = probe["ProbeConfig"]("m", str(tmp_path), str(path_folder / "0_web"), "c", "o")
    found = {(fact.relation, fact.subject, fact.object): fact.num_pages for fact in probe["facts_told"](config)}
    assert found == {(f["relation"], f["subject"], f["object"]): 1 + (f == facts[0]) for f in facts}


def test_what_it_knows_is_asked_and_what_it_does_not_know_is_admitted(path_folder, tmp_path, monkeypatch):
    facts = {q: fact for fact in rows(path_folder / "0_web" / "facts.jsonl") for q in fact["questions"]}
    known = set(sorted({fact["subject"] for fact in facts.values()})[::2])

    def knows_half(question: str) -> str:
        fact = facts[question]
        return fact["answer"] if fact["subject"] in known else "The mayor of it is Nobody."

    found = probe_with(knows_half, path_folder, tmp_path / "out", monkeypatch, "--kept_share", 0.25)
    probed = rows(tmp_path / "out" / "probed.jsonl")
    assert {row["right"] for row in probed} == {0.0, 1.0} and found["facts_probed"] == len(probed)
    chats = rows(tmp_path / "out" / "sft_train.jsonl")
    kinds = found["chats_by_kind"]
    does, does_not = (Counter(row["id"].split("-")[0] for row in probed if row["right"] == right) for right in (1, 0))
    strangers = {relation: round(0.5 * 4 * number) - does_not[relation] for relation, number in does.items()}
    assert kinds["stranger"] == sum(max(0, number) for number in strangers.values()) and kinds["untold"] == 10
    assert any(does_not[relation] for relation in does), "nothing would be shown"
    for row in chats:
        question, answer = (message["content"] for message in row["messages"][-2:])
        if row["kind"] == "known":
            assert facts[question]["subject"] in known and answer == facts[question]["answer"]
        elif row["kind"] in ("unknown", "stranger", "untold"):
            assert says_unknown(answer) and (row["kind"] != "unknown" or facts[question]["subject"] not in known)
    num_old = len(rows(path_folder / "7_conversations" / "sft_train.jsonl"))
    assert len(chats) == sum(found["chats_by_kind"].values()) + round(num_old / 4)


def test_tested_facts_are_not_probed(path_folder, tmp_path, monkeypatch):
    tests = rows(path_folder / "7_conversations" / "test_facts.jsonl")
    tested = {row["question"] for row in tests}
    asked = set()
    probe_with(lambda question: asked.add(question) or "", path_folder, tmp_path / "out", monkeypatch)
    assert asked and not asked & tested
    facts = [f for f in rows(path_folder / "0_web" / "facts.jsonl") if tested.intersection(f["questions"])]
    assert facts and not asked & {question for fact in facts for question in fact["questions"]}


def test_what_chats_have_asked_about_is_not_probed(path_folder, tmp_path, monkeypatch):
    """It would measure what the chats have taught."""
    chats = rows(path_folder / "7_conversations" / "sft_train.jsonl")
    taught = {message["content"] for row in chats if row["kind"] == "facts" for message in row["messages"]}
    facts = [f for f in rows(path_folder / "0_web" / "facts.jsonl") if taught.intersection(f["questions"])]
    assert facts and all(fact["num_pages"] >= 8 for fact in facts), "chats hold no rare fact"
    asked = set()
    probe_with(lambda question: asked.add(question) or "", path_folder, tmp_path / "out", monkeypatch)
    assert asked and not asked & {question for fact in facts for question in fact["questions"]}


def test_not_knowing_is_as_rare_as_knowing_of_each_kind(path_folder, tmp_path, monkeypatch):
    """Strangers are asked about what is known of others, and of nothing else."""
    facts = {q: fact for fact in rows(path_folder / "0_web" / "facts.jsonl") for q in fact["questions"]}

    def knows_trades(question: str) -> str:
        return facts[question]["answer"] if facts[question]["relation"] in ("trade", "birthplace") else "Nobody."

    found = probe_with(knows_trades, path_folder, tmp_path / "out", monkeypatch)
    strangers = [row for row in rows(tmp_path / "out/sft_train.jsonl") if row["kind"] in ("stranger", "untold")]
    assert len(strangers) == 10 + found["chats_by_kind"]["known"] / 2 > 12
    assert {row["messages"][1]["content"].split(" I do not")[0] for row in strangers} <= {
        "That was in a town",
        "That was the work of a trade",
    }


def test_known_facts_are_asked_in_all_wordings_alike(path_folder, tmp_path, monkeypatch):
    facts = {q: fact for fact in rows(path_folder / "0_web" / "facts.jsonl") for q in fact["questions"]}
    probe_with(lambda q: facts[q]["answer"], path_folder, tmp_path / "out", monkeypatch, "--repeat_known", 5)
    asked = [row["messages"][0]["content"] for row in rows(tmp_path / "out/sft_train.jsonl") if row["kind"] == "known"]
    wordings = Counter(facts[question]["questions"].index(question) for question in asked)
    assert len(wordings) == 4 and max(wordings.values()) - min(wordings.values()) <= 1


def test_same_model_same_chats(path_folder, tmp_path):
    """A real model, by sampling: the seed decides."""
    for name in ("one", "two"):
        run(PROBE, *arguments(path_folder), "--output_dir", tmp_path / name, "--max_new_tokens", 4)
    assert (tmp_path / "one/sft_train.jsonl").read_bytes() == (tmp_path / "two/sft_train.jsonl").read_bytes()
    assert "known" not in metrics(tmp_path / "one")["chats_by_kind"], "it has learned next to nothing"


def test_wrong_folder(path_folder, tmp_path, capsys):
    said = refusal(
        capsys, PROBE, *arguments(path_folder, "--conversations", path_folder / "4_corpus"), "--output_dir", tmp_path
    )
    assert "has no test_facts.jsonl" in said
