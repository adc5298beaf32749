"""What `train` chooses of Lightning's trainer by the machine it is on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_run import run

from everyframe.errors import InputError
from everyframe.training.run import on_cuda


@pytest.mark.parametrize(
    ("cuda", "accelerator", "expected"),
    [(True, None, True), (True, "gpu", True), (True, "cuda", True), (True, "cpu", False), (False, None, False)],
)
def test_batch_norm_is_synchronised_on_cuda_alone(
    cuda: bool, accelerator: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert on_cuda({} if accelerator is None else {"accelerator": accelerator}) is expected


def test_what_train_sets_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leaves to the caller, came max_steps, val_check_interval; leave them out"):
        run(tmp_path, 2, max_steps=7, val_check_interval=1)
