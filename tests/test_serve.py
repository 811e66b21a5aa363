"""`transformers serve` on a folder that our training wrote, asked by the `openai` client: template and ends are right."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

TRANSFORMERS = Path(sys.executable).with_name("transformers")


@pytest.fixture(scope="module")
def model(guesser) -> str:
    """A folder whose model says 3 or 4 to "Say a number."."""
    return str(guesser / "guesser")


@pytest.fixture(scope="module")
def client(model, tmp_path_factory) -> Iterator[OpenAI]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [TRANSFORMERS, "serve", model, "--host", "127.0.0.1", "--port", port, "--device", "cpu"]
    said = tmp_path_factory.mktemp("serve") / "log"
    with said.open("w") as log:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
    try:
        deadline = time.time() + 90
        while True:
            assert process.poll() is None and time.time() < deadline, said.read_text()[-3000:]
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).is_success:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=60)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


QUESTION = [{"role": "user", "content": "Say a number."}]
ANSWERS = {f"The answer is {number}." for number in (3, 4)}


def test_a_reply_ends_where_the_turn_does(client, model):
    found = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=32)
    assert found.choices[0].message.content in ANSWERS and found.choices[0].finish_reason == "stop"


def test_a_streamed_reply_is_the_same(client, model):
    given = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 32}
    whole = client.chat.completions.create(**given).choices[0].message.content
    parts = [part.choices[0] for part in client.chat.completions.create(**given, stream=True) if part.choices]
    assert "".join(part.delta.content or "" for part in parts) == whole
    assert parts[-1].finish_reason == "stop" and len(parts) > 3


def test_a_reply_that_is_cut_says_so(client, model):
    found = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=2)
    assert found.choices[0].finish_reason == "length"
