"""`everyframe bench model`: what a recipe's model costs whole, in prediction and in training, beside others.

predict   one `step` of a stream whose state is full
train     forward, the recipe's losses, backward, the recipe's optimiser; on clips of noise

Everything in turns within one run, so that ratios hold on a machine that does other work too. Weights are random. The
share of the matrix rate is that of the operations counted in matrix products and convolutions (deformable attention
gathers, and has few of them) in what a product of two large matrices of the same type reaches here. Memory is the peak
above weights and what the optimiser keeps of them.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from everyframe.cli.bench_predict import machine
from everyframe.cli.parser import Parser
from everyframe.cli.peak_memory import PeakMemory
from everyframe.cli.timing import add_run_options, in_turns, tell, timed, wait
from everyframe.data.sampling import ClipSampling, Reference
from everyframe.errors import InputError
from everyframe.frames import IGNORE, Clip, Role
from everyframe.inference.stream import pick_device, pick_dtype
from everyframe.labels import LabelSpace
from everyframe.models.cost import count_macs, count_operations, count_parameters
from everyframe.models.ops.deform_attn import CHOICES, only
from everyframe.models.segmenter import Segmenter
from everyframe.models.zoo import create_model

PASSES = ("predict", "train")
PEERS = ("transformers",)


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = Parser(
        prog="everyframe bench model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--recipe", default="vspw2023-contrastive", help="see `everyframe train --list` (%(default)s)")
    add("--size", type=int, nargs=2, metavar=("H", "W"), help="of frames and crops (default: the recipe's crop)")
    add("--classes", type=int, default=124, help="%(default)s")
    add("--batch", type=int, default=1, help="clips of a training step (%(default)s)")
    add("--passes", nargs="+", choices=PASSES, default=PASSES, help="which to time (default: both)")
    add("--ops", nargs="+", choices=CHOICES, default=["auto"], help="forms of deformable attention (%(default)s)")
    add("--beside", nargs="*", choices=PEERS, default=[], help="the same backbone under Mask2Former of this package")
    add("--rounds", type=int, default=5, help="timed calls of each; medians count (%(default)s)")
    add_run_options(made)
    return made


def main(arguments: list[str]) -> int:
    """Measure, print a table, and write JSON where asked to."""
    options = parser().parse_args(arguments)
    if min(options.classes - 1, options.batch, options.rounds, *(options.size or [1])) < 1:
        raise InputError("bench model: expected numbers of at least 1, and 2 classes or more, came smaller ones")
    if options.threads:
        torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    numbers: dict[str, Any] = {
        "machine": machine(), "arguments": {k: str(v) for k, v in vars(options).items()}, "device": str(device),
        **measure(
            options.recipe, options.size, options.classes, options.batch, options.passes, options.ops, options.beside,
            options.rounds, device, pick_dtype(options.dtype, device),
        ),
    }  # fmt: skip
    tell(numbers, describe(numbers), options.json)
    return 0


def measure(
    recipe: str,
    size: Sequence[int] | None,
    classes: int,
    batch: int,
    passes: Sequence[str],
    ops: Sequence[str],
    beside: Sequence[str],
    rounds: int,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Build the recipe's model and what is to stand beside it, and time them in turns.

    Returns:
        "params", "size", "classes", "frames_per_clip", "matrix_rate" (operations/s) and for each pass of `PASSES` a
        dictionary: form or peer -> "seconds" (median), "per_second" (frames, training steps), "operations" (of `ops`
        alone), "share_of_matrix_rate", "peak_bytes"; and "ratio_NAME_to_FIRST" of its seconds for all but the first.

    Raises:
        InputError: the recipe is not there, no peer can be made of its head, or a form does not run here.
    """
    run = RecipeRun(recipe, size, classes, batch, device, dtype)
    numbers: dict[str, Any] = {
        "recipe": recipe, "model": run.name, "params": count_parameters(run.model), "size": list(run.size),
        "classes": classes, "batch": batch, "frames_per_clip": run.clip.images.shape[1], "dtype": str(dtype)[6:],
        "matrix_rate": matrix_rate(device, dtype),
    }  # fmt: skip
    peer = Peer(run) if "transformers" in beside else None
    for part in passes:
        calls: dict[str, Callable[[], Any]] = {form: getattr(run.under(form), part) for form in ops}
        if peer is not None:
            calls["transformers"] = getattr(peer, part)
        (run.model.train if part == "train" else run.model.eval)()
        seconds = in_turns(calls, rounds, device)
        work = 2 * count_macs(run.model, run.size) if part == "predict" else count_operations(calls[ops[0]])
        rows: dict[str, Any] = {}
        for name, times in seconds.items():
            median = statistics.median(times)
            rows[name] = {"seconds": median, "per_second": 1 / median, "peak_bytes": peak_bytes(calls[name], device)}
            if name in ops:
                share = work / median / numbers["matrix_rate"]
                rows[name] |= {"operations": work, "share_of_matrix_rate": share}
        first, *others = rows
        ratios = {f"ratio_{name}_to_{first}": rows[name]["seconds"] / rows[first]["seconds"] for name in others}
        numbers[part] = {**rows, **ratios}
    return numbers


class RecipeRun:
    """A recipe's model with its losses and optimiser, and noise of the right shapes.

    Args:
        recipe: name or file.
        size: (H, W); None: the recipe's crop.
        classes: K.
        batch: clips of a training step.
        device: where it runs.
        dtype: of matrix products; autocast where it is not float32.
    """

    def __init__(
        self,
        recipe: str,
        size: Sequence[int] | None,
        classes: int,
        batch: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        from everyframe.training.objectives_mask import MaskOptions
        from everyframe.training.objectives_temporal import video_objective
        from everyframe.training.optim import Optimization
        from everyframe.training.recipe import read_recipe, resolve

        config = resolve(
            read_recipe(recipe), {"data.data": "noise", "out": "nowhere", "model.pretrained": False}, recipe
        )
        self.name, self.device, self.dtype = str(config["model"]["name"]), device, dtype
        crop = size if size is not None else config["data"].get("crop", 480)
        self.size = (crop, crop) if isinstance(crop, int) else (int(crop[0]), int(crop[1]))
        torch.manual_seed(0)
        space = LabelSpace(tuple(f"class {k}" for k in range(classes)))
        self.model: Segmenter = create_model(label_space=space, **config["model"]).to(device)
        self.model.to(memory_format=torch.channels_last)
        given = {name: {**config[name], "class_weights": None} for name in ("masks", "objective")}  # no labels to count
        self.points = MaskOptions(**given["masks"]).points
        self.objective = video_objective(self.model, MaskOptions(**given["masks"]), **given["objective"]).to(device)
        self.optimizer = Optimization(**config["optimizer"]).optimizer(self.model, self.objective)
        reference: Reference = "far_end" if self.model.temporal.reference else None
        sampling = ClipSampling(self.model.temporal.adjacent, reference, config["data"].get("queries", 1))
        self.clip = noise_clip(sampling.roles, batch, self.size, classes).to(device)
        self._state: Any = None

    def under(self, form: str) -> UnderForm:
        """Return the two passes with a form of deformable attention."""
        return UnderForm(self, form)

    def predict(self) -> None:
        """Label one frame of a stream."""
        with torch.inference_mode(), self.precision():
            if self._state is None:
                self._state = (self.model.step(self.clip.images[:1, 0])[1],)
            self.model.step(self.clip.images[:1, 0], *self._state)

    def train(self) -> None:
        """Take one step of the optimiser."""
        with self.precision():
            prediction = self.model(self.clip.images, self.clip.roles)
            loss = self.objective(prediction, self.clip, 0)["loss"]
        self.take_step(loss, self.optimizer)

    @staticmethod
    def take_step(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Go back through the graph, change the weights, and forget the gradients."""
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def precision(self) -> torch.autocast:
        """Return the context of the forward pass."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)


class UnderForm:
    """The passes of a run with one form of deformable attention."""

    def __init__(self, run: RecipeRun, form: str) -> None:
        self.run, self.form = run, form

    def predict(self) -> None:
        """See `RecipeRun.predict`."""
        with only(self.form):
            self.run.predict()

    def train(self) -> None:
        """See `RecipeRun.train`."""
        with only(self.form):
            self.run.train()


class Peer:
    """Mask2Former of transformers on the run's backbone and noise: head, matching and set loss are theirs."""

    def __init__(self, run: RecipeRun) -> None:
        from everyframe.models.transformers_peer import TransformersPeer

        self.run = run
        self.network = TransformersPeer(run.model, run.points).to(run.device)
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)

    def predict(self) -> None:
        """Label one frame, which has no past here."""
        self.network.eval()
        with torch.inference_mode(), self.run.precision():
            self.network.semantic(self.run.clip.images[:1, 0])

    def train(self) -> None:
        """Take one step on the query frames; what the recipe adds to the set loss is not in it."""
        self.network.train()
        clip = self.run.clip
        images = clip.images[:, clip.queries].flatten(0, 1)
        with self.run.precision():
            loss = self.network.loss(images, clip.query_labels.flatten(0, 1))
        RecipeRun.take_step(loss, self.optimizer)


def noise_clip(roles: tuple[Role, ...], batch: int, size: tuple[int, int], classes: int) -> Clip:
    """Return clips of noise; the queries' labels are squares of 32 pixels of up to 16 classes, with an ignored edge."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    images = torch.randint(0, 256, (batch, len(roles), 3, height, width), dtype=torch.uint8, generator=generator)
    cells = torch.randint(
        0, min(classes, 16), (batch, len(roles), -(-height // 32), -(-width // 32)), generator=generator
    )
    labels = cells.repeat_interleave(32, 2).repeat_interleave(32, 3)[:, :, :height, :width].to(torch.uint8)
    labels[..., :4, :] = IGNORE
    is_query = torch.tensor([role is Role.QUERY for role in roles])
    return Clip(
        images=images,
        labels=labels.where(is_query[:, None, None], IGNORE).to(torch.uint8),
        labelled=is_query.expand(batch, -1),
        roles=roles,
        indices=torch.arange(len(roles)).expand(batch, -1),
        videos=("noise",) * batch,
    )


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of the product of two large square matrices, the best of five."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return float(2 * n**3 / min(timed(lambda: a @ b, device) for _ in range(6)))


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """Return the most memory during a call above what lay there before it: weights, their optimiser's, the frames."""
    with PeakMemory(device) as peak:
        call()
        wait(device)
    return int(peak.extra)


def describe(numbers: dict[str, Any]) -> str:
    """Return the table that the command prints."""
    height, width = numbers["size"]
    lines = [
        f"\n{numbers['recipe']}: {numbers['model']}, {numbers['params'] / 1e6:.2f} M parameters, {numbers['classes']} "
        f"classes, {height}x{width}, {numbers['dtype']} on {numbers['device']}",
        f"matrix rate {numbers['matrix_rate'] / 1e9:.1f} GFLOP/s; medians, in turns; a training step is "
        f"{numbers['batch']} x {numbers['frames_per_clip']} frames",
    ]
    for part, unit in zip(PASSES, ("frames/s", "steps/s"), strict=True):
        rows = numbers.get(part, {})
        for name, row in ((n, r) for n, r in rows.items() if isinstance(r, dict)):
            known = f"{100 * row['share_of_matrix_rate']:5.1f} % of the rate" if "operations" in row else " " * 19
            ratio = next((f"   {v:.3f} x" for key, v in rows.items() if key.startswith(f"ratio_{name}_to_")), "")
            lines.append(
                f"  {part:8s} {name:13s} {row['seconds'] * 1e3:10.1f} ms  {row['per_second']:8.3f} {unit:8s}  {known}  "
                f"{row['peak_bytes'] / 2**20:9.0f} MiB{ratio}"
            )
    return "\n".join(lines)
