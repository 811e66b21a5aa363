"""A seed -> questions with a checkable answer, from easy to hard, for RL and its tests; no model and no corpus.

Kinds of our own (product, counting, calendar, letters, countdown) in five grades, and any dataset of reasoning-gym as
`gym:NAME` (https://github.com/open-thought/reasoning-gym lists them). Training and tests share no question. The reward
that judges all of them is `crawl2chat.rewards.solved`; `9_filter_prompts.py` leaves those that a model can learn from.

    python data_processing/9_make_puzzles.py --config data_processing/9_make_puzzles.yaml --output_dir outputs/puzzles
    python data_processing/9_make_puzzles.py --config data_processing/9_make_puzzles.yaml \
        --kinds countdown gym:spell_backward --grades 1 2 --output_dir outputs/puzzles
"""

from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from crawl2chat.puzzles import GRADES, KINDS, puzzles
from crawl2chat.stage import bounded, run_stage, write_jsonl


@dataclass
class PuzzlesConfig:
    output_dir: str = field(
        metadata={"help": "Where rl_train.jsonl and test_puzzles.jsonl go; --prompts of 06_grpo takes it."}
    )
    kinds: list[str] = field(
        default_factory=lambda: list(KINDS), metadata={"help": f"Of {', '.join(KINDS)}, or gym:NAME of reasoning-gym."}
    )
    grades: list[int] = field(default_factory=lambda: list(GRADES), metadata={"help": "From 1, easy, to 5."})
    num_train: int = bounded(2000, "Questions for RL, from easy to hard.", low=1)
    num_test: int = bounded(500, "Held-out ones.", low=1)
    seed: int = bounded(0, "Seed of the questions.", low=0)

    def problems(self) -> list[str]:
        if not self.kinds or not self.grades:
            return ["name at least one of `kinds` and of `grades`."]
        wrong = [grade for grade in self.grades if grade not in GRADES]
        return [f"there is no grade {grade}; they go from 1 to 5." for grade in wrong]


def preflight(config: PuzzlesConfig) -> dict:
    first = next(puzzles(config.kinds, config.grades, "train", config.seed))
    return {"train": config.num_train, "test": config.num_test, "example": f"{first.question} {first.answer}"}


def main(config: PuzzlesConfig) -> dict:
    counts = {"train": config.num_train, "test": config.num_test}
    drawn = {
        split: list(islice(puzzles(config.kinds, config.grades, split, config.seed), count))
        for split, count in counts.items()
    }
    train = sorted(drawn["train"], key=lambda puzzle: puzzle.grade)  # a curriculum: 06_grpo takes them in this order
    write_jsonl(Path(config.output_dir, "rl_train.jsonl"), map(asdict, train))
    write_jsonl(Path(config.output_dir, "test_puzzles.jsonl"), map(asdict, drawn["test"]))
    of_kind = Counter(puzzle.kind for puzzle in train)
    return {**{split: len(rows) for split, rows in drawn.items()}, "train_by_kind": dict(sorted(of_kind.items()))}


if __name__ == "__main__":
    run_stage(main, PuzzlesConfig, inputs=lambda config: [], preflight=preflight)
