"""The terminal chat, with a random model and a byte tokenizer made here.

pytest tests/test_chat.py
"""

import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from crawl2chat.conversation import MAX_CALLS, Piece, Reader, sampled_from, stream
from crawl2chat.stage import StageError, parse
from crawl2chat.tools import CALCULATOR, toolbox

SCRIPT = Path(__file__).parents[1] / "recipes" / "09_playground" / "chat.py"
spec = importlib.util.spec_from_file_location("playground_chat", SCRIPT)
playground = sys.modules["playground_chat"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(playground)


@pytest.fixture
def folder(chat_folder) -> Path:
    return chat_folder


@pytest.fixture
def tokenizer(byte_tokenizer) -> PreTrainedTokenizerFast:
    return byte_tokenizer


def changed(folder: Path, tmp_path: Path, remove: tuple[str, ...] = (), **config) -> Path:
    """A copy of a model folder without some files, or with another config."""
    copy = tmp_path / "changed"
    copy.mkdir()
    for file in folder.iterdir():
        if file.name not in remove:
            (copy / file.name).write_bytes(file.read_bytes())
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(settings | config))
    return copy


@pytest.fixture
def talk(folder, monkeypatch, capsys):
    """`talk(lines)` is what the chat writes when it is given these lines."""

    def run(lines: str, *flags: str, model: Path = folder) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        (config,) = parse(["--model", str(model), "--max_new_tokens", "16", *flags], playground.ChatConfig)
        playground.main(config)
        return capsys.readouterr().out

    return run


def read(tokenizer, *ids: int, thinking: bool = False) -> list[str]:
    """What a reply of these tokens is read as, after each of them: `kind: text`, as one string."""
    reader, pieces, steps = Reader(tokenizer, thinking), [], []
    for token in ids:
        pieces += reader.read(token, 0.5)
        steps.append(written(pieces))
    return [*steps, written([*pieces, *reader.rest()])]


def written(pieces: list[Piece]) -> str:
    kinds = [piece.kind for i, piece in enumerate(pieces) if not i or piece.kind != pieces[i - 1].kind]
    runs = ["".join(piece.text for piece in group) for _, group in groupby(pieces, key=lambda piece: piece.kind)]
    return "\n".join(f"{kind}: {run}" for kind, run in zip(kinds, runs, strict=True))


# Reading a reply


def test_thinking_stands_apart(tokenizer):
    def whole(text, **options):
        return read(tokenizer, *tokenizer(text)["input_ids"], **options)[-1]

    assert whole("<think>4+5=9</think>It is 9.") == "thinking: 4+5=9\nanswer: It is 9."
    assert whole("4+5=9</think>9", thinking=True) == "thinking: 4+5=9\nanswer: 9"
    assert whole("Hello!") == "answer: Hello!"
    assert whole("So <tool_call>{}</tool_call>it is") == "answer: So \ncall: {}\nanswer: it is"


def test_every_token_is_shown_at_once(tokenizer):
    assert read(tokenizer, *tokenizer("abc")["input_ids"]) == ["answer: a", "answer: ab", "answer: abc", "answer: abc"]


def test_half_characters_and_half_tags_wait(tokenizer):
    assert read(tokenizer, *tokenizer("aé")["input_ids"]) == ["answer: a", "answer: a", "answer: aé", "answer: aé"]
    # a tag that is not one token, as in models that never saw it
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "a<think>b</think>c<d"]
    steps = read(tokenizer, *letters)
    assert not any("<t" in step or "</" in step for step in steps)
    assert steps[-1] == "answer: a\nthinking: b\nanswer: c<d"
    assert read(tokenizer, tokenizer.convert_tokens_to_ids("<"))[0] == "" != read(tokenizer, *letters[:2])[-1]


def test_a_token_brings_its_probability(tokenizer):
    (piece,) = Reader(tokenizer).read(tokenizer("a")["input_ids"][0], 0.25)
    assert piece == Piece("answer", "a", 0.25)


def test_tokens_come_one_by_one_as_generate_would_write_them(folder):
    model = Qwen3ForCausalLM.from_pretrained(folder).eval()
    prompt = [65, 66, 67]
    whole = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, 3:].tolist()
    found = list(stream(model, prompt, 12))
    assert [token for token, _ in found] == whole
    with torch.no_grad():
        odds = model(torch.tensor([[*prompt, *whole]])).logits[0].softmax(-1)
    assert torch.allclose(
        torch.tensor([share for _, share in found]),
        torch.stack([odds[2 + i, token] for i, token in enumerate(whole)]),
        atol=1e-5,
    )
    model.generation_config.eos_token_id = whole[4]
    assert [token for token, _ in stream(model, prompt, 12)] == whole[: whole.index(whole[4]) + 1]


def test_top_p_leaves_the_fewest_that_are_as_likely():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert sampled_from(logits, 1.0, 0.8).tolist() == pytest.approx([0.625, 0.375, 0, 0])
    assert sampled_from(logits, 1.0, 0.81).tolist() == pytest.approx([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0])
    assert sampled_from(logits, 1.0, 0.01).tolist() == [1, 0, 0, 0]
    assert sampled_from(logits, 0.0).tolist() == [1, 0, 0, 0]
    warm = sampled_from(logits, 2.0)
    assert warm.tolist() == pytest.approx((logits.exp().sqrt() / logits.exp().sqrt().sum()).tolist())


# The conversation


def test_thinking_is_dimmed_and_text_stays_as_it_is(chat):
    chat.console = Console(file=io.StringIO(), force_terminal=True)
    answer = "[bold]" + "word " * 4 + "end"
    chat.says = f"<think>why</think>\n{answer}<|im_end|>"
    chat.reply("Hello")
    shown = chat.console.file.getvalue()
    assert "\x1b[2;3mw\x1b[0m\x1b[2;3mh" in shown
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert plain == f"thinking: why\nanswer: {answer}\n"


def test_a_chat_of_two_turns(talk):
    out = talk("Hello\n\nAnd you?\n")
    assert out.count("answer: ") + out.count("thinking: ") >= 2
    assert "0.0M parameters" in out
    assert out == talk("Hello\n\nAnd you?\n/quit\nnot read\n")


def test_temperature(talk):
    greedy, warm = talk("Hello\n"), talk("Hello\n", "--temperature", "5")
    assert greedy != warm
    assert warm == talk("Hello\n", "--temperature", "5")
    assert warm != talk("Hello\n", "--temperature", "5", "--seed", "1")


@pytest.fixture
def chat(folder, monkeypatch):
    """A chat whose model says what `chat.says` holds; `chat.saw` is the last prompt it was given."""
    config = playground.ChatConfig(model=str(folder), max_new_tokens=32)
    chat = playground.Chat(config, Console(file=io.StringIO()))

    def says(model, ids, max_new_tokens, *sampling):
        chat.saw = chat.conversation.tokenizer.decode(ids)
        for token in chat.conversation.tokenizer(chat.says)["input_ids"]:
            yield token, 0.5

    monkeypatch.setattr("crawl2chat.conversation.stream", says)
    return chat


def test_history_is_kept_without_its_thinking(chat):
    chat.says = "<think>4+5=9</think>9"
    chat.reply("What is 4 + 5?")
    chat.reply("Sure?")
    assert "What is 4 + 5?<|im_end|>\n<|im_start|>assistant\n9<|im_end|>\n<|im_start|>user\nSure?" in chat.saw
    assert "think" not in chat.saw
    assert [message["role"] for message in chat.conversation.history] == ["user", "assistant"] * 2


def test_a_called_tool_runs_and_is_shown(chat, monkeypatch):
    monkeypatch.setattr(chat.conversation.model.config, "max_position_embeddings", 2048)  # room for every round
    chat.conversation.toolbox, chat.conversation.offered = toolbox(), [CALCULATOR]
    chat.says = '<tool_call>{"name": "calculator", "arguments": {"expression": "2 + 3"}}</tool_call>'
    chat.reply("What is 2 + 3?")  # it calls again and again, and is stopped
    roles = [message["role"] for message in chat.conversation.history]
    assert roles == ["user", *["assistant", "tool"] * MAX_CALLS, "assistant"]
    assert {message["content"] for message in chat.conversation.history if message["role"] == "tool"} == {"2 + 3 = 5"}
    assert chat.console.file.getvalue().count("tool: 2 + 3 = 5\n") == MAX_CALLS
    chat.says = "It is 5."
    chat.reply("So?")
    assert (
        chat.conversation.history[-1]["content"] == "It is 5." and "<|im_start|>tool\n2 + 3 = 5<|im_end|>" in chat.saw
    )


def test_without_tools_nothing_runs(chat):
    chat.says = '<tool_call>{"name": "calculator", "arguments": {"expression": "2 + 3"}}</tool_call>'
    chat.reply("What is 2 + 3?")
    assert [message["role"] for message in chat.conversation.history] == ["user", "assistant"]


def test_tools_are_offered_as_asked(folder, tmp_path):
    (tmp_path / "train").mkdir()
    pq.write_table(pa.table({"text": ["The mayor of Belholm is Tara."]}), tmp_path / "train" / "0.parquet")
    for given, names in (
        ({}, []),
        ({"tools": True}, ["calculator"]),
        ({"corpus": str(tmp_path)}, ["calculator", "search"]),
    ):
        config = playground.ChatConfig(model=str(folder), **given)
        chat = playground.Chat(config, Console(file=io.StringIO()))
        offered = [tool["function"]["name"] for tool in chat.conversation.offered or []]
        assert list(chat.toolbox) == offered == names


def test_a_thought_that_never_ends_is_no_answer(chat):
    chat.says = "<think>" + "4" * 31
    chat.reply("What is 4 + 5?")
    assert chat.conversation.history[-1]["content"] == ""
    assert "(cut at 32 tokens; --max_new_tokens allows more)" in chat.console.file.getvalue()


def test_old_turns_make_room_for_new_ones(chat):
    chat.says = "9"
    for number in range(10):
        chat.reply(f"{number}: {'x' * 40}")
    assert "9: xx" in chat.saw and "0: xx" not in chat.saw
    assert chat.saw.startswith("<|im_start|>user")
    with pytest.raises(StageError, match=r"the message is 3[0-9][0-9] tokens long and the model takes 224"):
        chat.reply("x" * 300)
    assert len(chat.conversation.history) < 20


def test_commands(chat, folder, monkeypatch):
    monkeypatch.setattr(playground, "Chat", lambda config, console: chat)
    monkeypatch.setattr(playground, "Console", lambda: chat.console)
    chat.says = "9"
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n/clear\n/nonsense\n"))
    playground.main(chat.config)
    assert chat.conversation.history == []
    assert playground.HELP in chat.console.file.getvalue().splitlines()[-1]

    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n/quit\nHello\n"))
    playground.main(chat.config)
    assert len(chat.conversation.history) == 2

    before = chat.conversation.model
    monkeypatch.setattr("sys.stdin", io.StringIO(f"/model {folder}\n"))
    playground.main(chat.config)
    assert chat.conversation.model is not before
    assert chat.conversation.history == []


def test_a_stage_beside_the_last_one_goes_by_its_name(chat, folder, tmp_path):
    for name in ("grpo", "sft"):
        shutil.copytree(folder, tmp_path / name)
    chat.load(str(tmp_path / "grpo"))
    chat.load("sft")
    assert chat.folder == tmp_path / "sft"
    assert f"{tmp_path / 'sft'}, " in chat.console.file.getvalue().replace("\n", "")


def test_a_model_that_fails_to_load_changes_nothing(chat):
    chat.says = "9"
    chat.reply("Hello")
    before = chat.conversation.model
    with pytest.raises(StageError, match="there is no folder nowhere"):
        chat.load("nowhere")
    assert chat.conversation.model is before
    assert len(chat.conversation.history) == 2


# Bad folders: one clear sentence, a non-zero exit code


def test_folder_without_tokenizer(talk, folder, tmp_path):
    model = changed(folder, tmp_path, remove=("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"))
    with pytest.raises(StageError, match=r"holds no tokenizer|has no chat template"):
        talk("Hello\n", model=model)


def test_folder_without_template(talk, folder, tmp_path):
    with pytest.raises(StageError, match="has no chat template"):
        talk("Hello\n", model=changed(folder, tmp_path, remove=("chat_template.jinja",)))


def test_folder_without_weights(talk, folder, tmp_path):
    with pytest.raises(StageError, match="holds no model"):
        talk("Hello\n", model=changed(folder, tmp_path, remove=("model.safetensors",)))


def test_tokenizer_of_another_size(talk, folder, tokenizer, tmp_path):
    model = changed(folder, tmp_path)
    larger = PreTrainedTokenizerFast.from_pretrained(model)
    larger.add_tokens(["one", "more"])
    larger.save_pretrained(model)
    with pytest.raises(
        StageError, match=f"{len(tokenizer) + 2} tokens but the model's embedding only {len(tokenizer)}"
    ):
        talk("Hello\n", model=model)


def test_as_a_program(folder, tmp_path):
    command = [sys.executable, str(SCRIPT), "--max_new_tokens", "8", "--model"]
    run = subprocess.run([*command, str(folder)], input="Hello\n", capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "answer: " in run.stdout or "thinking: " in run.stdout
    run = subprocess.run([*command, str(tmp_path / "nowhere")], input="", capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("chat: error: there is no folder ")
    assert "Traceback" not in run.stderr
