"""Presets: what several options are together when a recipe or a command names a paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from everyframe.errors import InputError

Preset = Literal["vspw2023"]

PRESETS: dict[Preset, dict[str, Any]] = {
    "vspw2023": {"masks.classification": 2.0, "masks.mask": 1.0, "masks.dice": 5.0, "objective.contrastive": 0.1},
}
"""Preset -> dotted options. "vspw2023": the weights of the losses of the VSPW 2023 winner, equation 4."""

PRESET_HELP = "a paper's weights of the losses, where none are given: vspw2023 (masks.* 2 / 1 / 5, contrastive 0.1)"


def with_preset(options: Mapping[str, Any], named: str) -> dict[str, Any]:
    """Return dotted options with those of their `preset` in its place; what they say themselves wins.

    Args:
        options: dotted options of a recipe, or of a command.
        named: how a message names where they stand.

    Raises:
        InputError: there is no such preset.
    """
    given = dict(options)
    preset = given.pop("preset", None)
    if preset is None:
        return given
    if not isinstance(preset, str) or preset not in PRESETS:
        raise InputError(f"{named}: expected a preset of {', '.join(get_args(Preset))}, came {preset!r}")
    return {**PRESETS[preset], **given}
