"""Bits per byte after a fixed time of training on real text: our recipe, and in turns a plain Trainer and nanochat.

    python benchmarks/pretrain.py --text folder/of/text --seconds 120 --seeds 3
    python benchmarks/pretrain.py --text folder/of/text --seconds 120 --plain
    git clone https://github.com/karpathy/nanochat /tmp/nanochat && git -C /tmp/nanochat checkout 92d63d4
    python -m venv /tmp/nc && /tmp/nc/bin/pip install -c constraints.txt torch -r benchmarks/nanochat_requirements.txt
    python benchmarks/pretrain.py --text folder/of/text --seconds 120 --nanochat /tmp/nanochat \
        --nanochat_python /tmp/nc/bin/python

The folder holds `train.parquet` and `validation.parquet` with a column `text`. It prints one JSON line.

Ours is `recipes/01_pretrain/two_cores.yaml`; the tokens that fit into the time are counted on a trial of some steps, so
that the schedule is whole. The plain Trainer (`--plain`) has that model, that batch and bf16, and else what transformers
gives: AdamW with its linear schedule, at 1e-3, windows that the model shifts by itself, nothing compiled. nanochat trains
depth 4 (7.3M parameters) for 300 steps of 8,192 tokens with its own tokenizer of 4,096. Seconds are those of the steps
alone, the first three taken as the mean of the others, since both compile in them. All are judged by one protocol: all of
the validation text in its order, a token between documents, cut into windows of 256 tokens whose first tokens see nothing
before them; the surprise of all tokens in bits by the bytes of the text.
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "01_pretrain"
STEPS = 300  # of nanochat
NANOCHAT = ["--depth=4", "--head-dim=64", "--window-pattern=L", "--max-seq-len=256", "--device-batch-size=32"]
NANOCHAT += ["--total-batch-size=8192", f"--num-iterations={STEPS}", "--eval-every=-1", "--core-metric-every=-1"]
NANOCHAT += ["--sample-every=-1", "--device-type=cpu"]


def stage(script: str, *arguments) -> None:
    command = [sys.executable, ROOT / script, *arguments]
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"{script} failed:\n{ran.stderr[-3000:]}")


def prepare(text: Path, work: Path, vocab_size: int) -> Path:
    """Tokenizer and token shards of the text."""
    for split in ("train", "validation"):
        (work / "corpus" / split).mkdir(parents=True, exist_ok=True)
        link = work / "corpus" / split / "00000.parquet"
        if not link.exists():
            link.symlink_to((text / f"{split}.parquet").resolve())
    corpus, tokenizer, tokens = work / "corpus", work / f"tokenizer-{vocab_size}", work / f"tokens-{vocab_size}"
    data = "data_processing/"
    stage(data + "5_train_tokenizer.py", "--corpus", corpus, "--vocab_size", vocab_size, "--output_dir", tokenizer)
    stage(data + "6_tokenize_corpus.py", "--corpus", corpus, "--tokenizer", tokenizer, "--output_dir", tokens)
    return tokens


def ours(tokens: Path, work: Path, seconds: float, seed: int, trial_tokens: int, more: list[str]) -> dict:
    """One training of about so many seconds; `more` are flags of the recipe."""

    def train(name: str, *arguments) -> dict:
        out = work / name
        config = ["--config", RECIPE / "two_cores.yaml", "--tokens", tokens, "--output_dir", out, "--seed", seed]
        stage("recipes/01_pretrain/pretrain.py", *config, "--overwrite", *arguments, *more)
        return json.loads((out / "metrics.json").read_text())

    trial = train("trial", "--total_tokens", trial_tokens)
    found = train(f"ours-{seed}", "--total_tokens", round(seconds * trial["tokens_per_second"]))
    names = ("bits_per_byte", "parameters", "tokens", "tokens_per_second", "mfu")
    return {"seconds": round(found["tokens"] / found["tokens_per_second"], 1)} | {name: found[name] for name in names}


def plain(tokens: Path, work: Path, seconds: float, seed: int, trial_tokens: int) -> dict:
    """The model that `ours` has just trained, from its beginning, by a plain Trainer."""

    def train(num_tokens: int) -> dict:
        command = [sys.executable, __file__, "--text", tokens, "--train_plainly", work / f"ours-{seed}"]
        command += ["--trial_tokens", num_tokens, "--seeds", seed]
        ran = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if ran.returncode:
            sys.exit(f"the plain Trainer failed:\n{ran.stderr[-3000:]}")
        return json.loads(ran.stdout.splitlines()[-1])

    return train(round(seconds * train(trial_tokens)["tokens_per_second"]))


def train_plainly(like: Path, tokens: Path, num_tokens: int, seed: int) -> None:
    """Prints what a plain Trainer comes to with a model of that folder's shape and its batch; runs in its own process."""
    import yaml
    from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments, set_seed

    from crawl2chat.chat import load_tokenizer
    from crawl2chat.tokens import TokenWindows, bytes_per_token
    from crawl2chat.training import Speed, bits_per_byte

    theirs = yaml.safe_load((like / "run.yaml").read_text())["config"]
    length, batch = theirs["sequence_length"], theirs["per_device_train_batch_size"]
    per_step = theirs["tokens_per_step"]
    tokenizer = load_tokenizer(tokens)
    set_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(like))
    speed = Speed(per_step, 6 * model.num_parameters(), 1.0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=num_tokens // per_step,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=per_step // (batch * length),
            learning_rate=1e-3,
            warmup_steps=20,
            seed=seed,
            bf16=theirs["bf16"],
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        # `length` tokens, of which all but the first are predicted, as a plain script has them.
        windows = TokenWindows(tokens / "train", length - 1, tokenizer, num_embeddings=len(tokenizer))
        Trainer(model, arguments, train_dataset=windows, callbacks=[speed]).train()
    rate, trained = speed.total()["tokens_per_second"], arguments.max_steps * per_step
    held_out = TokenWindows(tokens / "validation", length, tokenizer)
    found = bits_per_byte(model, held_out, bytes_per_token(tokenizer))
    figures = {"parameters": model.num_parameters(), "tokens": trained, "tokens_per_second": rate}
    say(sys.stdout, {"seconds": round(trained / rate, 1), "bits_per_byte": round(found, 4)} | figures)


def nanochat(text: Path, work: Path, folder: Path, python: str, dtype: str, seed: int) -> dict:
    """One training by nanochat, its text and tokenizer prepared if they are not."""
    base = work / "nanochat"
    environment = {**os.environ, "NANOCHAT_BASE_DIR": str(base), "NANOCHAT_DTYPE": dtype, "PYTHONPATH": str(folder)}

    def run(*command) -> str:
        ran = subprocess.run([python, *map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
        if ran.returncode:
            sys.exit(f"nanochat failed:\n{ran.stderr[-3000:]}")
        return ran.stdout

    if not (base / "tokenizer").is_dir():
        import pyarrow.parquet as pq

        (base / "base_data_climbmix").mkdir(parents=True)
        for number, split in enumerate(("train", "validation")):
            table = pq.read_table(text / f"{split}.parquet", columns=["text"])
            pq.write_table(table, base / "base_data_climbmix" / f"shard_{number:05d}.parquet", row_group_size=1024)
        run("-m", "scripts.tok_train", "--vocab-size=4096")
    tag = f"{dtype}-{seed}"
    # It has no flag for the seed, which it sets to 42.
    code = (
        f"import sys, runpy, torch; set_seed = torch.manual_seed; torch.manual_seed = lambda _: set_seed({42 + seed});"
    )
    code += f"sys.argv = ['base_train', *{[*NANOCHAT, f'--model-tag={tag}']!r}];"
    log = run("-c", code + "runpy.run_module('scripts.base_train', run_name='__main__')")
    steps = [float(ms) / 1000 for ms in re.findall(r"\| dt: ([\d.]+)ms", log)]
    seconds = STEPS * statistics.mean(steps[3:])
    parameters = int(re.search(r"^total\s*:\s*([\d,]+)", log, re.MULTILINE)[1].replace(",", ""))
    found = json.loads(run(__file__, "--evaluate", base / "base_checkpoints" / tag, "--text", text).splitlines()[-1])
    tokens = STEPS * 8192
    rate = {"tokens": tokens, "tokens_per_second": round(tokens / seconds)}
    return {"seconds": round(seconds, 1), **found, "parameters": parameters, **rate}


def evaluate_nanochat(checkpoint: Path, text: Path) -> None:
    """Prints nanochat's bits per byte by our protocol; runs in its environment."""
    import pyarrow.parquet as pq
    import torch
    from nanochat.checkpoint_manager import build_model
    from nanochat.tokenizer import get_token_bytes

    model, tokenizer, _ = build_model(str(checkpoint), STEPS, torch.device("cpu"), "eval")
    ids, end = [], tokenizer.get_bos_token_id()
    for document in pq.read_table(text / "validation.parquet")["text"].to_pylist():
        ids += [*tokenizer.encode(document), end]
    ids, sizes = torch.tensor(ids), get_token_bytes()
    num_windows = (len(ids) - 1) // 256
    nats = num_bytes = 0
    with torch.no_grad():
        for start in range(0, num_windows, 32):
            rows = range(start, min(start + 32, num_windows))
            batch = torch.stack([ids[256 * row : 256 * row + 257] for row in rows])
            losses = model(batch[:, :-1], batch[:, 1:].contiguous(), loss_reduction="none").flatten().double()
            counted = sizes[batch[:, 1:].flatten()]
            nats += losses[counted > 0].sum().item()
            num_bytes += int(counted.sum())
    say(sys.stdout, {"bits_per_byte": round(nats / math.log(2) / num_bytes, 4)})


def summary(runs: list[dict]) -> dict:
    """The median of each figure (of two the lower), and the least and the most of some."""
    found = {name: statistics.median_low(run[name] for run in runs) for name in runs[0]}
    for name in ("bits_per_byte", "seconds", "tokens_per_second"):
        found[f"{name}_spread"] = [min(run[name] for run in runs), max(run[name] for run in runs)]
    return found


def say(where, line: dict) -> None:
    where.write(json.dumps(line) + "\n")
    where.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="Folder with train.parquet and validation.parquet.")
    parser.add_argument("--seconds", type=float, nargs="+", default=[120.0], help="Of training, one run each.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--vocab_size", type=int, default=4096)
    parser.add_argument("--trial_tokens", type=int, default=300_000, help="On which the speed is measured.")
    parser.add_argument("--plain", action="store_true", help="A plain Trainer, too, with the same model.")
    parser.add_argument("--nanochat", type=Path, help="Its checkout.")
    parser.add_argument("--nanochat_python", help="Python of an environment that has what it needs.")
    parser.add_argument("--nanochat_dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--work", type=Path, help="Folder to keep; else a temporary one.")
    parser.add_argument("--evaluate", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--train_plainly", type=Path, help=argparse.SUPPRESS)
    arguments, more = parser.parse_known_args()
    if arguments.evaluate:
        return evaluate_nanochat(arguments.evaluate, arguments.text)
    if arguments.train_plainly:
        return train_plainly(arguments.train_plainly, arguments.text, arguments.trial_tokens, arguments.seeds)

    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        tokens = prepare(arguments.text, work, arguments.vocab_size)
        runs: dict[str, list[dict]] = {}
        for seed in range(arguments.seeds):
            for seconds in arguments.seconds:
                found = ours(tokens, work, seconds, seed, arguments.trial_tokens, more)
                runs.setdefault(f"ours_{seconds:g}", []).append(found)
                say(sys.stderr, {"ours": found})
                if arguments.plain:
                    found = plain(tokens, work, seconds, seed, arguments.trial_tokens)
                    runs.setdefault(f"plain_{seconds:g}", []).append(found)
                    say(sys.stderr, {"plain": found})
            for dtype in arguments.nanochat_dtypes if arguments.nanochat else []:
                found = nanochat(arguments.text, work, arguments.nanochat, arguments.nanochat_python, dtype, seed)
                runs.setdefault(f"nanochat_{dtype}", []).append(found)
                say(sys.stderr, {dtype: found})
    say(sys.stdout, {name: summary(found) for name, found in runs.items()})


if __name__ == "__main__":
    main()
