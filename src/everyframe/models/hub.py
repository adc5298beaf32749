"""The Hugging Face hub: fetch a model folder, upload one, write its card. Knows files, not models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from everyframe.errors import InputError
from everyframe.models.state import first_line

ANSWERS_WITHIN = 5.0
"""Seconds in which the hub must answer; else only what lies in the local cache is taken."""


@contextmanager
def no_long_wait() -> Iterator[None]:
    """Within, the hub's library fails at once, or takes what lies in the cache, where the hub does not answer.

    By itself it tries each file again and again, for half a minute.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers() -> bool:
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=ANSWERS_WITHIN)
    except Exception:  # of the library's HTTP client, which differs from version to version
        return False
    return True


def cache_folder() -> str:
    """Return the folder in which the hub's library keeps what was downloaded; HF_HOME moves it."""
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def download(repo: str, files: Sequence[str]) -> Path:
    """Fetch some files of a repository (or take them from the local cache) and return the folder where they lie.

    Args:
        repo: "owner/name" or "owner/name@revision".
        files: names of the files, or patterns of them such as model-*.safetensors; nothing else is fetched.

    Raises:
        InputError: not an id, no such repository, or no network.
    """
    repo_id, _, revision = repo.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise InputError(f"{repo}: expected a model folder or a hub id such as owner/name, found no such folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        with no_long_wait():
            return Path(snapshot_download(repo_id, revision=revision or None, allow_patterns=list(files)))
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise InputError(
            f"{repo}: found neither such a folder here nor such a model on the hub ({first_line(error)}); check the "
            f"name, or `hf auth login` if it is private"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise InputError(
            f"{repo}: no such folder here, and the hub cannot be reached ({first_line(error)}); check the network, or "
            f"copy the model's folder here and give its path"
        ) from None


def upload(folder: Path, repo_id: str, *, private: bool, token: str | None, commit_message: str) -> str:
    """Upload a folder, creating the repository when missing, and return the address of the commit.

    Raises:
        InputError: not an id, no access, or no network.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message))
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise InputError(
            f"cannot upload to {repo_id!r}: {first_line(error)}; check the id (owner/name), `hf auth login`, and the "
            f"network"
        ) from None


_CARD = """\
---
library_name: everyframe
pipeline_tag: image-segmentation
tags: [video-semantic-segmentation, everyframe]
---

# {title}

`{name}`: a label map for every frame of a video, {count} classes.

```python
import everyframe

model = everyframe.load("{repo_id}")
for frame, labels in model.stream("video.mp4"):
    ...
```

| metric (variant) | value |
| --- | --- |
{metrics}

Classes: {classes}.

Saved by everyframe {version}.
"""


def model_card(config: Mapping[str, Any], repo_id: str) -> str:
    """Return the model card in Markdown: how to run it, its classes, and its numbers with their definitions.

    Args:
        config: content of the model's `config.json`.
        repo_id: "owner/name".
    """
    rows = [f"| {name} | {value:.4f} |" for name, value in config["metrics"].items()] or ["| not measured yet | |"]
    names = config["label_space"]["names"]
    return _CARD.format(
        title=repo_id.split("/")[-1],
        name=config["name"],
        count=len(names),
        repo_id=repo_id,
        metrics="\n".join(rows),
        classes=", ".join(names),
        version=config["everyframe_version"],
    )
