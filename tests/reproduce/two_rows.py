"""An experiment of two rows, so that tests of running one do not depend on what the papers' hold."""

from __future__ import annotations

from everyframe.reproduce.experiment import ALL_LABELS, Experiment, row

ROWS = tuple(row(name, "ocr-tiny", ALL_LABELS, {"model.name": f"ocr-{name}"}) for name in ("tiny", "resnet18"))
TWO_ROWS = Experiment("two rows", lambda backbone: ROWS)
