"""Questions of graded difficulty whose answer can be checked, beside the sums of `problems.py`; and reasoning-gym's.

Grades go from 1 to 5. Each kind gives its answer as a number, as words, or, for Countdown, as any expression that comes to
the target; `rewards.solved` judges all of them. What training and tests share are neither questions nor, for letters, words.
reasoning-gym (https://github.com/open-thought/reasoning-gym, https://arxiv.org/abs/2505.24760) has a hundred more kinds and
judges its own answers.
"""

import datetime
import json
import random
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from crawl2chat.stage import StageError
from crawl2chat.tools import calculate

GRADES = range(1, 6)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
WORDS = (
    "anchor apple barn basket beach bell bottle branch bread bridge bucket butter button candle carpet castle chair cherry "
    "church circle cloud coffee copper corner cotton cradle desert dinner doctor donkey dragon engine feather finger flower "
    "forest garden ginger glass hammer harbour harvest honey island jacket kettle kitchen ladder lantern leather lemon "
    "market meadow mirror monkey mountain needle onion orange paper pepper pillow planet pocket potato rabbit ribbon "
    "river rocket saddle school shadow silver spider spring square station stone summer sunset table thunder ticket timber "
    "tomato tunnel turtle valley velvet village violin wagon walnut water weather whisper window winter yellow"
).split()


@dataclass(frozen=True)
class Puzzle:
    """One question. `numbers` and `target` are Countdown's; `entry` is reasoning-gym's own row, as JSON."""

    kind: str
    grade: int
    question: str
    answer: str
    numbers: list[int] | None = None
    target: int | None = None
    entry: str | None = None


def product(rng: random.Random, grade: int) -> Puzzle:
    left_low, right_low = [(2, 2), (11, 2), (11, 11), (101, 11), (101, 101)][grade - 1]
    left, right = rng.randint(left_low, 10 * left_low - 12), rng.randint(right_low, 10 * right_low - 12)
    return Puzzle("product", grade, f"What is {left} * {right}?", str(left * right))


def counting(rng: random.Random, grade: int) -> Puzzle:
    """How many numbers of a list are above another."""
    numbers = [rng.randint(1, 99) for _ in range(3 + 3 * grade)]
    bar = rng.randint(20, 80)
    question = f"How many of these numbers are larger than {bar}: {', '.join(map(str, numbers))}?"
    return Puzzle("counting", grade, question, str(sum(number > bar for number in numbers)))


def calendar(rng: random.Random, grade: int) -> Puzzle:
    """A weekday some days on, and from grade 3 on the days between two dates (of the Gregorian calendar)."""
    if grade < 3:
        today, days = rng.randrange(7), rng.randint(2, [6, 60][grade - 1])
        question = f"Today is {DAYS[today]}. What day is it in {days} days?"
        return Puzzle("calendar", grade, question, DAYS[(today + days) % 7])
    start = datetime.date(rng.randint(2000, 2099), rng.randint(1, 12), rng.randint(1, 28))
    end = start + datetime.timedelta(days=rng.randint(10, [60, 365, 2000][grade - 3]))
    question = f"How many days are there from {_date(start)} to {_date(end)}?"
    return Puzzle("calendar", grade, question, str((end - start).days))


def letters(rng: random.Random, grade: int) -> Puzzle:
    """A letter of a word, how often it stands there, the word backwards, or its letters in the alphabet's order."""
    word = rng.choice(WORDS)
    if grade == 1:
        place = rng.randint(1, 3)
        question, answer = f"What is letter number {place} of {word}?", word[place - 1]
    elif grade == 2:
        letter = rng.choice(word)
        question, answer = f"How often does the letter {letter} stand in {word}?", str(word.count(letter))
    elif grade == 3:
        question, answer = f"Write {word} backwards.", word[::-1]
    else:
        question, answer = f"Write the letters of {word} in the order of the alphabet", "".join(sorted(word))
        if grade == 5:
            question, answer = f"{question}, from the last to the first", answer[::-1]
        question += "."
    return Puzzle("letters", grade, question, answer)


def countdown(rng: random.Random, grade: int) -> Puzzle:
    """Numbers and a target, as on television; the target is made by an expression of all of them, so it can be reached."""
    while True:
        numbers = [rng.randint(1, [9, 9, 25, 50, 99][grade - 1]) for _ in range([2, 3, 3, 4, 5][grade - 1])]
        expression, target = str(numbers[0]), numbers[0]
        for number in numbers[1:]:
            operator = rng.choice("+-*" if grade > 2 else "+-")
            target = {"+": target + number, "-": target - number, "*": target * number}[operator]
            expression = f"({expression} {operator} {number})"
        if 0 < target <= 1000:
            break
    shown = sorted(numbers)
    question = (
        f"Use each of the numbers {', '.join(map(str, shown))} once, with + - * / and brackets, to get {target}."
    )
    assert calculate(expression) == str(target)
    return Puzzle("countdown", grade, question, expression[1:-1], shown, target)


KINDS: dict[str, Callable[[random.Random, int], Puzzle]] = {
    "product": product, "counting": counting, "calendar": calendar, "letters": letters, "countdown": countdown,
}  # fmt: skip


def puzzles(kinds: list[str], grades: list[int], split: str, seed: int) -> Iterator[Puzzle]:
    """Puzzles without two alike, the kinds and grades in turn, as long as there are any.

    A question belongs to the tests or to training by a hash of it, one in five to the tests, so that no seed mixes them;
    for letters the word decides.

    Args:
        kinds: of `KINDS`, or `gym:NAME` for a dataset of reasoning-gym.
        split: "train" or "test".

    Raises:
        StageError: there is no such kind, or no new question of any is left.
    """
    rng, seen = random.Random(f"{split} {seed}"), set()
    gyms = {kind: _gym(kind.removeprefix("gym:"), seed) for kind in kinds if kind.startswith("gym:")}
    for kind in kinds:
        if kind not in KINDS and kind not in gyms:
            raise StageError(f"there is no kind of puzzle `{kind}`; choose of {', '.join(KINDS)}, or gym:NAME.")
    left = [(kind, grade) for grade in grades for kind in kinds]
    while left:
        for kind, grade in list(left):
            for _ in range(1000):
                puzzle = next(gyms[kind]) if kind in gyms else KINDS[kind](rng, grade)
                if puzzle.question not in seen and _split_of(puzzle) == split:
                    seen.add(puzzle.question)
                    yield puzzle
                    break
            else:
                left.remove((kind, grade))  # there are 35 of the easiest on weekdays
    raise StageError(f"no new puzzle of {', '.join(kinds)} is left after {len(seen)}; ask for fewer.")


def _split_of(puzzle: Puzzle) -> str:
    key = puzzle.question
    if puzzle.kind == "letters":
        (key,) = set(WORDS).intersection(re.findall("[a-z]+", key))
    return "test" if zlib.crc32(key.encode()) % 5 == 0 else "train"


def _gym(name: str, seed: int) -> Iterator[Puzzle]:
    """The puzzles of one of reasoning-gym's datasets; they have no grades, and count as 1."""
    try:
        import reasoning_gym
    except ImportError as error:
        raise StageError('puzzles of reasoning-gym need it; install it with pip install "crawl2chat[gym]".') from error
    try:
        dataset = reasoning_gym.create_dataset(name, size=1_000_000, seed=seed)
    except (ValueError, AssertionError) as error:
        raise StageError(f"reasoning-gym cannot make `{name}`: {error}.") from error
    for entry in dataset:
        question, answer = entry["question"], str(entry["answer"])
        yield Puzzle(f"gym:{name}", 1, question, answer, entry=json.dumps(entry, default=str))


def gym_score(said: str, entry: str) -> float:
    """What reasoning-gym itself gives an answer, from 0 to 1."""
    import reasoning_gym

    row = json.loads(entry)
    return float(reasoning_gym.get_score_answer_fn(row["metadata"]["source_dataset"])(said, row))


def _date(day: datetime.date) -> str:
    return f"{day.day} {day:%B} {day.year}"
