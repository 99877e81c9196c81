"""The way from a training run to a folder for the Hub (config.json, model.safetensors, README.md).

The folder is loaded back as a user would load it and must say of a photo what the run says, bit for bit and names
included, before it is put in place and before anything goes up. No metric is typed: the card says who measured it.
"""

import datetime
import itertools
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from huggingface_hub.repocard import metadata_load

from ..cards.card import TAG
from ..errors import first_line
from ..files import folder_beside, move, writing
from ..pipelines.pipeline import Pipeline
from ..pipelines.sources import load, pipeline_of
from ..run_files import ARGUMENTS, CARD, CONFIG, METRICS, SETTINGS, WEIGHTS
from ..runs.run import Publication, Run, RunError
from ..runs.segmenter_run import SegmenterRun
from ..runs.train_run import TrainRun
from ..weights.published import name_of_folder

FILES = (CONFIG, WEIGHTS, CARD)
KEPT = {CARD: "README.old.md", CONFIG: "config.old.json"}  # of what was there before, where it says something else
OF_A_RUN = (ARGUMENTS, SETTINGS, METRICS)


def open_run(folder: Path) -> Run:
    """Return the run of train.py or of train-segmenter that lies in a folder.

    Raises:
        RunError: if there is none, naming the file that is missing.
    """
    return SegmenterRun(folder) if (folder / SegmenterRun.settings_file).is_file() else TrainRun(folder)


@dataclass(frozen=True)
class Published:
    """A folder for the Hub.

    Args:
        folder: where it lies, or would lie after a dry run.
        sizes: its files, with their sizes in bytes.
        kept: where the card and the config that were there are kept, if they said something else.
    """

    folder: Path
    sizes: dict[str, int]
    kept: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Draft:
    """A folder that says what its run says, and has no card yet.

    Args:
        run: the run.
        how: how it is published.
        files: where config and weights lie.
        folder: where they go.
    """

    run: Run
    how: Publication
    files: Path
    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        return json.loads((self.files / CONFIG).read_text(encoding="utf-8"))

    def metrics(self) -> dict[str, Any]:
        """Return what the run measured of these weights."""
        return self.run.metrics(self.config, self.how)

    def finish(self, metrics: dict[str, Any]) -> Published:
        """Write the card with these metrics, and put the folder in place; card and config that were there are kept.

        A dry run leaves the place as it is.
        """
        text = self.run.card(self.config, metrics, self.how)
        kept = []
        with writing(f"to {self.folder}"):
            (self.files / CARD).write_text(text, encoding="utf-8")
            sizes = {name: (self.files / name).stat().st_size for name in FILES}
            if self.how.dry_run:
                return Published(self.folder, sizes)
            self.folder.mkdir(exist_ok=True)
            for name, old in KEPT.items():
                there = self.folder / name
                if there.is_file() and there.read_bytes() != (self.files / name).read_bytes():
                    kept.append(_not_taken(self.folder / old))
                    os.replace(there, kept[-1])
            for name in FILES:
                move(self.files / name, self.folder / name)
        return Published(self.folder, sizes, tuple(kept))


def publish(run: Run, how: Publication, folder: Path) -> Published:
    """Write the folder of a run, with what the run itself measured on its card.

    Args:
        run: a run of train.py or train-segmenter.
        how: how it is published.
        folder: the folder to write.

    Raises:
        UserError: as for `draft`.
    """
    with draft(run, how, folder) as new:
        return new.finish(new.metrics())


@contextmanager
def draft(run: Run, how: Publication, folder: Path) -> Iterator[Draft]:
    """Yield the folder before it is put in place; until it is finished an older one stays.

    Raises:
        UserError: if the run cannot be published, its answers are no numbers, the folder does not say what the run
            says, or the place holds files of the user's.
    """
    _check_place(folder)
    with ExitStack() as stack:
        with writing(f"to {folder}"):
            if how.dry_run:
                files = Path(stack.enter_context(TemporaryDirectory()))
            else:
                folder.parent.mkdir(parents=True, exist_ok=True)
                # A folder that is there may be on another disk than its parent, which need not be ours to write to.
                files = stack.enter_context(folder_beside(folder / CONFIG if folder.is_dir() else folder))
            network = run.save(files, how)
        if not _same_answers(pipeline_of(network, how.name), files):
            raise RunError(f"{how.name}, loaded back, gives other predictions than the run: nothing was written")
        yield Draft(run, how, files, folder)


def _check_place(folder: Path) -> None:
    """Refuse a place where something else than an older published folder would be replaced."""
    if os.path.lexists(folder) and not folder.is_dir():
        kind = "a file" if folder.exists() else "a link that leads nowhere"
        raise RunError(f"-o {folder}: this is {kind}; name a folder")
    if any((folder / name).exists() for name in OF_A_RUN):
        raise RunError(f"-o {folder}: this is a run, in which nothing is replaced; name another folder")
    there = [name for name in FILES if (folder / name).exists()]
    if there and not _is_published(folder):
        raise RunError(
            f"-o {folder}: its {' and '.join(there)} would be replaced, which vt-timm publish did not write; name "
            "another folder"
        )


def _is_published(folder: Path) -> bool:
    try:
        return TAG in (metadata_load(folder / CARD) or {}).get("tags", ()) and (folder / CONFIG).is_file()
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):  # a card that somebody else wrote
        return False


def _not_taken(path: Path) -> Path:
    """Return the path, with a number if there is a file already: README.old.md, README.old.2.md, ..."""
    numbered = (path.with_suffix(f".{number}{path.suffix}") for number in itertools.count(2))
    return next(one for one in itertools.chain([path], numbered) if not one.exists())


def _same_answers(model: Pipeline, folder: Path) -> bool:
    """True if the folder, loaded as a user would load it, gives the model's answer, bit for bit."""
    answers = []
    for one in (model, load(str(folder))):
        output = one.run(one.example())
        answers.append((output, one.class_names, json.dumps(one.facts())))
    (logits, *said), (logits_again, *said_again) = answers
    return torch.equal(logits, logits_again) and said == said_again


def push(folder: Path, repository: str, private: bool) -> str:
    """Upload the folder's three files in one commit, and return the commit's page.

    Raises:
        RunError: in one line, if the Hub does not take them.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=list(FILES), commit_message=f"Upload {folder.name}"
        )
    except LocalTokenNotFoundError as error:
        raise RunError("the Hub wants to know who you are: log in with `hf auth login`, or set HF_TOKEN") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        advice = "log in with `hf auth login` as one who may write there" if status in (401, 403) else "try again later"
        raise RunError(f"the Hub refused {repository} (HTTP {status}): {advice}; {folder} is kept") from error
    except Exception as error:  # whatever its transports raise for a network that fails
        raise RunError(
            f"{repository} was not uploaded, {constants.ENDPOINT} did not answer ({first_line(error)}): try again, "
            f"{folder} is kept"
        ) from error
    return str(commit.commit_url)


def report(done: Published, how: Publication, upload: bool, private: bool = False) -> None:
    """Print what was written, and upload it.

    Args:
        done: the folder.
        how: how it was published; of a dry run it is said only what would be written, or go up.
        upload: True to upload it.
        private: True to make a new repository private.
    """
    print(f"{done.folder}: loaded back, same predictions")
    for name, size in done.sizes.items():
        print(f"  {name:<20}{size:>14,} bytes")
    for path in done.kept:
        print(f"the {'card' if path.suffix == '.md' else 'config'} that was there stays here, as {path}")
    if how.dry_run:
        place = f"{constants.ENDPOINT}/{how.repository}" if upload else done.folder
        print(f"dry run, {datetime.date.today()}: nothing was written; these would go to {place}")
    elif not upload:
        print("not uploaded; --push ORG/NAME would upload it")
        name = name_of_folder(done.folder)
        print(f"its name: --model {shlex.quote(name)}, in Python vt_timm.load({name!r})")
    else:
        print(push(done.folder, how.repository, private))
