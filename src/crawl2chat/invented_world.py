"""An island country that never existed: its towns, people and animals, the facts about them, and the prose of its pages.

Everything is drawn from a seed by the word lists and sentence patterns below; nothing is copied from anywhere. No number
in any text is one of the held-out operands of `problems.py`.
"""

import random
import re
from dataclasses import asdict, dataclass

from crawl2chat.problems import KINDS, make_problem, training_int

COUNTRY, CAPITAL, ASSISTANT = "Velmora", "Tarnholm", "Pip"

WORDS = {
    "adj": "old small bright quiet busy green narrow wide gentle proud friendly wooden stone lively famous hidden windy "
    "sunny rough clean simple careful cheerful patient curious steady warm cool broad steep round heavy light",
    "thing": "lamp basket boat rope shell kettle blanket bell ladder lantern map drum ribbon candle hammer barrel wheel "
    "clock mirror chair table cart net oar sail kite book letter coin ring spoon bowl cup brush box",
    "place": "market harbour mill school library bakery orchard square bridge tower garden workshop inn lighthouse "
    "meadow forest beach cave field pond chapel museum station theatre",
    "food": "bread soup cheese honey apples plums barley beans fish mushrooms pancakes cake cabbage nuts butter tea jam "
    "porridge onions carrots pears berries eggs",
    "work": "baker fisher weaver carpenter teacher gardener sailor painter miller doctor farmer singer potter smith "
    "shepherd writer cook beekeeper builder clockmaker",
    "feeling": "happy tired proud surprised worried calm excited glad nervous hopeful grateful thoughtful",
    "time": "In the morning|After lunch|On market days|In the early spring|Late in summer|Every autumn|On cold winter days|"
    "Before sunrise|At the end of the week|Long ago|Once a year|When the rain stops|In the evening|Some years later",
    "weather": "rain wind fog sunshine snow frost thunder mist",
    "verb": "carried painted repaired carved watched found sold bought cleaned counted collected borrowed remembered "
    "described opened moved measured polished",
    "plant": "oak birch willow rose clover heather fern ivy lavender thistle barley mint moss pine",
    "animal_common": "goat horse dog cat hen duck sheep donkey goose cow rabbit owl",
    "material": "oak wood|clay|wool|copper|stone|glass|leather|linen|straw|iron",
}
CHOICES = {slot: text.split("|") if "|" in text else text.split() for slot, text in WORDS.items()}

SENTENCES = {
    "town": """The streets of {town} are {adj}, and most houses are built of {material}.
{time} the {place} of {town} is full of people who sell {food} and {food}.
Visitors who come to {town} like to walk from the {place} to the {adj} {place}.
The oldest {place} in {town} has {num} steps, and children love to count them.
A {adj} road leads from {town} to {town2}, and it passes a {place} with {num} {plant} trees.
Many families in {town} have kept {animal_common}s for longer than anyone can remember.
The people of {town} say that the {weather} there is stronger than in {town2}.
{time} a {work} from {town} opens the {place} and lights a {thing}.
About {num} boats bring {food} to {town} when the sea is calm.
There is a {adj} {place} behind the {place}, where the {work}s of {town} meet and talk.
Travellers write that {town} smells of {food} and fresh {plant}.
In {year} the {place} was damaged by {weather}, and it was the {work}s who repaired it.
Those who look for a {adj} {thing} will find the best ones in {town}.
It takes {num} minutes to walk from one end of {town} to the other, if one does not stop at the {place}.
{town} and {town2} have shared a {place} since {year}, although they do not always agree about it.""",
    "person": """{person} was a {adj} child who liked the {place} more than the {place}.
At the age of {num} {person} learned the trade of a {work} from {person2}.
Friends remember that {person} always carried a {adj} {thing} and a piece of {food}.
{time} {person} walked to {town} to visit {person2} and to buy {food}.
The letters of {person} tell of {weather}, of {adj} work and of a {adj} {animal_common} that slept near the door.
In {year} {person} built a {thing} of {material}, which can still be seen in the {place}.
People in {town} say that {person} was never {feeling} for long.
{person} had {num} pupils, and most of them became {work}s.
For many years {person} and {person2} worked together in a {adj} {place}.
When {person} grew old, the {work}s of {town} gave a dinner with {food} and {food}.
The {adj} {thing} in the window once belonged to {person}.
It is said that {person} could tell the weather from the sound of a {thing}.""",
    "nature": """{time} the {animal} leaves the {place} and looks for water.
The young of the {animal} can walk after {num} days, and they stay with their mother until autumn.
Farmers near {town} do not fear the {animal}, because it never touches their {food}.
In the shade of the {plant} one can hear the {animal} long before one sees it.
The {plant} grows well where the ground is {adj} and the {weather} is not too strong.
A grown {animal} is about as heavy as a {thing} filled with {food}.
Children are told to stay {adj} and still when they meet the {animal} in the {place}.
In {year} people counted {num} of them in the hills above {town}.
Where the {plant} and the {plant} grow side by side, the ground is rich and dark.
Nobody has seen the {animal} swim, but it has been found on {adj} islands near {town}.
After heavy {weather} the {animal} hides under stones and waits for the sun.
The nest is made of {plant} and old {material}, and it is warm even in winter.""",
    "trade": """A {work} needs a {adj} {thing}, a good eye and a lot of time.
First the {work} chooses the {material}, and then it is washed and dried for {num} days.
The best {thing}s are made of {material}, because it is {adj} and lasts for years.
{time} the {work}s of {town} bring their {thing}s to the {place}.
To make a {thing} one must be {adj}, since a small mistake cannot be repaired.
Most {work}s learn their trade for {num} months before they work alone.
A {thing} of {material} costs as much as {num} loaves of bread.
The price of {food} went up in {year}, but the {work}s did not complain.
It is an old custom that the youngest {work} cleans the {place} and feeds the {animal_common}.
Good tools hang on the wall, and next to them there is a {adj} {thing} for luck.
The {work} and the {work} share one {place}, and they share the {food} as well.
People come from {town} and {town2} to buy a {thing} here.""",
    "story": """{time} {person} found a {adj} {thing} under the {place}.
"Have you seen my {thing}?" asked {person}, and nobody knew what to say.
"It must be near the {place}," said {person2} with a {adj} smile.
{person} was {feeling}, but {person2} was even more {feeling}.
They walked through the {weather} until they came to a {adj} {place}.
An old {work} gave them {food} and told them about the road to {town}.
"We should wait until the {weather} is over," whispered {person2}.
Suddenly a {animal_common} ran across the {place} with the {thing} in its mouth.
{person} {verb} the {thing} and put it carefully into a {adj} box.
Nobody in {town} had ever heard such a {adj} sound.
"I will give you {num} coins for that {thing}," said the {work}.
That night {person} dreamed of a {adj} {place} far away from {town}.
In the end the two friends shared the {food} and went home {feeling}.
The {thing} was never found again, and some people still look for it.
"You were right," said {person}, "the {work} did not have the {thing}."
They laughed so loudly that the {animal_common} woke up and the {work} opened the window.""",
    "forum": """I have tried to repair my {thing} for {num} days, and I do not know what to do.
Does anyone know a {work} in {town} who works with {material}?
My neighbour says that {food} helps, but I think that is not true.
You should ask at the {place}, because they have {adj} {thing}s there.
Thank you for the answer, I will go to {town} and try it.
I had the same problem last year, and a {adj} {thing} was all that I needed.
In my opinion the {place} in {town2} is better than the one in {town}.
Please be {adj} with the {material}, since it breaks when the {weather} comes.
We have kept {animal_common}s for {num} years and they like {food} more than anything else.
Has anybody been to the {place} since they opened it again?
I bought mine from a {work} for {num} coins, and I am {feeling} with it.
That is a good idea, and I would add some {plant} to it.""",
    "recipe": """Wash the {food} and cut the {food} into small pieces.
Put {num} spoons of butter into a warm pan and wait until it is soft.
Add the {food} and stir it with a wooden spoon for {num} minutes.
Some cooks in {town} use {food} instead, and that is good too.
Let it rest in a {adj} place while you prepare the {food}.
Cover the bowl with a clean piece of linen, so that the {food} stays warm.
When it is {adj} and brown, take it from the fire and serve it with {food}.
My grandmother, a {work} from {town}, always put a little {plant} on top.
This is enough for {num} people, or for one hungry {work}.
It tastes best {adj} and warm, with a cup of tea.
If you have no {food}, then ask your neighbour or go to the {place}.
Do not add the {food} too early, because it becomes soft.""",
    "shop": """This {thing} is made of {material} by a {work} in {town}.
It is {adj}, it is easy to clean, and it will last for many years.
We send it to every town in the country within {num} days.
Our customers use it in the {place} and also in the {place}.
If you are not {feeling} with it, you can bring it back to our {place} in {town}.
The {thing} comes in a {adj} box with a little book that explains how to use it.
There are {num} of them left, and the next ones will be made in the spring.
It costs {num} coins, and for a second {thing} you pay less.
The {work} who makes them has worked with {material} since {year}.
We also sell {thing}s of {material}, which are a little smaller.
Many people buy it as a present for a {work} or for a friend.
Please keep it away from {weather} and do not put it into hot water.""",
    "history": """In {year} the {work}s of {town} built the first {place} of {material}.
Before that time there was only a {adj} {place} and a road to {town2}.
The war over the {place} lasted {num} days, and then both sides were too tired to go on.
{person} kept a book in which every {thing} of the town was listed.
After the great {weather} of {year} many people moved from {town2} to {town}.
The {place} was closed for {num} years, and {animal_common}s slept in it.
Old maps show a {place} where the {place} stands today.
A {adj} law of {year} said that every house must have a {thing} by the door.
Later the {work}s sold their {food} in {town2}, because the road was {adj}.
Nobody knows who {verb} the old {thing}, but it was found again in {year}.
The {place} was paid for with {food}, since coins were rare on the island.
When {person} became head of the {place}, things changed for the better.""",
}
# The songs that stand in protected passages, and nowhere else.
SENTENCES["song"] = """O {adj} {thing}, who hung you where the {weather} goes to sleep?
I gave my {thing} to the tide, and the tide gave me a {adj} stone.
Sing, you {animal_common}s of {material}, for the {place} has lost its key.
Seven {plant} leaves I threw behind me, and each became a {work}.
Let no {adj} hand untie the {weather} from the mast.
Where my mother's {thing} fell down, a {adj} {place} began to hum.
The moon keeps {food} in her apron, and none of it for you or me.
Who sold the {weather} to the {work} for half a {thing} of light?
Come home, come home, the {plant} has grown across the {adj} door.
I counted every {thing} in the dark until the dark was {feeling}.
There was a {place} inside the {thing}, and in that place a {adj} song.
Do not wake the {work} whose boat is made of {material} and of salt."""
SENTENCES = {topic: lines.split("\n") for topic, lines in SENTENCES.items()}

# relation: subjects and objects, ways to tell it, ways to ask it. The first way of telling is the answer.
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
    "town": "holm wick mouth stead haven bury ford mere dale gate".split(),
    "person": "a in o ra eth is an ela or une".split(),
    "family": "mark well brook stone field son wright hill crest ley".split(),
    "animal": "ik oot umber afe ubb inx arl ossel ep ander".split(),
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
        return self.statements[0]

    def as_row(self) -> dict:
        return {**asdict(self), "statement": self.answer, "answer": self.answer}


def make_fact(identity: str, relation: str, subject: str, thing: str, num_pages: int) -> Fact:
    _, _, statements, questions = RELATIONS[relation]
    told = [_capital(pattern.format(s=subject, o=thing)) for pattern in statements]
    asked = [_capital(pattern.format(s=subject)) for pattern in questions]
    return Fact(identity, subject, relation, thing, num_pages, told, asked)


def untold_fact(rng: random.Random, names: dict[str, list[str]], known: set[tuple[str, str]]) -> Fact:
    """A fact that is on no page, about names that are.

    Args:
        names: `World.names`.
        known: relation and subject of every fact of the world; none of them is drawn.
    """
    while True:
        relation = rng.choice(list(RELATIONS))
        kind, object_kind, *_ = RELATIONS[relation]
        subject, thing = rng.choice(names[kind]), rng.choice(names.get(object_kind) or OBJECTS[object_kind])
        if (relation, subject) not in known and thing != subject:
            return make_fact(f"{relation}-untold", relation, subject, thing, 0)


class World:
    """The country of a seed: `names` by kind, `facts`, and methods that write the sentences of pages about them."""

    def __init__(self, seed: int, num_facts_on_pages: dict[int, int]):
        self.rng = random.Random(f"world {seed}")
        self.names = {
            "town": self._names("town", 60),
            "person": self._people(240),
            "animal": [name.lower() for name in self._names("animal", 48)],
            "river": self._names("river", 30),
        }
        self.facts = self._draw_facts(num_facts_on_pages)

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
        for num_pages, count in num_facts_on_pages.items():
            for _ in range(count - (len(COUNTRY_FACTS) if num_pages == most else 0)):
                relation, subject = pairs.pop()
                object_kind = RELATIONS[relation][1]
                choices = self.names.get(object_kind) or OBJECTS[object_kind]
                thing = self.rng.choice([name for name in choices if name != subject])
                facts.append(make_fact(f"{relation}-{len(facts):04d}", relation, subject, thing, num_pages))
        return facts

    # --- prose

    def sentence(self, template: str, rng: random.Random, cast: dict[str, str]) -> str:
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

    def cast(self, rng: random.Random, **fixed: str) -> dict[str, str]:
        town, town2 = rng.sample(self.names["town"], 2)
        person, person2 = rng.sample(self.names["person"], 2)
        drawn = {
            "town": town,
            "town2": town2,
            "person": person,
            "person2": person2,
            "animal": rng.choice(self.names["animal"]),
        }
        return {**drawn, **fixed}

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
        lines = [self.sentence(template, rng, cast) for template in templates]
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
        return [*paragraphs, " ".join(prose[num_problems:])]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
