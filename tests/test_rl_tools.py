"""Tools in RL: calls of a rollout run, their results are no actions, and a policy learns to call."""

import json

import pytest
import torch
from conftest import GRPO, ROOT, metrics, refusal, run
from datasets import Dataset
from transformers import AutoModelForTokenClassification
from trl import GRPOConfig, GRPOTrainer

from crawl2chat.advantages import gae
from crawl2chat.chat import RESPONSE_TEMPLATE, load_model, load_tokenizer
from crawl2chat.ppo import PPOConfig, PPOTrainer
from crawl2chat.rewards import correct
from crawl2chat.stage import StageError
from crawl2chat.tools import CALCULATOR, SEARCH, callables

QUESTION = {"role": "user", "content": "Say a number."}
CALL = '<tool_call>{"name": "calculator", "arguments": {"expression": "1 + 2"}}</tool_call><|im_end|>'
BROKEN = '<tool_call>{"name": "calculator", "argum</tool_call><|im_end|>'
NAMELESS = '<tool_call>{"arguments": 3}</tool_call><|im_end|>'
WRONG = '<tool_call>{"name": "calculator", "arguments": {"words": "1"}}</tool_call><|im_end|>'
HUGE = CALL.replace("1 + 2", "10**10**10")


def test_gae_steps_over_what_a_tool_said():
    """As if the tool's tokens were not there, so that the outcome reaches the call."""
    rewards, values = torch.tensor([[0.0, 7, 7, 1, 2, 9]]), torch.tensor([[1.0, 7, 7, 2, 4, 9]])
    mask = torch.tensor([[1, 0, 0, 1, 1, 0]])
    advantages, returns = gae(rewards, values, mask, gamma=0.5, lam=0.5)
    assert advantages.tolist() == [[0.125, 0, 0, 0.5, -2.0, 0]]
    assert returns.tolist() == [[1.125, 0, 0, 2.5, 2.0, 0]]


def test_tools_are_shown_as_in_sft(path_folder):
    """The functions that TRL runs and the schemas that chats are trained with make the same prompt."""
    tokenizer = load_tokenizer(path_folder / "base")
    given = {"tokenize": False, "add_generation_prompt": True}
    by_functions = tokenizer.apply_chat_template(
        [QUESTION], tools=callables(["calculator", "search"], path_folder / "4_corpus"), **given
    )
    assert by_functions == tokenizer.apply_chat_template([QUESTION], tools=[CALCULATOR, SEARCH], **given)


def test_tools_by_name(path_folder):
    calculator, search = callables(["calculator", "search"], path_folder / "4_corpus")
    assert (
        calculator(expression="17 * 3") == "17 * 3 = 51" and calculator(expression="1/0") == "error: division by zero"
    )
    assert "harbour" in search(query="the old harbour")
    with pytest.raises(StageError, match="no tool `browser`"):
        callables(["browser"])
    with pytest.raises(StageError, match="needs a `corpus`"):
        callables(["search"])


def test_what_a_tool_said_is_no_answer():
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "calculator"}}]}
    result, answer = {"role": "tool", "content": "3"}, {"role": "assistant", "content": "It is 3."}
    assert correct([[called, result], [called, result, answer], [called]], ["3", "3", "3"]) == [0.0, 1.0, 0.0]


def rollout(folder, tmp_path, turns: list[str], ppo: bool = False, rewards=correct):
    """A rollout of two completions in which the model says `turns`, one after the other; and its trainer."""
    tokenizer, model = load_tokenizer(folder), load_model(folder, load_tokenizer(folder))
    tokenizer.response_template = RESPONSE_TEMPLATE
    options = {"output_dir": str(tmp_path), "per_device_train_batch_size": 2, "num_generations": 2, "beta": 0.0}
    options |= {"use_cpu": True, "bf16": False, "report_to": "none", "max_completion_length": 120}
    given = {
        "reward_funcs": [rewards],
        "processing_class": tokenizer,
        "model": model,
        "tools": callables(["calculator"]),
    }
    given["train_dataset"] = Dataset.from_list([{"prompt": [QUESTION], "answer": "3"}] * 4)
    if ppo:
        values = AutoModelForTokenClassification.from_pretrained(folder, num_labels=1)
        options |= {"gamma": 1.0, "lam": 1.0, "whiten_advantages": False}
        trainer = PPOTrainer(value_model=values, args=PPOConfig(**options), **given)
    else:
        trainer = GRPOTrainer(args=GRPOConfig(**options), **given)
    left = [tokenizer.encode(turn) for turn in turns]

    def says(prompts, *_, **__):
        said = left.pop(0)
        return [[*said] for _ in prompts], None

    trainer._generate_single_turn = says
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer._prepare_inputs([trainer.train_dataset[i] for i in range(2)])
    return batch, trainer


def test_a_call_runs_in_a_rollout(path_folder, tmp_path):
    batch, trainer = rollout(path_folder / "base", tmp_path, [CALL, "The answer is 3.<|im_end|>"])
    tokenizer = trainer.processing_class
    assert tokenizer.decode(batch["completion_ids"][0]) == (
        f"{CALL}\n<|im_start|>tool\n<tool_response>1 + 2 = 3</tool_response><|im_end|>\n<|im_start|>assistant\n"
        "The answer is 3.<|im_end|>"
    )
    own = batch["completion_ids"][0][batch["tool_mask"][0].bool()]
    assert tokenizer.decode(own) == f"{CALL}The answer is 3.<|im_end|>"
    assert trainer._metrics["train"]["reward"] == [1.0] and trainer._metrics["train"]["tools/call_frequency"] == [1.0]


@pytest.mark.parametrize(
    "call, answered",
    [(BROKEN, None), (NAMELESS, None), (WRONG, "error: there is no 'expression'"), (HUGE, "error: only numbers")],
    ids=["broken", "nameless", "wrong argument", "huge"],
)
def test_a_bad_call_stops_no_training(path_folder, tmp_path, call, answered):
    """What is no call ends the completion; a wrong one is told so."""
    batch, trainer = rollout(path_folder / "base", tmp_path, [call, "So be it.<|im_end|>"])
    text = trainer.processing_class.decode(batch["completion_ids"][0])
    assert trainer._metrics["train"]["reward"] == [0.0]
    assert (answered in text) if answered else ("tool_response" not in text)


def test_calling_without_end_is_cut(path_folder, tmp_path):
    batch, _ = rollout(path_folder / "base", tmp_path, [CALL] * 50)
    assert batch["completion_ids"].shape[1] <= 120


def test_the_score_falls_on_the_last_token_that_the_model_wrote(path_folder, tmp_path):
    batch, trainer = rollout(path_folder / "base", tmp_path, [CALL, "The answer is 3.<|im_end|>"], ppo=True)
    mask = batch["completion_mask"] * batch["tool_mask"]
    assert 0 < (mask == 0).sum(), "no token of the tool"
    # Without discount and with lambda 1 the return of each own token is the score.
    assert torch.allclose(batch["returns"], mask.float(), atol=1e-5)
    assert trainer._metrics["train"]["objective/scores"] == [1.0]


@pytest.mark.slow
def test_a_policy_learns_to_call(path_folder, tmp_path, capsys):
    """It says 4 half of the time, and calls half of the time, which is right: after RL it calls."""
    call = {"name": "calculator", "arguments": '{"expression": "1 + 2"}'}
    with_call = [
        QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "1 + 2 = 3"},
        {"role": "assistant", "content": "The answer is 3."},
    ]
    without = [QUESTION, {"role": "assistant", "content": "The answer is 4."}]
    # One shape for both: `datasets` reads a column of one type.
    plain = [{"tool_calls": None, **message} for message in without]
    chats = [{"messages": messages, "tools": json.dumps([CALCULATOR])} for messages in [with_call, plain] * 16]
    (tmp_path / "sft_train.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    rows = [{"prompt": [QUESTION], "answer": "3"}] * 16
    (tmp_path / "rl_train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(
        "recipes/02_sft/sft.py", "--config", ROOT / "recipes/02_sft/tiny.yaml", "--model", path_folder / "base",
        "--chats", tmp_path, "--output_dir", tmp_path / "sft", "--max_steps", 60, "--learning_rate", 1e-2,
    )  # fmt: skip
    given = ["--config", ROOT / "recipes/06_grpo/tiny.yaml", "--model", tmp_path / "sft", "--prompts", tmp_path]
    given += ["--output_dir", tmp_path / "grpo"]
    run(GRPO, *given, "--tools", "calculator", "--dry_run")
    assert "calculator(expression: string): works out a sum" in capsys.readouterr().out
    run(
        GRPO, *given, "--tools", "calculator", "--max_steps", 36, "--logging_steps", 3, "--per_device_train_batch_size", 16,
        "--learning_rate", 6e-4, "--temperature", 1.0, "--save_strategy", "no",
    )  # fmt: skip
    found = metrics(tmp_path / "grpo")
    assert 0.1 < found["first_reward"] < 0.9 and found["last_reward"] > 0.8, found["curve"]
    # The tokenizer that is saved finds the calls.
    parsed = load_tokenizer(tmp_path / "grpo").parse_response(f"<think>Hm.</think>{CALL}", prefix="")
    assert parsed["reasoning_content"] == "Hm." and parsed["tool_calls"][0]["function"]["name"] == "calculator"
    assert "no tool `browser`" in refusal(capsys, GRPO, *given, "--tools", "browser", "--overwrite")
