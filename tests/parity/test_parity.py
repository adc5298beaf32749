"""Our modules compute what the reference implementations computed, from their weights, for every case of a folder.

The folder is `EVERYFRAME_GOLDEN`, by default `tests/golden`. A case chooses its builder by what its own config says
about the reference, never by its file name; a case whose module is not built yet is skipped under its name.
"""

from __future__ import annotations

import re
from pathlib import Path

import builders_adapter
import builders_backbones
import builders_boundary
import builders_etc
import builders_losses
import builders_mask2former
import builders_mmseg
import builders_raft
import builders_vspw
import pytest
import torch
from cases import FOLDER, Builder, Case, NotBuilt, compare, find, holds_metrics, load

REPOSITORIES: dict[str, dict[str, Builder]] = {
    "open-mmlab/mmsegmentation": builders_mmseg.BUILDERS | builders_losses.BUILDERS | builders_mask2former.MMSEG,
    "robin-karlsson0/ViT-Adapter": builders_mask2former.ADAPTER | builders_adapter.ADAPTER,
    "baaivision/EVA": builders_adapter.EVA | builders_backbones.BUILDERS,
    "OpenGVLab/InternImage": builders_backbones.BUILDERS,
    "microsoft/FocalNet": builders_backbones.BUILDERS,
    "huggingface/transformers": builders_mask2former.TRANSFORMERS,
    "sssdddwww2/CVPR2021_VSPW_Implement": builders_vspw.BUILDERS | builders_raft.BUILDERS,
    "irfanICMLL/ETC-Real-time-Per-frame-Semantic-video-segmentation": builders_etc.BUILDERS,
    "NVIDIA/semantic-segmentation": builders_boundary.NVIDIA,
    "Qualcomm-AI-research/InverseForm": builders_boundary.INVERSE_FORM,
}
"""Start of the reference's repository -> its classes -> builder. A further reference is a file and a line here."""


def builder_of(case: Case) -> Builder:
    """Return the builder for a case."""
    # By the whole text, or by one class: of "FCNHead -> OCRHead (CascadeEncoderDecoder)" the last head's, of
    # "EncoderDecoder(SwinTransformer, ...)" the model's.
    last = re.split(r"\s*->\s*", case.reference)[-1]
    names = (case.reference, last, re.split(r"[\s(,]", last)[0])
    for prefix, builders in REPOSITORIES.items():
        found = [name for name in names if name in builders]
        if case.repository.startswith(prefix) and found:
            return builders[found[0]]
    raise NotBuilt(f"{case.reference} of {case.repository}: not built yet")


@pytest.mark.parity
@pytest.mark.parametrize("path", [path for path in find() if not holds_metrics(path)], ids=lambda path: path.stem)
def test_case(path: Path) -> None:
    case = load(path)
    try:
        build = builder_of(case)
        with torch.no_grad():
            got = build(case)
    except NotBuilt as reason:
        pytest.skip(f"{path.stem}: {reason}")
    compare(got, case)


def test_folder_has_cases() -> None:
    assert find(), f"{FOLDER}: expected *.safetensors cases; point EVERYFRAME_GOLDEN at a folder that has some"
