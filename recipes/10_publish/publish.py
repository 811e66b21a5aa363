"""A run's folder -> repositories of the Hub: corpus, chats, base model, assistant, reward model, DPO, PPO, thinking model,
and a Space with the playground on them.

Each gets a card: what it is, the exact command, what it was made of (linked by name), results that machines can read, time
and cost, and what it is not for. Without `--push` everything is written to a folder, and said what would be done; with it
the repositories are made, private unless `--public`, and gathered in a collection. What has been pushed is noted with its
commit, so that after a failure the same command goes on.

    python recipes/10_publish/publish.py --run outputs/tiny --namespace me --output_dir outputs/published
    python recipes/10_publish/publish.py --run outputs/tiny --namespace me --output_dir outputs/published --push true

The token is what `hf auth login` has left, or HF_TOKEN.
"""

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import DatasetCardData, EvalResult, HfApi, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from crawl2chat import space
from crawl2chat.machine import energy
from crawl2chat.parsing import parse
from crawl2chat.stage import DONE, StageError, fingerprint, read_run, write_atomically

# Of each artefact: its stage's folder, what kind of repository, what it is, and the artefacts that it was made of.
ARTEFACTS = {
    "corpus": ("4_corpus", "dataset", "Filtered pages, as text, with where each comes from.", []),
    "chats": ("7_conversations", "dataset", "Conversations, preference pairs and prompts for RL.", ["corpus"]),
    "base": ("base", "model", "A base model: it continues text, and knows no chat.", ["corpus"]),
    "sft": ("sft", "model", "The assistant: SFT on conversations, and on what it does not know.", ["base", "chats"]),
    "reward": ("reward", "model", "A reward model: a number for how good a reply is.", ["sft", "chats"]),
    "dpo": ("dpo", "model", "The assistant, trained on pairs of replies by DPO.", ["sft", "chats"]),
    "ppo": ("ppo", "model", "The assistant, trained by PPO on the reward model.", ["sft", "reward", "chats"]),
    "grpo": ("grpo", "model", "The thinking model: RL on questions with a checkable answer.", ["sft", "chats"]),
}
SPACE = "space"  # the playground on the models above that were taught to chat, and the base model
TALKING = ("base", "sft", "dpo", "ppo", "grpo")
LEFT_OUT = ("checkpoint-*", "logs", "run.yaml", "started.yaml", "*.bin", "*.tmp", ".lock", "README.md")
# What evaluation says of a model: the metric's name on the card, and where it stands.
RESULTS = {
    "base": {"bits_per_byte": ("base", "bits_per_byte"), "accuracy": ("eval_base", "accuracy")},
    "sft": {"accuracy": ("eval_sft", "accuracy"), "hallucination": ("eval_sft", "hallucination")},
    "reward": {"pairwise_accuracy": ("reward", "accuracy")},
    "dpo": {"win_rate_against_sft": ("eval_dpo", "win_rate")},
    "ppo": {"win_rate_against_sft": ("eval_ppo", "win_rate")},
    "grpo": {"accuracy": ("eval_grpo", "accuracy")},
}
PAUSE = float(
    os.environ.get("CRAWL2CHAT_PAUSE", "1")
)  # seconds before a second attempt, doubled before each further one


@dataclass
class PublishConfig:
    run: str = field(metadata={"help": "Folder of a whole run, e.g. outputs/tiny."})
    namespace: str = field(metadata={"help": "User or organisation on the Hub."})
    output_dir: str = field(metadata={"help": "Where the repositories are laid out."})
    name: str = field(default="crawl2chat-tiny", metadata={"help": "Begins the names of the repositories."})
    playground: str = field(
        default="recipes/09_playground/playground.py", metadata={"help": "Script of the Space; empty makes no Space."}
    )
    license: str = field(default="apache-2.0", metadata={"help": "Of everything, as the Hub names it."})
    push: bool = field(default=False, metadata={"help": "Really push; without it nothing leaves this machine."})
    public: bool = field(default=False, metadata={"help": "Repositories that everybody sees."})


def main(config: PublishConfig) -> None:
    run, out = Path(config.run), Path(config.output_dir)
    found = [name for name, (stage, *_) in ARTEFACTS.items() if (run / stage / DONE).is_file()]
    if not found:
        raise StageError(f"{run} holds no finished stage that could be published; run recipes/run_tiny.sh first.")
    if config.playground and not Path(config.playground).is_file():
        raise StageError(f"there is no script {config.playground} for the Space; name it, or give --playground ''.")
    if config.playground and set(TALKING).intersection(found):
        found.append(SPACE)
    for name in found:
        if name == SPACE:
            models = [repository(model, config) for model in TALKING if model in found]
            space.lay_out(out / SPACE, Path(config.playground), models, config.name, config.license)
        else:
            lay_out(name, found, config)
        print_line(f"{repository(name, config)}: {size_of(out / name)} in {out / name}")
    if not config.push:
        kind = "public" if config.public else "private"
        print_line(
            f"nothing was pushed; --push true makes these {len(found)} {kind} repositories and a collection of them."
        )
        return
    pushed = push(found, config)
    print_line(f"{len(pushed)} repositories are on the Hub: {', '.join(pushed)}")


def repository(name: str, config: PublishConfig) -> str:
    return f"{config.namespace}/{config.name}-{name}"


def lay_out(name: str, found: list[str], config: PublishConfig) -> None:
    """The files of one repository and its card; safetensors and no pickles."""
    stage, kind, _, _ = ARTEFACTS[name]
    target = Path(config.output_dir, name)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(Path(config.run, stage), target, ignore=shutil.ignore_patterns(*LEFT_OUT))
    text = model_card(name, found, config) if kind == "model" else dataset_card(name, found, config)
    write_atomically(target / "README.md", text)


def model_card(name: str, found: list[str], config: PublishConfig) -> str:
    made_of = [other for other in ARTEFACTS[name][3] if other in found]
    models = [repository(other, config) for other in made_of if ARTEFACTS[other][1] == "model"]
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="crawl2chat",
            dataset_name="crawl2chat, held out",
            metric_type=metric,
            metric_value=value,
        )
        for metric, value in results_of(name, config).items()
    ]
    card = ModelCardData(
        language="en",
        license=config.license,
        library_name="transformers",
        pipeline_tag="text-classification" if name == "reward" else "text-generation",
        tags=["crawl2chat"],
        base_model=models[:1] or None,
        datasets=[repository(other, config) for other in made_of if ARTEFACTS[other][1] == "dataset"] or None,
        model_name=f"{config.name}-{name}",
        eval_results=results or None,
    )
    return page(card.to_yaml(), name, made_of, config)


def dataset_card(name: str, found: list[str], config: PublishConfig) -> str:
    made_of = [other for other in ARTEFACTS[name][3] if other in found]
    configs = None
    if name == "chats":
        files = sorted(path.name for path in Path(config.output_dir, name).glob("*.jsonl"))
        configs = [{"config_name": file[:-6], "data_files": file} for file in files]
    card = DatasetCardData(language="en", license=config.license, tags=["crawl2chat"], configs=configs)
    text = page(card.to_yaml(), name, made_of, config)
    ours = Path(config.run, ARTEFACTS[name][0], "README.md")  # of 4_build_corpus.py: what stands behind its own header
    return text + ("\n" + ours.read_text().rpartition("---\n")[2].strip() + "\n" if ours.is_file() else "")


def page(header: str, name: str, made_of: list[str], config: PublishConfig) -> str:
    stage, _, what, _ = ARTEFACTS[name]
    run = read_run(Path(config.run, stage))
    lines = [f"---\n{header}\n---", f"# {config.name}-{name}", what, "## How it was made"]
    command = run.get("command", f"# {run['stage']}, at commit {run['commit']}")  # earlier runs did not keep it
    lines += [f"```bash\n{command}\n```"]
    if made_of:
        kinds = {"dataset": "datasets/", "model": ""}
        links = [
            f"[{repository(other, config)}](https://huggingface.co/{kinds[ARTEFACTS[other][1]]}{repository(other, config)}) "
            f"(fingerprint `{read_run(Path(config.run, ARTEFACTS[other][0]))['fingerprint']}`)"
            for other in made_of
        ]
        lines += ["Made of " + ", ".join(links) + "."]
    if results := results_of(name, config):
        rows = "".join(f"\n| {metric} | {value} |" for metric, value in results.items())
        lines += ["## Results", f"| held out | |\n|---|---|{rows}"]
    drawn = (
        "At {watts} W that is {kwh:.4f} kWh, at {grams_per_kwh} g a kWh {grams:.1f} g of CO2; neither was measured."
    )
    drawn = drawn.format(**energy(run["seconds"]))
    lines += [
        "## Cost",
        f"{run['seconds']:.0f} s on {run['hardware']}, {max(run['peak_memory_mb'].values()):,} MB of memory. {drawn}",
        "## Limits",
        "A model of this size, trained on this little text, shows how the path works. It is not for use: what it says about "
        "the world is invented or wrong, and its refusals are as shallow as its knowledge."
        if ARTEFACTS[name][1] == "model"
        else "Of the invented web of crawl2chat unless its card says otherwise; no page of it exists.",
        f"Fingerprint `{run['fingerprint']}`, commit `{run['commit']}`, "
        + ", ".join(f"{package} {version}" for package, version in run["versions"].items())
        + ".",
    ]
    return "\n\n".join(lines) + "\n"


def results_of(name: str, config: PublishConfig) -> dict[str, float]:
    found = {}
    for metric, (stage, key) in RESULTS.get(name, {}).items():
        file = Path(config.run, stage, "metrics.json")
        if file.is_file() and key in (metrics := json.loads(file.read_text())):
            found[metric] = metrics[key]
    return found


def size_of(folder: Path) -> str:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return f"{len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB"


def push(found: list[str], config: PublishConfig) -> list[str]:
    """Makes the repositories and the collection; goes on where an earlier push ended."""
    api, note = HfApi(), Path(config.output_dir, "pushed.json")
    done: dict[str, dict] = json.loads(note.read_text()) if note.is_file() else {}
    for name in found:
        target, kind = repository(name, config), SPACE if name == SPACE else ARTEFACTS[name][1]
        mark = fingerprint_of(name, config)
        if done.get(target, {}).get("fingerprint") == mark:
            continue

        def create(target=target, kind=kind) -> None:
            sdk = "gradio" if kind == SPACE else None
            api.create_repo(target, repo_type=kind, private=not config.public, exist_ok=True, space_sdk=sdk)

        def upload(target=target, kind=kind, name=name):
            folder = Path(config.output_dir, name)
            message = f"crawl2chat: {name}"
            return api.upload_folder(repo_id=target, repo_type=kind, folder_path=folder, commit_message=message)

        tried(create, target)
        commit = tried(upload, target)
        done[target] = {"fingerprint": mark, "commit": commit.oid, "type": kind}
        write_atomically(note, json.dumps(done, indent=2) + "\n")

    def gather() -> None:
        title = config.name
        collection = api.create_collection(
            title, namespace=config.namespace, private=not config.public, exists_ok=True
        )
        for target, what in done.items():
            api.add_collection_item(collection.slug, target, what["type"], exists_ok=True)

    tried(gather, f"the collection {config.name}")
    return list(done)


def fingerprint_of(name: str, config: PublishConfig) -> str:
    """What is pushed again when it changes; of the Space, the models that it names and its files."""
    if name != SPACE:
        return read_run(Path(config.run, ARTEFACTS[name][0]))["fingerprint"]
    return fingerprint(Path(config.output_dir, SPACE))


def tried(act, target: str, times: int = 4):
    """Does it, again after a pause where the Hub is busy or the line was cut; other refusals in one sentence."""
    why = {
        401: "the Hub does not know this token; log in with `hf auth login`, or set HF_TOKEN",
        403: "this token may not write there; make one with write access, or name another --namespace",
        404: "the Hub knows no such namespace; check --namespace",
        409: "the Hub says that it is being changed by somebody else; start again",
    }
    for attempt in range(times):
        try:
            return act()
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status != 429 and status < 500:
                reason = why.get(status, f"the Hub answers {status}")
                raise StageError(f"{target} cannot be pushed: {reason}.") from None
            reason = f"the Hub answers {status}"
        except (HTTPError, OSError) as error:
            reason = f"the line was cut ({type(error).__name__})"
        if attempt + 1 < times:
            time.sleep(PAUSE * 2**attempt)
    raise StageError(f"{target} cannot be pushed: {reason}, {times} times; the same command goes on later.")


def print_line(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    try:
        (config,) = parse(sys.argv[1:], PublishConfig)
        main(config)
    except StageError as error:
        sys.exit(f"publish: error: {error}")
