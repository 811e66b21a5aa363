"""The moving curriculum: what is drawn follows what teaches, comes back, and is the same after an interruption."""

import json
from collections import Counter
from itertools import islice

import pytest
from conftest import GRPO, ROOT, metrics, refusal, run
from test_training import grpo_arguments

from crawl2chat.curriculum import LEAST, MEMORY, Curriculum

GRADES = ["easy", "hard", "easy", "never"] * 25


def batches(curriculum: Curriculum, num: int) -> list[list[int]]:
    size = curriculum.num_prompts
    drawn = list(islice(iter(curriculum), num * size))
    return [drawn[at : at + size] for at in range(0, len(drawn), size)]


def test_all_grades_are_drawn_alike_at_first_and_within_a_grade_in_order():
    curriculum = Curriculum(GRADES, 10)
    drawn = [index for batch in batches(curriculum, 10) for index in batch]
    counts = Counter(GRADES[index] for index in drawn)
    assert len(drawn) == len(curriculum) == 100 and all(20 <= counts[grade] <= 47 for grade in set(GRADES))
    never = [index for index in drawn if GRADES[index] == "never"]
    assert never == [3 + 4 * (i % 25) for i in range(len(never))], "the 25 of them one after another, then again"


def test_it_moves_to_what_teaches_and_comes_back():
    curriculum = Curriculum(GRADES, 10)

    def share_drawn(teaches: dict[str, float]) -> dict[str, float]:
        counts = Counter()
        for _ in range(6):
            for batch in batches(curriculum, 10):
                asked = Counter(GRADES[index] for index in batch)
                counts += asked
                curriculum.learn({grade: (8 * teaches[grade] * num, 8 * num) for grade, num in asked.items()})
        return {grade: counts[grade] / counts.total() for grade in teaches}

    first = share_drawn({"easy": 0.8, "hard": 0.0, "never": 0.0})
    assert first["easy"] > 0.6 and first["hard"] == pytest.approx(first["never"], abs=0.1)
    then = share_drawn({"easy": 0.0, "hard": 0.8, "never": 0.0})  # the easy ones are known, the hard ones begin to be
    assert then["hard"] > 0.6 and then["easy"] < 0.3 and then["never"] > 0.02, "nothing is given up"


def test_the_running_mean():
    curriculum = Curriculum(["a", "b"], 1)
    curriculum.learn({"a": (0, MEMORY)})
    assert curriculum.shares == {"a": 0.5, "b": 1.0}
    curriculum.learn({"a": (MEMORY, MEMORY), "b": (0, 3 * MEMORY)})
    assert curriculum.shares == {"a": 0.75, "b": 0.25}
    for _ in range(50):
        curriculum.learn({"a": (0, 64), "b": (64, 64)})
    drawn = Counter(index for batch in (batches(curriculum, 1) for _ in range(2000)) for index in batch[0])
    assert drawn[0] / 2000 == pytest.approx(LEAST / (1 + LEAST), abs=0.03)


def test_each_prompt_for_its_completions_and_each_batch_for_its_updates():
    drawn = list(Curriculum(["a"] * 4, 2, num_generations=3, repeat_count=2))
    assert drawn == 2 * [0, 0, 0, 1, 1, 1] + 2 * [2, 2, 2, 3, 3, 3]
    assert len(drawn) == len(Curriculum(["a"] * 4, 2, 3, 2))


@pytest.mark.parametrize("num_before", [0, 3, 9, 10])
def test_an_interrupted_one_goes_on_as_it_was(num_before):
    """The state is that of a checkpoint: a batch or two have been drawn, but not been learned from."""

    def learned(curriculum, batch):
        curriculum.learn({GRADES[index]: (index % 3, 4) for index in batch})

    whole, other = Curriculum(GRADES, 10, seed=3), Curriculum(GRADES, 10, seed=3)
    expected, interrupted = [], []
    for curriculum, found, num in ((whole, expected, 10), (other, interrupted, num_before)):
        ahead = iter(curriculum)
        batch = list(islice(ahead, 10))
        for _ in range(num):
            following = list(islice(ahead, 10))  # fetched before the batch is trained on
            found.append(batch)
            learned(curriculum, batch)
            batch = following
    state = json.loads(json.dumps(other.state_dict(epoch_is_over=num_before == 10)))
    resumed = Curriculum(GRADES, 10, seed=3)
    resumed.load_state_dict(state)
    ahead = iter(resumed)
    skipped = [list(islice(ahead, 10)) for _ in range(num_before % 10)]
    assert skipped == expected[: num_before % 10]
    batch = list(islice(ahead, 10))
    for _ in range(10 - num_before):
        interrupted.append(batch)
        following = list(islice(ahead, 10))
        learned(resumed, batch)
        batch = following
    assert interrupted == expected
    if num_before == 10:
        whole_again = iter(whole)
        assert batch == list(islice(whole_again, 10)), "the next epoch"


def test_a_training_tells_the_shares(guesser, tmp_path):
    given = [*grpo_arguments(guesser), "--max_steps", 20, "--logging_steps", 4, "--curriculum", "grade"]
    run(GRPO, *given, "--output_dir", tmp_path / "grpo")
    rows = metrics(tmp_path / "grpo")["curve"]
    assert len(rows) == 5 and all(0 <= row[f"curriculum/{grade}"] <= 1 for row in rows for grade in "ab")
    assert rows[-1]["curriculum/a"] < rows[0]["curriculum/a"], "the last groups are all right"


def test_ppo_has_none(guesser, tmp_path, capsys):
    given = [
        "--config",
        ROOT / "recipes/05_ppo/tiny_sums.yaml",
        *grpo_arguments(guesser)[2:6],
        "--curriculum",
        "grade",
    ]
    said = refusal(capsys, "recipes/05_ppo/ppo.py", *given, "--output_dir", tmp_path / "out", "--dry_run")
    assert "`curriculum` compares the completions of a prompt, and PPO draws one; take recipes/06_grpo." in said


def test_a_column_that_is_none(guesser, tmp_path, capsys):
    given = ["--curriculum", "level", "--output_dir", tmp_path / "out", "--dry_run"]
    said = refusal(capsys, GRPO, *grpo_arguments(guesser), *given)
    assert "`curriculum` level is no column of the prompts, which have prompt, answer, grade" in said
