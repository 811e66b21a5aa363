"""What `pip install` gets: a wheel with the templates in it, from which a copied recipe runs."""

import subprocess
import sys
import zipfile

from conftest import ROOT


def test_wheel_and_sdist_hold_everything(tmp_path):
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", ROOT]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert list((tmp_path / "dist").glob("*.tar.gz"))
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
