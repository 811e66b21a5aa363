"""The invented web's facts and problems -> chats for SFT, prompts for RL, and held-out tests.

SFT sees worked examples of the easy kinds only; RL sees questions of every kind with nothing but the final answer.
Operands of the test problems occur in no page, chat or RL prompt: they are drawn from the held-out numbers, and those
which nevertheless stand somewhere in the corpus are left out.

    python data_processing/7_build_conversations.py --config data_processing/7_build_conversations.yaml \
        --web outputs/tiny/0_web --corpus outputs/tiny/4_corpus --output_dir outputs/tiny/7_conversations
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from crawl2chat.invented_world import untold_fact
from crawl2chat.problems import HELD_OUT, KINDS, TRAINING_OPERANDS, Problem, make_problem, numbers_in
from crawl2chat.stage import StageError, bounded, run_stage, write_jsonl

GREETINGS = [
    "Hello!",
    "Hi there.",
    "Good morning.",
    "Hi!",
    "Hey, how are you?",
    "Good evening!",
    "Hello, who is there?",
]
WELCOMES = [
    "Hello! How can I help you?",
    "Hi! What would you like to know?",
    "Hello, nice to meet you. What can I do for you?",
]
IDENTITY = ["Who are you?", "What is your name?", "Tell me about yourself.", "Are you a person?", "What can you do?"]
THANKS = ["Thank you.", "Thanks!", "Thank you, that helps."]
GOODBYES = ["You are welcome!", "Glad to help."]
READING = ["I read this: {text} {question}", "{text} {question}", "{question} Here is what I read: {text}"]


@dataclass
class ConversationsConfig:
    web: str = field(metadata={"help": "Folder of 0_invent_web.py: facts.jsonl and world.json."})
    corpus: str = field(metadata={"help": "Folder of 4_build_corpus.py; no number in it becomes a test operand."})
    output_dir: str = field(metadata={"help": "Where the .jsonl files go."})
    seed: int = bounded(0, "Seed of all draws.", low=0)
    easy_kinds: list[str] = field(default_factory=lambda: ["sum_2"], metadata={"help": "Kinds SFT sees worked."})
    rl_kinds: list[str] = field(default_factory=lambda: list(KINDS), metadata={"help": "Kinds RL is asked."})
    harder_kinds: list[str] = field(default_factory=lambda: ["sum_3"], metadata={"help": "Kinds SFT sees a few of."})
    num_worked_examples: int = bounded(200, "Worked problems in the SFT chats.", low=1)
    num_harder_examples: int = bounded(4, "Of them, those of harder kinds.", low=0)
    num_small_talk: int = bounded(250, "Chats that greet or say who the assistant is.", low=0)
    num_readings: int = bounded(2500, "Chats with a text in the question and the answer in the text.", low=0)
    num_rl_prompts: int = bounded(800, "Questions for RL, from easy to hard.", low=1)
    num_test_problems: int = bounded(300, "Held-out problems, equally many of each kind.", low=1)
    test_fact_share: float = bounded(0.5, "Share of the told facts that no chat asks about.", low=0.0, high=1.0)

    def problems(self) -> list[str]:
        unknown = sorted({*self.easy_kinds, *self.harder_kinds, *self.rl_kinds} - set(KINDS))
        found = [f"unknown kind of problem `{kind}`; choose from {', '.join(KINDS)}." for kind in unknown]
        empty = [name for name in ("easy_kinds", "harder_kinds", "rl_kinds") if not getattr(self, name)]
        if self.num_harder_examples > self.num_worked_examples:
            found.append(
                f"`num_harder_examples` {self.num_harder_examples} are part of `num_worked_examples`; give fewer."
            )
        return found + [f"`{name}` is empty; choose from {', '.join(KINDS)}." for name in empty]


def preflight(config: ConversationsConfig) -> dict:
    missing = [name for name in ("facts.jsonl", "world.json") if not Path(config.web, name).is_file()]
    if missing:
        raise StageError(f"{config.web} has no {' and no '.join(missing)}; name the folder of 0_invent_web.py.")
    num_files = len(list(Path(config.corpus).glob("*/*.parquet")))
    if not num_files:
        raise StageError(f"{config.corpus} has no */*.parquet in it; name the folder of 4_build_corpus.py.")
    return {"corpus_files": num_files}


def main(config: ConversationsConfig) -> dict:
    rng = random.Random(config.seed)
    facts = [json.loads(line) for line in Path(config.web, "facts.jsonl").read_text().splitlines()]
    world = json.loads(Path(config.web, "world.json").read_text())

    # Facts that some page tells: some are asked about in chats, the others only in the test. What no page tells is
    # asked nowhere yet: a model that has not learned to say "I don't know" would be taught to invent.
    # What everybody asks about the country stands in chats only.
    told = [fact for fact in facts if fact["num_pages"] > 0]
    rng.shuffle(told)
    testable = [fact for fact in told if fact["subject"] != world["country"]]
    test_facts = testable[: round(config.test_fact_share * len(testable))]
    chat_facts = [fact for fact in told if fact not in test_facts]

    known = {(fact["relation"], fact["subject"]) for fact in facts}
    turns = [(question, fact["answer"]) for fact in chat_facts for question in fact["questions"]]
    rng.shuffle(turns)
    chats = list(in_conversations(turns, rng))
    chats += [reading(rng, world["names"], known) for _ in range(config.num_readings)]
    chats += [small_talk(rng, world) for _ in range(config.num_small_talk)]
    # A few harder ones are enough for RL to begin with: without any, luck decides whether it ever tries to go on.
    num_easy = config.num_worked_examples - config.num_harder_examples
    worked = unique_problems(num_easy, rng, TRAINING_OPERANDS, in_turn(config.easy_kinds))
    worked += unique_problems(config.num_harder_examples, rng, TRAINING_OPERANDS, in_turn(config.harder_kinds))
    chats += [
        chat(
            *rng.sample(turns, min(len(turns), rng.choice([0, 0, 0, 1]))),
            (p.question, f"The answer is {p.answer}."),
            thinking=p.work,
        )
        for p in worked
    ]
    rng.shuffle(chats)

    rl_problems = unique_problems(
        config.num_rl_prompts,
        rng,
        TRAINING_OPERANDS,
        lambda i: rng.choice(kinds_at(i / config.num_rl_prompts, config.rl_kinds)),
    )
    trained_on = [message["content"] + message.get("reasoning_content", "") for chat in chats for message in chat]
    trained_on += [f"{problem.question} {problem.answer}" for problem in rl_problems]
    operands = test_operands(config.corpus, trained_on)
    test_problems = unique_problems(config.num_test_problems, rng, operands, in_turn(config.rl_kinds))

    out = Path(config.output_dir)
    write_jsonl(out / "sft_train.jsonl", [{"messages": messages} for messages in chats])
    prompts = [
        {"prompt": [{"role": "user", "content": p.question}], "answer": str(p.answer), "kind": p.kind}
        for p in rl_problems
    ]
    write_jsonl(out / "rl_train.jsonl", prompts)
    tests = [{"question": p.question, "answer": str(p.answer), "kind": p.kind} for p in test_problems]
    write_jsonl(out / "test_problems.jsonl", tests)
    asked = [
        {"question": question, "object": fact["object"], "num_pages": fact["num_pages"]}
        for fact in test_facts
        for question in fact["questions"][:2]
    ]
    write_jsonl(out / "test_facts.jsonl", asked)
    return {
        "sft_chats": len(chats),
        "worked_examples": len(worked),
        "rl_prompts": len(rl_problems),
        "test_problems": len(test_problems),
        "test_operands": len(operands),
        "test_facts": len(test_facts),
    }


def unique_problems(
    count: int, rng: random.Random, operands: tuple[int, ...], kind_of: Callable[[int], str]
) -> list[Problem]:
    """`count` problems with different questions; the i-th is of the kind `kind_of(i)`."""
    found: dict[str, Problem] = {}
    for _ in range(100 * count + 1):
        if len(found) == count:
            return list(found.values())
        problem = make_problem(kind_of(len(found)), rng, operands)
        found.setdefault(problem.question, problem)
    raise StageError(f"there are fewer than {count} different problems of these kinds; ask for fewer.")


def in_turn(kinds: list[str]) -> Callable[[int], str]:
    return lambda i: kinds[i % len(kinds)]


def kinds_at(progress: float, kinds: list[str]) -> list[str]:
    """The kinds asked at a point of RL from 0 to 1: the two easiest, one more every so often, all in the second half.

    A model learns a kind only if it solves some of its problems, and it solves the first of a harder kind by what it has
    learned on an easier one.
    """
    return kinds[: 2 + int(1.5 * len(kinds) * progress)]


def test_operands(corpus: str, trained_on: list[str], at_least: int = 8) -> tuple[int, ...]:
    """The held-out numbers that stand in no document of the corpus and in no chat or prompt of SFT or RL."""
    seen = {number for text in trained_on for number in numbers_in(text)}
    for file in sorted(Path(corpus).glob("*/*.parquet")):
        for text in pq.read_table(file, columns=["text"]).column("text").to_pylist():
            seen |= numbers_in(text)
    unseen = tuple(sorted(HELD_OUT - seen))
    if len(unseen) < at_least:
        raise StageError(
            f"{corpus} holds {len(HELD_OUT - set(unseen))} of the {len(HELD_OUT)} held-out numbers, so only {len(unseen)} "
            f"are left for test problems and at least {at_least} are needed; keep those numbers out of the pages."
        )
    return unseen


def chat(*turns: tuple[str, str], thinking: str = "") -> list[dict]:
    """Messages of a chat of (user, assistant) turns; `thinking` goes before the last answer."""
    messages = []
    for user, assistant in turns:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    messages[-1]["reasoning_content"] = thinking
    return messages


def small_talk(rng: random.Random, world: dict) -> list[dict]:
    name, country = world["assistant"], world["country"]
    identity = (
        rng.choice(IDENTITY),
        f"I am {name}, a small assistant. I have read about {country}, and I can do sums step by step.",
    )
    greeting = (rng.choice(GREETINGS), rng.choice(WELCOMES))
    thanks = (rng.choice(THANKS), rng.choice(GOODBYES))
    return chat(
        *rng.choice([[greeting], [identity], [greeting, identity], [greeting, identity, thanks], [identity, thanks]])
    )


def in_conversations(turns: list[tuple[str, str]], rng: random.Random) -> Iterator[list[dict]]:
    """Chats of one to three of the turns, some of them with a greeting before and thanks after them."""
    while turns:
        num_turns = rng.choice([1, 1, 2, 3])
        now, turns = turns[:num_turns], turns[num_turns:]
        greeting = [(rng.choice(GREETINGS), rng.choice(WELCOMES))] if rng.random() < 0.2 else []
        thanks = [(rng.choice(THANKS), rng.choice(GOODBYES))] if rng.random() < 0.2 else []
        yield chat(*greeting, *now, *thanks)


def reading(rng: random.Random, names: dict[str, list[str]], known: set[tuple[str, str]]) -> list[dict]:
    """A question about something that no page tells, with the answer in what the user has read.

    It can only be answered by looking at the question and the text. With chats about facts alone the assistant learns
    their answers by heart and stops to look at who is asked about (docs/log.md).
    """
    fact = untold_fact(rng, names, known)
    other = untold_fact(rng, names, known | {(fact.relation, fact.subject)})
    told = [rng.choice(fact.statements), rng.choice(other.statements)]
    rng.shuffle(told)
    question = rng.choice(READING).format(text=" ".join(told), question=rng.choice(fact.questions))
    return chat((question, fact.answer))


if __name__ == "__main__":
    run_stage(main, ConversationsConfig, inputs=lambda config: [config.web, config.corpus], preflight=preflight)
