"""Exercises as schools put them on the web: a text and a question about it, a sum typed into a calculator, a word spelled.

They teach a base model to look at what stands before it, and to copy it letter by letter, which texts about a country
alone do not. What they tell is about people and towns of their own: it is true of nothing that anyone asks about.
"""

import random

from crawl2chat.invented_words import CHOICES, parted
from crawl2chat.invented_world import untold_fact
from crawl2chat.problems import HELD_OUT

LAYOUTS = [  # of a text, a question about it, and the answer
    "{text} {question} {answer}",
    "Read this: {text} Question: {question} Answer: {answer}",
    "{question} The text says: {text} Answer: {answer}",
    "{name} reads: {text} {teacher} asks: {question} {name} says: {answer}",
    "user {name}: {text} {question}\nassistant {teacher}: {answer}",
    "{question} {text} {answer}",
]
BILLS = [
    "How much is {sum}? {name} types {sum} into the calculator, and it shows {result}. The answer is {result}.",
    "{name} asks for {sum}. calculator: {sum} = {result}. The answer is {result}.",
    "{name} wants to know: What is {sum}? The calculator is given {sum} and says {result}.",
    "user {name}: Work out {sum}.\nassistant {teacher}: calculator {sum}: {result}. The answer is {result}.",
    '{name} asks: Work out {sum}. To the calculator one sends "expression": "{sum}" and gets {result}. The answer is {result}.',
    'What is {sum}? With "name": "calculator", "expression": "{sum}" it says {result}. The answer is {result}.',
]
SPELLINGS = [
    "Spell {word}. {spelled}.",
    "The word {word} is spelled {spelled}.",
    "{word}: {spelled}. It has {length} letters: {counted}.",
    "How many letters has {word}? {counted}. The answer is {length}.",
]
SPELLED = sorted({word for slot in ("thing", "place", "food", "plant", "adj") for word in CHOICES[slot]})


def text_and_question(rng: random.Random, names: dict[str, list[str]], fillers: dict[str, str]) -> str:
    """Two or three facts about people and places of `names`, one of them asked about and answered.

    As on all pages, the first two wordings of a question are left to chats and tests.
    """
    facts = [untold_fact(rng, names, set()) for _ in range(rng.choice([2, 2, 3]))]
    text = " ".join(rng.choice(fact.statements) for fact in facts)
    fact = rng.choice(facts)
    layout = rng.choice(LAYOUTS)
    return layout.format(text=text, question=rng.choice(fact.questions[2:]), answer=fact.answer, **fillers)


def bill(rng: random.Random, fillers: dict[str, str]) -> str:
    """A sum or difference of two numbers of up to five digits, done by a calculator."""
    expression, result = large_sum(rng)
    return rng.choice(BILLS).format(sum=expression, result=result, **fillers)


def large_sum(rng: random.Random) -> tuple[str, str]:
    """`4821 - 377` and its result. No number in it is held out."""
    while True:
        left, right = (rng.randint(100, 9999) for _ in range(2))
        sign = rng.choice("+-")
        result = left + right if sign == "+" else left - right
        if abs(result) not in HELD_OUT:
            return f"{left} {sign} {right}", str(result)


def spelling(rng: random.Random, fillers: dict[str, str]) -> str:
    """A word, its letters and how many there are; the words of tests are left out."""
    word = rng.choice(parted(SPELLED, "train"))
    counted = " ".join(f"{letter}{i}" for i, letter in enumerate(word, 1))
    return rng.choice(SPELLINGS).format(
        word=word, spelled="-".join(word), length=len(word), counted=counted, **fillers
    )
