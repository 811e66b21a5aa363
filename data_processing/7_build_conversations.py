"""The invented web's facts and problems -> chats for SFT, preference pairs, prompts for RL, and held-out tests.

Chats are of many kinds (crawl2chat/invented_chats.py): facts in many wordings and over several turns, questions on a text,
summaries, who the assistant is, system messages, sums worked and answered at once, letters, calls of a calculator and a
search, harmful requests and their harmless look-alikes, open requests answered well and badly. Training and tests share no
wording and no object.

SFT sees worked examples of the easy kinds and a few harder ones; RL sees questions, most of the harder kinds, with nothing
but the final answer. Operands of the test problems occur in no page, chat or RL prompt: they are drawn from the held-out
numbers, and those which nevertheless stand somewhere in the corpus are left out.

    python data_processing/7_build_conversations.py --config data_processing/7_build_conversations.yaml \
        --web outputs/tiny/0_web --corpus outputs/tiny/4_corpus --output_dir outputs/tiny/7_conversations
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from crawl2chat import invented_chats as chats
from crawl2chat.problems import HELD_OUT, KINDS, TRAINING_OPERANDS, Problem, make_problem, numbers_in
from crawl2chat.stage import StageError, bounded, run_stage, write_jsonl
from crawl2chat.tools import SEARCH

COMMON = 8  # pages from which on a fact is one that people ask about


@dataclass
class ConversationsConfig:
    web: str = field(metadata={"help": "Folder of 0_invent_web.py: facts.jsonl and world.json."})
    corpus: str = field(metadata={"help": "Folder of 4_build_corpus.py; no number in it becomes a test operand."})
    output_dir: str = field(metadata={"help": "Where the .jsonl files go."})
    seed: int = bounded(0, "Seed of all draws.", low=0)
    easy_kinds: list[str] = field(default_factory=lambda: ["sum_2"], metadata={"help": "Kinds SFT sees worked."})
    harder_kinds: list[str] = field(
        default_factory=lambda: list(KINDS[1:]), metadata={"help": "Kinds SFT sees a few of, and RL is to teach."}
    )
    num_worked_examples: int = bounded(200, "Worked problems in the SFT chats.", low=1)
    num_harder_examples: int = bounded(4, "Of them, those of harder kinds.", low=0)
    num_direct_answers: int = bounded(100, "Sums answered at once, where the question asks for that.", low=0)
    num_small_talk: int = bounded(100, "Chats that greet.", low=0)
    num_identity: int = bounded(400, "Chats about who the assistant is.", low=0)
    num_system: int = bounded(200, "Chats with a system message.", low=0)
    num_readings: int = bounded(1800, "Chats with a text in the question and the answer in the text.", low=0)
    num_summaries: int = bounded(150, "Pages summed up.", low=0)
    num_spelling: int = bounded(300, "Words spelled or their letters counted.", low=0)
    num_harmful: int = bounded(400, "Harmful requests, and as many harmless look-alikes.", low=0)
    num_calculator: int = bounded(600, "Sums of four digits with a call of the calculator.", low=0)
    num_search: int = bounded(400, "Questions with a call of the search.", low=0)
    num_needless_tools: int = bounded(150, "Chats with a tool on offer that is not needed.", low=0)
    num_open: int = bounded(500, "Open requests, answered well or badly.", low=0)
    num_pairs: int = bounded(2000, "Preference pairs to train on.", low=0)
    num_preference_prompts: int = bounded(1000, "Requests for RL from preferences.", low=0)
    num_rl_prompts: int = bounded(640, "Questions for RL on sums, from easy to hard.", low=1)
    num_test_problems: int = bounded(300, "Held-out problems, equally many of each kind.", low=1)
    num_tests: int = bounded(100, "Held-out requests of each other kind, and half as many pairs of each.", low=1)
    test_fact_share: float = bounded(0.3, "Share of the told facts that only the tests ask about.", low=0.0, high=1.0)
    probe_fact_share: float = bounded(0.25, "Share that the probe has to itself, beside rare ones.", low=0.0, high=1.0)

    def problems(self) -> list[str]:
        unknown = sorted({*self.easy_kinds, *self.harder_kinds} - set(KINDS))
        found = [f"unknown kind of problem `{kind}`; choose from {', '.join(KINDS)}." for kind in unknown]
        empty = [name for name in ("easy_kinds", "harder_kinds") if not getattr(self, name)]
        if self.test_fact_share + self.probe_fact_share > 1:
            shares = f"`test_fact_share` {self.test_fact_share} and `probe_fact_share` {self.probe_fact_share}"
            found.append(f"{shares} are more than all facts; lower one of them.")
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
    facts = chats.facts_of([json.loads(line) for line in Path(config.web, "facts.jsonl").read_text().splitlines()])
    world = chats.heard_of(json.loads(Path(config.web, "world.json").read_text()), facts)
    known = {(fact.relation, fact.subject) for fact in facts}

    # Facts that some page tells: some are asked about in chats, others only in the test, and others only in the probe
    # (8_probe_knowledge.py), which is to find out what pages have taught and not what chats have. People ask about what
    # they have heard of: chats hold no rare fact, and so do not teach to answer where nothing is known. What everybody
    # asks about the country stands in chats only.
    # Each of these parts has its share of every relation, or chance would leave one out.
    told = [fact for fact in facts if fact.num_pages > 0]
    rng.shuffle(told)
    told.sort(key=lambda fact: (fact.relation, fact.num_pages))
    of_country = [fact for fact in told if fact.subject == world["country"]]
    test_facts, others = dealt([fact for fact in told if fact not in of_country], config.test_fact_share)
    _, others = dealt(others, config.probe_fact_share / max(1e-9, 1 - config.test_fact_share))
    chat_facts = of_country + [fact for fact in others if fact.num_pages >= COMMON]

    turns = [chats.turn(question, fact.answer) for fact in chat_facts for question in fact.questions]
    rng.shuffle(turns)
    rows = list(in_conversations(turns, rng))
    for count, draw in kinds_of_chats(config, rng, world, known, turns):
        rows += [draw() for _ in range(count)]
    # A few harder ones are enough for RL to begin with: without any, luck decides whether it ever tries to go on.
    num_easy = config.num_worked_examples - config.num_harder_examples
    worked = unique_problems(num_easy, rng, TRAINING_OPERANDS, in_turn(config.easy_kinds))
    worked += unique_problems(config.num_harder_examples, rng, TRAINING_OPERANDS, in_turn(config.harder_kinds))
    for p in worked:
        before = [message for turn in rng.sample(turns, rng.choice([0, 0, 0, 1])) for message in turn]
        rows.append(chats.row("worked", [*before, *chats.turn(p.question, f"The answer is {p.answer}.", p.work)]))
    rng.shuffle(rows)

    def asked_of_rl(i: int) -> str:
        # What SFT has taught is solved and teaches nothing, but never asked again it may be unlearned.
        easy = rng.random() < 0.1
        return rng.choice(config.easy_kinds if easy else kinds_at(i / config.num_rl_prompts, config.harder_kinds))

    rl_problems = unique_problems(config.num_rl_prompts, rng, TRAINING_OPERANDS, asked_of_rl)
    pairs = [chats.pair(rng, world, "train") for _ in range(config.num_pairs)]
    requests = [chats.preference_prompt(rng, world, "train") for _ in range(config.num_preference_prompts)]
    trained_on = [json.dumps([row["messages"] for row in rows + requests]), json.dumps(pairs)]
    trained_on += [f"{problem.question} {problem.answer}" for problem in rl_problems]
    operands = test_operands(config.corpus, trained_on)
    kinds = [kind for kind in KINDS if kind in {*config.easy_kinds, *config.harder_kinds}]
    test_problems = unique_problems(config.num_test_problems, rng, operands, in_turn(kinds))
    tests = test_chats(config, random.Random(f"tests {config.seed}"), world, known, facts, test_facts, operands)

    out = Path(config.output_dir)
    write_jsonl(out / "sft_train.jsonl", as_chats(rows))
    # What a draft needs that is asked what it knows (8_probe_knowledge.py), in less than half of the time.
    (out / "draft").mkdir(exist_ok=True)
    # Asked who it is too often, it answers every "Who ...?" with that.
    draft = [row for row in rows if row["kind"] not in ("harmful", "lookalike", "calculator", "identity", "open")]
    write_jsonl(out / "draft/sft_train.jsonl", as_chats(draft))
    write_jsonl(out / "pairs_train.jsonl", pairs)
    write_jsonl(out / "pairs_test.jsonl", [chats.pair(rng, world, "test") for _ in range(3 * config.num_tests)])
    write_jsonl(out / "rlhf_train.jsonl", [{"prompt": r["messages"][:1], "kind": r["kind"]} for r in requests])
    prompts = [
        {"prompt": [{"role": "user", "content": p.question}], "answer": str(p.answer), "kind": p.kind}
        for p in rl_problems
    ]
    write_jsonl(out / "rl_train.jsonl", prompts)
    # The same with their answers and no working: what SFT, given these, comes to is a control of RL.
    (out / "answered").mkdir(exist_ok=True)
    answered = [chats.row("answered", chats.turn(p.question, f"The answer is {p.answer}.")) for p in rl_problems]
    write_jsonl(out / "answered/sft_train.jsonl", as_chats(answered))
    problems = [{"question": p.question, "answer": str(p.answer), "kind": p.kind} for p in test_problems]
    write_jsonl(out / "test_problems.jsonl", problems)
    write_jsonl(out / "test_facts.jsonl", asked(test_facts))
    write_jsonl(out / "test_chats.jsonl", tests)
    requests = [chats.preference_prompt(rng, world, "test") for _ in range(3 * config.num_tests)]
    write_jsonl(out / "test_requests.jsonl", [as_test(row) for row in requests])
    return {
        "sft_chats": len(rows),
        "draft_chats": len(draft),
        "chats_by_kind": dict(sorted(Counter(row["kind"] for row in rows).items())),
        "worked_examples": len(worked),
        "pairs": len(pairs),
        "rl_prompts": len(rl_problems),
        "preference_prompts": config.num_preference_prompts,
        "test_problems": len(test_problems),
        "test_operands": len(operands),
        "test_facts": len(test_facts),
        "test_chats": len(tests),
    }


def kinds_of_chats(
    config: ConversationsConfig, rng: random.Random, world: dict, known: set, turns: list[list[dict]]
) -> list[tuple[int, Callable[[], dict]]]:
    """How many chats of each kind, and what draws one."""

    def direct() -> dict:
        problem = make_problem("sum_2", rng)
        return chats.row("direct", chats.turn(at_once(problem), f"The answer is {problem.answer}."))

    def needless() -> dict:
        fact = chats.row("fact", rng.choice(turns))
        plain = rng.choice([fact, chats.identity(rng, world, "train"), chats.small_talk(rng, world)])
        return chats.with_needless_tools(plain)

    return [
        (config.num_direct_answers, direct),
        (config.num_small_talk, lambda: chats.small_talk(rng, world)),
        (config.num_identity, lambda: chats.identity(rng, world, "train")),
        (config.num_system, lambda: chats.system_message(rng, world, known, "train")),
        (config.num_readings, lambda: chats.reading(rng, world, known, "train")),
        (config.num_summaries, lambda: chats.summary(rng, world, known, "train")),
        (config.num_spelling, lambda: chats.spelling(rng, "train")),
        (config.num_harmful, lambda: chats.harm(rng, "train", harmful=True)),
        (config.num_harmful, lambda: chats.harm(rng, "train", harmful=False)),
        (config.num_calculator, lambda: chats.arithmetic(rng, "train")),
        (config.num_search, lambda: chats.lookup(rng, world, known, "train")),
        (config.num_needless_tools, needless),
        (config.num_open, lambda: chats.open_request(rng, world, "train")),
    ]


def test_chats(
    config: ConversationsConfig,
    rng: random.Random,
    world: dict,
    known: set,
    facts: list[chats.Fact],
    test_facts: list[chats.Fact],
    operands: tuple[int, ...],
) -> list[dict]:
    """Held-out requests of every kind; each question once."""
    draws: list[Callable[[], dict]] = [
        lambda: chats.identity(rng, world, "test"),
        lambda: chats.system_message(rng, world, known, "test"),
        lambda: chats.reading(rng, world, known, "test"),
        lambda: chats.summary(rng, world, known, "test"),
        lambda: chats.spelling(rng, "test"),
        lambda: chats.spelling(rng, "test"),
        lambda: chats.harm(rng, "test", harmful=True),
        lambda: chats.harm(rng, "test", harmful=False),
        lambda: chats.untold(rng, world, known),
        lambda: chats.arithmetic(rng, "test"),
    ]
    rows = [row for draw in draws for row in unique(draw, config.num_tests)]
    # Few of these are answered wrongly, so that it takes more of them to tell two models apart.
    rows += unique(lambda: chats.stranger(rng, world, "test"), 3 * config.num_tests)
    rows += [{**row, "kind": "no_tool", "tools": None} for row in rows if row["kind"] == "calculator"]
    # These facts were drawn with the web and told nowhere, nor anything else about their subjects.
    for fact in [fact for fact in facts if fact.num_pages == 0][: config.num_tests]:
        rows.append(chats.row("stranger", chats.turn(rng.choice(fact.questions), "")))
    for fact in [fact for fact in test_facts if fact.num_pages == 1][: config.num_tests]:
        rows.append(chats.row("search", chats.turn(fact.questions[0], fact.answer), fact.object, [SEARCH]))
    for problem in unique_problems(config.num_tests, rng, operands, in_turn(["sum_2"])):
        rows.append(chats.row("direct", chats.turn(at_once(problem), ""), str(problem.answer)))
    return [as_test(row) for row in rows]


def unique(draw: Callable[[], dict], count: int) -> list[dict]:
    """At most `count` rows with different questions; fewer where there are not as many."""
    found = {}
    for _ in range(20 * count):
        row = draw()
        found.setdefault(row["messages"][-2]["content"] + str(row["tools"]), row)
        if len(found) == count:
            break
    return list(found.values())


def as_chats(rows: list[dict]) -> list[dict]:
    """The rows without what they expect, which only tests have."""
    return [{name: row[name] for name in ("kind", "messages", "tools")} for row in rows]


def as_test(row: dict) -> dict:
    """The row up to what the user says; the answer is not for the model to see."""
    first = next(i for i, message in enumerate(row["messages"]) if message["role"] == "user")
    return {**row, "messages": row["messages"][: first + 1]}


def at_once(problem: Problem) -> str:
    return f"Answer at once. {problem.question}"


def asked(facts: list[chats.Fact]) -> list[dict]:
    return [
        {"question": question, "object": fact.object, "num_pages": fact.num_pages}
        for fact in facts
        for question in fact.questions[:2]
    ]


def dealt(facts: list[chats.Fact], share: float) -> tuple[list[chats.Fact], list[chats.Fact]]:
    """Every so many of them, that it is this share, and the rest."""
    taken = [int((i + 1) * share + 1e-9) > int(i * share + 1e-9) for i in range(len(facts))]
    return [f for f, mine in zip(facts, taken) if mine], [f for f, mine in zip(facts, taken) if not mine]


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
    """The kinds asked at a point of RL from 0 to 1: the two easiest, one more every so often, soon all.

    A model learns a kind only if it solves some of its problems, and it solves the first of a harder kind by what it has
    learned on an easier one.
    """
    return kinds[: 2 + int(2 * len(kinds) * progress)]


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


def in_conversations(turns: list[list[dict]], rng: random.Random) -> Iterator[dict]:
    """Chats of one to three of the turns, some of them with a greeting before and thanks after them."""
    while turns:
        num_turns = rng.choice([1, 1, 2, 3])
        now, turns = turns[:num_turns], turns[num_turns:]
        greeting = chats.turn(rng.choice(chats.GREETINGS), rng.choice(chats.WELCOMES)) if rng.random() < 0.2 else []
        thanks = chats.turn(rng.choice(chats.THANKS), rng.choice(chats.GOODBYES)) if rng.random() < 0.2 else []
        yield chats.row("facts", [*greeting, *(message for turn in now for message in turn), *thanks])


if __name__ == "__main__":
    run_stage(main, ConversationsConfig, inputs=lambda config: [config.web, config.corpus], preflight=preflight)
