"""What the package and its first page say of the package."""

import ast
import json
import re
import subprocess
import sys
from importlib.metadata import metadata, requires
from pathlib import Path

import pytest
import yaml

import vt_timm

ROOT = Path(__file__).parents[1]
IMPORTED_AS = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn"}


def test_every_imported_package_is_declared():
    """Also those that only some commands need, which an extra names."""
    declared = {re.match(r"[\w.-]+", line)[0].lower().replace("-", "_") for line in requires("vt_timm")}
    imported = set()
    for path in ROOT.glob("vt_timm/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition(".")[0])
    packages = {IMPORTED_AS.get(name, name).replace("-", "_") for name in imported - sys.stdlib_module_names}
    assert {"torch", "numpy", "pillow"} <= packages
    assert sorted(packages - declared - {"vt_timm"}) == []


def test_version_and_citation_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == vt_timm.__version__ == metadata("vt_timm")["Version"]
    assert f"`{vt_timm.__version__}`" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (bibtex,) = re.findall(r"```bibtex\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    paper = citation["preferred-citation"]
    names = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    assert f"title={{{paper['title']}}}" in bibtex and f"author={{{names}}}" in re.sub(r"\s+", " ", bibtex)


def test_the_address_of_the_repository_stands_in_one_place():
    addresses = [url.partition(", ")[2] for url in metadata("vt_timm").get_all("Project-URL")]
    (address,) = [url for url in addresses if url.endswith("/vt_timm")]
    found = subprocess.run(["git", "grep", "-lF", address], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["pyproject.toml"]


def test_badges_say_what_the_package_says():
    about = metadata("vt_timm")
    oldest = about["Requires-Python"].removeprefix(">=")
    for name, said in (("license", about["License-Expression"]), ("python", f"&#8805; {oldest}")):
        badge = (ROOT / "hub" / "pictures" / f"{name}.svg").read_text(encoding="utf-8")
        assert f">{said}</text>" in badge and f">{name}</text>" in badge


def test_the_size_that_readme_names_is_that_of_the_record():
    records = json.loads((ROOT / "benchmarks" / "results" / "records.json").read_text(encoding="utf-8"))
    size = records["environment"]["megabytes"]
    (said,) = re.findall(r"takes about (\d+) GB", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert 1000 * int(said) == pytest.approx(size, rel=0.1)
    assert sum(records["environment"]["largest"][name] for name in ("nvidia", "triton")) > size / 2
    assert records["environment_cpu"]["megabytes"] < size / 4


def test_readmes_python_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert names["answer"].label == "church"
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["answer.png", "tokens.png", "vt.onnx"]
