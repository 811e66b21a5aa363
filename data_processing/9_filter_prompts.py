"""Prompts for RL -> those a model can learn from, from easy to hard, by how often it solves each.

A group of completions that are all right or all wrong teaches GRPO nothing (DAPO, https://arxiv.org/abs/2503.14476, section
3.2), so each prompt is answered several times by the model that RL will start from, and what it always or never solves is
left out. It departs from DAPO in that this is done once before the training and not at every step. Done again with what RL
has made of the model, it is the next lesson of a curriculum: what was too hard comes in, what has become easy goes.

    python data_processing/9_filter_prompts.py --config data_processing/9_filter_prompts.yaml --model outputs/tiny/sft \
        --prompts outputs/tiny/7_conversations --output_dir outputs/tiny/9_prompts
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from transformers import set_seed

from crawl2chat import plots
from crawl2chat.chat import load_model, load_tokenizer, local
from crawl2chat.generation import sample
from crawl2chat.rewards import load_prompts, scorers
from crawl2chat.stage import StageError, bounded, run_stage, write_jsonl


@dataclass
class FilterPromptsConfig:
    model: str = field(metadata={"help": "Folder or Hub id of the chat model that RL starts from."})
    prompts: str = field(metadata={"help": "Folder of 7_build_conversations.py, or of this stage."})
    output_dir: str = field(metadata={"help": "Where rl_train.jsonl goes; --prompts of 06_grpo takes it."})
    prompts_file: str = field(default="rl_train.jsonl", metadata={"help": "Which of its files holds the prompts."})
    reward: str = field(default="crawl2chat.rewards.correct", metadata={"help": "From 0, not solved, to 1, solved."})
    num_samples: int = bounded(8, "Completions of each prompt.", low=2)
    temperature: float = bounded(1.0, "Of the samples; that of the training.", low=0.01, high=10.0)
    min_pass_rate: float = bounded(0.05, "Prompts solved less often are left out as too hard.", low=0.0, high=1.0)
    max_pass_rate: float = bounded(0.95, "Prompts solved more often are left out as too easy.", low=0.0, high=1.0)
    max_new_tokens: int = bounded(104, "Longest completion.", low=1)
    batch_size: int = bounded(128, "Completions at once.", low=1)
    seed: int = bounded(0, "Seed of the sampling.", low=0)

    def problems(self) -> list[str]:
        if self.min_pass_rate > self.max_pass_rate:
            return [
                f"`min_pass_rate` {self.min_pass_rate} is above `max_pass_rate` {self.max_pass_rate}; nothing would stay."
            ]
        return []


def preflight(config: FilterPromptsConfig) -> dict:
    tokenizer = load_tokenizer(config.model, for_chat=True)
    load_model(config.model, tokenizer)
    scorers([config.reward])
    num_prompts = len(load_prompts(config.prompts, config.prompts_file))
    return {"prompts": num_prompts, "completions": num_prompts * config.num_samples}


def main(config: FilterPromptsConfig) -> dict:
    set_seed(config.seed)
    tokenizer = load_tokenizer(config.model, for_chat=True)
    model = load_model(config.model, tokenizer)
    prompts = load_prompts(config.prompts, config.prompts_file)
    rows = prompts.to_list()
    texts = [tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True) for row in rows]
    options = config.num_samples, config.max_new_tokens, config.batch_size
    said = sample(model, tokenizer, texts, *options, temperature=config.temperature)

    (reward,) = scorers([config.reward])
    each = [row for row in rows for _ in range(config.num_samples)]
    columns = {name: [row[name] for row in each] for name in prompts.column_names if name != "prompt"}
    completions = [[{"role": "assistant", "content": completion["text"]}] for mine in said for completion in mine]
    rewards = reward(completions=completions, prompts=[row["prompt"] for row in each], **columns)

    kept, fates, by_kind = [], Counter(), defaultdict(list)
    for number, row in enumerate(rows):
        mine = rewards[number * config.num_samples : (number + 1) * config.num_samples]
        if None in mine:
            fates["cannot be checked"] += 1
            continue
        rate = mean(mine)
        by_kind[row.get("kind", "all")].append(rate)
        fate = "too hard" if rate < config.min_pass_rate else "too easy" if rate > config.max_pass_rate else "kept"
        fates[fate] += 1
        if fate == "kept":
            kept.append({**row, "pass_rate": round(rate, 4)})
    rates = [rate for found in by_kind.values() for rate in found]
    if not kept:
        raise StageError(
            f"no prompt is solved in between {config.min_pass_rate} and {config.max_pass_rate} of {config.num_samples} "
            f"completions ({dict(fates)}); take other prompts, or widen the range."
        )
    kept.sort(key=lambda row: -row["pass_rate"])
    write_jsonl(Path(config.output_dir, "rl_train.jsonl"), kept)
    draw(rates, config, Path(config.output_dir, "pass_rates.svg"))
    return {
        "prompts": len(prompts),
        **{name.replace(" ", "_"): fates[name] for name in ("kept", "too hard", "too easy", "cannot be checked")},
        "mean_pass_rate": round(mean(rates), 4),
        "pass_rate_by_kind": {kind: round(mean(found), 4) for kind, found in sorted(by_kind.items())},
    }


def draw(rates: list[float], config: FilterPromptsConfig, file: Path) -> None:
    """How many prompts are solved how often; those that stay in colour."""
    counts = Counter(round(rate * config.num_samples) for rate in rates)
    with plots.drawn(file) as axes:
        solved = range(config.num_samples + 1)
        inside = [config.min_pass_rate <= i / config.num_samples <= config.max_pass_rate for i in solved]
        colours = [plots.COLOURS[1] if is_kept else "#bbbbbb" for is_kept in inside]
        bars = axes.bar(solved, [counts[i] for i in solved], color=colours)
        axes.bar_label(bars, fontsize=8, color="#666666")
        axes.set(xlabel=f"of {config.num_samples} completions right", ylabel="prompts", xticks=list(solved))
        axes.set_title(
            f"{sum(counts[i] for i in solved if inside[i]):,} of {len(rates):,} prompts teach something (blue)"
        )


if __name__ == "__main__":
    run_stage(
        main,
        FilterPromptsConfig,
        inputs=lambda config: [*local(config.model), config.prompts],
        preflight=preflight,
    )
