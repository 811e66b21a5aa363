"""Problems are right, their working leads to the answer, held-out numbers stay out."""

import random
import re

import pytest

from crawl2chat.problems import (
    HELD_OUT,
    KINDS,
    TRAINING_OPERANDS,
    _compared,
    make_drill,
    make_problem,
    numbers_in,
    training_int,
)


def value(kind: str, question: str) -> int:
    """The answer, computed from the question alone."""
    expressions = re.findall(r"\d+(?: [+-] \d+)+", question)
    values = [sum(int(term.replace(" ", "")) for term in re.findall(r"[+-]? ?\d+", text)) for text in expressions]
    return max(values) if kind == "larger_sum" else values[0]


def assert_columns_are_right(work: str) -> None:
    for left, result in re.findall(r"(\d+(?:[+-]\d+)+)=(\d+)", work):
        assert sum(map(int, re.findall(r"[+-]?\d+", left))) == int(result), work


@pytest.mark.parametrize("kind", KINDS)
def test_answer_is_right_and_every_column_of_the_working_too(kind):
    rng = random.Random(1)
    for _ in range(300):
        problem = make_problem(kind, rng)
        assert problem.answer == value(kind, problem.question) >= 0
        assert numbers_in(problem.work.rpartition(",")[2]) == {problem.answer}
        assert_columns_are_right(problem.work)


@pytest.mark.parametrize("kind", KINDS)
def test_training_problems_hold_no_held_out_number_and_test_problems_only_those(kind):
    rng = random.Random(2)
    for _ in range(200):
        problem = make_problem(kind, rng)
        assert not HELD_OUT & numbers_in(f"{problem.question} {problem.work} {problem.answer}")
        assert set(make_problem(kind, rng, tuple(HELD_OUT)).operands) <= HELD_OUT


def test_held_out_numbers_leave_every_digit_in_use():
    assert len(HELD_OUT) == 16 and all(20 <= number <= 99 for number in HELD_OUT)
    assert {number // 10 for number in TRAINING_OPERANDS} == set(range(1, 10))
    assert {number % 10 for number in TRAINING_OPERANDS} == set(range(10))
    rng = random.Random(0)
    assert not HELD_OUT & {training_int(rng, 15, 99) for _ in range(2000)}


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"sum_9.*choose one of sum_2"):
        make_problem("sum_9", random.Random(0))


def test_hand_worked_columns():
    rng = random.Random(0)
    for kind, operands, question, work in (
        ("sum_2", (47, 39), "What is 47 + 39?", "47+39:7+9=16,4+3+1=8,86"),
        ("sum_2", (61, 45), "What is 61 + 45?", "61+45:1+5=6,6+4=10,106"),
        ("difference", (86, 39), "What is 86 - 39?", "86-39:16-9=7,8-3-1=4,47"),
    ):
        works = {p.question: p.work for p in (make_problem(kind, rng, operands) for _ in range(500))}
        assert works[question] == work


def test_two_results_are_compared_digit_by_digit():
    assert _compared(141, 118) == "1=1,4>1"
    assert _compared(98, 141) == "0<1"
    assert _compared(57, 59) == "5=5,7<9"
    problem = make_problem("larger_sum", random.Random(0))
    left, right = (sum(problem.operands[:2]), sum(problem.operands[2:]))
    assert problem.work.endswith(f"; {left},{right}:{_compared(left, right)},{max(left, right)}")


def test_drills_are_right_of_both_kinds_and_hold_no_held_out_number():
    rng = random.Random(0)
    drills = [make_drill(rng) for _ in range(300)]
    compared = [drill for drill in drills if re.match(r"\d+,", drill)]
    assert 90 < len(compared) < 190
    for drill in drills:
        assert not HELD_OUT & numbers_in(drill)
        task, _, steps = drill.partition(":")
        left, right = map(int, re.findall(r"\d+", task))
        expected = max(left, right) if drill in compared else left - right
        assert int(steps.rpartition(",")[2]) == expected and left != right
        assert_columns_are_right(steps)
        if drill in compared:
            assert steps == f"{_compared(left, right)},{expected}"
