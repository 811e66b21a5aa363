"""The invented web's facts and problems -> chats for SFT, prompts for RL, and held-out tests.

SFT sees worked examples of the easy kinds only; RL sees questions of every kind with nothing but the final answer.
Operands of the test problems occur in no page, chat or RL prompt: they are drawn from the held-out numbers, and those
which nevertheless stand somewhere in the corpus are left out.

    python data_processing/7_build_conversations.py --config data_processing/7_build_conversations.yaml \
        --web outputs/tiny/0_web --corpus outputs/tiny/4_corpus --output_dir outputs/tiny/7_conversations
"""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from crawl2chat.invented_world import strange_fact
from crawl2chat.problems import HELD_OUT, KINDS, TRAINING_OPERANDS, Problem, make_problem, numbers_in
from crawl2chat.stage import StageError, bounded, run_stage, write_atomically

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
    num_worked_examples: int = bounded(200, "Worked problems in the SFT chats.", low=1)
    num_small_talk: int = bounded(150, "Chats that greet or say who the assistant is.", low=0)
    num_readings: int = bounded(2000, "Chats with a text in the question and the answer in the text.", low=0)
    num_rl_prompts: int = bounded(2000, "Questions for RL.", low=1)
    num_test_problems: int = bounded(300, "Held-out problems, equally many of each kind.", low=1)
    test_fact_share: float = bounded(0.3, "Share of the told facts that no chat asks about.", low=0.0, high=1.0)

    def problems(self) -> list[str]:
        unknown = sorted({*self.easy_kinds, *self.rl_kinds} - set(KINDS))
        return [f"unknown kind of problem `{kind}`; choose from {', '.join(KINDS)}." for kind in unknown]


def main(config: ConversationsConfig) -> dict:
    rng = random.Random(config.seed)
    facts = [json.loads(line) for line in Path(config.web, "facts.jsonl").read_text().splitlines()]
    world = json.loads(Path(config.web, "world.json").read_text())

    # Facts that some page tells: most are asked about in chats, the others only in the test. What no page tells is
    # asked nowhere yet: a model that has not learned to say "I don't know" would be taught to invent.
    told = [fact for fact in facts if fact["num_pages"] > 0]
    rng.shuffle(told)
    num_test_facts = round(config.test_fact_share * len(told))
    test_facts, chat_facts = told[:num_test_facts], told[num_test_facts:]

    chats = [chat((question, fact["answer"])) for fact in chat_facts for question in fact["questions"]]
    chats += [reading(rng, world["names"]) for _ in range(config.num_readings)]
    chats += [small_talk(rng, world) for _ in range(config.num_small_talk)]
    worked = unique_problems(config.easy_kinds, config.num_worked_examples, rng, TRAINING_OPERANDS)
    chats += [chat((p.question, f"The answer is {p.answer}."), thinking=p.work) for p in worked]
    rng.shuffle(chats)

    rl_problems = unique_problems(config.rl_kinds, config.num_rl_prompts, rng, TRAINING_OPERANDS)
    operands = test_operands(config.corpus, [*worked, *rl_problems])
    test_problems = unique_problems(config.rl_kinds, config.num_test_problems, rng, operands)

    write_jsonl(config, "sft_train", ({"messages": messages} for messages in chats))
    write_jsonl(
        config,
        "rl_train",
        (
            {"prompt": [{"role": "user", "content": p.question}], "answer": str(p.answer), "kind": p.kind}
            for p in rl_problems
        ),
    )
    write_jsonl(
        config,
        "test_problems",
        ({"question": p.question, "answer": str(p.answer), "kind": p.kind} for p in test_problems),
    )
    write_jsonl(
        config,
        "test_facts",
        (
            {"question": fact["questions"][0], "object": fact["object"], "num_pages": fact["num_pages"]}
            for fact in test_facts
        ),
    )
    return {
        "sft_chats": len(chats),
        "worked_examples": len(worked),
        "rl_prompts": len(rl_problems),
        "test_problems": len(test_problems),
        "test_operands": len(operands),
        "test_facts": len(test_facts),
    }


def unique_problems(kinds: list[str], count: int, rng: random.Random, operands: tuple[int, ...]) -> list[Problem]:
    """`count` problems with different questions, the kinds taken in turn."""
    found: dict[str, Problem] = {}
    for _ in range(100 * count):
        problem = make_problem(kinds[len(found) % len(kinds)], rng, operands)
        found.setdefault(problem.question, problem)
        if len(found) == count:
            return list(found.values())
    raise StageError(f"there are fewer than {count} different problems of {', '.join(kinds)}; ask for fewer.")


def test_operands(corpus: str, training_problems: list[Problem], at_least: int = 8) -> tuple[int, ...]:
    """The held-out numbers that stand in no document of the corpus and in no problem of SFT or RL."""
    seen: set[int] = set()
    for file in sorted(Path(corpus).glob("*/*.parquet")):
        for text in pq.read_table(file, columns=["text"]).column("text").to_pylist():
            seen |= numbers_in(text)
    for problem in training_problems:
        seen |= numbers_in(f"{problem.question} {problem.work} {problem.answer}")
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


def reading(rng: random.Random, names: dict[str, list[str]]) -> list[dict]:
    """A question about something nobody knows, with the answer in what the user has read.

    It can only be answered by looking at the question and the text. Without such chats the assistant learns the answers of
    the other chats by heart, and stops to look at who is asked about: of the facts told on 40 pages and asked in no chat
    it then knew 29%, where the base model knew 79%.
    """
    fact, other = strange_fact(rng, names), strange_fact(rng, names)
    told = [rng.choice(fact.statements), rng.choice(other.statements)]
    rng.shuffle(told)
    question = rng.choice(READING).format(text=" ".join(told), question=rng.choice(fact.questions))
    return chat((question, fact.answer))


def write_jsonl(config: ConversationsConfig, name: str, rows) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(Path(config.output_dir, f"{name}.jsonl"), "".join(lines))


if __name__ == "__main__":
    run_stage(main, ConversationsConfig, inputs=lambda config: [config.web, config.corpus])
