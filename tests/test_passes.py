"""pass@k against its definition, majority votes, and thoughts that do not lead to the answer."""

from itertools import combinations
from statistics import mean

import pytest
from conftest import EVALUATE, ROOT, metrics, refusal, run

from crawl2chat.passes import agrees, majority, pass_at_k


@pytest.mark.parametrize("num_right", range(6))
@pytest.mark.parametrize("k", range(1, 6))
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(num_right, k):
    scores = [1] * num_right + [0] * (5 - num_right)
    assert pass_at_k(5, num_right, k) == pytest.approx(mean(any(drawn) for drawn in combinations(scores, k)))


def test_the_majority_wins_and_the_first_of_two_that_are_equal():
    assert majority(["It is 3.", "It is 4.", "The answer is 4.0"]) == "It is 4."
    assert majority(["It is 3.", "It is 4."]) == "It is 3."
    assert majority(["I do not know.", "nor I", "It is 5."]) == "It is 5."
    assert majority(["I do not know.", "nor I"]) == "I do not know."


@pytest.mark.parametrize(
    "completion, expected",
    [
        ("<think>4+3=7,87</think>The answer is 87.", True),
        ("<think>4+3=7,87</think>The answer is 86.", False),
        ("<think>9+7+1=17,171</think>The answer is 171.", True),
        ("<think>It is 1,250.</think>The answer is 1250.", True),
        ("<think>4+3=7,87</think>Who knows.", None),
        ("<think>let me see</think>The answer is 87.", None),
        ("The answer is 87.", None),
    ],
)
def test_whether_a_thought_leads_to_the_answer(completion, expected):
    assert agrees(completion) is expected


def test_evaluation_samples_problems(guesser, tmp_path, capsys):
    given = ["--config", ROOT / "recipes/07_evaluate/tiny.yaml", "--model", guesser / "guesser", "--parts", "problems"]
    given += ["--tests", guesser / "7_conversations", "--max_new_tokens", 8, "--output_dir", tmp_path / "eval"]
    run(EVALUATE, *given, "--samples", 4)
    found = metrics(tmp_path / "eval")
    assert list(found["pass_at"]) == list(found["majority_of"]) == ["1", "2", "4"]
    assert found["pass_at"]["1"] <= found["pass_at"]["2"] <= found["pass_at"]["4"]
    assert found["majority_tokens"]["1"] < found["majority_tokens"]["2"] < found["majority_tokens"]["4"]
    assert found["faithfulness"] is None or 0 <= found["faithfulness"] <= 1
    assert "`samples` are of problems" in refusal(capsys, EVALUATE, *given, "--samples", 4, "--base", "true")
