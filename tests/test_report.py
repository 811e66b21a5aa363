"""One page of a run: what is there is shown, what is not says so, and no text of the web becomes HTML."""

import json
import shutil
import subprocess
import sys

import pytest
from browser import hard_to_read, needs_chromium, opened
from conftest import ROOT

REPORT = ROOT / "recipes/08_report/report.py"


def report(folder) -> str:
    ran = subprocess.run([sys.executable, REPORT, folder], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str(folder / "report.html")
    return (folder / "report.html").read_text()


@pytest.fixture
def half(path_folder, tmp_path):
    """A run that came as far as its base model."""
    for name in ("5_tokenizer", "6_tokens", "7_conversations", "base"):
        shutil.copytree(path_folder / name, tmp_path / "run" / name)
    return tmp_path / "run"


def test_a_run_half_done_says_what_is_missing(half):
    page = report(half)
    for said in ("The corpus did not run", "GRPO did not run", "DPO and PPO did not run", "The assistant did not run"):
        assert said in page
    parameters = json.loads((half / "base/metrics.json").read_text())["parameters"]
    assert (
        f"{parameters:,} parameters" in page and "bits per byte, held out" in page and "What could come next" in page
    )
    assert len(page.encode()) < 5_000_000


def test_it_is_made_of_the_folder_alone(half):
    assert report(half) == report(half)


def test_text_is_text(half):
    hostile = "</pre><script>alert(1)</script>"
    for sample in (half / "base/samples").glob("*"):
        text = sample.read_text()
        sample.write_text(
            json.dumps({hostile: [[hostile, 0.5]]}) if sample.suffix == ".json" else f"{text}\n{hostile}"
        )
    page = report(half)
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_a_stage_that_did_not_finish_does_not_count(half):
    (half / "base/run.yaml").unlink()
    assert "Pretraining did not run" in report(half)


def test_nothing_to_report(tmp_path):
    ran = subprocess.run([sys.executable, REPORT, tmp_path], capture_output=True, text=True)
    assert ran.returncode == 1 and "holds no finished stage; run recipes/run_tiny.sh first" in ran.stderr


def test_a_whole_run():
    run = ROOT / "outputs/tiny"
    if not (run / "eval_grpo/run.yaml").is_file():
        pytest.skip(f"{run} is not there; make tiny")
    page = report(run)
    assert "did not run" not in page
    for said in ("answers invented about people", "wins against SFT", "larger of two sums", "A page that", "sharpens"):
        assert said in page
    assert len(page.encode()) < 5_000_000


PAGES = ("report.html", "4_corpus/funnel.html", "5_tokenizer/tokenizer.html", "grpo/thoughts.html")


@needs_chromium
@pytest.mark.parametrize("width, dark", [(1440, False), (1440, True), (390, False), (390, True)])
def test_in_a_browser(path_folder, half, width, dark):
    """Of the whole run, if there is one, every page; else of a run half done. Wide and narrow, light and dark, on paper."""
    run = ROOT / "outputs/tiny"
    if not (run / "report.html").is_file():
        run = half
        report(run)
    for name in PAGES:
        if not (run / name).is_file():
            continue
        with opened((run / name).as_uri(), width=width, dark=dark) as (page, wrong):
            loaded = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
            assert 0 < loaded < 2000
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
            assert not hard_to_read(page), name
            for summary in page.locator("summary").all()[:3]:
                summary.focus()
                before = summary.evaluate("e => e.parentElement.open")
                page.keyboard.press("Enter")
                assert summary.evaluate("e => e.parentElement.open") != before, "opens by keyboard"
            assert page.evaluate("[...document.images].every((image) => image.alt)")
            page.emulate_media(media="print")
            assert not hard_to_read(page), f"{name} on paper"
            assert not wrong
