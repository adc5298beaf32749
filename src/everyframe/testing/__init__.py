"""What is asked of models and losses, as checks for parts of one's own; the package holds its own to them too.

>>> from everyframe import LabelSpace, create_model
>>> from everyframe.testing import check_model, settle
>>> model = create_model("ocr-gru-tiny", LabelSpace(("road", "car", "sky")))
>>> [str(found) for found in check_model(settle(model)) if not found.holds]
[]
"""

from everyframe.testing.losses import check_pixel_loss, check_term
from everyframe.testing.models import PROMISES, Found, check_model, settle
from everyframe.testing.scenes import moving_scene

__all__ = ["PROMISES", "Found", "check_model", "check_pixel_loss", "check_term", "moving_scene", "settle"]
