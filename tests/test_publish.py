"""Publishing to a Hub that lives for the test: what is laid out, what is pushed, and what is told where it fails."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from hub_double import Hub
from huggingface_hub import DatasetCard, ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def finished(path_folder, guesser, tmp_path_factory):
    """A run of which conversations, base model and an assistant are done."""
    folder = tmp_path_factory.mktemp("finished") / "tiny"
    for name, source in (("7_conversations", path_folder), ("base", path_folder), ("sft", guesser)):
        shutil.copytree(source / ("guesser" if name == "sft" else name), folder / name)
    return folder


def publish(run, out, *more, url="http://127.0.0.1:9", ok=True) -> str:
    environment = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "CRAWL2CHAT_PAUSE": "0.01",
    }
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, ROOT / "recipes/10_publish/publish.py", "--run", run, "--namespace", "me"]
    command = [*map(str, command), "--output_dir", str(out), *more]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (ran.returncode == 0) == ok, ran.stderr
    assert TOKEN not in ran.stdout + ran.stderr and "Traceback" not in ran.stderr
    return ran.stdout if ok else ran.stderr


def test_without_push_everything_is_laid_out_and_nothing_leaves(finished, tmp_path):
    said = publish(finished, tmp_path)
    assert "nothing was pushed; --push true makes these 4 private repositories" in said
    assert {path.name for path in tmp_path.iterdir()} == {"chats", "base", "sft", "space"}
    AutoModelForCausalLM.from_pretrained(tmp_path / "sft")
    assert AutoTokenizer.from_pretrained(tmp_path / "sft").chat_template
    left = {path.name for path in tmp_path.rglob("*")}
    assert not {"run.yaml", "training_args.bin"} & left and not [
        name for name in left if name.startswith("checkpoint")
    ]


def test_cards(finished, tmp_path):
    publish(finished, tmp_path)
    card = ModelCard.load(tmp_path / "sft" / "README.md")
    assert card.data.base_model == ["me/crawl2chat-tiny-base"] or card.data.base_model == "me/crawl2chat-tiny-base"
    assert card.data.datasets == ["me/crawl2chat-tiny-chats"] and card.data.license == "apache-2.0"
    for said in ("## How it was made", "recipes/02_sft/sft.py", "--model", "## Cost", "g of CO2", "## Limits"):
        assert said in card.text
    base = ModelCard.load(tmp_path / "base" / "README.md")
    (result,) = base.data.eval_results
    assert result.metric_type == "bits_per_byte" and result.metric_value > 0
    data = DatasetCard.load(tmp_path / "chats" / "README.md").data
    assert {"config_name": "sft_train", "data_files": "sft_train.jsonl"} in data.configs


def test_push_makes_private_repositories_and_a_collection(finished, tmp_path):
    with Hub() as hub:
        said = publish(finished, tmp_path, "--push", "true", url=hub.url)
        assert "4 repositories are on the Hub" in said
        names = ("datasets", "chats"), ("models", "base"), ("models", "sft"), ("spaces", "space")
        assert set(hub.repos) == {f"{kind}/me/crawl2chat-tiny-{name}" for kind, name in names}
        assert all(repo["private"] for repo in hub.repos.values())
        sent = hub.repos["models/me/crawl2chat-tiny-sft"]["files"]
        assert sent["model.safetensors"] == (finished / "sft/model.safetensors").read_bytes()
        assert b"library_name" in sent["README.md"]
        (gathered,) = hub.collections.values()
        assert sorted(gathered) == sorted(f"me/crawl2chat-tiny-{name}" for name in ("base", "chats", "sft", "space"))
        assert hub.tokens == {f"Bearer {TOKEN}"}
        again = len(hub.requests)
        publish(finished, tmp_path, "--push", "true", url=hub.url)
        assert not [path for _, path in hub.requests[again:] if "commit" in path], "what is there is not pushed again"


def test_public_is_asked_for(finished, tmp_path):
    with Hub() as hub:
        publish(finished, tmp_path, "--push", "true", "--public", "true", url=hub.url)
        assert not any(repo["private"] for repo in hub.repos.values())


@pytest.mark.parametrize("status", [429, 500, "cut"])
def test_a_busy_hub_is_asked_again(finished, tmp_path, status):
    with Hub() as hub:
        hub.failures = [["/commit/", status, 2]]
        publish(finished, tmp_path, "--push", "true", url=hub.url)
        assert len(hub.repos) == 4 and all(repo["files"] for repo in hub.repos.values())


@pytest.mark.parametrize(
    "status, said",
    [
        (401, "the Hub does not know this token; log in with `hf auth login`, or set HF_TOKEN"),
        (403, "this token may not write there"),
        (409, "being changed by somebody else"),
        (400, "the Hub answers 400"),
    ],
)
def test_a_refusal_is_one_sentence(finished, tmp_path, status, said):
    with Hub() as hub:
        hub.failures = [["/commit/", status, 99]]
        found = publish(finished, tmp_path, "--push", "true", url=hub.url, ok=False)
        assert said in found and len(found.strip().splitlines()) == 1


def test_half_way_it_goes_on_where_it_ended(finished, tmp_path):
    with Hub() as hub:
        hub.failures = [["models/me/crawl2chat-tiny-sft/commit", 503, 99]]
        said = publish(finished, tmp_path, "--push", "true", url=hub.url, ok=False)
        assert (
            "me/crawl2chat-tiny-sft cannot be pushed: the Hub answers 503, 4 times; the same command goes on" in said
        )
        hub.failures = []
        publish(finished, tmp_path, "--push", "true", url=hub.url)
        assert [repo["commits"] for repo in hub.repos.values()] == [1, 1, 1, 1]


def test_the_space_runs_by_itself(finished, tmp_path):
    """From its own folder, with the package that lies in it."""
    publish(finished, tmp_path)
    folder = tmp_path / "space"
    assert 'models=["me/crawl2chat-tiny-base", "me/crawl2chat-tiny-sft"]' in (folder / "app.py").read_text().replace(
        "'", '"'
    )
    card = ModelCard.load(folder / "README.md", ignore_metadata_errors=False).data.to_dict()
    assert card["sdk"] == "gradio" and card["app_file"] == "app.py" and card["sdk_version"][0].isdigit()
    assert card["models"] == ["me/crawl2chat-tiny-base", "me/crawl2chat-tiny-sft"]
    wanted = (folder / "requirements.txt").read_text().split()
    assert any(line.startswith("transformers>=") for line in wanted) and not any("gradio" in line for line in wanted)
    for name in ("base", "sft"):
        shutil.copytree(tmp_path / name, folder / f"me/crawl2chat-tiny-{name}")  # in place of the Hub
    serves = (
        "import playground, crawl2chat; print(crawl2chat.__file__)\n"
        "playground.launch = lambda blocks: print([tab.label for tab in blocks.blocks.values() if hasattr(tab, 'label')])\n"
        "exec(open('app.py').read())"
    )
    ran = subprocess.run([sys.executable, "-c", serves], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[0] == str(folder / "crawl2chat/__init__.py")
    assert "Next token" in ran.stdout and "Chat" in ran.stdout


def test_without_a_space(finished, tmp_path):
    publish(finished, tmp_path / "out", "--playground", "")
    assert not (tmp_path / "out/space").exists()
    said = publish(finished, tmp_path / "out", "--playground", "nowhere.py", ok=False)
    assert "there is no script nowhere.py for the Space" in said


def test_nothing_to_publish(tmp_path):
    assert "holds no finished stage that could be published" in publish(tmp_path, tmp_path / "out", ok=False)
