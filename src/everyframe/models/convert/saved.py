"""A saved model of ours -> the beginning of another one."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.models.convert.keys import few
from everyframe.models.convert.positions import fit_positions, is_position, positioned
from everyframe.models.segmenter import Segmenter
from everyframe.models.state import difference, load_state, read_state

logger = logging.getLogger(__name__)

BACKBONE = "backbone."


def start_from(model: Segmenter, folder: str | Path) -> list[str]:
    """Put the weights of a saved model into another one, as far as they fit.

    The backbones must be the same; positions learned for another frame size are fitted. Of head and temporal module,
    what has the same name and shape is taken: another head, or another number of classes, starts fresh.

    Args:
        model: changed in place.
        folder: of the saved model, as `everyframe convert` and training write it.

    Returns:
        Names that stay fresh.

    Raises:
        InputError: no such model, or another backbone.
    """
    from everyframe.models.checkpoint import WEIGHTS, read_config
    from everyframe.models.zoo import create_model

    folder = Path(folder)
    config, state = read_config(folder), read_state(folder / WEIGHTS)
    found = difference(model, state)
    if any(name.startswith(BACKBONE) and is_position(name) for name in found.mismatched):
        with torch.device("meta"):
            before = create_model(config["name"], LabelSpace.from_dict(config["label_space"]), **config["options"])
        place = positioned(before.backbone)
        state, _ = fit_positions(state, model, None if place is None else place[1])
        found = difference(model, state)
    wrong = [name for name in (*found.missing, *found.unexpected, *found.mismatched) if name.startswith(BACKBONE)]
    if wrong:
        raise InputError(
            f"{folder}: expected the backbone of {model.config['name']!r}, came that of {config['name']!r}: "
            f"{len(wrong)} weights differ: {few(wrong)}; choose the model that fits, or convert the file again"
        )
    own = model.state_dict()
    fitting = {name: x for name, x in state.items() if name in own and name not in found.mismatched}
    load_state(model, {**own, **fitting}, folder)
    fresh = [*found.missing, *found.mismatched]
    logger.info("%s: %d weights taken; fresh: %s", folder, len(fitting), few(fresh) or "none")
    return fresh
