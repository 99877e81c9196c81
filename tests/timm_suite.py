"""Run timm's own model tests on our models: `python tests/timm_suite.py [TIMM_VERSION]`.

timm's tests are in its source distribution on PyPI, not in its wheel. They are unpacked into a temporary folder, told
of our family in the two lists that name families (as a pull request to timm would), and run with `vt_timm` imported.
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import timm

# The lists in timm's tests/test_models.py, and our entry: VT-ResNets return tokens from `forward_features`
# (NON_STD) and have `forward_intermediates` (FEAT_INTER, by module name).
FAMILY_LISTS = {"NON_STD_FILTERS = [": "'vt_resnet*'", "FEAT_INTER_FILTERS = [": "'vt_resnet'"}
# Tests of timm 1.0.31 that list their models, and ours to add to the list.
TESTS_OF_NAMED_MODELS = {
    "test_prune_intermediate_layers_params_used": "'vt_resnet18', 'vt_resnet50', 'vt_resnet_micro'",
    "test_features_only_feature_cls_class": "'vt_resnet18', 'vt_resnet_micro'",
}


def download_tests(version: str, folder: Path) -> Path:
    """Unpack `tests/` and `pyproject.toml` of timm's source distribution; returns the path of `test_models.py`."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "timm"]
    subprocess.run([*pip, f"timm=={version}", "-d", folder], check=True)
    with tarfile.open(next(folder.glob("timm-*.tar.gz"))) as archive:
        wanted = [m for m in archive if "/tests/" in m.name or m.name.endswith(f"timm-{version}/pyproject.toml")]
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _path: member)  # Python 3.11.2
        archive.extractall(folder, members=wanted)
    return folder / f"timm-{version}" / "tests" / "test_models.py"


def add_family(test_file: Path) -> None:
    text = test_file.read_text()
    for test, names in TESTS_OF_NAMED_MODELS.items():
        assert text.count(f"\ndef {test}(") <= 1
        before, definition, after = text.partition(f"\ndef {test}(")
        if definition:  # older versions of timm lack it
            head, opening, tail = before.rpartition("@pytest.mark.parametrize('model_name', [")
            text = f"{head}{opening}{names}, {tail}{definition}{after}"
    for opening, entry in FAMILY_LISTS.items():
        assert text.count(f"\n{opening}") == 1, f"timm's tests no longer have one list `{opening}`"
        text = text.replace(f"\n{opening}", f"\n{opening}\n    {entry},")
    test_file.write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version", nargs="?", default=timm.__version__, help="timm's version (default: the installed)")
    parser.add_argument("pytest_args", nargs="*", help="more arguments for pytest, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        test_file = download_tests(args.version, Path(folder))
        add_family(test_file)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "vt_timm",
            "-n",
            "auto",
            "-k",
            "vt_resnet",
            "-rs",
            *args.pytest_args,
        ]
        return subprocess.run([*command, str(test_file)], cwd=test_file.parent.parent).returncode


if __name__ == "__main__":
    sys.exit(main())
