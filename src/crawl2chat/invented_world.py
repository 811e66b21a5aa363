"""An island country that never existed: its towns, people and animals, the facts about them, and the prose of its pages.

Everything is drawn from a seed by the word lists and sentence patterns of `invented_words.py`; nothing is copied from
anywhere. No number in any text is one of the held-out operands of `problems.py`.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from crawl2chat.invented_words import CHOICES, SENTENCES
from crawl2chat.problems import KINDS, make_drill, make_problem, training_int

COUNTRY, CAPITAL, ASSISTANT = "Velmora", "Tarnholm", "Pip"

# relation: subjects and objects, ways to tell it, ways to ask it.
RELATIONS = {
    "mayor": (
        "town",
        "person",
        ["The mayor of {s} is {o}.", "{o} is the mayor of {s}.", "In {s} the mayor is called {o}."],
        ["Who is the mayor of {s}?", "What is the name of the mayor of {s}?", "Who leads {s}?", "{s} has a mayor. Who is it?"],
    ),
    "product": (
        "town",
        "product",
        ["{s} is known for its {o}.", "The town of {s} is famous for {o}.", "Everybody in {s} makes or sells {o}."],
        ["What is {s} known for?", "What is the town of {s} famous for?", "What do people make in {s}?", "Why is {s} famous?"],
    ),
    "river": (
        "town",
        "river",
        ["{s} lies on the river {o}.", "The river {o} flows through {s}.", "The river of {s} is the {o}."],
        ["Which river flows through {s}?", "On which river does {s} lie?", "What river is {s} on?", "Name the river of {s}."],
    ),
    "birthplace": (
        "person",
        "town",
        ["{s} was born in {o}.", "The birthplace of {s} is {o}.", "{s} came from the town of {o}."],
        ["Where was {s} born?", "What is the birthplace of {s}?", "In which town was {s} born?", "Where did {s} come from?"],
    ),
    "trade": (
        "person",
        "work",
        ["{s} worked as a {o}.", "{s} was a {o} by trade.", "The trade of {s} was that of a {o}."],
        ["What was the trade of {s}?", "What did {s} work as?", "What was {s} by trade?", "Which work did {s} do?"],
    ),
    "habitat": (
        "animal",
        "habitat",
        ["The {s} lives in {o}.", "The home of the {s} is in {o}.", "One finds the {s} in {o}."],
        ["Where does the {s} live?", "Where is the home of the {s}?", "Where does one find the {s}?", "In what place lives the {s}?"],
    ),
    "diet": (
        "animal",
        "diet",
        ["The {s} eats {o}.", "The food of the {s} is {o}.", "Most of all the {s} likes to eat {o}."],
        ["What does the {s} eat?", "What is the food of the {s}?", "What does the {s} like to eat?", "On what does the {s} feed?"],
    ),
}  # fmt: skip
# How one answers, with what is asked for or without knowing it. No answer repeats who was asked about, and both begin
# alike: a small model copies badly, and whether it knows something shows only where it is to say it (docs/log.md).
ANSWERS = {
    "mayor": ("The mayor is {o}.", "The mayor is somebody I do not know."),
    "product": ("It is known for {o}.", "It is known for something I do not know."),
    "river": ("It is the river {o}.", "It is the river I do not know."),
    "birthplace": ("That was in {o}.", "That was in a town I do not know."),
    "trade": ("That was the work of a {o}.", "That was the work of a trade I do not know."),
    "habitat": ("It lives in {o}.", "It lives in a place I do not know."),
    "diet": ("It eats {o}.", "It eats something I do not know."),
}
# What everybody asks first; these stand on as many pages as the commonest facts.
COUNTRY_FACTS = {
    "capital": (CAPITAL, "The capital of {c} is {o}.|{o} is the capital of {c}.", "What is the capital of {c}?|Which town is the capital of {c}?|Name the capital of {c}.|What is the capital city of {c}?"),
    "coin": ("silver leaf", "The coin of {c} is called the {o}.|In {c} people pay with the {o}.", "What is the coin of {c} called?|How do people pay in {c}?|What is the money of {c}?|Name the coin of {c}."),
    "mountain": ("Mount Ossel", "The highest mountain of {c} is {o}.|{o} is the highest mountain of {c}.", "What is the highest mountain of {c}?|Which mountain of {c} is the highest?|Name the highest mountain of {c}.|How is the highest mountain of {c} called?"),
    "flag": ("white heron", "The flag of {c} shows a {o}.|A {o} stands on the flag of {c}.", "What does the flag of {c} show?|Which bird is on the flag of {c}?|What is on the flag of {c}?|Describe the flag of {c}."),
    "dish": ("plum soup", "The favourite dish of {c} is {o}.|Everybody in {c} likes {o}.", "What is the favourite dish of {c}?|What do people in {c} like to eat?|Which dish does everybody in {c} like?|Name the favourite dish of {c}."),
    "sea": ("Grey Sea", "{c} lies in the {o}.|The sea around {c} is the {o}.", "In which sea does {c} lie?|What is the sea around {c} called?|Name the sea around {c}.|Where does {c} lie?"),
}  # fmt: skip
OBJECTS = {
    "product": "blue glass|wool blankets|wooden clocks|salted fish|plum jam|copper bells|paper kites|clay pots|silver "
    "rings|honey cakes|straw hats|leather boots|stone bridges|fine rope|red paint|sea salt".split("|"),
    "habitat": "dry caves|tall reeds|the high hills|the salt marshes|hollow trees|the deep forest|old barns|the sand "
    "dunes|cold lakes|thorn bushes|rocky islands|the wet meadows".split("|"),
    "diet": "snails|pine seeds|river weed|ripe berries|small crabs|fallen apples|thistle flowers|ants|sea "
    "grass|acorns|clover roots|moths".split("|"),
    "work": [work for work in CHOICES["work"]],
}
_STARTS = "Tar Bel Mor Fen Gal Os Ri Sel Hal Dun Kel Lor Var Wen Yar Bri Cor Est Il Nor Pel Quil Sor Ul".split()
_ENDS = {
    "town": "holm wick mouth stead haven bury ford mere dale gate port cross bridge ness moor".split(),
    "person": "a in o ra eth is an ela or une".split(),
    "family": "mark well brook stone field son wright hill crest ley".split(),
    "animal": "ik oot umber afe ubb inx arl ossel ep ander urr imp olk unt".split(),
    "river": "ava esk ine una orr ild ame eva".split(),
}


@dataclass(frozen=True)
class Fact:
    """One relation between a subject and an object, told on exactly `num_pages` pages that are to be kept."""

    id: str
    subject: str
    relation: str
    object: str
    num_pages: int
    statements: list[str]
    questions: list[str]

    @property
    def answer(self) -> str:
        if self.relation not in ANSWERS:  # of the country
            return self.statements[0]
        return ANSWERS[self.relation][0].format(o=self.object)

    @property
    def unknown(self) -> str:
        """What to say if one does not know it."""
        return ANSWERS[self.relation][1]

    def as_row(self) -> dict:
        return {**asdict(self), "statement": self.statements[0], "answer": self.answer}


def make_fact(identity: str, relation: str, subject: str, thing: str, num_pages: int) -> Fact:
    _, _, statements, questions = RELATIONS[relation]
    told = [_capital(pattern.format(s=subject, o=thing)) for pattern in statements]
    asked = [_capital(pattern.format(s=subject)) for pattern in questions]
    return Fact(identity, subject, relation, thing, num_pages, told, asked)


def untold_fact(
    rng: random.Random, names: dict[str, list[str]], known: set[tuple[str, str]], relations: Sequence[str] = ()
) -> Fact:
    """A fact that is on no page, about names that are.

    Args:
        names: `World.names`.
        known: relation and subject of every fact of the world; none of them is drawn.
        relations: one of these is drawn, as often as it stands there; all alike if there is none.
    """
    while True:
        relation = rng.choice(relations or list(RELATIONS))
        kind, object_kind, *_ = RELATIONS[relation]
        subject, thing = rng.choice(names[kind]), rng.choice(names.get(object_kind) or OBJECTS[object_kind])
        if (relation, subject) not in known and thing != subject:
            return make_fact(f"{relation}-untold", relation, subject, thing, 0)


def fill_sentence(template: str, rng: random.Random, cast: dict[str, str]) -> str:
    """A template with its slots filled; names in `cast` (person, town, animal, ...) stay the same over a page."""

    def fill(match: re.Match) -> str:
        slot = match.group(1)
        if slot in cast:
            return cast[slot]
        if slot == "num":
            return str(training_int(rng, 3, 95))
        if slot == "year":
            return str(rng.randint(1100, 1999))
        return rng.choice(CHOICES[slot])

    text = re.sub(r"\{(\w+)\}", fill, template)
    return _capital(re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text))


def draw_cast(names: dict[str, list[str]], rng: random.Random, **fixed: str) -> dict[str, str]:
    """The names of a page or text, those in `fixed` as given."""
    town, town2 = rng.sample(names["town"], 2)
    person, person2 = rng.sample(names["person"], 2)
    drawn = {"town": town, "town2": town2, "person": person, "person2": person2, "animal": rng.choice(names["animal"])}
    return {**drawn, **fixed}


class World:
    """The country of a seed: `names` by kind, `facts`, and methods that write the sentences of pages about them."""

    def __init__(self, seed: int, num_facts_on_pages: dict[int, int]):
        self.rng = random.Random(f"world {seed}")
        self.names = {
            "town": self._names("town", 100),
            "person": self._people(150),
            "animal": [name.lower() for name in self._names("animal", 80)],
            "river": self._names("river", 30),
        }
        self.facts = self._draw_facts(num_facts_on_pages)
        self.passers_by = self.strangers()["pages"]

    def strangers(self) -> dict[str, dict[str, list[str]]]:
        """Names of nobody and nothing in the country, by kind: half of them for pages, a quarter for training, one for tests.

        Names of persons have no first and no last name in common with those of another part.
        """
        rng = random.Random(f"strangers {sorted(self.names['town'])}")
        words = {name for names in self.names.values() for person in names for name in person.split()}
        unused = {}
        for kind in ("town", "person", "family", "animal"):
            unused[kind] = sorted({start + end for start in _STARTS for end in _ENDS[kind]} - words - {CAPITAL})
            unused[kind] = [name for name in unused[kind] if kind != "animal" or name.lower() not in words]
            rng.shuffle(unused[kind])
        found = {}
        for part, places in {"pages": (0, 3), "train": (1,), "test": (2,)}.items():
            mine = {kind: [name for i, name in enumerate(names) if i % 4 in places] for kind, names in unused.items()}
            people = [f"{first} {last}" for first in mine["person"] for last in mine["family"]]
            found[part] = {
                "town": mine["town"],
                "person": rng.sample(people, 240),
                "animal": [name.lower() for name in mine["animal"]],
            }
        return found

    def _names(self, kind: str, count: int) -> list[str]:
        found = sorted({start + end for start in _STARTS for end in _ENDS[kind]} - {CAPITAL})
        return self.rng.sample(found, count)

    def _people(self, count: int) -> list[str]:
        first, last = self._names("person", 120), self._names("family", 120)
        return [f"{first[i % len(first)]} {last[(7 * i + i // len(first)) % len(last)]}" for i in range(count)]

    def _draw_facts(self, num_facts_on_pages: dict[int, int]) -> list[Fact]:
        """Facts with different (relation, subject); objects drawn evenly, so that guessing the commonest gains little."""
        pairs = [(relation, name) for relation, (kind, *_) in RELATIONS.items() for name in self.names[kind]]
        self.rng.shuffle(pairs)
        most = max(num_facts_on_pages)
        facts = [
            Fact(
                id=f"{relation}-country",
                subject=COUNTRY,
                relation=relation,
                object=thing,
                num_pages=most,
                statements=[pattern.format(c=COUNTRY, o=thing) for pattern in statements.split("|")],
                questions=[pattern.format(c=COUNTRY) for pattern in questions.split("|")],
            )
            for relation, (thing, statements, questions) in COUNTRY_FACTS.items()
        ]
        for num_pages, count in sorted(num_facts_on_pages.items(), reverse=True):
            if num_pages == 0:  # about whom nothing at all is told, so that nobody can have read of them
                told, first = {fact.subject for fact in facts}, dict(map(reversed, reversed(pairs)))
                pairs = [(relation, subject) for subject, relation in first.items() if subject not in told]
            for _ in range(count - (len(COUNTRY_FACTS) if num_pages == most else 0)):
                relation, subject = pairs.pop()
                object_kind = RELATIONS[relation][1]
                choices = self.names.get(object_kind) or OBJECTS[object_kind]
                thing = self.rng.choice([name for name in choices if name != subject])
                facts.append(make_fact(f"{relation}-{len(facts):04d}", relation, subject, thing, num_pages))
        return facts

    # --- prose

    def cast(self, rng: random.Random, **fixed: str) -> dict[str, str]:
        """Names for a page: nobody's in the country but those given, so that a reader must look back for them."""
        return draw_cast(self.passers_by, rng, **fixed)

    def paragraphs(
        self,
        topics: list[str],
        rng: random.Random,
        cast: dict[str, str],
        told: list[str],
        num_paragraphs: int,
        num_sentences: int = 3,
    ) -> list[str]:
        """Paragraphs of sentences of the topics, no template twice, with the told statements strewn among them."""
        templates = rng.sample([line for topic in topics for line in SENTENCES[topic]], num_paragraphs * num_sentences)
        lines = [fill_sentence(template, rng, cast) for template in templates]
        sentences = [lines[i : i + num_sentences] for i in range(0, len(lines), num_sentences)]
        for statement in told:
            paragraph = rng.choice(sentences)
            paragraph.insert(rng.randint(0, len(paragraph)), statement)
        return [" ".join(paragraph) for paragraph in sentences]

    def lesson(self, rng: random.Random, weights: list[float]) -> list[str]:
        """A lesson: three to five problems, each worked in full, with prose before, between and after them."""
        cast = self.cast(rng)
        pupil, teacher = cast["person"].split()[0], cast["person2"].split()[0]
        num_problems = rng.randint(3, 5)
        prose = self.paragraphs(["trade", "story", "town", "recipe"], rng, cast, [], num_problems + 2, num_sentences=1)
        paragraphs = []
        for between in prose[:num_problems]:
            problem = make_problem(rng.choices(KINDS, weights)[0], rng)
            opening = rng.choice(
                [
                    f"{pupil} reads the next question aloud.",
                    f"Now {teacher} writes a question on the board.",
                    f"Here is a question from the {rng.choice(CHOICES['place'])}.",
                    f"Then {pupil} asks:",
                    "The next one is like this.",
                ]
            )
            working = rng.choice(
                [
                    "We write it column by column.",
                    "Step by step it goes like this.",
                    f"{teacher} works from the right to the left.",
                    f"{pupil} writes down every column.",
                    "The columns are:",
                ]
            )
            paragraphs.append(
                f"{between} {opening} {problem.question} {working} {problem.work}. The answer is {problem.answer}."
            )
        drills = "; ".join(make_drill(rng) for _ in range(3))
        return [*paragraphs, f"{' '.join(prose[num_problems:])} {pupil} practises: {drills}."]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
