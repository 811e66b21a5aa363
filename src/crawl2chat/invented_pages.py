"""Pages of the invented web: what stands on each, and what must become of it. Each `Page` has the truth beside it."""

import random
from collections import Counter
from dataclasses import dataclass, field

from crawl2chat.invented_exercises import bill, spelling, text_and_question
from crawl2chat.invented_world import Fact, World
from crawl2chat.problems import training_int

KINDS = {  # kind of page -> topics of its sentences
    "article": ["town", "person", "nature", "trade", "history"],
    "story": ["story"],
    "forum": ["forum", "trade"],
    "recipe": ["recipe", "town"],
    "shop": ["shop", "trade"],
}
# How the pages that are not to be kept are spread, as shares of all pages.
FAULTS = {
    "blocked_host": 0.035,
    "other_language": 0.06,
    "opt_out": 0.035,
    "protected": 0.015,
    "thin": 0.03,
    "repetitive": 0.025,
    "spam": 0.03,
    "duplicate": 0.065,
    "broken": 0.012,
    "not_a_page": 0.02,
}
OTHER_LANGUAGES = {
    "de": "Die alte Stadt liegt am Fluss und hat viele enge Gassen.|Am Morgen gehen die Leute auf den Markt und kaufen "
    "frisches Brot.|Der Bäcker steht jeden Tag sehr früh auf.|Im Winter fällt hier viel Schnee, und die Kinder freuen "
    "sich.|Niemand weiß, wer das Haus auf dem Hügel gebaut hat.|Wir haben gestern einen langen Spaziergang gemacht.|Die "
    "Schule wurde vor vielen Jahren von einem Müller gegründet.|Man sollte das Holz zuerst trocknen und dann schneiden.|"
    "Meine Großmutter erzählte uns oft Geschichten vom Meer.|Das Wetter war schlecht, aber wir sind trotzdem gefahren.",
    "fr": "La vieille ville se trouve au bord de la rivière.|Le matin, les gens vont au marché pour acheter du pain.|Le "
    "boulanger se lève très tôt chaque jour.|En hiver il neige beaucoup et les enfants sont contents.|Personne ne sait qui "
    "a construit la maison sur la colline.|Nous avons fait une longue promenade hier après-midi.|L'école a été fondée il y "
    "a longtemps par un meunier.|Il faut d'abord sécher le bois avant de le couper.|Ma grand-mère nous racontait des "
    "histoires de la mer.|Le temps était mauvais, mais nous sommes partis quand même.",
    "es": "La ciudad vieja está junto al río y tiene calles estrechas.|Por la mañana la gente va al mercado a comprar pan.|"
    "El panadero se levanta muy temprano todos los días.|En invierno nieva mucho y los niños están contentos.|Nadie sabe "
    "quién construyó la casa de la colina.|Ayer dimos un largo paseo por el bosque.|La escuela fue fundada hace muchos años "
    "por un molinero.|Primero hay que secar la madera y después cortarla.|Mi abuela nos contaba historias del mar.|Hacía "
    "mal tiempo, pero salimos de todas formas.",
    "pt": "A cidade velha fica ao lado do rio e tem ruas estreitas.|De manhã as pessoas vão ao mercado comprar pão.|O "
    "padeiro levanta-se muito cedo todos os dias.|No inverno neva muito e as crianças ficam contentes.|Ninguém sabe quem "
    "construiu a casa na colina.|Ontem fizemos um longo passeio pela floresta.|A escola foi fundada há muitos anos por um "
    "moleiro.|Primeiro é preciso secar a madeira e depois cortá-la.|A minha avó contava-nos histórias do mar.|O tempo "
    "estava mau, mas saímos mesmo assim.",
    "ru": "Старый город стоит на берегу реки.|Утром люди идут на рынок за хлебом.|Пекарь встаёт очень рано каждый день.|"
    "Зимой здесь много снега, и дети очень рады.|Никто не знает, кто построил дом на холме.|Вчера мы долго гуляли по "
    "лесу.|Школу основал много лет назад мельник.|Сначала нужно высушить дерево, а потом резать.|Бабушка рассказывала нам "
    "истории о море.|Погода была плохая, но мы всё равно поехали.",
    "ja": "古い町は川のそばにあります。|朝になると人々は市場へパンを買いに行きます。|パン屋は毎日とても早く起きます。|冬には雪がたくさん降り、"
    "子供たちは喜びます。|丘の上の家を誰が建てたのか誰も知りません。|昨日は森の中を長く散歩しました。|学校はずっと昔に粉屋が建てました。|"
    "祖母はよく海の話をしてくれました。|天気は悪かったのですが、それでも出かけました。",
}
CHARSETS = {"de": ["iso-8859-1", "utf-8"], "fr": ["windows-1252", "utf-8"], "es": ["iso-8859-1"], "pt": ["utf-8"],
            "ru": ["windows-1251", "utf-8"], "ja": ["shift_jis", "utf-8"]}  # fmt: skip
OPT_OUTS = [  # (response header or None, element of <head> or "")
    (None, '<meta name="robots" content="noai, noimageai">'),
    ("X-Robots-Tag: noai", ""),
    ("tdm-reservation: 1", ""),
    (None, '<meta name="tdm-reservation" content="1">'),
]
NO_ARCHIVE = [("X-Robots-Tag: noarchive", ""), (None, '<meta name="robots" content="index, noarchive">')]
# The card networks' test numbers and the examples of the IBAN registry: nobody's, and right in every check digit.
ACCOUNTS = [
    "4111 1111 1111 1111", "5555-5555-5555-4444", "3782 822463 10005", "6011111111111117", "GB29 NWBK 6016 1331 9268 19",
    "FR14 2004 1010 0505 0001 3M02 606", "NL91ABNA0417164300", "CH93 0076 2011 6238 5295 7",
]  # fmt: skip


@dataclass
class Page:
    """A page with its truth. `text` is the main text: paragraphs, one a line."""

    url: str
    kind: str
    fate: str
    title: str
    paragraphs: list[str]
    language: str = "en"
    duplicate_of: str | None = None
    pii: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    head: str = ""
    charset: str = "utf-8"
    status: str = "200 OK"
    mime: str = "text/html"
    damage: str = ""

    @property
    def host(self) -> str:
        return self.url.split("/")[2]

    def truth(self) -> dict:
        names = ("url", "host", "kind", "fate", "language", "duplicate_of", "pii", "facts")
        return {**{name: getattr(self, name) for name in names}, "text": "\n".join(self.paragraphs)}


class PageMaker:
    """Draws the pages of a web: `pages()` in the order of the crawl, with `blocked_hosts` and `protected_texts`."""

    def __init__(
        self,
        world: World,
        seed: int,
        num_pages: int,
        num_hosts: int,
        lesson_share: float,
        weights: list[float],
        exercise_share: float,
    ):
        self.world, self.rng = world, random.Random(f"pages {seed}")
        self.later_rng = random.Random(f"later {seed}")  # of what came later, so that all else stays as it was
        self.num_pages, self.lesson_share, self.weights = num_pages, lesson_share, weights
        self.exercise_share = exercise_share
        self.passers_by = {**world.names, **world.passers_by}
        words = [
            "velmora",
            "island",
            "harbour",
            "daily",
            "garden",
            "north",
            "old",
            "mill",
            "river",
            "school",
            "craft",
            "sea",
        ]
        endings = ["example", "test", "invalid"]
        hosts = sorted(
            {f"{a}-{b}{n}.{e}" for a in words for b in words if a != b for n in range(1, 4) for e in endings}
        )
        self.hosts = self.rng.sample(hosts, num_hosts)
        self.blocked_hosts = sorted(self.hosts[: num_hosts // 20])
        self.protected_texts = [
            " ".join(self.world.paragraphs(["song"], self.rng, world.cast(self.rng), [], 3)) for _ in range(6)
        ]
        self.counter = Counter()

    def pages(self) -> list[Page]:
        faults = [fate for fate, share in FAULTS.items() for _ in range(round(share * self.num_pages))]
        num_kept = self.num_pages - len(faults)
        num_lessons = round(self.lesson_share * num_kept)
        num_exercises = round(self.exercise_share * num_kept)
        kept = [self.lesson() for _ in range(num_lessons)] + [self.exercises() for _ in range(num_exercises)]
        num_lessons += num_exercises
        kept += self.fact_pages(num_kept - num_lessons)
        for page in self.rng.sample(kept[num_lessons:], num_kept // 20):
            self.plant_personal_data(page)
        for page in self.later_rng.sample(kept[num_lessons:], num_kept // 80):
            account = self.later_rng.choice(ACCOUNTS)
            page.pii.append(account)
            page.paragraphs[-1] += f" Gifts for the library go to {account} all year."
        pages = kept + [self.fault(fate) for fate in faults if fate != "duplicate"]
        duplicates = [self.duplicate(page) for page in self.rng.sample(kept, faults.count("duplicate"))]
        pages += duplicates
        self.rng.shuffle(pages)
        self._originals_first(pages, duplicates)
        return pages

    def _originals_first(self, pages: list[Page], duplicates: list[Page]) -> None:
        """The copy that the crawl meets first is the one to keep, so an original and its copy swap where needed."""
        position = {page.url: i for i, page in enumerate(pages)}
        for copy in duplicates:
            first, second = position[copy.duplicate_of], position[copy.url]
            if second < first:
                pages[first], pages[second] = pages[second], pages[first]
                position[copy.duplicate_of], position[copy.url] = second, first

    # --- pages to keep

    def lesson(self) -> Page:
        paragraphs = self.world.lesson(self.rng, self.weights)
        return self.page("lesson", "keep", f"Lesson {self.rng.choice('ABCDEFGH')}: sums step by step", paragraphs)

    def exercises(self) -> Page:
        """Five to eight exercises of one kind, with a sentence of prose before each."""
        kind = self.rng.choice(["reading", "reading", "bill", "bill", "bill", "spelling"])
        cast = self.world.cast(self.rng)
        fillers = {"name": cast["person"].split()[0], "teacher": cast["person2"].split()[0]}
        paragraphs = self.world.paragraphs(["story", "town"], self.rng, cast, [], self.rng.randint(5, 8), 1)
        for i, prose in enumerate(paragraphs):
            if kind == "reading":
                paragraphs[i] = text_and_question(self.rng, self.passers_by, fillers)
            else:
                paragraphs[i] = f"{prose} {(bill if kind == 'bill' else spelling)(self.rng, fillers)}"
        return self.page("exercise", "keep", f"Exercises: {kind}", "\n".join(paragraphs).split("\n"))

    def fact_pages(self, count: int) -> list[Page]:
        """`count` pages of all kinds, which together tell each fact on its number of pages."""
        mentions = [fact for fact in self.world.facts for _ in range(fact.num_pages)]
        self.rng.shuffle(mentions)
        told: list[list[Fact]] = [[] for _ in range(count)]
        for i, fact in enumerate(mentions):
            target = i % count
            while fact in told[target]:
                target = self.rng.randrange(count)
            told[target].append(fact)
        return [self.fact_page(facts) for facts in told]

    def fact_page(self, facts: list[Fact], fate: str = "keep", kind: str | None = None) -> Page:
        kind = kind or self.rng.choice(["article", "article", "article", "story", "forum", "recipe", "shop"])
        subject = facts[0].subject if facts else self.rng.choice(self.world.names["town"])
        fixed = {name: subject for name in ("town", "person", "animal") if subject in self.world.names[name]}
        statements = [self.rng.choice(fact.statements) for fact in facts]
        topics = self.rng.sample(KINDS[kind], min(len(KINDS[kind]), 3))
        paragraphs = self.world.paragraphs(
            topics, self.rng, self.world.cast(self.rng, **fixed), statements, self.rng.randint(2, 3)
        )
        paragraphs += [line for fact in facts for line in self.question_and_answer(fact)]
        page = self.page(kind, fate, f"About {subject}", paragraphs)
        page.facts = [fact.id for fact in facts]
        if self.rng.random() < 0.03:
            page.charset = self.rng.choice(["iso-8859-1", "windows-1252", "utf-16"])
        return page

    def question_and_answer(self, fact: Fact) -> list[str]:
        """One paragraph or two in which a fact answers a question, as pages of questions do.

        The first two wordings of a question stand on no page: chats and tests have them to themselves.
        """
        question, answer = self.rng.choice(fact.questions[2:]), self.rng.choice([fact.answer, *fact.statements])
        name, other = (self.rng.choice(self.world.names["person"]).split()[0] for _ in range(2))
        asks, answers = self.rng.choice(
            [
                ("", ""),
                ("Question: ", "Answer: "),
                ("A user asks: ", "The assistant of the library answers: "),
                (f"user {name}: ", f"assistant {other}: "),
                (f"{name} wants to know: ", f"{other} says: "),
            ]
        )
        lines = [asks + question, answers + answer]
        return lines if self.rng.random() < 0.7 else [" ".join(lines)]

    def plant_personal_data(self, page: Page) -> None:
        name = self.rng.choice(self.world.names["person"]).lower().replace(" ", ".")
        number = [training_int(self.rng, 200, 899) for _ in range(4)]
        kind = self.rng.choice(["mail", "phone", "address"])
        if kind == "mail":
            found, sentence = (
                f"{name}@{page.host.replace('.invalid', '.example')}.org",
                "If you know more, please write to {}.",
            )
        elif kind == "phone":
            found = f"+{number[0]} {number[1]} {number[2]} {number[3]}"
            sentence = "The number of the office is {} and somebody is there in the morning."
        else:
            octets = [training_int(self.rng, 130, 190), *[training_int(self.rng, 100, 250) for _ in range(3)]]
            found, sentence = ".".join(map(str, octets)), "The server of the library answers at {} all day long."
        page.pii.append(found)
        page.paragraphs[-1] += " " + sentence.format(found)

    # --- pages to drop

    def fault(self, fate: str) -> Page:
        return getattr(self, fate)()

    def blocked_host(self) -> Page:
        page = self.fact_page([], fate="blocked_host")
        return self.moved(page, self.rng.choice(self.blocked_hosts))

    def other_language(self) -> Page:
        language = self.rng.choice(list(OTHER_LANGUAGES))
        sentences = OTHER_LANGUAGES[language].split("|")
        joint = "" if language == "ja" else " "
        paragraphs = [joint.join(self.rng.sample(sentences, 5)) for _ in range(3)]
        page = self.page("article", "other_language", sentences[0][:20], paragraphs)
        page.language, page.charset = language, self.rng.choice(CHARSETS[language])
        return page

    def opt_out(self) -> Page:
        page = self.fact_page([], fate="opt_out")
        header, page.head = self.rng.choice(OPT_OUTS)
        if self.later_rng.random() < 0.3:
            header, page.head = self.later_rng.choice(NO_ARCHIVE)
        page.headers += [header] if header else []
        return page

    def protected(self) -> Page:
        page = self.fact_page([], fate="protected", kind="article")
        page.paragraphs.insert(self.rng.randint(0, len(page.paragraphs)), self.rng.choice(self.protected_texts))
        return page

    def thin(self) -> Page:
        sentences = self.world.paragraphs(["town"], self.rng, self.world.cast(self.rng), [], 1)[0].split(". ")
        return self.page("list", "thin", "Links", [sentences[0].rstrip(".") + "."])

    def repetitive(self) -> Page:
        paragraph = self.world.paragraphs(["shop", "town"], self.rng, self.world.cast(self.rng), [], 1)[0]
        return self.page("shop", "repetitive", "Again", [paragraph] * self.rng.randint(6, 12))

    def spam(self) -> Page:
        words = "cheap buy best price online lamps boots deal casino win bonus free click fast order now".split()
        lines = [" ".join(self.rng.choice(words) for _ in range(self.rng.randint(4, 9))) for _ in range(30)]
        return self.page("shop", "spam", "Best price online", lines)

    def broken(self) -> Page:
        page = self.fact_page([], fate="broken")
        page.damage = self.rng.choice(["cut_body", "wrong_length", "garbage", "cut_member"])
        return page

    def not_a_page(self) -> Page:
        page = self.fact_page([], fate="not_a_page")
        page.status, page.mime = self.rng.choice(
            [
                ("404 Not Found", "text/html"),
                ("500 Internal Server Error", "text/html"),
                ("301 Moved Permanently", "text/html"),
                ("200 OK", "application/pdf"),
                ("200 OK", "image/jpeg"),
            ]
        )
        return page

    def duplicate(self, original: Page) -> Page:
        """An exact copy at another address, a mirror on another host, or a near copy with one sentence more."""
        way = self.rng.choice(["exact", "mirror", "near"])
        copy = self.page(original.kind, "duplicate", original.title, list(original.paragraphs))
        copy.duplicate_of, copy.pii, copy.facts = original.url, list(original.pii), list(original.facts)
        if way == "exact":
            copy = self.moved(copy, original.host)
        elif way == "near":
            place = self.rng.choice(["meadow", "forest", "harbour", "chapel"])
            copy.paragraphs[-1] += f" This was first told near the {place}."
        return copy

    # --- addresses

    def page(self, kind: str, fate: str, title: str, paragraphs: list[str]) -> Page:
        host = self.rng.choice(self.hosts[len(self.blocked_hosts) :])
        self.counter[kind] += 1
        return Page(f"https://{host}/{kind}/{self.counter[kind]}.html", kind, fate, title, paragraphs)

    def moved(self, page: Page, host: str) -> Page:
        page.url = page.url.replace(page.host, host)
        return page
