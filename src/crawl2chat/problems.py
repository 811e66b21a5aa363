"""Arithmetic problems of graded difficulty, their worked solutions, and the numbers no training text may use.

The working is written as a small model can follow it: digit by digit from the right, every carry in sight, one running
result at a time, and with hardly a space, since each is a token. `47 + 38 - 12` is worked as

    47+38:7+8=15,4+3+1=8,85; 85-12:5-2=3,8-1=7,73

and two results are compared digit by digit from the left: `141,118:1=1,4>1,141`.

Held-out operands: `HELD_OUT` is a fifth of the numbers from 20 to 99. They stand in no generated page, chat or RL prompt,
neither as operand nor as intermediate result nor as answer, and test problems use nothing else as operands.
"""

import random
import re
from dataclasses import dataclass

# Two of the ten numbers of every decade from the twenties up (10 to 19 are the sums of two digits, which the working
# needs); every digit stays in use as tens and as ones.
HELD_OUT = frozenset(10 * tens + ones for tens in range(2, 10) for ones in ((3 * tens + 1) % 10, (7 * tens + 6) % 10))
TRAINING_OPERANDS = tuple(number for number in range(10, 100) if number not in HELD_OUT)

# In order of difficulty: the number of columns to work.
KINDS = ("sum_2", "difference", "sum_3", "sum_difference", "larger_sum", "sum_4")

_QUESTIONS = {
    "sum": ["What is {}?", "Work out {}.", "How much is {}?", "Please add {}.", "Can you tell me {}?"],
    "difference": ["What is {}?", "Work out {}.", "How much is {}?", "Please calculate {}.", "Can you tell me {}?"],
    "larger_sum": [
        "Which is larger, {} or {}?",
        "What is the larger of {} and {}?",
        "Compare {} with {}: how much is more?",
    ],
}


@dataclass(frozen=True)
class Problem:
    """One question with its working and its answer."""

    kind: str
    operands: tuple[int, ...]
    question: str
    work: str
    answer: int


def make_problem(kind: str, rng: random.Random, operands: tuple[int, ...] = TRAINING_OPERANDS) -> Problem:
    """A problem of one of `KINDS` with operands drawn from `operands`.

    With the training operands, nothing in the result (question, working, answer) is a held-out number.

    Raises:
        ValueError: `kind` is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of problem {kind!r}; choose one of {', '.join(KINDS)}.")
    for_training = not HELD_OUT.intersection(operands)
    while True:
        problem = _draw(kind, rng, operands)
        text = f"{problem.question} {problem.work} {problem.answer}"
        if not (for_training and HELD_OUT.intersection(numbers_in(text))):
            return problem


def make_drill(rng: random.Random) -> str:
    """A step that is rare in problems, practised alone: two numbers compared, or a difference with a hundred in it."""
    while True:
        left, right = training_int(rng, 20, 198), training_int(rng, 20, 198)
        if rng.random() < 0.45:
            work = f"{left},{right}:{_compared(left, right)},{max(left, right)}"
        else:
            work, _ = _work_chain([100 + left % 99, -(11 + right % 89)])
        if left != right and not HELD_OUT.intersection(numbers_in(work)):
            return work


def numbers_in(text: str) -> set[int]:
    """Every whole number that stands in the text, with digit groups such as 1,250 read as 1 and 250."""
    return {int(digits) for digits in re.findall(r"\d+", text)}


def training_int(rng: random.Random, low: int, high: int) -> int:
    """A whole number in [low, high] that is not held out."""
    while (number := rng.randint(low, high)) in HELD_OUT:
        pass
    return number


def _draw(kind: str, rng: random.Random, operands: tuple[int, ...]) -> Problem:
    if kind.startswith("sum_") and kind[4:].isdigit():
        terms = [rng.choice(operands) for _ in range(int(kind[4:]))]
        work, answer = _work_chain(terms)
        return Problem(kind, tuple(terms), rng.choice(_QUESTIONS["sum"]).format(_expression(terms)), work, answer)
    if kind == "difference":
        small, large = sorted(rng.sample(operands, 2))
        terms = [large, -small]
    elif kind == "sum_difference":
        terms = [rng.choice(operands), rng.choice(operands)]
        terms.append(-rng.choice([operand for operand in operands if operand < sum(terms)]))
    else:
        return _draw_larger_sum(rng, operands)
    work, answer = _work_chain(terms)
    question = rng.choice(_QUESTIONS["difference"]).format(_expression(terms))
    return Problem(kind, tuple(map(abs, terms)), question, work, answer)


def _draw_larger_sum(rng: random.Random, operands: tuple[int, ...]) -> Problem:
    while True:
        left, right = [rng.choice(operands) for _ in range(2)], [rng.choice(operands) for _ in range(2)]
        if sum(left) != sum(right):
            break
    (left_work, left_sum), (right_work, right_sum) = _work_chain(left), _work_chain(right)
    answer = max(left_sum, right_sum)
    question = rng.choice(_QUESTIONS["larger_sum"]).format(_expression(left), _expression(right))
    work = f"{left_work}; {right_work}; {left_sum},{right_sum}:{_compared(left_sum, right_sum)},{answer}"
    return Problem("larger_sum", (*left, *right), question, work, answer)


def _compared(left: int, right: int) -> str:
    """The digits from the left, as far as they are the same and one further; a place that one number lacks holds a 0."""
    width, steps = len(str(max(left, right))), []
    for a, b in zip(f"{left:0{width}}", f"{right:0{width}}"):
        steps.append(f"{a}{'=' if a == b else '>' if a > b else '<'}{b}")
        if a != b:
            break
    return ",".join(steps)


def _expression(terms: list[int]) -> str:
    return str(terms[0]) + "".join(f" {'-' if term < 0 else '+'} {abs(term)}" for term in terms[1:])


def _work_chain(terms: list[int]) -> tuple[str, int]:
    """The working of a chain of sums and differences, one running result after the other, and the result."""
    total, steps = terms[0], []
    for term in terms[1:]:
        columns, result = _columns(total, term)
        steps.append(f"{total}{'-' if term < 0 else '+'}{abs(term)}:{columns},{result}")
        total = result
    return "; ".join(steps), total


def _columns(left: int, term: int) -> tuple[str, int]:
    """Column by column from the right, as taught at school: the borrow or carry is the third number of a column."""
    right, result = abs(term), left + term
    columns, carry, place = [], 0, 1
    while place <= max(left, right):
        a, b = left // place % 10, right // place % 10
        if term >= 0:
            value = a + b + carry
            written = f"{a}+{b}" if right >= place else f"{a}"
            written += "+1" if carry else ""
            columns.append(f"{written}={value}" if written != str(value) else written)
            carry = value // 10
        else:
            a_borrowing = a - carry
            borrow = int(a_borrowing < b)
            value = a_borrowing + 10 * borrow - b
            written = f"{a + 10 * borrow}" + (f"-{b}" if right >= place else "") + ("-1" if carry else "")
            columns.append(f"{written}={value}" if written != str(value) else written)
            carry = borrow
        place *= 10
    return ",".join(columns), result
