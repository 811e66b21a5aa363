"""Every file of accelerate_configs/ is one that `accelerate launch` takes, down to the nested keys."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

FOLDER = Path(__file__).parents[1] / "accelerate_configs"


def test_names():
    names = {path.stem for path in FOLDER.iterdir()}
    assert names == {"cpu", "ddp", "fsdp2", "multi_node", "zero1", "zero2", "zero3"}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_takes_it(path):
    config = load_config_from_file(str(path))
    options = {action.dest for action in launch_command_parser()._actions}
    # accelerate checks the top level only and drops a nested key it does not know without a word
    assert {*config.fsdp_config, *config.deepspeed_config} <= options
    assert config.use_cpu == (path.stem == "cpu")
    assert (config.num_machines > 1) == (path.stem == "multi_node")
    if path.stem.startswith("zero"):
        assert (config.distributed_type.value, config.deepspeed_config["zero_stage"]) == (
            "DEEPSPEED",
            int(path.stem[-1]),
        )


def test_cpu_is_one_process_in_float32():
    config = load_config_from_file(str(FOLDER / "cpu.yaml"))
    assert (config.num_processes, config.distributed_type.value, config.mixed_precision) == (1, "NO", "no")
