"""Each reward with what it gives and what gets it undeservedly; what a YAML may name; a collapse told from a slow start."""

import json
from types import SimpleNamespace

import pytest
from conftest import GRPO, ROOT, metrics, refusal, run
from datasets import Dataset
from transformers import TrainerState

from crawl2chat.collapse import StopsWhenCollapsed, collapse
from crawl2chat.rewards import correct, load_prompts, reward_function, scorers
from crawl2chat.stage import StageError

THOUGHT = "<think>3 + 4 = 7, 7 - 2 = 5</think>The answer is 5."
TABLE = {
    "crawl2chat.rewards.correct": (
        {"answer": ["5"] * 4},
        {THOUGHT: 1.0, "5": 1.0, "The answer is 4.": 0.0, "It is 4 or 5.": 1.0},  # a guess, and the last of two
    ),
    "crawl2chat.rewards.correct_in_time(max_completion_len=10, soft_punish_cache=4)": (
        {"answer": ["5"] * 5, "completion_ids": [[1] * 5, [1] * 8, [1] * 11, [1] * 5, [1] * 11]},
        # a wrong one has nothing to lose
        {THOUGHT: 1.0, "The answer is 5.": 0.5, "5": 0.0, "4": 0.0, "The answer is 4.": 0.0},
    ),
    "crawl2chat.rewards.exact": (
        {"answer": ["Belholm"] * 3},
        {"The answer is Belholm.": 1.0, "belholm": 1.0, "Belholm or Riford": 0.0},
    ),
    "crawl2chat.rewards.countdown": (
        {"numbers": [[3, 4, 2]] * 4, "target": [5] * 4},
        {"3 + 4 - 2": 1.0, "<think>hm</think>4-2+3 = 5": 1.0, "5": 0.0, "3+4-2+2-2": 0.0},
    ),
    "trl.rewards.think_format_reward": (
        {},
        {THOUGHT: 1.0, "5": 0.0, "<think>blah blah</think>5": 1.0},  # what is thought does not matter
    ),
    "trl.rewards.get_soft_overlong_punishment(max_completion_len=10, soft_punish_cache=4)": (
        {"completion_ids": [[1] * 5, [1] * 8, [1] * 11, []]},
        {"a": 0.0, "b": -0.5, "c": -1.0, "": 0.0},  # nothing costs nothing
    ),
    "trl.rewards.get_repetition_penalty_reward(ngram_size=2)": (
        {"completion_ids": [[1, 2, 3, 4], [1, 2, 1, 2, 1], []]},
        {"a": 0.0, "b": -0.5, "": 0.0},
    ),
    "trl.rewards.get_cosine_scaled_reward(max_len=100)": (
        {"solution": ["5", "5", "5", "5"], "completion_ids": [[1] * 1, [1] * 100, [1] * 1, [1] * 100]},
        # padding pays where one does not know
        {"\\boxed{5}": 0.99988, " \\boxed{5}": 0.5, "\\boxed{4}": -0.99988, " \\boxed{4}": -0.5},
    ),
}


@pytest.mark.parametrize("path", TABLE)
def test_rewards(path):
    columns, expected = TABLE[path]
    completions = [[{"role": "assistant", "content": text}] for text in expected]
    found = reward_function(path)(completions=completions, prompts=[None] * len(completions), **columns)
    assert found == pytest.approx(list(expected.values()), abs=1e-4)


def test_language():
    texts = ["The people of this town walk to the harbour.", "Die Leute dieser Stadt gehen zum Hafen.", "", "17"]
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    english, german, empty, digits = reward_function("crawl2chat.rewards.language()")(completions)
    assert english > 0.8 and german < 0.2 and empty == digits == 0
    assert reward_function("crawl2chat.rewards.language(code='de')")(completions)[1] > 0.8


@pytest.mark.parametrize(
    "path, said",
    [
        ("crawl2chat.rewards.wrong", "there is no reward"),
        ("no.such.module.x(a=1)", "there is no reward"),
        ("crawl2chat.rewards.language(cod='de')", "cannot be made"),
        ("crawl2chat.rewards.language('de')", "neither a path nor a call with named values"),
        ("crawl2chat.rewards.language(code=print())", "neither a path nor a call"),
        ("crawl2chat.rewards.language(code", "neither a path nor a call"),
        ("crawl2chat.rewards.said.__doc__", "there is no reward"),
    ],
)
def test_what_is_no_reward_is_told(path, said):
    with pytest.raises(StageError, match=said.replace("(", r"\(")):
        reward_function(path)


WRONG = {
    "raises": (lambda completions, **_: 1 / 0, "failed: ZeroDivisionError: division by zero"),
    "short": (lambda completions, **_: [1.0], "gave 1 values for 2 completions; give one for each"),
    "number": (lambda completions, **_: 1.0, "gave float for 2 completions"),
    "nan": (lambda completions, **_: [1.0, float("nan")], "is nan for b; give a number or None"),
    "infinite": (lambda completions, **_: [-float("inf"), 1.0], "is -inf for a"),
    "nothing": (lambda completions, **_: [None, None], "is None for all 2 completions, which teaches nothing"),
    "needs more": (lambda completions, answer: answer, "failed: TypeError"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_reward_that_goes_wrong_is_named(name, monkeypatch):
    function, said = WRONG[name]
    monkeypatch.setattr("crawl2chat.rewards.wrong", function, raising=False)
    (scored,) = scorers(["crawl2chat.rewards.wrong"])
    with pytest.raises(StageError, match=r"the reward `crawl2chat\.rewards\.wrong` ") as refused:
        scored(completions=["a", "b"], prompts=[None, None])
    assert said in str(refused.value)


def test_beside_another_reward_one_may_have_nothing_to_say(monkeypatch):
    monkeypatch.setattr("crawl2chat.rewards.none", lambda completions, **_: [None] * len(completions), raising=False)
    scored, _ = scorers(["crawl2chat.rewards.none", "crawl2chat.rewards.correct"])
    assert scored(completions=["a", "b"]) == [None, None] and scored.__name__


def given_to(guesser, tmp_path) -> list:
    given = ["--model", guesser / "guesser", "--prompts", guesser / "guesses", "--output_dir", tmp_path / "grpo"]
    return ["--config", ROOT / "recipes/06_grpo/tiny.yaml", *given]


@pytest.mark.parametrize(
    "wrong, said",
    [
        (["--num_generations", 7], "num_generations"),
        (["--use_vllm", "true"], "`use_vllm` needs vLLM: pip install trl[vllm]"),
        (["--max_completion_length", 1020], "does not fit into the model's context of"),
        (["--rewards", "crawl2chat.rewards.countdown"], "the reward `crawl2chat.rewards.countdown` failed"),
    ],
)
def test_bad_settings_are_told(guesser, tmp_path, capsys, wrong, said):
    assert said in refusal(capsys, GRPO, *given_to(guesser, tmp_path), *wrong)


def test_questions_of_gsm8k_become_prompts(tmp_path):
    rows = [{"question": "How much is 1 + 2?", "answer": "1 + 2 = <<1+2=3>>3\n#### 3"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (row,) = load_prompts(str(tmp_path / "train.jsonl"), instruction="Put the answer after ####.").to_list()
    assert row["prompt"] == [{"role": "user", "content": "How much is 1 + 2? Put the answer after ####."}]
    assert correct([[{"role": "assistant", "content": "It is 3.\n#### 3"}]], [row["answer"]]) == [1.0]

    (tmp_path / "rl_train.jsonl").write_text(json.dumps({"text": "x"}) + "\n")
    with pytest.raises(StageError, match="has the columns text; there must be `prompt` or `question`"):
        load_prompts(str(tmp_path))


def test_a_hub_dataset_is_asked_for_by_its_subset(monkeypatch):
    asked = []
    data = Dataset.from_list([{"question": "What is 1 + 2?", "answer": "#### 3"}])
    monkeypatch.setattr("crawl2chat.rewards.load_dataset", lambda *words, **more: asked.append((words, more)) or data)
    assert load_prompts("openai/gsm8k", subset="main").column_names == ["answer", "prompt"]
    assert asked == [(("openai/gsm8k", "main"), {"split": "train"})]


def test_one_prompt_is_enough(guesser, tmp_path):
    one = (guesser / "guesses/rl_train.jsonl").read_text().splitlines()[0]
    (tmp_path / "one").mkdir()
    (tmp_path / "one/rl_train.jsonl").write_text(one + "\n")
    given = ["--prompts", tmp_path / "one", "--max_completion_length", 8, "--max_steps", 1]
    run(GRPO, *given_to(guesser, tmp_path), *given, "--per_device_train_batch_size", 8, "--num_generations", 8)
    assert metrics(tmp_path / "grpo")["steps"] == 1


# --- collapse

HEALTHY = {"reward": 0.4, "frac_reward_zero_std": 0.5, "entropy": 0.1}
HEALTHY |= {"completions/mean_length": 30.0, "completions/clipped_ratio": 0.1}
ARGS = SimpleNamespace(num_generations=8, max_completion_length=100)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({}, ""),
        ({"completions/clipped_ratio": 1.0}, "run to the limit of 100 tokens"),
        ({"completions/mean_length": 1.0}, "completions are empty"),
        ({"reward": 0.0, "frac_reward_zero_std": 1.0}, "no completion got a reward"),
        ({"entropy": 0.001, "frac_reward_zero_std": 1.0}, "all completions of a prompt are alike"),
        ({"reward": 0.0}, ""),  # rewards may cancel out
        ({"entropy": 0.001}, ""),
        ({"frac_reward_zero_std": 1.0}, ""),
    ],
)
def test_what_a_collapse_is(wrong, said):
    found = collapse(ARGS, [HEALTHY | wrong] * 3)
    assert said in found and bool(said) == bool(found)
    assert not collapse(ARGS, [HEALTHY | wrong] * 2 + [HEALTHY]), "one healthy step, and it goes on"


def test_only_a_whole_stretch_of_steps_counts():
    def logged(last_step: int) -> TrainerState:
        rows = [HEALTHY | {"completions/clipped_ratio": 1.0, "step": step} for step in range(2, last_step + 1, 2)]
        return TrainerState(global_step=last_step, log_history=rows)

    callback = StopsWhenCollapsed(10)
    callback.on_log(ARGS, logged(8), None)
    with pytest.raises(StageError, match="after 10 steps the training has collapsed"):
        callback.on_log(ARGS, logged(10), None)
    StopsWhenCollapsed(0).on_log(ARGS, logged(40), None)


def test_a_recipe_stops_with_the_diagnosis(guesser, tmp_path, capsys):
    given = ["--model", guesser / "guesser", "--prompts", guesser / "guesses", "--per_device_train_batch_size", 8]
    given += ["--max_completion_length", 2, "--max_steps", 6, "--logging_steps", 1, "--save_steps", 2]
    given += ["--config", ROOT / "recipes/06_grpo/tiny.yaml", "--output_dir", tmp_path / "grpo"]
    said = refusal(capsys, GRPO, *given, "--collapse_steps", 3)  # two tokens are too few to end
    assert "after 3 steps the training has collapsed" in said and "limit of 2 tokens" in said
    assert not (tmp_path / "grpo/metrics.json").exists() and (tmp_path / "grpo/checkpoint-2").is_dir()
    run(GRPO, *given[:-1], tmp_path / "on", "--collapse_steps", 0)
    assert (tmp_path / "on/metrics.json").is_file()
