"""Defaults, YAML and flags, and what is wrong with them.

pytest tests/test_parsing.py
"""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from crawl2chat.parsing import StageError, bounded, parse, resolved


@dataclass
class CountConfig:
    text: str = field(metadata={"help": "A text file, or a folder of them."})
    output_dir: str = field(metadata={"help": "Where count.txt goes."})
    num_words: int = bounded(10, "Words to keep.", low=1, high=1000)
    share: float = bounded(0.5, "A share.", low=0.0, high=1.0)
    limit: float | None = field(default=None, metadata={"help": "A limit."})
    mode: str = bounded("fast", "How.", choices=("fast", "no"))
    suffixes: list[str] = field(default_factory=list, metadata={"help": "Suffixes."})
    sizes: list[int] = field(default_factory=list, metadata={"help": "Sizes."})
    shuffle: bool = field(default=True, metadata={"help": "Shuffle 100% of it."})
    num_workers: int = bounded(1, "Processes.", low=1)
    hub_token: str | None = field(default=None, metadata={"help": "Secret."})

    def problems(self) -> list[str]:
        return [f"`num_words` {self.num_words} is odd; give an even one."] if self.num_words % 2 else []


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return str(path)


REQUIRED = ["--text", "t", "--output_dir", "o"]


def test_default_yaml_flag(tmp_path):
    config = written(tmp_path, "text: from_yaml\nnum_words: 20\nshare: 0.25\noutput_dir: o\n")
    for form in (["--config", config], [f"--config={config}"]):
        (parsed,) = parse([*form, "--num_words", "30"], CountConfig)
        assert (parsed.text, parsed.num_words, parsed.share, parsed.mode) == ("from_yaml", 30, 0.25, "fast")


def test_exponents_without_a_dot_are_numbers(tmp_path):
    (parsed,) = parse([*REQUIRED, "--config", written(tmp_path, "share: 1e-4\nlimit: 1e-4\n")], CountConfig)
    assert (parsed.share, parsed.limit) == (1e-4, 1e-4)
    (parsed,) = parse([*REQUIRED, "--share", "1e-4"], CountConfig)
    assert parsed.share == 1e-4


def test_text_stays_text():
    flags = ["--text", "key: [value", "--mode", "no", "--suffixes", "a: b", "2024", "--sizes", "1", "2"]
    (parsed,) = parse(["--output_dir", "2024", *flags], CountConfig)
    assert (parsed.text, parsed.mode, parsed.output_dir) == ("key: [value", "no", "2024")
    assert (parsed.suffixes, parsed.sizes) == (["a: b", "2024"], [1, 2])


def test_bools():
    assert parse([*REQUIRED, "--shuffle", "false"], CountConfig)[0].shuffle is False
    assert parse([*REQUIRED, "--no_shuffle"], CountConfig)[0].shuffle is False
    assert parse([*REQUIRED, "--shuffle"], CountConfig)[0].shuffle is True


def test_all_problems_are_reported_together(tmp_path):
    lines = "num_word: 5\nnum_words: 2.5\nshare: 1.5\nlimit: much\nmode: slow\nsizes: [1, x]\nshuffle: 3\ntext: 2024\n"
    config = written(tmp_path, lines)
    with pytest.raises(StageError) as error:
        parse(["--config", config, "--num_workers", "0", "--shar", "1", "--hub_token"], CountConfig)
    message = str(error.value)
    for part in [
        "11 problems",
        f"unknown key `num_word` in {config}; did you mean `num_words`?",
        f"`num_words` must be a whole number, but {config} gives 2.5.",
        f"`share` must be in [0.0, 1.0], but {config} gives 1.5.",
        f"`limit` must be a number or null, but {config} gives 'much'.",
        f"`mode` must be one of fast, no, but {config} gives 'slow'.",
        f"`sizes` must be a list, but {config} gives [1, 'x'].",
        f"`shuffle` must be true or false, but {config} gives 3.",
        f"`text` must be text, in quotes, but {config} gives 2024.",
        "`num_workers` must be at least 1, but the command line gives 0.",
        "unknown flag `--shar`; did you mean `share`?",
        "--output_dir must be given",
    ]:
        assert part in message, part


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_words", "2.5"], "`num_words` must be a whole number, but the command line gives 2.5."),
        (["--num_words=many"], "`num_words` must be a whole number, but the command line gives 'many'."),
        (["--num_words", "7"], "`num_words` 7 is odd; give an even one."),
        (["--share", "nan"], "`share` must be in [0.0, 1.0], but the command line gives nan."),
        (["--share", "-0.1"], "`share` must be in [0.0, 1.0], but the command line gives -0.1."),
        (["--sizes", "1", "two"], "`sizes` must be"),
        (["--num_words"], "expected one argument"),
        (["--zebra", "1"], "unknown flag `--zebra`; see --help for the list."),
        (["stray"], "stray"),
        (["--config"], "--config needs the path of a YAML file"),
        (["--config", "/nowhere.yaml"], "--config needs the path of a YAML file, and /nowhere.yaml is none."),
    ],
)
def test_one_problem_is_one_sentence(flags, message):
    with pytest.raises(StageError) as error:
        parse([*REQUIRED, *flags], CountConfig)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [1", "is not YAML"), ("- a\n", "not list."), ("", "not NoneType."), ("just words", "not str.")],
)
def test_unreadable_yaml(tmp_path, content, message):
    with pytest.raises(StageError, match=r"config\.yaml") as error:
        parse(["--config", written(tmp_path, content)], CountConfig)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_binary_yaml(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(StageError, match="is not YAML"):
        parse([*REQUIRED, "--config", str(tmp_path / "config.yaml")], CountConfig)


def test_help_needs_nothing(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--help"], CountConfig)
    assert stop.value.code == 0
    assert "--num_words" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["SFTConfig", "RewardConfig", "DPOConfig", "GRPOConfig"])
def test_library_configs_are_checked_too(name, tmp_path):
    import trl

    config = written(tmp_path, "per_device_train_batch_size: 2.5\nseed: -1\nlearning_rate: 1e-4\n")
    with pytest.raises(StageError) as error:
        parse(["--config", config, "--output_dir", "o"], getattr(trl, name))
    assert "`per_device_train_batch_size` must be a whole number" in str(error.value)
    assert "`seed` must be in" in str(error.value)
    assert "learning_rate" not in str(error.value)
    flags = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--bf16", "false", "--report_to", "none"]
    once, twice = (resolved(*parse(flags, getattr(trl, name))) for _ in range(2))
    assert once == twice == yaml.safe_load(yaml.safe_dump(once))


def test_the_library_refuses_in_one_sentence(tmp_path):
    from transformers import TrainingArguments

    with pytest.raises(StageError, match="turbo"):
        parse(["--output_dir", str(tmp_path), "--save_strategy", "turbo"], TrainingArguments)
