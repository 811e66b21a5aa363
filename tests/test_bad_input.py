"""Bad input to the training stages: one clear sentence, a non-zero exit, nothing half-written taken for whole."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import EVALUATE, GRPO, PRETRAIN, ROOT, SFT, pretrain_arguments, run
from safetensors.torch import load_file, save_file

TINY_SFT = ["--config", ROOT / "recipes/02_sft/tiny.yaml"]


def refusal(capsys, script: str, *arguments, output_dir: Path) -> str:
    """What the script says when it refuses; checks that it exits non-zero, without a traceback or a done-marker."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(script, *arguments, "--output_dir", output_dir)
    assert stopped.value.code not in (0, None)
    said = capsys.readouterr().err + (stopped.value.code if isinstance(stopped.value.code, str) else "")
    assert "Traceback" not in said
    assert not (output_dir / "run.yaml").exists()
    return said


def copy_of_base(path_folder: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(path_folder / "base", copy)
    return copy


@pytest.mark.parametrize("script", [SFT, GRPO, EVALUATE])
def test_model_folder_without_tokenizer(script, path_folder, tmp_path, capsys):
    model = copy_of_base(path_folder, tmp_path)
    for file in model.glob("*token*"):
        file.unlink()
    data = {SFT: "--chats", GRPO: "--prompts", EVALUATE: "--tests"}[script]
    config = ROOT / script.replace(Path(script).name, "tiny.yaml")
    arguments = ["--config", config, "--model", model, data, path_folder / "7_conversations"]
    assert f"{model} holds no tokenizer" in refusal(capsys, script, *arguments, output_dir=tmp_path / "out")


def test_embedding_smaller_than_the_tokenizer(path_folder, tmp_path, capsys):
    model = copy_of_base(path_folder, tmp_path)
    weights = load_file(model / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:300].clone()
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    arguments = [*TINY_SFT, "--model", model, "--chats", path_folder / "7_conversations"]
    said = refusal(capsys, SFT, *arguments, output_dir=tmp_path / "out")
    assert "has 400 tokens but the model's embedding only 300 rows" in said


@pytest.mark.parametrize("template, complaint", [(None, "no chat template"), ("plain", "no {% generation %} markers")])
def test_template_missing_or_without_markers(template, complaint, path_folder, tmp_path, capsys):
    model = copy_of_base(path_folder, tmp_path)
    file = model / "chat_template.jinja"
    if template is None:
        file.unlink()
    else:
        text = file.read_text()
        file.write_text(
            text.replace("{%- generation %}", "").replace("{%- endgeneration %}", "").replace("{% generation %}", "")
        )
    # SFT gives a base model without a template ours; RL starts from one that chats.
    grpo = ["--config", ROOT / "recipes/06_grpo/tiny.yaml", "--prompts", path_folder / "7_conversations"]
    assert complaint in refusal(capsys, GRPO, *grpo, "--model", model, output_dir=tmp_path / "out")
    if template:
        arguments = [*TINY_SFT, "--model", model, "--chats", path_folder / "7_conversations"]
        assert complaint in refusal(capsys, SFT, *arguments, output_dir=tmp_path / "out")


def test_end_of_turn_outside_the_mask(path_folder, tmp_path, capsys):
    model = copy_of_base(path_folder, tmp_path)
    file = model / "chat_template.jinja"
    text = file.read_text()
    moved = text.replace(
        "{{- message.content + '<|im_end|>' }}\n        {%- endgeneration %}",
        "{{- message.content }}\n        {%- endgeneration %}\n        {{- '<|im_end|>' }}",
    )
    assert moved != text
    file.write_text(moved)
    arguments = [*TINY_SFT, "--model", model, "--chats", path_folder / "7_conversations"]
    assert "would never stop" in refusal(capsys, SFT, *arguments, output_dir=tmp_path / "out")


def test_several_problems_are_reported_together(path_folder, tmp_path, capsys):
    config = tmp_path / "wrong.yaml"
    config.write_text("learing_rate: 1e-3\nper_device_train_batch_size: 2.5\nlearning_rate: -1\nmax_length: lots\n")
    said = refusal(
        capsys, SFT, "--config", config, "--model", path_folder / "base", "--chats", path_folder / "7_conversations",
        output_dir=tmp_path / "out",
    )  # fmt: skip
    for part in ("did you mean `learning_rate`", "2.5", "at least 0", "'lots'"):
        assert part in said
    assert not (tmp_path / "out").exists()


def test_truncated_token_shard(path_folder, tmp_path, capsys):
    tokens = tmp_path / "tokens"
    shutil.copytree(path_folder / "6_tokens", tokens)
    (tokens / "run.yaml").unlink()
    shard = next((tokens / "validation").glob("*.ds"))
    shard.write_bytes(shard.read_bytes()[:-10])
    arguments = [*pretrain_arguments(path_folder), "--tokens", tokens]
    assert "bytes and should be" in refusal(capsys, PRETRAIN, *arguments, output_dir=tmp_path / "out")


def test_width_that_heads_do_not_divide(path_folder, tmp_path, capsys):
    arguments = [*pretrain_arguments(path_folder), "--num_heads", 3]
    said = refusal(capsys, PRETRAIN, *arguments, output_dir=tmp_path / "out")
    assert "`hidden_size` 64 must be a multiple of `num_heads` 3" in said


def test_generations_that_do_not_divide_the_batch(path_folder, tmp_path, capsys):
    arguments = [
        "--config", ROOT / "recipes/06_grpo/tiny.yaml", "--model", path_folder / "base",
        "--prompts", path_folder / "7_conversations", "--per_device_train_batch_size", 10, "--num_generations", 4,
    ]  # fmt: skip
    said = refusal(capsys, GRPO, *arguments, output_dir=tmp_path / "out")
    assert "num_generations" in said and "10" in said


def test_data_stages_refuse_folders_without_their_files(path_folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    data, web = "data_processing/", path_folder / "0_web"
    for script, arguments, complaint in (
        ("5_train_tokenizer.py", ["--corpus", tmp_path / "empty"], "holds no .parquet file"),
        ("7_build_conversations.py", ["--web", web, "--corpus", tmp_path / "empty"], "has no */*.parquet in it"),
        (
            "7_build_conversations.py",
            ["--web", tmp_path / "empty", "--corpus", path_folder / "4_corpus"],
            "no world.json",
        ),
        ("0_invent_web.py", ["--num_pages", 200, "--lesson_share", 0.75], "pages for facts"),
        ("0_invent_web.py", ["--num_rare_facts", 900], "the names allow 700 facts"),
    ):
        assert complaint in refusal(capsys, data + script, *arguments, output_dir=tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_tokenizer_without_the_tokens_of_a_chat_or_not_whole(path_folder, tmp_path, capsys):
    tokenizer = tmp_path / "tokenizer"
    shutil.copytree(path_folder / "5_tokenizer", tokenizer)
    (tokenizer / "run.yaml").unlink()
    file, script = tokenizer / "tokenizer.json", "data_processing/6_tokenize_corpus.py"
    arguments = ["--corpus", path_folder / "4_corpus", "--tokenizer", tokenizer]
    whole = file.read_text()
    file.write_text(whole.replace("</think>", "</thank>"))
    assert "lacks </think>" in refusal(capsys, script, *arguments, output_dir=tmp_path / "out")
    file.write_text(whole[:1000])
    assert "holds no tokenizer that" in refusal(capsys, script, *arguments, output_dir=tmp_path / "out")


def test_control_of_a_run_that_was_no_training(path_folder, tmp_path, capsys):
    arguments = [*TINY_SFT, "--model", path_folder / "base", "--chats", path_folder / "7_conversations"]
    said = refusal(
        capsys, SFT, *arguments, "--match_seconds_of", path_folder / "5_tokenizer", output_dir=tmp_path / "out"
    )
    assert "is no training" in said


def test_muon_is_not_clipped_by_deepspeed(path_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    arguments = [*pretrain_arguments(path_folder), "--max_grad_norm", 1.0]
    said = refusal(capsys, PRETRAIN, *arguments, output_dir=tmp_path / "out")
    assert "DeepSpeed would clip what Muon has orthogonalised already; set `max_grad_norm` to 0." in said


def test_sharding_that_was_asked_for_and_is_not_there(path_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    said = refusal(capsys, PRETRAIN, *pretrain_arguments(path_folder), output_dir=tmp_path / "out")
    assert "the accelerate config asks for FSDP2, but the training is one process" in said


def test_folders_that_do_not_exist_are_all_named(tmp_path, capsys):
    said = refusal(
        capsys, SFT, *TINY_SFT, "--model", tmp_path / "a", "--chats", tmp_path / "b", output_dir=tmp_path / "out"
    )
    assert f"{tmp_path / 'a'} does not exist" in said and f"{tmp_path / 'b'} does not exist" in said


def test_dry_run_shows_the_trained_tokens_and_writes_nothing(path_folder, tmp_path, capsys):
    arguments = [*TINY_SFT, "--model", path_folder / "base", "--chats", path_folder / "7_conversations", "--dry_run"]
    run(SFT, *arguments, "--output_dir", tmp_path / "out")
    shown = capsys.readouterr().out
    assert "<|im_end|>]" in shown and "learning_rate: 0.001" in shown
    assert not (tmp_path / "out").exists()
