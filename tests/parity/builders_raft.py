"""Builder for the case of RAFT, whose weights come from a formula."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from cases import Builder, Case
from torch import Tensor
from torchvision.models.optical_flow import raft_large

from everyframe.models.convert.keys import convert
from everyframe.models.convert.raft import RAFT


def formula_weights(table: Sequence[Sequence[Any]], seed: int) -> dict[str, Tensor]:
    """Compute a + b * u for every (key, shape, a, b); u by splitmix64, as `config["weights"]["formula"]` says."""
    state = {}
    for key, shape, a, b in table:
        count = int(np.prod(shape))
        with np.errstate(over="ignore"):
            x = (np.uint64(zlib.crc32(key.encode()) ^ seed) << np.uint64(32)) + np.arange(count, dtype=np.uint64)
            z = x + np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z ^= z >> np.uint64(31)
        k = (z >> np.uint64(40)).astype(np.int64)
        u = ((2 * k - 2**24) / 2**24).astype(np.float32)
        state[key] = torch.from_numpy(np.float32(a) + np.float32(b) * u).view(*shape)
    return state


def raft(case: Case) -> dict[str, Tensor]:
    """`RAFT`, the basic model."""
    weights: Mapping[str, Any] = case.config["weights"]
    state = formula_weights(weights["table"], case.config["seed"])
    for key, (first, last, total) in weights["probe"].items():
        x = state[key].flatten()
        assert (x[0].item(), x[-1].item()) == (first, last), key
        assert abs(x.double().sum().item() - total) < 1e-6 * x.numel(), key
    network = raft_large(weights=None).eval()
    loaded = network.load_state_dict(convert(state, RAFT, case.path), strict=False)
    assert not loaded.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in loaded.missing_keys)

    first, second = (case.inputs[f"image{i}"].float() / 127.5 - 1 for i in (1, 2))
    maps: list[Tensor] = []
    deltas: list[Tensor] = []
    network.feature_encoder.register_forward_hook(lambda module, inputs, output: maps.append(output))
    network.update_block.register_forward_hook(lambda module, inputs, output: deltas.append(output[1]))
    fields = network(first, second, num_flow_updates=max(case.args["iters"]))
    outputs = {"fmap1_mean": maps[0][:1].mean((2, 3)), "fmap2_corner": maps[0][1:, :, :2, :2]}
    for n in case.args["iters"]:
        outputs[f"flow_low_{n}"] = torch.stack(deltas[:n]).sum(0)
        outputs[f"flow_up_{n}"] = fields[n - 1]
    return outputs


BUILDERS: dict[str, Builder] = {"RAFT": raft}
"""Class of the RAFT code -> builder."""
