"""A seed -> a small web that never existed, as WARC files, and the truth about every page of it.

It is the default input of the path: no network is needed, a small model can really learn it, and because the truth is
known every filter has a precision and a recall and every invented answer can be told from a remembered one.

    python data_processing/0_invent_web.py --config data_processing/0_invent_web.yaml --output_dir outputs/tiny/0_web
"""

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from crawl2chat.invented_pages import FAULTS, PageMaker
from crawl2chat.invented_warc import warc_info, warc_records
from crawl2chat.invented_world import ASSISTANT, CAPITAL, COUNTRY, World
from crawl2chat.problems import HELD_OUT, KINDS, numbers_in
from crawl2chat.stage import bounded, run_stage, write_atomically, write_jsonl


@dataclass
class InventWebConfig:
    output_dir: str = field(metadata={"help": "Where crawl/*.warc.gz, truth.jsonl and facts.jsonl go."})
    seed: int = bounded(0, "Seed of everything.", low=0)
    num_pages: int = bounded(4400, "Response records.", low=200)
    num_hosts: int = bounded(320, "Hosts; a twentieth of them is on the block list.", low=20, high=1000)
    num_files: int = bounded(4, "WARC files.", low=1)
    lesson_share: float = bounded(
        0.43, "Share of lessons with worked sums among the pages to keep.", low=0.0, high=0.9
    )
    exercise_share: float = bounded(0.15, "Share of pages of exercises: texts, bills, words.", low=0.0, high=0.5)
    lesson_weights: list[float] = field(
        default_factory=lambda: [8.0, 6.0, 3.0, 2.0, 1.0, 1.0],
        metadata={"help": "How often a lesson works each kind of problem, in the order of problems.KINDS."},
    )
    num_common_facts: int = bounded(40, "Facts told on 40 pages each.", low=6)
    num_occasional_facts: int = bounded(120, "Facts told on 8 pages each.", low=0)
    num_rare_facts: int = bounded(150, "Facts told on one page.", low=0)
    num_unknown_facts: int = bounded(60, "Facts told nowhere, for questions that have no known answer.", low=0)

    def problems(self) -> list[str]:
        found, num_to_keep = (
            [],
            self.num_pages * (1 - sum(FAULTS.values())) * (1 - self.lesson_share - self.exercise_share),
        )
        if num_to_keep < 80:  # a fact on 40 pages is told once on each
            found.append(
                f"`num_pages` {self.num_pages} with `lesson_share` {self.lesson_share} leaves {num_to_keep:.0f} pages for "
                "facts, and 80 are needed; ask for more pages or fewer lessons."
            )
        drawn = self.num_common_facts + self.num_occasional_facts + self.num_rare_facts + self.num_unknown_facts
        if drawn > 700:
            found.append(f"the names allow 700 facts, but {drawn} are asked for; lower `num_rare_facts`.")
        if len(self.lesson_weights) != len(KINDS) or min(self.lesson_weights) < 0 or not sum(self.lesson_weights):
            found += [
                f"`lesson_weights` needs {len(KINDS)} numbers >= 0, not all 0: one for each of {', '.join(KINDS)}."
            ]
        return found


def main(config: InventWebConfig) -> dict:
    frequencies = {40: config.num_common_facts, 8: config.num_occasional_facts}
    frequencies |= {1: config.num_rare_facts, 0: config.num_unknown_facts}
    world = World(config.seed, frequencies)
    maker = PageMaker(
        world,
        config.seed,
        config.num_pages,
        config.num_hosts,
        config.lesson_share,
        config.lesson_weights,
        config.exercise_share,
    )
    pages = maker.pages()
    for page in pages:
        leaked = HELD_OUT & numbers_in(" ".join(page.paragraphs))
        assert not leaked, f"{page.url} holds the held-out numbers {leaked}"

    out = Path(config.output_dir)
    (out / "crawl").mkdir(exist_ok=True)
    rng = random.Random(f"wire {config.seed}")
    num_bytes = 0
    for number in tqdm(range(config.num_files), desc="write WARC", unit="file"):
        name = f"part-{number:05d}.warc.gz"
        share = pages[number * len(pages) // config.num_files : (number + 1) * len(pages) // config.num_files]
        content = warc_info(name) + b"".join(warc_records(page, rng) for page in share)
        temporary = out / "crawl" / f"{name}.tmp"
        temporary.write_bytes(content)
        temporary.replace(out / "crawl" / name)
        num_bytes += len(content)

    write_jsonl(out / "truth.jsonl", [page.truth() for page in pages])
    write_jsonl(out / "facts.jsonl", [fact.as_row() for fact in world.facts])
    names = {"country": COUNTRY, "capital": CAPITAL, "assistant": ASSISTANT, "names": world.names}
    names["strangers"] = world.strangers()  # for questions about what no page tells
    write_atomically(out / "world.json", json.dumps(names, indent=2) + "\n")
    write_atomically(out / "blocked_hosts.txt", "".join(f"{host}\n" for host in maker.blocked_hosts))
    write_atomically(out / "protected.txt", "".join(f"{text}\n" for text in maker.protected_texts))
    return {
        "num_pages": len(pages),
        "num_hosts": len({page.host for page in pages}),
        "num_bytes": num_bytes,
        "num_words_to_keep": sum(len(" ".join(page.paragraphs).split()) for page in pages if page.fate == "keep"),
        "num_facts": len(world.facts),
        "pages_by_fate": dict(sorted(Counter(page.fate for page in pages).items())),
        "pages_by_kind": dict(sorted(Counter(page.kind for page in pages).items())),
    }


if __name__ == "__main__":
    run_stage(main, InventWebConfig)
