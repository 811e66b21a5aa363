"""The same questions at several steps: figures by hand, a training left alone, and a page that shows text as text."""

import json

import pytest
import torch
from conftest import GRPO, ROOT, metrics, run
from safetensors.torch import load_file

from crawl2chat.charts import line
from crawl2chat.inspector import figures, shown_steps, steps_in, write_thoughts
from crawl2chat.stage import StageError


def given_to(guesser, out) -> list:
    given = ["--model", guesser / "guesser", "--prompts", guesser / "guesses", "--output_dir", out]
    given += ["--per_device_train_batch_size", 8, "--max_completion_length", 8, "--max_steps", 6]
    return ["--config", ROOT / "recipes/06_grpo/tiny.yaml", *given, "--logging_steps", 2, "--save_steps", 2]


@pytest.fixture(scope="module")
def watched(guesser, tmp_path_factory):
    rows = [{"question": "Say a number.", "answer": "3", "kind": "guess"}]
    rows.append({"question": "<script>alert(1)</script>", "answer": "4", "kind": "other"})
    (guesser / "guesses/test_problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path_factory.mktemp("watched") / "grpo"
    run(GRPO, *given_to(guesser, out), "--inspect_steps", 4)
    return out


def test_it_looks_at_the_start_every_so_often_and_at_the_end(watched):
    assert list(steps_in(watched / "thoughts")) == [0, 4, 6]
    rows = steps_in(watched / "thoughts")[6]
    assert {row["kind"] for row in rows} == {"guess", "other"} and all(row["samples"] == 4 for row in rows)
    curve = [json.loads(line) for line in (watched / "thoughts/curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in curve] == [0, 4, 6] and curve[0]["pass_at_k"] >= 0.5


def test_the_training_is_as_if_nobody_had_looked(watched, guesser, tmp_path):
    run(GRPO, *given_to(guesser, tmp_path / "alone"))
    one, other = (load_file(folder / "model.safetensors") for folder in (watched, tmp_path / "alone"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert metrics(watched)["curve"] == metrics(tmp_path / "alone")["curve"]


def test_the_page_shows_text_as_text(watched):
    page = (watched / "thoughts.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count('class="cell') >= 2 * 3 and "step 6" in page and "entropy" in page
    before = page
    write_thoughts(watched)
    assert (watched / "thoughts.html").read_text() == before  # from what lies there alone


def test_figures_by_hand():
    row = {"samples": 4, "num_tokens": 10}
    rows = [
        {**row, "completion": "<think>3</think>It is 3.", "score": 1.0, "agrees": True, "samples_right": 1},
        {**row, "completion": "<think>wait, 4</think>It is 3.", "score": 0.0, "agrees": False, "samples_right": 0},
        {**row, "completion": "It is 3.", "score": 0.0, "agrees": None, "samples_right": 2, "num_tokens": 4},
    ]
    found = figures(rows)
    assert found == {
        "accuracy": pytest.approx(1 / 3), "pass_at_k": pytest.approx(2 / 3), "tokens": 8, "thinks": pytest.approx(2 / 3),
        "faithfulness": 0.5, "self_checks": pytest.approx(1 / 3),
    }  # fmt: skip
    assert figures(rows[2:])["faithfulness"] is None


def test_charts_and_steps():
    assert shown_steps([0, 4, 6]) == [0, 4, 6]
    assert shown_steps(list(range(0, 110, 10))) == [0, 20, 50, 80, 100]
    found = line("right", [(0, 0.25), (10, 1.0)], is_share=True)
    assert found["points"] == "0.0,30.0 100.0,0.0" and (found["first"], found["last"]) == ("25%", "100%")
    assert line("loss", [(1, 4.0), (2, -1.0)])["points"] == "50.0,0.0 100.0,40.0"
    assert line("kl", [])["points"] == "" and line("zero", [(0, 0.0)])["points"] == "0.0,40.0"


def test_what_is_missing_is_told(guesser, tmp_path):
    with pytest.raises(StageError, match="has no thoughts"):
        write_thoughts(tmp_path)
    (tmp_path / "rl_train.jsonl").write_text((guesser / "guesses/rl_train.jsonl").read_text())
    given = given_to(guesser, tmp_path / "out")
    given[given.index("--prompts") + 1] = tmp_path
    with pytest.warns(UserWarning, match="`inspect_steps` has no effect: .* does not exist"):
        run(GRPO, *given, "--inspect_steps", 2, "--max_steps", 1)
    assert not (tmp_path / "out/thoughts").exists() and (tmp_path / "out/metrics.json").is_file()
