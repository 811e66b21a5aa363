"""The playground as its users meet it: in headless Chromium each tab is used, and twenty talk at once.

pytest tests/test_playground.py
"""

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio_client
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import hard_to_read, needs_chromium, opened

from crawl2chat import playground as page
from crawl2chat.conversation import Piece
from crawl2chat.stage import StageError, parse

SCRIPT = Path(__file__).parents[1] / "recipes" / "09_playground" / "playground.py"
NASTY = "<script>alert(1)</script><b>bold</b> ${1+1} {{value}} `x` \x00\x1b"
CALL = '<tool_call>{"name": "calculator", "arguments": {"expression": "2 + 3"}}</tool_call>'

spec = importlib.util.spec_from_file_location("playground_app", SCRIPT)
recipe = sys.modules["playground_app"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipe)


@pytest.fixture(scope="module")
def run(chat_folder, tmp_path_factory) -> Path:
    """A run with a base model, two that chat, and a corpus."""
    run = tmp_path_factory.mktemp("playground")
    for name in ("base", "sft", "grpo"):
        shutil.copytree(chat_folder, run / name)
        config = json.loads((run / name / "config.json").read_text())
        (run / name / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    (run / "4_corpus/train").mkdir(parents=True)
    rows = {"text": ["The mayor of Belholm is Tara. It has a <b>harbour</b>."], "url": ["https://belholm.example/<1>"]}
    pq.write_table(pa.table(rows), run / "4_corpus/train/0.parquet")
    return run


@pytest.fixture(scope="module")
def studio(run):
    return recipe.Studio(recipe.PlaygroundConfig(run=str(run), max_new_tokens=64))


@pytest.fixture(scope="module")
def url(studio):
    blocks = recipe.app(studio)
    recipe.launch(blocks, server_name="127.0.0.1", prevent_thread_lock=True)
    yield blocks.local_url
    blocks.close()


@pytest.fixture
def says(monkeypatch, studio):
    """`says(text)`: all models answer with that, and after a tool's result with "So 5."."""

    def arrange(text: str, pause: float = 0.0) -> None:
        tokenizer = studio.vocabulary("sft").tokenizer

        def stream(model, ids, max_new_tokens, *sampling):
            answered = tokenizer.decode(ids).count("<|im_start|>tool")
            for token in tokenizer("So 5.<|im_end|>" if answered else text)["input_ids"]:
                time.sleep(pause)
                yield token, 0.25

        monkeypatch.setattr("crawl2chat.conversation.stream", stream)

    return arrange


def tab(browser, name: str) -> None:
    browser.get_by_role("tab", name=name).click()


# In a browser


@needs_chromium
def test_tokens(url):
    with opened(url) as (browser, wrong):
        browser.wait_for_selector(".c2c .token")
        browser.get_by_label("Text").fill(NASTY)
        browser.get_by_text(f"{len(NASTY)} tokens, 1.00 bytes a token").wait_for()
        shown = browser.locator(".c2c .text").inner_text()
        assert shown == NASTY.replace("\x00", "␀").replace("\x1b", "␛")
        browser.get_by_text("ids and bytes").click()
        assert browser.locator(".c2c td").nth(2).inner_text() == "3c"
        browser.get_by_label("Text").fill("é" * 50_000)
        browser.get_by_text("100,000 tokens").wait_for()
        assert browser.locator(".c2c .text .token").count() == recipe.NUM_SHOWN
        assert not wrong


@needs_chromium
def test_a_click_writes_the_next_token(url, studio):
    with opened(url) as (browser, wrong):
        tab(browser, "Next token")
        text = browser.get_by_label("Text so far")
        text.fill("AB")
        browser.wait_for_function("document.querySelectorAll('hr.c2c ~ .text .token').length === 2")
        vocabulary = studio.vocabulary("base")
        expected = recipe.expectation(studio.model("base"), vocabulary.ids("AB")).logits.argsort(descending=True)
        bars = browser.locator(".c2c .bar")
        assert [int(bars.nth(i).get_attribute("data-token")) for i in range(10)] == expected[:10].tolist()
        bars.nth(3).focus()
        browser.keyboard.press("Enter")  # by keyboard as by mouse
        browser.wait_for_function("document.querySelectorAll('hr.c2c ~ .text .token').length === 3")
        assert text.input_value() == vocabulary.tokenizer.decode([*vocabulary.ids("AB"), int(expected[3])])
        assert browser.locator(".c2c.tree li").count() >= 3
        browser.get_by_label("number input for Temperature").fill("0")
        browser.keyboard.press("Enter")
        browser.wait_for_function("document.querySelector('.c2c .bar .share').innerText === '100.0%'")
        assert not wrong


@needs_chromium
def test_a_chat_with_two_models(url, says):
    says(f"<think>why {NASTY}</think>{CALL}<|im_end|>")
    with opened(url) as (browser, wrong):
        tab(browser, "Chat")
        browser.get_by_label("Offer tools").check()
        browser.get_by_label("Message").fill(NASTY)
        browser.get_by_label("Message").press("Enter")
        browser.get_by_text("So 5.").nth(1).wait_for()
        replies = browser.locator(".c2c.chat section")
        assert [replies.nth(i).locator("h3").inner_text() for i in range(replies.count())] == ["sft", "grpo"]
        assert "alert(1)</script><b>bold</b> ${1+1} {{value}}" in browser.locator(".c2c.chat .you").inner_text()
        assert browser.locator(".c2c.chat b, .c2c.chat script").count() == 0
        thought = replies.first.locator(".thought")
        assert thought.get_attribute("open") is None  # folded once it is over
        thought.locator("summary").click()
        assert "<b>bold</b> ${1+1} {{value}}" in thought.inner_text()
        assert replies.first.locator(".tool").nth(1).inner_text() == "gets2 + 3 = 5"
        assert browser.locator(".c2c.chat .token").count() == 0
        browser.get_by_label("Colour tokens").check()
        browser.locator(".c2c.chat .answer .token").first.wait_for()
        assert not hard_to_read(browser)
        browser.get_by_role("button", name="Clear").click()
        browser.get_by_text("Nothing was said yet").wait_for()
        assert not wrong


@needs_chromium
def test_a_reply_can_be_stopped(url, says):
    says("a" * 60, pause=0.1)
    with opened(url) as (browser, wrong):
        tab(browser, "Chat")
        browser.get_by_label("Message").fill("Hello")
        browser.get_by_role("button", name="Send").click()
        browser.get_by_text("aa").first.wait_for()
        browser.get_by_role("button", name="Stop").click()
        before, said = "", browser.locator(".c2c.chat").inner_text()
        while before != said:  # what was on its way still comes
            browser.wait_for_timeout(1000)
            before, said = said, browser.locator(".c2c.chat").inner_text()
        assert 0 < said.count("a") < 60
        assert not wrong


@needs_chromium
def test_where_was_it_read(url):
    with opened(url) as (browser, wrong):
        tab(browser, "Corpus")
        browser.get_by_label("Search").fill("harbour of nothing")
        browser.locator(".c2c mark").first.wait_for()
        assert "It has a <b>harbour</b>." in browser.locator(".c2c.found").inner_text()
        assert "https://belholm.example/<1>" in browser.locator(".c2c.found").inner_text()
        browser.get_by_label("Search").fill("xyzzy")
        browser.get_by_text("No page has any of these words.").wait_for()
        assert not wrong


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_and_used_by_keyboard(url, dark):
    with opened(url, width=390, dark=dark) as (browser, wrong):
        for name in ("Tokens", "Next token", "Chat", "Corpus"):
            tab(browser, name)
            browser.wait_for_timeout(600)
            assert not hard_to_read(browser), name
            nameless = "input:visible, textarea:visible, button:visible, select:visible"
            for element in browser.locator(nameless).all():
                said = element.evaluate(
                    "e => e.ariaLabel || e.title || e.innerText || e.placeholder || e.labels?.length"
                )
                assert said, element.evaluate("e => e.outerHTML")
            assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth + 1"), name
        assert not wrong


# Without one


def test_twenty_chats_at_once(url, says):
    says("<think>why</think>9<|im_end|>")

    def talk(number: int) -> str:
        client = gradio_client.Client(url, verbose=False)
        for message in (f"first {number}?", f"second {number}?"):
            shown, _ = client.predict(message, ["sft", "grpo"], 0, False, False, api_name="/talk")
        return shown

    with ThreadPoolExecutor(20) as pool:
        for number, shown in enumerate(pool.map(talk, range(20))):
            assert f"first {number}?" in shown and f"second {number}?" in shown
            assert f"first {(number + 1) % 20}?" not in shown
            assert shown.count('<p class="text answer">9</p>') == 4


def talked(studio, *messages: str, models=("sft",)) -> list[dict]:
    turns: list[dict] = []
    for message in messages:
        turns.append({"message": message, "replies": {name: recipe.Reply() for name in models}})
        for name in models:
            for _ in recipe.answer(studio, name, message, 0.0, {}, turns):
                pass
    return turns


def test_each_model_remembers_its_own_chat(studio, says):
    says("<think>why</think>9<|im_end|>")
    turns = talked(studio, "one", "two")
    assert [message["content"] for message in turns[-1]["replies"]["sft"].history] == ["one", "9", "two", "9"]
    assert turns[-1]["replies"]["sft"].pieces[0] == Piece("thinking", "w", 0.25)


def test_what_a_chat_cannot_take_is_said_in_its_place(studio, says, run, tmp_path):
    says("9<|im_end|>")
    (turn,) = talked(studio, "x" * 100_000)
    assert "tokens long and the model takes" in turn["replies"]["sft"].error
    assert turn["replies"]["sft"].error in page.chat([turn], False)
    assert talked(studio, "")[0]["replies"]["sft"].history  # empty, but a message

    shutil.copytree(run, tmp_path / "run")
    gone = recipe.Studio(recipe.PlaygroundConfig(run=str(tmp_path / "run")))
    shutil.rmtree(tmp_path / "run/sft")
    (turn,) = talked(gone, "Hello")
    assert "run/sft" in turn["replies"]["sft"].error and not turn["replies"]["sft"].ended
    says("9<|im_end|>")
    assert talked(gone, "Hello", models=["grpo"])[0]["replies"]["grpo"].ended


def test_the_next_token_comes_soon(studio):
    """The view of a text of 200 tokens, and the first token of a chat: as an issue of ours promises, with room."""
    model, ids = studio.model("base"), list(range(65, 165)) * 2

    def look() -> float:
        start = time.perf_counter()
        recipe.expectation(model, ids), recipe.branches(model, ids)
        return time.perf_counter() - start

    assert min(look() for _ in range(5)) < 0.2


def test_runs_and_models(run, tmp_path):
    assert recipe.Studio(recipe.PlaygroundConfig(run=str(run))).chats() == ["sft", "grpo"]
    both = recipe.Studio(recipe.PlaygroundConfig(run=str(run), models=[str(run / "sft")]))
    assert list(both.folders) == ["base", "sft", "grpo", str(run / "sft")]
    with pytest.raises(StageError, match="holds no model of base, draft"):
        recipe.Studio(recipe.PlaygroundConfig(run=str(tmp_path)))
    with pytest.raises(StageError, match="name a `run`, or `models`"):
        parse([], recipe.PlaygroundConfig)
    with pytest.raises(StageError, match=r"has no \*/\*.parquet"):
        recipe.Studio(recipe.PlaygroundConfig(run=str(run), corpus=str(tmp_path)))


def test_as_a_program(tmp_path):
    process = subprocess.run([sys.executable, SCRIPT, "--run", tmp_path], capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("playground: error: ") and "Traceback" not in process.stderr
