"""The five benchmarks from end to end: local files, the real vocabulary, two processes, and a report that opens."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from chromium import EXECUTABLE, Chromium
from talkers import save_random_qwen

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"aime24": 30, "amc23": 40, "math500": 500, "minerva": 272, "olympiadbench": 675}


@pytest.fixture(scope="module")
def thin_qwen(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """A random Qwen2 of one thin layer under the whole vocabulary, whose 151,936 rows take nearly all the time."""
    return save_random_qwen(
        tmp_path_factory.mktemp("thin") / "qwen",
        shared,
        hidden_size=16,
        layers=1,
        heads=1,
        key_value_heads=1,
        initializer_range=0.3,
    )


@pytest.mark.slow
def test_all_five_run_through_and_the_report_opens(thin_qwen: Path, shared: Path, tmp_path: Path) -> None:
    """Budget 7, 64 tokens an answer, seven independent samples."""
    files = ",".join(f"{name}={shared / 'data' / name}.jsonl" for name in SIZES)
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--config_file"),
        *(str(ROOT / "accelerate_configs/cpu_ddp.yaml"), "-m", "multiattempt_trl", "eval"),
        *("--model", str(thin_qwen), "--domain", "maths", "--chat_template", "qwen2_5", "--benchmarks", files),
        *("--budget", "7", "--eval_max_attempt_tokens", "64", "--eval_batch_size", "32"),
        *("--output_dir", str(tmp_path)),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, env=os.environ)
    assert done.returncode == 0, done.stderr[-4000:]
    folder = tmp_path / "eval"
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert {name: block["n"] for name, block in summary["benchmarks"].items()} == SIZES
    assert summary["average"]["n"] == sum(SIZES.values())
    assert list(summary["benchmarks"]["math500"]["levels"]) == ["1", "2", "3", "4", "5"]
    assert len(summary["benchmarks"]["math500"]["subjects"]) == 7
    lines = (folder / "episodes.jsonl").read_text(encoding="utf-8").strip().split("\n")
    assert len(lines) == sum(SIZES.values()) * (1 + 7)
    if EXECUTABLE is None:
        pytest.skip("no Chromium to open the report in; apt-get install chromium")
    with Chromium() as browser:
        browser.open((folder / "report.html").as_uri())
        browser.wait("document.documentElement.dataset.state === 'ready'")
        assert browser.messages == []
        assert "12,136" in browser.evaluate("document.body.innerText")
