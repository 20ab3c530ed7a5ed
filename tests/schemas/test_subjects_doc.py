"""docs/subjects.md is what the schemas say."""

import re
import subprocess
import sys
from pathlib import Path

from runners.subjects_doc import REGENERATE, page
from schemas.wire import registered

ROOT = Path(__file__).parents[2]


def test_the_page_is_current() -> None:
    kept = (ROOT / "docs" / "subjects.md").read_text()
    assert kept == page(), f"the schemas have changed: run `{REGENERATE}`"


def test_every_message_and_every_link_has_its_heading() -> None:
    text = page()
    headings = {line.removeprefix("### ").lower() for line in text.splitlines() if line.startswith("### ")}
    assert {wire.type.__name__.lower() for wire in registered()} <= headings
    links = set(re.findall(r"\]\(#([\w-]+)\)", text))
    assert links
    assert links <= headings


def test_check_tells_a_current_page_from_an_old_one(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    current = tmp_path / "docs" / "subjects.md"
    current.write_text(page())
    assert _check(tmp_path).returncode == 0
    current.write_text(page().replace("shoal.jobs.submit", "shoal.jobs.send"))
    old = _check(tmp_path)
    assert old.returncode == 1
    assert REGENERATE in old.stderr


def _check(where: Path) -> "subprocess.CompletedProcess[str]":
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from runners.subjects_doc import main; sys.exit(main(['--check']))"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=where, capture_output=True, text=True, check=False, timeout=60)
