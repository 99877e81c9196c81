"""Numbers of the pages come from the records: none is typed."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from vt_timm.recipes import find_recipe

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
NUMBER = r"(?<![\w.])\d+\.\d+(?!\.?\w)"

# Decimals that are worked out of records, or are settings: each with the test or the file that holds it.
ELSEWHERE = {
    "9.32": "mean of two seeds, test_readme_quotes_the_segmentation_record",
    "84.97": "mean of two seeds, test_readme_quotes_the_segmentation_record",
    "84.50": "mean of two seeds, test_readme_quotes_the_segmentation_record",
    "0.89": "a ratio of counts, test_readme_holds_the_recorded_tables_and_sentences",
}


def numbers_of_records() -> Iterator[float]:
    def walk(value: object) -> Iterator[float]:
        if isinstance(value, dict):
            for item in value.values():
                yield from walk(item)
        elif isinstance(value, list):
            for item in value:
                yield from walk(item)
        elif isinstance(value, int | float) or (isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value)):
            yield float(value)

    for path in RESULTS.rglob("*.json"):
        yield from walk(json.loads(path.read_text()))
    for path in RESULTS.rglob("*.csv"):
        with path.open() as file:
            yield from walk(list(csv.reader(file)))
    yield from walk(yaml.safe_load(find_recipe("advanced_in1k").read_text()))


def prose(page: str) -> str:
    """Without code, addresses of links, and numbers of papers and versions."""
    for pattern in (
        r"^---\n.*?\n---\n",
        r"```.*?```",
        r"`[^`]*`",
        r"\]\([^)]*\)",
        r"arXiv:\S+",
        r"(timm|Python) [\d.]+",
    ):
        page = re.sub(pattern, " ", page, flags=re.DOTALL)
    return page


@pytest.mark.parametrize("page", ["README.md", "MODEL_CARD.md"])
def test_every_decimal_is_in_a_record(page):
    known = set(numbers_of_records())
    found = re.findall(NUMBER, prose((ROOT / page).read_text()))
    assert len(found) >= 4, "the pattern finds none"
    untraced = [
        number
        for number in found
        if number not in ELSEWHERE
        and not any(round(value, len(number.partition(".")[2])) == float(number) for value in known)
    ]
    assert not untraced


def test_the_check_finds_a_typed_number():
    assert re.findall(NUMBER, prose("reached 12.34 % ([log](a/9.87)), `0.5`, arXiv:2006.03677, timm 1.0.26")) == [
        "12.34"
    ]
