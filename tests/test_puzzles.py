"""Puzzles have the answer that they say, training and tests share none, and the reward judges each by its own rule.

pytest tests/test_puzzles.py
"""

import datetime
import json
import random
import re
from itertools import islice

import pytest
from conftest import metrics, refusal, run

from crawl2chat.puzzles import DAYS, GRADES, KINDS, WORDS, puzzles
from crawl2chat.rewards import load_prompts, solved
from crawl2chat.stage import StageError
from crawl2chat.verify import countdown

MAKE = "data_processing/9_make_puzzles.py"
GYM = ["chain_sum", "spell_backward", "countdown", "basic_arithmetic", "leg_counting", "letter_counting", "gcd"]


def drawn(kind: str, grade: int, num: int = 40) -> list:
    rng = random.Random(grade)
    return [KINDS[kind](rng, grade) for _ in range(num)]


def reward(puzzle, text: str) -> float | None:
    columns = {name: [getattr(puzzle, name)] for name in ("answer", "numbers", "target", "entry")}
    return solved([[{"role": "assistant", "content": text}]], **columns)[0]


def by_hand(puzzle) -> str:
    """The answer, from the question alone."""
    question, numbers = puzzle.question, [int(n) for n in re.findall(r"\d+", puzzle.question)]
    if puzzle.kind == "product":
        return str(numbers[0] * numbers[1])
    if puzzle.kind == "counting":
        return str(sum(n > numbers[0] for n in numbers[1:]))
    if puzzle.kind == "letters":
        (word,) = set(WORDS).intersection(re.findall("[a-z]+", question))
        return {
            1: lambda: word[numbers[0] - 1] if numbers else "",
            2: lambda: str(word.count(question.split("letter ")[1][0])),
            3: lambda: "".join(reversed(word)),
            4: lambda: "".join(sorted(word)),
            5: lambda: "".join(sorted(word, reverse=True)),
        }[puzzle.grade]()
    if puzzle.grade < 3:
        today = next(i for i, day in enumerate(DAYS) if day in question)
        return DAYS[(today + numbers[0]) % 7]
    start, end = (
        datetime.datetime.strptime(found, "%d %B %Y") for found in re.findall(r"\d+ [A-Z]\w+ \d{4}", question)
    )
    return str((end - start).days)


@pytest.mark.parametrize("grade", GRADES)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "countdown"])
def test_answers_are_right(kind, grade):
    for puzzle in drawn(kind, grade):
        assert puzzle.answer == by_hand(puzzle), puzzle.question
        assert reward(puzzle, f"<think>hm</think>The answer is {puzzle.answer}.") == 1.0
        assert reward(puzzle, "<think>hm</think>The answer is 12345678.") == 0.0


@pytest.mark.parametrize("grade", GRADES)
def test_every_target_can_be_reached(grade):
    for puzzle in drawn("countdown", grade):
        assert countdown(puzzle.answer, puzzle.numbers, puzzle.target) == reward(puzzle, puzzle.answer) == 1.0
        assert reward(puzzle, str(puzzle.target)) == 0.0
        assert all(str(number) in puzzle.question for number in [*puzzle.numbers, puzzle.target])


def test_harder_grades_are_harder():
    def length(kind, grade):
        return sum(len(puzzle.question) + len(puzzle.answer) for puzzle in drawn(kind, grade, 200))

    for kind in ("product", "counting", "countdown"):
        assert length(kind, 1) < length(kind, 3) < length(kind, 5)


def test_training_and_tests_share_no_question_and_no_word():
    kinds = list(KINDS)
    train, test = (list(islice(puzzles(kinds, list(GRADES), split, 0), 600)) for split in ("train", "test"))
    assert len({puzzle.question for puzzle in train}) == 600
    assert not {puzzle.question for puzzle in train} & {puzzle.question for puzzle in puzzles_of_other_seed()}
    words = [
        {word for p in part if p.kind == "letters" for word in WORDS if f" {word}" in p.question}
        for part in (train, test)
    ]
    assert words[0] and words[1] and not words[0] & words[1]
    assert [(p.kind, p.grade) for p in train[:6]] == [*((kind, 1) for kind in kinds), (kinds[0], 2)]


def puzzles_of_other_seed() -> list:
    return list(islice(puzzles(list(KINDS), list(GRADES), "test", 7), 600))


@pytest.mark.parametrize("name", GYM)
def test_reasoning_gym_judges_its_own(name):
    for puzzle in islice(puzzles([f"gym:{name}"], [1], "train", 0), 5):
        assert reward(puzzle, f"<think>hm</think>The answer is {puzzle.answer}") == 1.0, puzzle
        assert reward(puzzle, "<think>hm</think>The answer is nothing") < 0.5


def test_the_stage(tmp_path):
    arguments = ["--config", "data_processing/9_make_puzzles.yaml", "--num_train", 100, "--num_test", 25]
    run(MAKE, *arguments, "--kinds", *KINDS, "gym:chain_sum", "--output_dir", tmp_path / "a")
    assert metrics(tmp_path / "a")["train"] == 100 and len(metrics(tmp_path / "a")["train_by_kind"]) == 6
    prompts = load_prompts(str(tmp_path / "a"))
    assert prompts["grade"] == sorted(prompts["grade"])
    assert {"prompt", "answer", "numbers", "target", "entry"} < set(prompts.column_names)
    texts = [[{"role": "assistant", "content": answer}] for answer in prompts["answer"]]
    columns = {name: prompts[name] for name in ("answer", "numbers", "target", "entry")}
    assert solved(texts, **columns) == [1.0] * 100
    run(MAKE, *arguments, "--kinds", *KINDS, "gym:chain_sum", "--output_dir", tmp_path / "b")
    assert (tmp_path / "a/rl_train.jsonl").read_bytes() == (tmp_path / "b/rl_train.jsonl").read_bytes()
    assert json.loads((tmp_path / "a/test_puzzles.jsonl").read_text().splitlines()[0])["question"]


@pytest.mark.parametrize(
    "more, said",
    [
        (["--grades", 6], "there is no grade 6; they go from 1 to 5."),
        (["--kinds", "chess"], "there is no kind of puzzle `chess`; choose of product, counting"),
        (["--kinds", "gym:nonsense"], "reasoning-gym cannot make `nonsense`"),
    ],
)
def test_refusals(capsys, tmp_path, more, said):
    assert said in refusal(capsys, MAKE, "--output_dir", tmp_path / "out", *more)


def test_no_new_puzzle_is_left():
    with pytest.raises(StageError, match=r"no new puzzle of product is left after [1-9][0-9]; ask for fewer"):
        list(islice(puzzles(["product"], [1], "train", 0), 100))
