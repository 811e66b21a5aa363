"""What `pip install` gets: a wheel with the templates in it, from which a copied recipe runs; what an sdist unpacks to."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from conftest import ROOT, SMALL, metrics


def test_wheel_and_sdist_hold_everything_for_a_copied_recipe(path_folder, tmp_path):
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", ROOT]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    unpacked = {name.partition("/")[2] for name in tarfile.open(sdist).getnames()}
    folders = ("accelerate_configs", "benchmarks", "data_processing", "docs", "recipes", "src", "tests")
    suffixes = (".css", ".jinja", ".md", ".py", ".sh", ".yaml")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    shipped = {path.relative_to(ROOT).as_posix() for path in files}
    assert shipped | {"constraints.txt", "Makefile", ".ci/run"} <= unpacked
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        f"crawl2chat/{path.name}"
        for path in (ROOT / "src/crawl2chat").iterdir()
        if path.suffix in (".py", ".jinja", ".css")
    }
    assert sources <= names and not [name for name in names if name.startswith(("tests/", "recipes/"))]

    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = "import crawl2chat, crawl2chat.chat as chat; print(crawl2chat.__file__); chat.chat_template()"
    environment = {
        "PYTHONPATH": str(tmp_path / "installed")
    }  # before the folder in which this repository is installed
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert ran.returncode == 0 and str(tmp_path / "installed") in ran.stdout, ran.stderr

    # Scripts and YAMLs that were copied somewhere else, with nothing of this repository beside them.
    for folder in ("data_processing", "recipes/01_pretrain", "recipes/07_evaluate"):
        shutil.copytree(ROOT / folder, tmp_path / "mine" / Path(folder).name)

    def copied(script: str, *arguments) -> None:
        command = [sys.executable, script, *map(str, arguments), "--output_dir", tmp_path / "out" / Path(script).stem]
        ran = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **environment}, cwd=tmp_path / "mine"
        )
        assert ran.returncode == 0, ran.stderr

    out = tmp_path / "out"
    copied("data_processing/5_train_tokenizer.py", "--vocab_size", 400, "--corpus", path_folder / "4_corpus")
    copied(
        "data_processing/6_tokenize_corpus.py",
        "--corpus",
        path_folder / "4_corpus",
        "--tokenizer",
        out / "5_train_tokenizer",
    )
    shape = [*SMALL, "--max_steps", 2, "--config", "01_pretrain/tiny.yaml"]
    copied("01_pretrain/pretrain.py", *shape, "--tokens", out / "6_tokenize_corpus")
    asked = ["--base", "true", "--max_new_tokens", 4, "--tests", path_folder / "7_conversations"]
    copied("07_evaluate/run_eval.py", "--model", out / "pretrain", *asked)
    assert metrics(out / "run_eval")["num_problems"]
