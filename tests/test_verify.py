"""The scorer: numbers as people write them, LaTeX, choices and expressions; what would game it gets nothing."""

import json
from itertools import pairwise

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from crawl2chat.verify import countdown, exact, final_answer, score


@pytest.mark.parametrize(
    "completion, answer, expected",
    [
        ("The answer is 85.", "85", 1.0),
        ("<think>47+38:7+8=15,4+3+1=8,85</think>The answer is 85.", "85", 1.0),
        ("<think>85</think>The answer is 84.", "85", 0.0),
        ("<think>47+38: 85", "85", 0.0),  # a thought that never ends has no answer
        ("<think>a</think>85<think>84</think>84", "85", 0.0),
        ("", "85", 0.0),
        ("I do not know.", "85", 0.0),
        ("85.", "eighty-five", None),  # a gold that is no number is no zero
        ("85", "8 or 5", None),
        ("85", "", None),
        ('<tool_call>{"arguments": 85}</tool_call>', "85", 0.0),
        ("<tool_call>85", "85", 0.0),
        ("<tool_call>8</tool_call> It is 85.", "85", 1.0),
        # several answers: one counts
        ("84, 85 or 86", "85", 0.0),
        ("The answer is 84, 85 or 86.", "85", 0.0),
        ("#### 84\n#### 85\n#### 86", "85", 0.0),
        ("\\boxed{84} \\boxed{85}", "84", 0.0),
        ("The answer is 85. The answer is 84.", "85", 0.0),
        # numbers as people write them
        ("It is 1,250.", "1250", 1.0),
        ("It is 1250.0", "1,250", 1.0),
        ("-3", "3", 0.0),
        ("−3", "-3", 1.0),
        ("It fell to - 3 degrees, so the answer is -3 degrees.", "-3", 1.0),
        ("x85", "85", 0.0),
        ("8-3", "3", 1.0),
        ("It costs $5.50", "5.5", 1.0),
        ("-$5", "-5", 1.0),
        ("He ran 5km.", "5", 1.0),
        ("They ate 12 apples.", "12 apples", 1.0),
        ("It is 3/4.", "0.75", 1.0),
        ("It is 2 1/2 hours.", "2.5", 1.0),
        ("It is .5", "1/2", 1.0),
        ("It is 1/0", "1", 0.0),
        ("That is 85%.", "85", 1.0),
        ("That is 0.85", "85%", 1.0),
        ("That is 85 percent", "85%", 1.0),
        ("That is 0.0085", "85%", 0.0),
        # GSM8K
        ("She sold 48/2 = <<48/2=24>>24 clips.\n#### 72", "48+24 = <<48+24=72>>72 clips.\n#### 72", 1.0),
        ("#### 10", "Weng earned 0.2 x 50 = $<<0.2*50=10>>10.\n#### 10", 1.0),
        ("#### $1,000.00", "#### 1000", 1.0),
        ("She earned $10 in 50 minutes.\nThe answer is $10 for 50 minutes.", "10", 1.0),
        ("The answer is 3 * 5 = 15 dollars.", "15", 1.0),
        ("**Answer:** 15", "15", 1.0),
        ("Final answer: 15 apples", "15", 1.0),
        ("The answer is 15\n\n", "15", 1.0),
        # LaTeX
        ("So \\boxed{\\frac{3}{4}}", "0.75", 1.0),
        ("So \\boxed{\\frac{3}{4}}", "\\frac{6}{8}", 1.0),
        ("The answer is $\\frac{\\pi}{2}$.", "\\frac{\\pi}{2}", 1.0),
        ("The answer is $\\frac{\\pi}{3}$.", "\\frac{\\pi}{2}", 0.0),
        ("\\boxed{2^{10}}", "1024", 1.0),
        ("\\boxed{x^2+2x+1}", "(x+1)^2", 1.0),
        ("\\boxed{" + "9^" * 400 + "9}", "\\frac{1}{2}", 0.0),  # too long to be an answer
        # choices
        ("The answer is B.", "B", 1.0),
        ("The answer is (C) the harbour", "C", 1.0),
        ("(A) is wrong, so it must be (B)", "B", 1.0),
        ("A bridge is what I see.", "A", 0.0),
        ("I think so.", "I", 0.0),
        ("The answer is A or B or C", "C", 0.0),
        ("\\boxed{D}", "(D)", 1.0),
    ],
)
def test_score(completion, answer, expected):
    assert score(completion, answer) == expected


@given(st.integers(-(10**6), 10**6), st.text(max_size=40))
def test_a_number_is_found_however_it_is_written(number, before):
    for written in (str(number), f"{number:,}", f"{number}.00", f"${abs(number):,}" if number >= 0 else str(number)):
        assert score(f"{before.replace('<', '')}\nThe answer is {written}.", str(number)) == 1.0


@given(st.text(max_size=200), st.text(max_size=20))
def test_nothing_makes_it_fail(completion, answer):
    assert score(completion, answer) in (0.0, 1.0, None)
    assert exact(completion, answer) in (0.0, 1.0, None)
    assert countdown(completion, [1, 2], 3) in (0.0, 1.0)


@pytest.mark.parametrize(
    "completion, expected",
    [
        ("The answer is (3 + 5) * 7 - 2.", 1.0),
        ("<think>3*5</think>(3 + 5) * 7 - 2 = 54", 1.0),
        ("\\boxed{7*(5+3)-2}", 1.0),
        ("7*(5+3)-2 = 55", 1.0),  # what the model says it comes to is not what it comes to
        ("54", 0.0),
        ("54 + 3*0", 0.0),
        ("7*(5+3)-2-2+2", 0.0),  # a number used too often
        ("7*(5+3)", 0.0),  # or not at all, and another result
        ("7*(5+3)-2+0", 0.0),
        ("__import__('os').system('true')", 0.0),
        ("7**(5**(3**2))", 0.0),
        ("", 0.0),
    ],
)
def test_countdown(completion, expected):
    assert countdown(completion, [2, 3, 5, 7], 54) == expected


def test_countdown_is_exact():
    assert countdown("8 / (3 - 8 / 3)", [3, 3, 8, 8], 24) == 1.0
    assert countdown("1 / 3 * 9", [1, 3, 9], 3) == 1.0
    assert countdown("1 / 3", [1, 3], 0) == 0.0


@pytest.mark.parametrize(
    "completion, answer, expected",
    [
        ("The answer is Belholm.", "belholm", 1.0),
        ("<think>x</think>The old mill.", "the old mill", 1.0),
        ("The answer is Belholm or Riford.", "Belholm", 0.0),
        ("Riford", "Belholm", 0.0),
        ("Belholm", "...", None),
    ],
)
def test_exact(completion, answer, expected):
    assert exact(completion, answer) == expected


def test_the_answer_is_the_last_that_is_marked():
    assert final_answer("The answer is 3.\nNo: the answer is 4 apples.\nGood night.") == ("4 apples.", True)
    assert final_answer("It is 4.") == ("It is 4.", False)
    assert final_answer("The answer is") == ("The answer is", False)


def test_worked_answers_of_gsm8k_are_right_and_their_neighbours_wrong():
    """Real data: each worked answer gets 1 for its own problem, and almost never for the next."""
    file = ROOT.parent / "shared/data/gsm8k/train.jsonl"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    answers = [json.loads(line)["answer"] for line in file.read_text().splitlines()[:2000]]
    assert all(score(answer, answer) == 1.0 for answer in answers)
    unmarked = [answer.rpartition("\n####")[0] for answer in answers]
    assert sum(score(text, answer) for text, answer in zip(unmarked, answers)) / len(answers) > 0.95
    wrong = sum(score(answer, other) for answer, other in pairwise(answers)) / len(answers)
    assert wrong < 0.03
