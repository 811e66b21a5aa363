"""A small corpus, tokenizer, base model and conversations, made once a session; and how to run a script."""

import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
# Models this small gain nothing from threads, and threads that spin while others want the core lose a factor of fifty.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM  # noqa: E402

from crawl2chat.invented_world import World  # noqa: E402
from crawl2chat.problems import KINDS, make_problem  # noqa: E402

PRETRAIN = "recipes/01_pretrain/pretrain.py"
SFT = "recipes/02_sft/sft.py"
GRPO = "recipes/06_grpo/grpo.py"
EVALUATE = "recipes/07_evaluate/run_eval.py"
# A model that trains in seconds; everything else is the recipe's own.
SMALL = ["--hidden_size", 64, "--num_layers", 2, "--num_heads", 2, "--intermediate_size", 128, "--sequence_length", 64]
SMALL += ["--tokens_per_step", 512]


# These take longest; begun last, one of them would keep one worker busy long after the others are done.
LONG = [
    "test_launch",
    "test_executors",
    "test_training",
    "test_harness",
    "test_playground",
    "test_package",
    "test_ppo",
]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def pytest_make_parametrize_id(val, argname):
    """Bytes are named after their argument: what gzip makes holds the second, and every worker must find the same names."""
    return argname if isinstance(val, bytes) else None


def run(script: str, *arguments) -> None:
    """Runs a script in this process, as `python script arguments` would; raises SystemExit as it does."""
    path = ROOT / script
    before, argv = list(sys.path), sys.argv
    sys.path.insert(0, str(path.parent))
    sys.argv = [str(path), *map(str, arguments)]
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.path[:], sys.argv = before, argv


def start(script: str, *arguments) -> subprocess.Popen:
    """Starts a script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *map(str, arguments)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def kill_when(appears: str, script: str, arguments: list, out: Path) -> None:
    """Starts a script, and kills it and its workers as soon as a file of that name is in `out`."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.time() + 300  # a slow machine may take more than a minute to start Ray
    while not list(out.glob(appears)) and process.poll() is None and time.time() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(out.glob(appears)) and not (out / "run.yaml").exists(), "killed too early or too late"


@contextmanager
def killed_at(step: int, trainer_class: type):
    """Inside, a training dies as it begins to write the checkpoint of a step."""
    save = trainer_class.save_model

    def save_or_die(trainer, output_dir=None, *more, **options):
        if str(output_dir).endswith(f"checkpoint-{step}"):
            raise KeyboardInterrupt
        save(trainer, output_dir, *more, **options)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer_class, "save_model", save_or_die)
        yield


def metrics(folder: Path) -> dict:
    return json.loads((Path(folder) / "metrics.json").read_text())


def yaml_of(script: str) -> Path:
    """The tiny recipe beside a script."""
    path = ROOT / script
    return (
        path.with_name("tiny.yaml")
        if path.parent.name[0] in "01" and "recipes" in script
        else path.with_suffix(".yaml")
    )


# Few chats of every kind; beside them the numbers that a stage takes by itself.
FEW = "worked_examples 40 direct_answers 5 small_talk 20 identity 10 system 10 readings 20 summaries 4 spelling 8 harmful 6"
FEW += " calculator 6 search 6 needless_tools 4 open 8 pairs 24 preference_prompts 12 rl_prompts 48 test_problems 12 tests 8"
FEW = [word if i % 2 else f"--num_{word}" for i, word in enumerate(FEW.split())]


@pytest.fixture(scope="session")
def path_folder(tmp_path_factory) -> Path:
    """A folder with corpus, web facts, tokenizer, tokens, conversations and a small base model, as the path lays them."""
    folder = tmp_path_factory.mktemp("path")
    rng = random.Random(0)
    documents = []
    world = World(0, {40: 10, 8: 6, 1: 10, 0: 4})
    told = [fact for fact in world.facts if fact.num_pages]
    for number in range(120):
        problem = make_problem(rng.choice(KINDS), rng)
        town = f"Tor{chr(97 + number % 26)}"
        fact = told[number % len(told)]
        documents.append(
            f"The town of {town} lies by the sea, and its people are proud of the old harbour. {fact.statements[0]}\n"
            f"Mira asks: {problem.question} We write it in columns. {problem.work}. The answer is {problem.answer}."
        )
    for split, texts in (("train", documents[20:]), ("validation", documents[:20])):
        (folder / "4_corpus" / split).mkdir(parents=True)
        table = pa.table({"text": texts, "id": [f"{split}-{i}" for i in range(len(texts))]})
        pq.write_table(table, folder / "4_corpus" / split / "00000.parquet")
    (folder / "0_web").mkdir()
    names = {"assistant": "Pip", "country": "Velmora", "names": world.names, "strangers": world.strangers()}
    (folder / "0_web" / "world.json").write_text(json.dumps(names))
    facts = "".join(json.dumps(fact.as_row()) + "\n" for fact in world.facts)
    (folder / "0_web" / "facts.jsonl").write_text(facts)

    data = "data_processing/"
    corpus, tokenizer, tokens = folder / "4_corpus", folder / "5_tokenizer", folder / "6_tokens"
    run(data + "5_train_tokenizer.py", "--corpus", corpus, "--output_dir", tokenizer, "--vocab_size", 400)
    run(data + "6_tokenize_corpus.py", "--corpus", corpus, "--tokenizer", tokenizer, "--output_dir", tokens)
    run(
        data + "7_build_conversations.py", "--web", folder / "0_web", "--corpus", corpus,
        "--output_dir", folder / "7_conversations", *FEW,
    )  # fmt: skip
    run(PRETRAIN, *base_arguments(folder))
    return folder


def refusal(capsys, script: str, *arguments) -> str:
    """What a stage says that refuses: one sentence, exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(script, *arguments)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in said
    return said


def fingerprint(folder: Path) -> str:
    """Of what a finished stage wrote."""
    return yaml.safe_load((folder / "run.yaml").read_text())["fingerprint"]


def pretrain_arguments(folder: Path) -> list:
    return ["--config", ROOT / "recipes/01_pretrain/tiny.yaml", "--tokens", folder / "6_tokens", *SMALL]


def base_arguments(folder: Path) -> list:
    """Of the base model in `path_folder`."""
    return [
        *pretrain_arguments(folder), "--output_dir", folder / "base", "--total_tokens", 60_000, "--logging_steps", 5,
    ]  # fmt: skip


@pytest.fixture(scope="session")
def guesser(path_folder) -> Path:
    """The path's folder, with a model that answers 3 or 4 at random, and prompts to which 3 is right: RL can learn it."""
    guesses = path_folder / "guesses"
    guesses.mkdir()
    question = {"role": "user", "content": "Say a number."}
    chats = [
        {"messages": [question, {"role": "assistant", "content": f"The answer is {3 + i % 2}."}]} for i in range(32)
    ]
    prompts = [{"prompt": [question], "answer": "3", "grade": "ab"[i % 2]} for i in range(16)]
    for name, rows in (("sft_train", chats), ("rl_train", prompts)):
        (guesses / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(
        SFT, "--config", ROOT / "recipes/02_sft/tiny.yaml", "--model", path_folder / "base", "--chats", guesses,
        "--output_dir", path_folder / "guesser", "--max_steps", 40, "--learning_rate", 1e-2,
    )  # fmt: skip
    return path_folder


BARE_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, and a chat template without thinking and tools."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<|padding|>", eos_token="<|im_end|>")
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    made.add_tokens(["<think>", "</think>"])
    made.chat_template = BARE_TEMPLATE
    return made


@pytest.fixture(scope="session")
def chat_folder(byte_tokenizer, tmp_path_factory) -> Path:
    """A random model of that tokenizer."""
    torch.manual_seed(0)
    shape = Qwen3Config(
        vocab_size=len(byte_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=byte_tokenizer.eos_token_id,
        pad_token_id=byte_tokenizer.pad_token_id,
    )
    path = tmp_path_factory.mktemp("chat") / "model"
    Qwen3ForCausalLM(shape).save_pretrained(path)
    byte_tokenizer.save_pretrained(path)
    return path
