"""A curriculum that moves with the model: what taught something of late is asked more often.

A group of completions that are all right or all wrong teaches GRPO nothing. Prompts have grades (a column such as `kind`),
and of each grade the share of completions that had an advantage is kept, as a running mean. The next prompts are drawn from
the grades by these shares: at first from what the model solves sometimes, then from what it has just begun to solve. None is
given up: a grade that teaches nothing keeps a small share, and is found again when the model has come so far.

The idea is sampling by learnability, p (1 - p) of a pass rate p (https://arxiv.org/abs/2502.12272), by grade instead of by
prompt, since a prompt of a short training is seen once; and what is counted is the advantages of the training itself, so
that no completion is drawn for it.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch.utils.data import Sampler

from crawl2chat.stage import StageError

LEAST = 0.1  # the share of a grade that teaches nothing, as long as others teach always
MEMORY = 64  # completions of a grade after which its share is half forgotten
FILE = "curriculum.json"


class Curriculum(Sampler):
    """Indices of prompts, each `num_generations` times, batch by batch, each batch `repeat_count` times: as TRL's sampler.

    What is drawn depends on the seed and on what `learn` was told alone. Batches are drawn some time before they are trained
    on, so a checkpoint holds those that were drawn (`state_dict`).

    Args:
        grades: of each prompt of the dataset. Within a grade prompts come in the order of the dataset, again and again.
        num_prompts: of a batch.
    """

    def __init__(
        self, grades: Sequence[str], num_prompts: int, num_generations: int = 1, repeat_count: int = 1, seed: int = 0
    ):
        self.grades, self.num_prompts, self.seed = list(grades), num_prompts, seed
        self.num_generations, self.repeat_count = num_generations, repeat_count
        self.of_grade = {grade: [] for grade in sorted(set(self.grades))}
        for index, grade in enumerate(self.grades):
            self.of_grade[grade].append(index)
        self.shares = dict.fromkeys(self.of_grade, 1.0)
        self.asked = dict.fromkeys(self.of_grade, 0)
        self.num_drawn, self.drawn, self.to_repeat = 0, [], []

    @property
    def num_batches(self) -> int:
        return len(self.grades) // self.num_prompts

    def __len__(self) -> int:
        return self.num_batches * self.num_prompts * self.num_generations * self.repeat_count

    def __iter__(self) -> Iterator[int]:
        self.drawn, repeated, self.to_repeat = [], self.to_repeat, []
        for number in range(self.num_batches):
            batch = repeated[number] if number < len(repeated) else self._draw()
            self.drawn.append(batch)
            for _ in range(self.repeat_count):
                for index in batch:
                    yield from [index] * self.num_generations

    def _draw(self) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.num_drawn)
        self.num_drawn += 1
        weights = torch.tensor([max(share, LEAST) for share in self.shares.values()])
        batch = []
        for number in torch.multinomial(weights, self.num_prompts, replacement=True, generator=generator).tolist():
            grade = list(self.of_grade)[number]
            prompts = self.of_grade[grade]
            batch.append(prompts[self.asked[grade] % len(prompts)])
            self.asked[grade] += 1
        return batch

    def learn(self, taught: dict[str, tuple[int, int]]) -> None:
        """Of each grade: how many completions of a batch had an advantage, and of how many."""
        for grade, (num_teaching, num) in taught.items():
            self.shares[grade] += (num_teaching / num - self.shares[grade]) * num / (num + MEMORY)

    def state_dict(self, epoch_is_over: bool) -> dict:
        state = {"shares": self.shares, "asked": self.asked, "num_drawn": self.num_drawn}
        return state | {"drawn": [] if epoch_is_over else self.drawn}

    def load_state_dict(self, state: dict) -> None:
        self.shares, self.asked, self.num_drawn = state["shares"], state["asked"], state["num_drawn"]
        self.to_repeat = state["drawn"]


def grades_of(prompts: Dataset, column: str) -> list[str]:
    """Of each prompt."""
    if column not in prompts.column_names:
        found = ", ".join(prompts.column_names)
        raise StageError(f"`curriculum` {column} is no column of the prompts, which have {found}; name one.")
    return list(map(str, prompts[column]))


class MovingCurriculum:
    """Mixed into GRPOTrainer, before it: `args.curriculum` names the column of the prompts that tells their grade."""

    def _get_train_sampler(self, dataset=None) -> Sampler:
        column = self.args.curriculum
        if not column:
            return super()._get_train_sampler(dataset)
        if not hasattr(self, "_curriculum"):
            self._curriculum = Curriculum(
                grades_of(self.train_dataset if dataset is None else dataset, column),
                self.args.generation_batch_size // self.num_generations,
                self.num_generations,
                self.num_iterations * self.args.steps_per_generation,
                self.args.seed,
            )
        return self._curriculum

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
        batch = super()._generate_and_score_completions(inputs)
        if self.args.curriculum and self.model.training:
            grades = [str(row[self.args.curriculum]) for row in inputs]
            teaching = (batch["advantages"].view(len(inputs), -1) != 0).any(1).tolist()
            rows = gather_object(list(zip(grades, teaching)))  # of all processes, so that all draw the same
            num, num_teaching = Counter(grade for grade, _ in rows), Counter(grade for grade, has in rows if has)
            self._curriculum.learn({grade: (num_teaching[grade], num[grade]) for grade in sorted(num)})
            for grade, share in self._curriculum.shares.items():
                self._metrics["train"][f"curriculum/{grade}"].append(share)
        return batch

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.curriculum and self.args.should_save:
            state = self._curriculum.state_dict(epoch_is_over=float(self.state.epoch).is_integer())
            Path(output_dir, FILE).write_text(json.dumps(state))

    def _load_optimizer_and_scheduler(self, checkpoint) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.args.curriculum:
            self._curriculum.load_state_dict(json.loads(Path(checkpoint, FILE).read_text()))
