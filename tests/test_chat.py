"""The terminal chat, with a random model and a byte tokenizer made here.

pytest tests/test_chat.py
"""

import importlib.util
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from crawl2chat.stage import StageError, parse
from crawl2chat.tools import CALCULATOR, toolbox

SCRIPT = Path(__file__).parents[1] / "recipes" / "09_playground" / "chat.py"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

spec = importlib.util.spec_from_file_location("playground_chat", SCRIPT)
playground = sys.modules["playground_chat"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(playground)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<|padding|>", eos_token="<|im_end|>")
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    made.add_tokens(["<think>", "</think>"])
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    shape = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    path = tmp_path_factory.mktemp("chat") / "model"
    Qwen3ForCausalLM(shape).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


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


def streamed(tokenizer, completion: str, thinking: bool = False) -> tuple[list[str], str]:
    """What a reply prints after each token, and in all."""
    file = io.StringIO()
    reply = playground.Reply(Console(file=file), tokenizer, thinking)
    reply.put(torch.tensor([[0, 1, 2]]))  # the prompt, which is not shown
    steps = []
    for token in tokenizer(completion)["input_ids"]:
        reply.put(torch.tensor([token]))
        steps.append(file.getvalue())
    reply.end()
    return steps, file.getvalue()


# Streaming


def test_thinking_stands_apart(tokenizer):
    assert streamed(tokenizer, "<think>4+5=9</think>\nIt is 9.")[1] == "thinking: 4+5=9\nanswer: It is 9.\n"
    assert streamed(tokenizer, "4+5=9</think>9", thinking=True)[1] == "thinking: 4+5=9\nanswer: 9\n"
    assert streamed(tokenizer, "Hello!")[1] == "answer: Hello!\n"


def test_thinking_is_dimmed(tokenizer):
    file = io.StringIO()
    reply = playground.Reply(Console(file=file, force_terminal=True), tokenizer, False)
    reply.put(torch.tensor([[0]]))
    reply.put(torch.tensor(tokenizer("<think>why</think>so<|im_end|>")["input_ids"]))
    reply.end()
    assert "\x1b[2;3mwhy\x1b[0m" in file.getvalue()
    assert "\x1b[0mso" in file.getvalue()
    assert "im_end" not in file.getvalue()


def test_every_token_is_shown_at_once(tokenizer):
    steps, _ = streamed(tokenizer, "abc")
    assert steps == ["answer: a", "answer: ab", "answer: abc"]


def test_half_characters_and_half_tags_wait(tokenizer):
    steps, _ = streamed(tokenizer, "aé")
    assert steps == ["answer: a", "answer: a", "answer: aé"]
    # a tag that is not one token, as in models that never saw it
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "a<think>b</think>c < d"]
    file = io.StringIO()
    reply = playground.Reply(Console(file=file), tokenizer, False)
    reply.put(torch.tensor([[0]]))
    for letter in filter(None, letters):
        reply.put(torch.tensor([letter]))
        assert "<t" not in file.getvalue() and "</" not in file.getvalue()
    reply.end()
    assert file.getvalue().startswith("answer: a\nthinking: b\nanswer: c<d")


def test_long_lines_and_brackets_stay_as_they_are(tokenizer):
    text = "[bold]" + "word " * 60 + "end"
    assert streamed(tokenizer, text)[1] == f"answer: {text}\n"


# The conversation


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

    def generate(input_ids, streamer, **options):
        chat.saw = chat.tokenizer.decode(input_ids[0])
        reply = chat.tokenizer(chat.says, return_tensors="pt")["input_ids"]
        streamer.put(input_ids)
        for token in reply[0]:
            streamer.put(token[None])
        streamer.end()
        return torch.cat([input_ids, reply], dim=1)

    monkeypatch.setattr(chat.model, "generate", generate)
    return chat


def test_history_is_kept_without_its_thinking(chat):
    chat.says = "<think>4+5=9</think>9"
    chat.reply("What is 4 + 5?")
    chat.reply("Sure?")
    assert "What is 4 + 5?<|im_end|>\n<|im_start|>assistant\n9<|im_end|>\n<|im_start|>user\nSure?" in chat.saw
    assert "think" not in chat.saw
    assert [message["role"] for message in chat.history] == ["user", "assistant"] * 2


def test_a_called_tool_runs_and_is_shown(chat, monkeypatch):
    monkeypatch.setattr(chat.model.config, "max_position_embeddings", 2048)  # room for every round
    chat.toolbox, chat.offered = toolbox(), [CALCULATOR]
    chat.says = '<tool_call>{"name": "calculator", "arguments": {"expression": "2 + 3"}}</tool_call>'
    chat.reply("What is 2 + 3?")  # it calls again and again, and is stopped
    roles = [message["role"] for message in chat.history]
    assert roles == ["user", *["assistant", "tool"] * playground.MAX_CALLS, "assistant"]
    assert {message["content"] for message in chat.history if message["role"] == "tool"} == {"5"}
    assert chat.console.file.getvalue().count("tool: 5\n") == playground.MAX_CALLS
    chat.says = "It is 5."
    chat.reply("So?")
    assert chat.history[-1]["content"] == "It is 5." and "<|im_start|>tool\n5<|im_end|>" in chat.saw


def test_without_tools_nothing_runs(chat):
    chat.says = '<tool_call>{"name": "calculator", "arguments": {"expression": "2 + 3"}}</tool_call>'
    chat.reply("What is 2 + 3?")
    assert [message["role"] for message in chat.history] == ["user", "assistant"]


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
        assert list(chat.toolbox) == [tool["function"]["name"] for tool in chat.offered] == names


def test_a_thought_that_never_ends_is_no_answer(chat):
    chat.says = "<think>" + "4" * 31
    chat.reply("What is 4 + 5?")
    assert chat.history[-1]["content"] == ""
    assert "(cut at --max_new_tokens 32)" in chat.console.file.getvalue()


def test_old_turns_make_room_for_new_ones(chat):
    chat.says = "9"
    for number in range(10):
        chat.reply(f"{number}: {'x' * 40}")
    assert "9: xx" in chat.saw and "0: xx" not in chat.saw
    assert chat.saw.startswith("<|im_start|>user")
    with pytest.raises(StageError, match=r"the message is 3[0-9][0-9] tokens long and the model takes 224"):
        chat.reply("x" * 300)
    assert len(chat.history) < 20


def test_commands(chat, folder, monkeypatch):
    monkeypatch.setattr(playground, "Chat", lambda config, console: chat)
    monkeypatch.setattr(playground, "Console", lambda: chat.console)
    chat.says = "9"
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n/clear\n/nonsense\n"))
    playground.main(chat.config)
    assert chat.history == []
    assert playground.HELP in chat.console.file.getvalue().splitlines()[-1]

    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n/quit\nHello\n"))
    playground.main(chat.config)
    assert len(chat.history) == 2

    before = chat.model
    monkeypatch.setattr("sys.stdin", io.StringIO(f"/model {folder}\n"))
    playground.main(chat.config)
    assert chat.model is not before
    assert chat.history == []


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
    before = chat.model
    with pytest.raises(StageError, match="there is no folder nowhere"):
        chat.load("nowhere")
    assert chat.model is before
    assert len(chat.history) == 2


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
