"""Prompts are kept by how often they are solved, and come from easy to hard."""

import json

import pytest
from conftest import GRPO, ROOT, metrics, refusal, run

FILTER = "data_processing/9_filter_prompts.py"
ASK = [{"role": "user", "content": "Say a number."}]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """The guesser says 3 or 4 to this, each about half of the time."""
    rows = [{"prompt": ASK, "answer": answer, "kind": kind} for answer, kind in (("3", "a"), ("9", "b"), ("4", "a"))]
    rows.append({"prompt": ASK, "answer": "three", "kind": "c"})
    folder = tmp_path_factory.mktemp("prompts")
    (folder / "rl_train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def arguments(guesser, prompts, out) -> list:
    given = ["--model", guesser / "guesser", "--prompts", prompts, "--output_dir", out, "--num_samples", 32]
    return ["--config", ROOT / "data_processing/9_filter_prompts.yaml", *given, "--max_new_tokens", 8]


def test_what_is_always_or_never_solved_is_left_out(guesser, prompts, tmp_path):
    out = tmp_path / "out"
    run(FILTER, *arguments(guesser, prompts, out), "--max_pass_rate", 1.0)
    kept = [json.loads(line) for line in (out / "rl_train.jsonl").read_text().splitlines()]
    assert {row["answer"] for row in kept} == {"3", "4"} and kept[0]["pass_rate"] >= kept[1]["pass_rate"] > 0.05
    found = metrics(out)
    assert (found["kept"], found["too_hard"], found["too_easy"], found["cannot_be_checked"]) == (2, 1, 0, 1)
    assert found["pass_rate_by_kind"]["b"] == 0 and found["prompts"] == 4
    # each completion is 3 or 4
    assert sum(row["pass_rate"] for row in kept) == pytest.approx(1, abs=0.6)
    assert "2 of 3 prompts" in (out / "pass_rates.svg").read_text()

    given = ["--model", guesser / "guesser", "--prompts", out, "--per_device_train_batch_size", 8, "--max_steps", 1]
    given += ["--max_completion_length", 8, "--output_dir", tmp_path / "grpo"]
    run(GRPO, "--config", ROOT / "recipes/06_grpo/tiny.yaml", *given)


def test_nothing_left_is_told(guesser, prompts, tmp_path, capsys):
    said = refusal(
        capsys, FILTER, *arguments(guesser, prompts, tmp_path), "--min_pass_rate", 0.995, "--max_pass_rate", 1
    )
    assert "no prompt is solved in between 0.995 and 1.0 of 32 completions" in said and "too hard" in said


def test_bad_settings_are_told(guesser, prompts, tmp_path, capsys):
    said = refusal(
        capsys, FILTER, *arguments(guesser, prompts, tmp_path), "--min_pass_rate", 0.9, "--max_pass_rate", 0.1
    )
    assert "`min_pass_rate` 0.9 is above `max_pass_rate` 0.1" in said
    said = refusal(capsys, FILTER, *arguments(guesser, prompts, tmp_path), "--reward", "crawl2chat.rewards.none")
    assert "there is no reward" in said
