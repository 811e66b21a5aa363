"""Tasks of lm-evaluation-harness: the numbers that its own command prints, its prompts as in training, its refusals.

pytest tests/test_harness.py
"""

import json
import subprocess
import sys

import pytest
import torch
import yaml
from conftest import EVALUATE, ROOT, metrics, refusal, run
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from crawl2chat import harness
from crawl2chat.harness import CORE, Harness, core
from crawl2chat.stage import StageError

TASKS = ROOT / "recipes/07_evaluate/tasks"


@pytest.fixture(scope="module")
def theirs(path_folder, tmp_path_factory) -> dict:
    """What the harness's own command says of a model."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "outputs").mkdir()
    (folder / "outputs/tiny").symlink_to(path_folder)
    command = [
        sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", "pretrained=outputs/tiny/base,dtype=float32",
        "--device", "cpu", "--batch_size", "8", "--limit", "8", "--apply_chat_template", "--include_path", TASKS,
        "--tasks", "c2c_problems,c2c_facts,c2c_chats", "--output_path", "found.json",
    ]  # fmt: skip
    process = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    (file,) = folder.glob("found*.json")
    return json.loads(file.read_text())["results"]


def evaluate(folder, out, *more) -> dict:
    inputs = ["--model", folder / "base", "--tests", folder / "7_conversations", "--corpus", folder / "4_corpus"]
    run(EVALUATE, *inputs, "--parts", "facts", "--max_new_tokens", 8, "--output_dir", out, *more)
    return metrics(out)


def test_the_numbers_of_its_own_command(theirs, path_folder, tmp_path):
    ours = evaluate(path_folder, tmp_path, "--tasks", "c2c_problems", "c2c_facts", "c2c_chats", "--limit", 8)["tasks"]
    assert set(ours) == set(theirs)
    for task, scores in theirs.items():
        figures = {key.removesuffix(",none"): value for key, value in scores.items() if key.endswith(",none")}
        assert ours[task] and set(ours[task]) == {name for name in figures if not name.endswith("_stderr")}
        for name, found in ours[task].items():
            assert found["value"] == pytest.approx(figures[name], abs=1e-4)
            error = figures[f"{name}_stderr"]
            assert found["interval"] == (pytest.approx(1.96 * error, abs=1e-4) if error != "N/A" else None)


def test_bits_per_byte_of_pages_that_were_not_read(path_folder, tmp_path):
    found = evaluate(path_folder, tmp_path, "--tasks", "c2c_text", "--limit", 3, "--base", "true")
    assert 0.5 < found["tasks"]["c2c_text"]["bits_per_byte"]["value"] < 8
    assert "core" not in found and found["num_facts"]


def test_prompts_are_those_of_training(path_folder):
    tokenizer = AutoTokenizer.from_pretrained(path_folder / "base")
    rows = (path_folder / "7_conversations/test_problems.jsonl").read_text().splitlines()
    question = json.loads(rows[0])["question"]
    data = {"c2c_problems": str(path_folder / "7_conversations/test_problems.jsonl")}
    model = AutoModelForCausalLM.from_pretrained(path_folder / "base")
    for is_chat in (True, False):
        tasks = Harness(["c2c_problems"], TASKS, data, is_chat)
        messages = [{"role": "user", "content": question}]
        chat = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert tasks.first_prompt(tasks.model(model, tokenizer, 1)) == (chat if is_chat else question)


def test_what_is_thought_does_not_count(path_folder, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(path_folder / "base")
    model = AutoModelForCausalLM.from_pretrained(path_folder / "base")
    row = json.loads((path_folder / "7_conversations/test_problems.jsonl").read_text().splitlines()[0])

    def says(text):
        def generate(self, context, **options):
            ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"].expand(len(context), -1)
            return torch.cat([context, ids], dim=1)

        monkeypatch.setattr(HFLM, "_model_generate", generate)
        tasks = Harness(
            ["c2c_problems"], TASKS, {"c2c_problems": str(path_folder / "7_conversations/test_problems.jsonl")}
        )
        asked = tasks.model(model, tokenizer, 1)
        return tasks.scores(asked, None, 1, 0)["c2c_problems"]["accuracy"]["value"]

    assert says(f"<think>5</think>The answer is {row['answer']}.<|im_end|>") == 1.0
    assert says(f"<think>{row['answer']}</think>I do not know.<|im_end|>") == 0.0


def test_core_is_the_mean_above_guessing(monkeypatch):
    everything = {task: {"acc": {"value": 1.0}} for task in CORE}
    guessed = {task: {"acc": {"value": harness.GUESSED.get(task, 0.25)}} for task in CORE}
    assert core(everything) == 1.0 and core(guessed) == 0.0
    half = guessed | {"hellaswag": {"acc": {"value": 0.0}, "acc_norm": {"value": 0.625}}}
    assert core(half) == pytest.approx(0.05)
    assert core({"hellaswag": everything["hellaswag"]}) is None


def test_the_ten_of_core_are_tasks_of_the_harness():
    assert Harness(["core", "c2c_text", "boolq"], TASKS).names == [*CORE, "c2c_text"]
    assert set(harness.GUESSED) <= set(CORE)


def test_every_task_file_is_loaded(path_folder):
    files = sorted(TASKS.glob("*.yaml"))
    data = {
        f"c2c_{part}": str(path_folder / f"7_conversations/test_{part}.jsonl")
        for part in ("problems", "facts", "chats")
    }
    data["c2c_text"] = str(path_folder / "4_corpus/validation/*.parquet")
    tasks = Harness(sorted(data), TASKS, data)
    assert {file.stem for file in files} == set(data)
    for file in files:
        assert len(tasks._loaded(file.stem).eval_docs)
        assert f"task: {file.stem}\n" in file.read_text()


@pytest.mark.parametrize(
    "more, said",
    [
        (["--tasks", "nonsense"], "there is no task `nonsense`; `lm_eval ls tasks` lists"),
        (["--tasks", "arc_easy"], "the task `arc_easy` has no data: "),
        (["--limit", 3], "`num_fewshot`, `limit` and `vllm` are of `tasks`; name some."),
        (["--tasks", "c2c_facts", "--vllm", "true"], "`vllm` is not installed"),
    ],
)
def test_refusals(capsys, path_folder, tmp_path, more, said):
    inputs = ["--model", path_folder / "base", "--tests", path_folder / "7_conversations", "--parts", "facts"]
    assert said in refusal(capsys, EVALUATE, *inputs, "--output_dir", tmp_path / "out", *more)


def test_nothing_to_ask(capsys, path_folder, tmp_path):
    said = refusal(capsys, EVALUATE, "--model", path_folder / "base", "--output_dir", tmp_path / "out")
    assert "name `tests`, a folder of 7_build_conversations.py, or `tasks`" in said


def test_the_harness_is_missing(monkeypatch):
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(StageError, match=r'pip install "crawl2chat\[eval\]"'):
        Harness(["boolq"], TASKS)


def test_task_files_are_their_own_commands():
    for file in TASKS.glob("*.yaml"):
        text = file.read_text()
        assert f"--include_path recipes/07_evaluate/tasks --tasks {file.stem}" in text
        assert yaml.compose(text)
