"""The pages that people read: their links lead somewhere, and the first ones stay short and free of loose numbers."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, text=True, capture_output=True).stdout.split()


def blocks(page: str) -> list[str]:
    """Paragraphs and list items of a page, without front matter, code, tables, comments and addresses of links."""
    text = (ROOT / page).read_text()
    for pattern in (r"\A---\n.*?\n---\n", r"```.*?```", r"<!--.*?-->", r"^\|.*?$", r"`[^`]*`", r"(?<=\])\([^)]*\)"):
        text = re.sub(pattern, "", text, flags=re.DOTALL | re.MULTILINE)
    return re.split(r"\n\s*\n|\n(?=- )", text)


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_and_pictures_exist(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(\s*([^)\s]+)\)", text) if ":" not in target]
    assert not [target for target in targets if target and not (ROOT / page).parent.joinpath(target).exists()]


@pytest.mark.parametrize("page", ["README.md", "MODEL_CARD.md"])
def test_a_first_page_is_short_and_has_decimals_in_tables_only(page):
    assert len((ROOT / page).read_text().split()) < 1200
    assert max(len(block.split()) for block in blocks(page)) <= 60
    prose = re.sub(r"Python [\d.]+|CC BY 2.0|Apache-2.0", "", "\n".join(blocks(page)))
    assert not re.findall(r"\d+\.\d+", prose)
