"""SFT: what is trained of a chat, what of chats is refused, and packing that keeps them apart."""

import json
import shutil

import pytest
import torch
import yaml
from conftest import ROOT, SFT, refusal, run
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import SFTConfig, SFTTrainer
from trl.chat_template_utils import qwen3_chat_template

from crawl2chat.chat import chat_template, give_template, load_tokenizer
from crawl2chat.chats import check_masks, fault_of, read_chats, render, tokens_and_mask
from crawl2chat.stage import StageError

CALL = {"name": "calculator", "arguments": '{"expression": "1 + 2"}'}


def said(*turns: str) -> list[dict]:
    """Messages from `role: content`."""
    return [dict(zip(("role", "content"), turn.split(": ", 1))) for turn in turns]


def chat(*turns: str) -> dict:
    return {"messages": said(*turns), "tools": None}


def write(folder, rows: list[dict]):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sft_train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def tokenizer(path_folder):
    return load_tokenizer(path_folder / "base", for_chat=True)


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    rows = [chat(f"user: What is {i} + 1?", f"assistant: The answer is {i + 1}.") for i in range(48)]
    return write(tmp_path_factory.mktemp("sums"), rows)


# --- what is trained


def test_mask_covers_thinking_answer_and_end_but_no_prompt(tokenizer):
    messages = said("user: Hello!", "assistant: Hi.", "user: What is 1 + 2?", "assistant: The answer is 3.")
    messages[-1]["reasoning_content"] = "1+2=3"
    assert render(tokenizer, *tokens_and_mask(tokenizer, {"messages": messages})) == (
        "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n[Hi.<|im_end|>]\n"
        "<|im_start|>user\nWhat is 1 + 2?<|im_end|>\n"
        "<|im_start|>assistant\n[<think>1+2=3</think>The answer is 3.<|im_end|>]\n"
    )


def test_a_call_is_trained_and_its_result_is_not(tokenizer):
    messages = said("user: What is 1 + 2?", "assistant: ", "tool: 3", "assistant: The answer is 3.")
    messages[1]["tool_calls"] = [CALL]
    text = render(tokenizer, *tokens_and_mask(tokenizer, {"messages": messages, "tools": None}))
    assert '[<tool_call>{"name": "calculator", "arguments": {"expression": "1 + 2"}}</tool_call><|im_end|>]' in text
    assert "\n<tool_response>3</tool_response><|im_end|>\n" in text and "[The answer is 3.<|im_end|>]" in text


@pytest.mark.parametrize(
    "template, said",
    [
        ("{% for m in messages %}{{ m.content }}{% generation %}{% endgeneration %}{% endfor %}", "no token of chat 1"),
        ("{% generation %}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}{% endgeneration %}", "the prompt"),
        (
            "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}{% generation %}{{ m.content }}"
            "{% endgeneration %}<|im_end|>{% endif %}{% endfor %}",
            "is not trained in chat 1",
        ),
    ],
)  # fmt: skip
def test_a_wrong_mask_is_refused(path_folder, sums, tmp_path, capsys, template, said):
    folder = shutil.copytree(path_folder / "base", tmp_path / "base")
    (folder / "chat_template.jinja").write_text(template)
    given = ["--config", ROOT / "recipes/02_sft/tiny.yaml", "--model", folder, "--chats", sums]
    assert said in refusal(capsys, SFT, *given, "--output_dir", tmp_path / "out", "--dry_run")


def test_a_mask_over_the_middle_of_the_prompt_is_refused(tokenizer):
    class Wrong:
        eos_token_id, eos_token = tokenizer.eos_token_id, tokenizer.eos_token

        def apply_chat_template(self, messages, **options):
            found = tokenizer.apply_chat_template(messages, **options)
            return {**found, "assistant_masks": [0] + [1] * (len(found["input_ids"]) - 1)}

        decode = tokenizer.decode

    rows = [chat("user: A question of more than twenty letters?", "assistant: Yes.")]
    with pytest.raises(StageError, match="chat 1 covers the prompt"):
        check_masks(Wrong(), Dataset.from_list(rows))


# --- what is refused

BROKEN = {
    "that do not end with the assistant": [chat("user: Hello!"), chat("user: Hi!", "assistant: Hi.", "user: Well?"), chat()],
    "with roles out of order": [
        chat("assistant: Hi.", "user: Hello!"),
        chat("user: Hello!", "user: Hello?", "assistant: Hi."),
        chat("user: Hi!", "system: You are Pip.", "assistant: Hi."),
        chat("user: Hi!", "tool: 3", "assistant: Hi."),
        chat("user: Hi!", "narrator: Silence.", "assistant: Hi."),
    ],
    "with an empty message": [chat("user: Hi!", "assistant:  "), chat("user: ", "assistant: Hi.")],
    "longer than 64 tokens": [chat("user: Hi!", "assistant: " + "many words and more " * 40)],
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_chat_is_left_out_whole_and_counted(fault, tokenizer, tmp_path):
    good = [chat("user: Hi!", "assistant: Hi.")] * 3
    folder = write(tmp_path, good + BROKEN[fault])
    with pytest.warns(UserWarning, match=f"{len(BROKEN[fault])} {fault}"):
        chats, dropped = read_chats(folder, tokenizer, 64)
    assert dropped == {fault: len(BROKEN[fault])} and len(chats) == 3
    with pytest.raises(StageError, match="no chat to train on"), pytest.warns(UserWarning):
        read_chats(write(tmp_path / "all", BROKEN[fault]), tokenizer, 64)


@pytest.mark.parametrize(
    "call, is_whole",
    [
        (CALL, True),
        ({"type": "function", "function": {"name": "search", "arguments": {"query": "sea"}}}, True),
        ({"name": "calculator", "arguments": '{"expression": "1 + 2"'}, False),
        ({"name": "calculator", "arguments": '"1 + 2"'}, False),
        ({"name": "", "arguments": "{}"}, False),
        ({"name": "calculator"}, False),
    ],
)
def test_tool_calls_are_checked(call, is_whole, tokenizer):
    messages = said("user: What is 1 + 2?", "assistant: ", "tool: 3", "assistant: The answer is 3.")
    messages[1]["tool_calls"] = [call]
    fault = fault_of({"messages": messages, "tools": None}, tokenizer)
    assert fault == ("" if is_whole else "with a malformed tool call")


def test_no_chats(path_folder, tmp_path, capsys, tokenizer):
    given = ["--config", ROOT / "recipes/02_sft/tiny.yaml", "--model", path_folder / "base"]
    given += ["--output_dir", tmp_path / "o"]
    assert "sft_train.jsonl does not exist" in refusal(capsys, SFT, *given, "--chats", tmp_path)
    (tmp_path / "sft_train.jsonl").write_text('{"text": "Once."}\n')
    assert "has no column `messages`" in refusal(capsys, SFT, *given, "--chats", tmp_path)


NO_LIST = {"messages": "Hi! Hi.", "tools": None}
NO_TOOLS = {**chat("user: Hi!", "assistant: Hi."), "tools": "[{"}
NO_TEXT = {"messages": [{"role": "user", "content": 3}, {"role": "assistant", "content": "Hi."}], "tools": None}


@pytest.mark.parametrize(
    "row, fault",
    [(NO_LIST, "no lists of messages"), (NO_TOOLS, "whose tools are no JSON"), (NO_TEXT, "the chat template refuses")],
)
def test_a_row_that_is_no_chat(row, fault, tokenizer):
    assert fault in fault_of(row, tokenizer)


def test_an_assistant_may_repeat_the_user(tokenizer):
    asked = "Please repeat these words of mine, all of them."
    check_masks(tokenizer, Dataset.from_list([chat(f"user: {asked}", f"assistant: {asked}")]))


def test_files_that_cannot_be_read(tmp_path, tokenizer):
    (tmp_path / "sft_train.jsonl").write_text("")
    with pytest.raises(StageError, match="is empty"):
        read_chats(tmp_path, tokenizer, 64)
    (tmp_path / "sft_train.jsonl").write_text('{"messages": [{"role": "us')
    with pytest.raises(StageError, match="cannot be read as chats"):
        read_chats(tmp_path, tokenizer, 64)


# --- mixtures


@pytest.fixture
def mixture(sums, tmp_path):
    """A YAML that mixes two files: one has a column more, and only half of it is taken."""
    rows = [{**chat("user: Hello!", f"assistant: Hi, {i}."), "source": "x"} for i in range(20)]
    more = write(tmp_path / "more", rows) / "sft_train.jsonl"
    given = yaml.safe_load((ROOT / "recipes/02_sft/tiny.yaml").read_text())
    given["datasets"] = [
        {"path": "json", "data_files": str(sums / "sft_train.jsonl"), "split": "train"},
        {"path": "json", "data_files": str(more), "split": "train[:50%]", "columns": ["messages", "tools"]},
    ]
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump(given))
    return tmp_path / "mixed.yaml"


def test_a_mixture_is_trained_and_its_files_are_inputs(mixture, path_folder, tmp_path, capsys):
    given = ["--config", mixture, "--model", path_folder / "base", "--output_dir", tmp_path / "sft", "--max_steps", 4]
    run(SFT, *given)
    noted = yaml.safe_load((tmp_path / "sft/run.yaml").read_text())
    assert str(tmp_path / "more/sft_train.jsonl") in noted["inputs"]
    run(SFT, *given)
    assert "up to date" in capsys.readouterr().err
    write(tmp_path / "more", [chat("user: Hello!", "assistant: Hi.")] * 4)
    assert "--overwrite" in refusal(capsys, SFT, *given)


def test_a_mixture_holds_what_it_names(mixture, tokenizer):
    chats, dropped = read_chats(yaml.safe_load(mixture.read_text())["datasets"], tokenizer, 128)
    assert len(chats) == 48 + 10 and dropped == {}
    assert sum(row["messages"][0]["content"] == "Hello!" for row in chats) == 10


@pytest.mark.parametrize(
    "datasets, said",
    [
        ([{"data_files": "x.jsonl"}], "each needs a `path`"),
        ([{"path": "json", "data_files": "nowhere.jsonl"}], "cannot be read as chats"),
        ([{"path": "nobody/knows-it"}], "cannot be read as chats"),
        ([{"path": "json", "data_files": "SUMS", "weight": 2}], "weight"),
        ([{"path": "json", "data_files": "SUMS", "columns": ["tools"]}], "no column `messages`"),
    ],
)
def test_a_wrong_mixture(datasets, said, sums, tokenizer):
    for one in datasets:
        one |= {"data_files": str(sums / "sft_train.jsonl")} if one.get("data_files") == "SUMS" else {}
    with pytest.raises(StageError, match=said):
        read_chats(datasets, tokenizer, 128)


def test_a_mixture_beside_chats(mixture, sums, path_folder, tmp_path, capsys):
    given = ["--config", mixture, "--model", path_folder / "base", "--output_dir", tmp_path / "sft"]
    assert "`datasets` are given" in refusal(capsys, SFT, *given, "--chats", sums)


# --- models of others


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A base model whose tokenizer knows no chat at all."""
    folder = tmp_path_factory.mktemp("bare")
    coder = Tokenizer(models.BPE())
    coder.pre_tokenizer, coder.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    coder.train_from_iterator(["What is it? The answer is here."], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=coder, eos_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    shape = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=16, tie_word_embeddings=False,
    )  # fmt: skip
    Qwen3ForCausalLM(shape).save_pretrained(folder)
    return folder


def test_a_base_model_without_a_template_gets_ours(bare, sums, tmp_path):
    given = ["--config", ROOT / "recipes/02_sft/tiny.yaml", "--model", bare, "--chats", sums, "--max_steps", 4]
    run(SFT, *given, "--output_dir", tmp_path / "sft")
    tokenizer, before = load_tokenizer(tmp_path / "sft", for_chat=True), load_tokenizer(bare)
    assert tokenizer.eos_token == "<|im_end|>" and len(tokenizer) == len(before) + 9
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "sft")
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    text = "What is 1 + 2? <think>1+2=3</think>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.eos_token_id in model.generation_config.eos_token_id


def test_an_adapter_cannot_train_tokens_that_are_new(bare, sums, tmp_path, capsys):
    given = ["--config", ROOT / "recipes/02_sft/tiny.yaml", "--model", bare, "--chats", sums, "--use_peft", "true"]
    assert "9 tokens of the chat template are new" in refusal(capsys, SFT, *given, "--output_dir", tmp_path / "sft")


def test_a_template_by_its_path(bare, path_folder, sums, tmp_path, capsys):
    shorter = chat_template().replace("<|im_start|>", "<|im_start|> ")
    (tmp_path / "mine.jinja").write_text(shorter)
    given = ["--config", ROOT / "recipes/02_sft/tiny.yaml", "--model", path_folder / "base", "--chats", sums]
    given += ["--max_steps", 2, "--output_dir", tmp_path / "sft"]
    run(SFT, *given, "--chat_template_path", tmp_path / "mine.jinja")
    assert load_tokenizer(tmp_path / "sft").chat_template == shorter
    assert "is no file of Jinja" in refusal(capsys, SFT, *given, "--chat_template_path", tmp_path / "none.jinja")


def test_a_known_template_is_marked(bare):
    tokenizer = load_tokenizer(bare)
    tokenizer.chat_template = qwen3_chat_template
    assert give_template(tokenizer) == 0 and "{% generation %}" in tokenizer.chat_template
    messages = said("user: What is it?", "assistant: The answer is here.")
    assert "[" in render(tokenizer, *tokens_and_mask(tokenizer, {"messages": messages}))


def test_chats_of_the_hub(monkeypatch, tokenizer):
    asked = []
    rows = Dataset.from_list([{"messages": said("user: Hi!", "assistant: Hi."), "source": "x"}])
    monkeypatch.setattr(
        "crawl2chat.chats.load_dataset", lambda *names, **options: asked.append((names, options)) or rows
    )
    chats, dropped = read_chats("HuggingFaceTB/smol-smoltalk", tokenizer, 64)
    assert asked == [(("HuggingFaceTB/smol-smoltalk",), {"split": "train"})] and dropped == {}
    assert chats[0] == {"messages": rows[0]["messages"], "tools": None}


# --- packing


def test_packed_chats_do_not_see_one_another(path_folder, sums, tmp_path):
    """The loss of a chat is the same alone and packed behind others."""
    tokenizer = load_tokenizer(path_folder / "base")
    found = {}
    for packing in (False, True):
        config = SFTConfig(
            output_dir=str(tmp_path), packing=packing, max_length=128, assistant_only_loss=True, use_cpu=True, bf16=False,
            per_device_eval_batch_size=1, report_to="none", gradient_checkpointing=False, eos_token=tokenizer.eos_token,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(path_folder / "base")
        chats, _ = read_chats(sums, tokenizer, 128)
        trainer = SFTTrainer(model=model, args=config, train_dataset=chats, processing_class=tokenizer)
        losses, rows = {}, 0
        for batch in trainer.get_train_dataloader():
            rows += 1
            batch.pop("seq_lengths", None)
            labels = batch["labels"]
            with torch.no_grad():
                logits = model(**{k: v for k, v in batch.items() if k not in ("labels", "num_items_in_batch")}).logits
            each = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none", ignore_index=-100
            )
            for token, loss in zip(labels[:, 1:].flatten().tolist(), each.tolist()):
                if token >= 0:
                    losses.setdefault(token, []).append(loss)
        found[packing] = {token: sorted(values) for token, values in losses.items()}, rows
    (alone, _), (packed, num_packed) = found[False], found[True]
    assert num_packed < 48 / 8, "nothing was packed"
    assert alone.keys() == packed.keys()
    for token in alone:
        assert torch.allclose(torch.tensor(alone[token]), torch.tensor(packed[token]), atol=1e-4), token
