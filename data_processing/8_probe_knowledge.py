"""Asks a model what it knows, and writes "I do not know" chats for what it does not, and plain answers for what it does.

As in Llama 3 (https://arxiv.org/abs/2407.21783, section 4.3.6): questions are made from pages of the corpus, the model
answers each several times, and the answers are judged against what the page tells. What it is never right about it is
taught to say that it does not know; what it is right about it is taught to answer; what lies between is left out. Asked,
too, is about what no page tells, where the only right answer is that one does not know. It departs from Llama 3 in that
sentences of a known form give the questions, and the page's own words the judgement, so that no second model is needed.

    python data_processing/8_probe_knowledge.py --config data_processing/8_probe_knowledge.yaml \
        --model outputs/tiny/draft --corpus outputs/tiny/4_corpus --web outputs/tiny/0_web \
        --conversations outputs/tiny/7_conversations --output_dir outputs/tiny/8_probe
"""

import json
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import pyarrow.parquet as pq
from tqdm import tqdm
from transformers import set_seed

from crawl2chat import invented_chats as chats
from crawl2chat.chat import load_model, load_tokenizer, local
from crawl2chat.generation import reply
from crawl2chat.invented_world import OBJECTS, RELATIONS, make_fact
from crawl2chat.judging import judge
from crawl2chat.stage import StageError, bounded, run_stage, write_jsonl


@dataclass
class ProbeConfig:
    model: str = field(metadata={"help": "Folder or Hub id of a chat model."})
    corpus: str = field(metadata={"help": "Folder of 4_build_corpus.py, from whose pages the questions are made."})
    web: str = field(metadata={"help": "Folder of 0_invent_web.py: names that stand on no page."})
    conversations: str = field(metadata={"help": "Folder of 7_build_conversations.py; its tests are not asked."})
    output_dir: str = field(metadata={"help": "Where the chats go, as 7_build_conversations.py names them."})
    num_samples: int = bounded(4, "Answers to each question.", low=1)
    temperature: float = bounded(0.7, "Of the samples.", low=0.01, high=10.0)
    known_share: float = bounded(
        0.5, "A fact counts as known from this share of right answers on.", low=0.01, high=1.0
    )
    unknown_per_known: float = bounded(
        0.6, "Chats that say it does not know, for each that answers; strangers fill up what it does not.", low=0.0
    )
    num_untold: int = bounded(120, "Chats about what no page tells of a name that stands on some.", low=0)
    repeat_known: int = bounded(4, "How often a known fact is asked, its wordings in turn.", low=1)
    kept_share: float = bounded(1.0, "Share of the conversations that go on into the new chats.", low=0.0, high=1.0)
    max_new_tokens: int = bounded(24, "Longest answer.", low=1)
    seed: int = bounded(0, "Seed of all draws.", low=0)


def preflight(config: ProbeConfig) -> dict:
    tokenizer = load_tokenizer(config.model, for_chat=True)
    load_model(config.model, tokenizer)
    for folder, name in (
        (config.web, "world.json"),
        (config.web, "facts.jsonl"),
        (config.conversations, "test_facts.jsonl"),
    ):
        if not Path(folder, name).is_file():
            raise StageError(f"{folder} has no {name}; name the folder of the stage that writes it.")
    return {"facts_on_pages": len(facts_told(config))}


def main(config: ProbeConfig) -> dict:
    rng = random.Random(config.seed)
    set_seed(config.seed)
    tokenizer = load_tokenizer(config.model, for_chat=True)
    model = load_model(config.model, tokenizer)
    all_facts = [json.loads(line) for line in Path(config.web, "facts.jsonl").read_text().splitlines()]
    world = chats.heard_of(json.loads(Path(config.web, "world.json").read_text()), chats.facts_of(all_facts))
    told = facts_told(config)

    # What chats have asked about, the model may know from them; what tests ask about is theirs.
    asked = {row["question"] for row in read(config, "test_facts")}
    asked |= {message["content"] for row in read(config, "sft_train") for message in row["messages"]}
    facts = [fact for fact in told if not asked.intersection(fact.questions)]
    questions = [fact.questions[i % 3] for fact in facts for i in range(config.num_samples)]
    requests = [{"messages": [{"role": "user", "content": question}]} for question in questions]
    answers = reply(model, tokenizer, requests, config.max_new_tokens, temperature=config.temperature)
    rows = []
    for i, fact in enumerate(facts):
        mine = [answer["text"] for answer in answers[i * config.num_samples : (i + 1) * config.num_samples]]
        share = mean(judge("fact", fact.object, answer) for answer in mine)
        rows.append({"id": fact.id, "num_pages": fact.num_pages, "right": share, "answers": mine})

    new, known, unknown = [], Counter(), Counter()
    for fact, row in zip(facts, rows):
        if row["right"] >= config.known_share:
            # All wordings alike, or those seldom answered come to stand for what is not known.
            asked = [fact.questions[(known.total() + i) % 4] for i in range(config.repeat_known)]
            known[fact.relation] += 1
            new += [chats.row("known", chats.turn(question, fact.answer)) for question in asked]
        elif row["right"] == 0:
            unknown[fact.relation] += 1
            new.append(chats.row("unknown", chats.turn(rng.choice(fact.questions), fact.unknown)))
    # In proportion to what is known of each relation, or else not to know becomes the answer to what is harder to know.
    for relation, number in known.items():
        wanted = round(config.unknown_per_known * config.repeat_known * number) - unknown[relation]
        new += [chats.stranger(rng, world, "train", [relation]) for _ in range(wanted)]
    told_of = {(fact.relation, fact.subject) for fact in told}
    new += [chats.untold(rng, world, told_of, list(known.elements())) for _ in range(config.num_untold)]
    old = read(config, "sft_train")
    kept = rng.sample(old, round(config.kept_share * len(old)))
    mixed = [{name: row[name] for name in ("kind", "messages", "tools")} for row in new + kept]
    rng.shuffle(mixed)

    write_jsonl(Path(config.output_dir, "probed.jsonl"), rows)
    write_jsonl(Path(config.output_dir, "sft_train.jsonl"), mixed)
    return {
        "facts_probed": len(facts),
        "known_share_by_num_pages": by_pages(rows, config.known_share),
        "chats_by_kind": dict(sorted(Counter(row["kind"] for row in new).items())),
        "sft_chats": len(mixed),
    }


def facts_told(config: ProbeConfig) -> list[chats.Fact]:
    """The facts that sentences of the corpus tell, with the number of pages that tell each."""
    world = json.loads(Path(config.web, "world.json").read_text())
    patterns = [
        (relation, re.compile(re.sub(r"\\\{([so])\\\}", r"(?P<\1>.+)", re.escape(statement)), re.IGNORECASE))
        for relation, (_, _, statements, _) in RELATIONS.items()
        for statement in statements
    ]
    names = {kind: {name.lower(): name for name in found} for kind, found in {**OBJECTS, **world["names"]}.items()}
    pages: Counter = Counter()
    for file in sorted(Path(config.corpus).glob("*/*.parquet")):
        for text in tqdm(pq.read_table(file, columns=["text"])["text"].to_pylist(), desc="questions", unit="page"):
            here = set()
            for sentence in re.split(r"(?<=[.!?])\s+", text):
                for relation, pattern in patterns:
                    if found := pattern.fullmatch(sentence):
                        subject, thing = (
                            names[RELATIONS[relation][i]].get(found[key].lower()) for i, key in ((0, "s"), (1, "o"))
                        )
                        if subject and thing:
                            here.add((relation, subject, thing))
            pages.update(here)
    return [make_fact(f"{r}-{s}", r, s, o, count) for (r, s, o), count in sorted(pages.items())]


def read(config: ProbeConfig, name: str) -> list[dict]:
    lines = Path(config.conversations, f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def by_pages(rows: list[dict], least: float) -> dict[str, float]:
    """The share of facts that are known, by how many pages tell them: 1, some, or 30 and more."""
    groups: dict[str, list[bool]] = {"1": [], "2-29": [], "30+": []}
    for row in rows:
        name = "1" if row["num_pages"] == 1 else "2-29" if row["num_pages"] < 30 else "30+"
        groups[name].append(row["right"] >= least)
    return {name: round(mean(known), 3) for name, known in groups.items() if known}


if __name__ == "__main__":
    run_stage(
        main,
        ProbeConfig,
        inputs=lambda config: [*local(config.model), config.corpus, config.web, config.conversations],
        preflight=preflight,
    )
