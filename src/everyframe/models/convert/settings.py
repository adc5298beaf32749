"""Reading other programs' configurations: what is known is used, what is not is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from everyframe.errors import InputError

Config = Mapping[str, Any]

TRAINING = {
    "type", "loss_decode", "sampler", "ignore_index", "init_cfg", "pretrained", "convert_weights", "frozen_stages",
    "with_cp", "norm_eval", "zero_init_residual", "threshold", "drop_rate", "attn_drop_rate", "pretrain_img_size",
}  # fmt: skip
"""Settings without influence on the network: losses, initialisation, what is frozen or checkpointed in training."""


class Unsupported(InputError):
    """A module or setting of mmseg for which we have no counterpart (yet)."""


def read(config: Config, known: set[str], **fixed: Sequence[Any]) -> None:
    """Refuse settings that are neither known, nor about training, nor at one of their `fixed` values."""
    kind = config.get("type", "module")
    for key, value in config.items():
        if key in fixed:
            if value not in fixed[key]:
                raise Unsupported(f"mmseg {kind}: {key}={value!r} is not supported, only {fixed[key]}")
        elif key not in known | TRAINING:
            raise Unsupported(f"mmseg {kind}: setting {key}={value!r} is not known")
