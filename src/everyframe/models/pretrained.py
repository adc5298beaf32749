"""Pretrained weights that timm downloads, and what to do where they cannot be had."""

from __future__ import annotations

from typing import Any

from torch import nn

from everyframe.errors import InputError
from everyframe.models.hub import cache_folder, no_long_wait
from everyframe.models.state import first_line


def pretrained_model(name: str, **options: Any) -> nn.Module:
    """Build timm's model `name` with its published weights, from the local cache or the hub.

    Args:
        name: of timm, with its tag.
        **options: of `timm.create_model`.

    Raises:
        InputError: the weights are not here and cannot be downloaded; within seconds where there is no network.
    """
    import timm

    try:
        with no_long_wait():
            model: nn.Module = timm.create_model(name, pretrained=True, **options)
    except (OSError, RuntimeError) as error:
        raise InputError(_cannot_be_had(name, error)) from None
    return model


def _cannot_be_had(name: str, error: Exception) -> str:
    import timm

    config = timm.get_pretrained_cfg(name)
    where = getattr(config, "hf_hub_id", None) or f"timm/{name}"
    return (
        f"expected the pretrained weights {name!r} ({where} on the Hugging Face hub), they are not on this machine and "
        f"cannot be downloaded ({first_line(error)}); go on without them by `--model.pretrained false` "
        f"(pretrained=False; the recipe fcn-ssltm-tiny is made to train from nothing); or start from a model's "
        f"folder by `--model.pretrained false --init FOLDER`; or fetch them where there is a network, "
        f"`hf download {where}`, and copy the folder of it into {cache_folder()}"
    )
