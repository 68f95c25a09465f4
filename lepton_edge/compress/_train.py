"""The training engine: Accelerate's devices and processes, and what makes a run repeatable.

Every random choice of a step depends on the seed and the step's number alone, so that a run that
was killed goes on from its checkpoint to the same weights as one that was not.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lepton_edge import errors
from lepton_edge.compress import _checkpoint
from lepton_edge.compress._data import Source
from lepton_edge.compress._plan import (
    Log,
    Plan,
    Result,
    improved,
    mean,
    out_of_memory,
    refuse_not_finite,
    weights_not_finite,
)
from lepton_edge.compress._training import Training


def fit(
    module: nn.Module,
    objective: nn.Module,
    data: Source,
    training: Training,
    work: Path,
    *,
    key: str = "",
    resume: bool = False,
    after_step: Callable[[], None] | None = None,
) -> Result:
    """Trains `module` in place; `objective(module, inputs, labels)` gives the loss of a batch.

    `work` gets the checkpoint (removed at the end), TensorBoard events and a file of progress.
    `key` names what is trained; with the data and the settings it is what a checkpoint must match.
    `after_step` runs after each step of the optimiser (masks of a sparse network). In a group of
    processes (torchrun's environment variables), each takes its part of every batch. Raises
    `UsageError` for a loss that is not finite: the last good checkpoint stays in `work`.
    """
    return _Run(module, objective, data, training, work, key, after_step).run(resume)


class _Run:
    def __init__(
        self,
        module: nn.Module,
        objective: nn.Module,
        data: Source,
        training: Training,
        work: Path,
        key: str,
        after_step: Callable[[], None] | None,
    ) -> None:
        accelerate = _accelerate()
        self.training, self.work, self.after_step = training, work, after_step
        self.plan = Plan.of(data, training, key)
        for parameter in module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        if training.channels_last:
            _laid_out(module, torch.channels_last)
        self.module, self.plain = module, _Whole(module, objective)
        # Told so, it forms a group of processes on CPUs too.
        self.accelerator: Any = accelerate.Accelerator(cpu=not torch.accelerator.is_available())
        self.optimizer = training.optimizer_of(self.plain)
        # The wrapper for several processes broadcasts rank 0's values, and later sums gradients.
        self.wrapped, self.optimizer = self.accelerator.prepare(self.plain, self.optimizer)
        self.ranks = self.accelerator.num_processes
        if self.plan.batch % self.ranks:
            raise errors.UsageError(
                f"A batch of {self.plan.batch} cannot be shared by {self.ranks} processes.",
                next="Give a multiple.",
            )
        self.result = Result(processes=self.ranks)
        self.best: dict[str, Tensor] | None = None
        self.since_best = 0

    def run(self, resume: bool) -> Result:
        start = self._start(resume)
        first = self.accelerator.is_main_process
        if first:
            self.log = Log(self.work, self.plan.total, start)
        try:
            self._loop(start)
        except RuntimeError as error:
            if "not enough memory" in str(error) or "out of memory" in str(error):
                raise out_of_memory(self.plan.batch) from None
            if self.training.channels_last and "view size is not compatible" in str(error):
                raise errors.UsageError(
                    "The model's forward calls view on images, which channels_last does not allow.",
                    next="Call reshape there, or train without channels_last.",
                ) from None
            raise
        finally:
            if first:
                self.log.close()
        if self.best is not None:
            self.module.load_state_dict(self.best)
        self.module.cpu().eval()
        _laid_out(self.module, torch.contiguous_format)
        self.accelerator.free_memory()
        if first:
            _checkpoint.remove(self.work)
        return self.result

    def _start(self, resume: bool) -> int:
        if not resume:
            if self.accelerator.is_main_process:
                _checkpoint.refuse(self.work)
            return 0
        state = _checkpoint.load(self.work, self.plan.key)
        if state is None:
            return 0
        self.plain.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.since_best = state["best"], state["since_best"]
        self.result.losses, self.result.best = list(state["losses"]), state["best_loss"]
        self.result.resumed_at = state["step"]
        return int(state["step"])

    def _loop(self, start: int) -> None:
        step, plan = start, self.plan
        for epoch in range(start // plan.per_epoch, plan.epochs):
            if self.result.stopped_early:
                break
            skip = step - epoch * plan.per_epoch
            for inputs, labels in self._batches(epoch, skip):
                loss, accuracy = self._step(step, inputs, labels)
                self.result.losses.append(loss)
                step += 1
                if step % self.training.log_steps == 0 or step == plan.total:
                    self._log(step, accuracy)
                if step >= plan.total:
                    break
                # At an epoch's end it is written below, with the held-out loss.
                if step % self.training.checkpoint_steps == 0 and step % plan.per_epoch:
                    self._checkpoint(step)
            self._validate(step)
            self.result.steps, self.result.epochs = step, epoch + 1
            if step < plan.total and not self.result.stopped_early:
                self._checkpoint(step)

    def _batches(self, epoch: int, skip: int) -> Iterator[tuple[Any, Any]]:
        """This process's part of each batch, as tensors on its device."""

        seed, rank, device = self.training.seed, self.accelerator.process_index, self._device()
        for inputs, labels in self.plan.data.epoch(epoch, seed, self.plan.batch, skip):
            share = len(inputs[0]) // self.ranks
            mine = slice(rank * share, (rank + 1) * share)
            yield (
                tuple(torch.as_tensor(each[mine]).to(device) for each in inputs),
                None if labels is None else torch.as_tensor(labels[mine]).to(device),
            )

    def _device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device

    def _step(self, step: int, inputs: tuple[Tensor, ...], labels: Any) -> tuple[float, float]:

        training = self.training
        seed = (training.seed * 1_000_003 + step) * 64 + self.accelerator.process_index
        torch.manual_seed(seed)  # dropout and the like: the same in a run that was resumed
        generator = torch.Generator().manual_seed(seed)
        if training.augment:
            inputs = tuple(training.augmented(each, generator) for each in inputs)
        if training.channels_last:
            inputs = tuple(
                each.contiguous(memory_format=torch.channels_last) if each.ndim == 4 else each
                for each in inputs
            )
        for group in self.optimizer.param_groups:
            group["lr"] = training.lr * training.rate(step, self.plan.total)
        self.wrapped.train()
        bf16 = training.precision == "bf16"
        context = torch.autocast(self._device().type, torch.bfloat16) if bf16 else nullcontext()
        with context:
            loss, accuracy = self.wrapped(inputs, labels)
        value = self._mean(loss.detach().float())
        rate = self.optimizer.param_groups[0]["lr"]
        refuse_not_finite(value, step, self.plan.total, rate, self.work)
        self.accelerator.backward(loss)
        if training.clip is not None:
            self.accelerator.clip_grad_norm_(self.wrapped.parameters(), training.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.after_step is not None:
            self.after_step()
        return value, self._mean(accuracy.detach().float())

    def _mean(self, value: Tensor) -> float:
        return float(self.accelerator.reduce(value, "mean") if self.ranks > 1 else value)

    def _validate(self, step: int) -> None:
        """The held-out loss; keeps the best weights, and says when to stop."""
        held = self.plan.held
        if held is None:
            return

        self.plain.eval()
        parts, device = [], self._device()
        with torch.inference_mode():
            for inputs, labels in held.in_order(self.plan.batch):
                loss, accuracy = self.plain(
                    tuple(torch.from_numpy(each).to(device) for each in inputs),
                    None if labels is None else torch.from_numpy(labels).to(device),
                )
                rows = len(inputs[0])
                parts.append({"loss": float(loss), "accuracy": float(accuracy), "rows": rows})
        found = mean(parts)
        if self.accelerator.is_main_process:
            self.log.held_out(step, **found)
        self.since_best = improved(
            self.result, found["loss"], self.training.patience, self.since_best
        )
        if self.since_best == 0:
            state = self.module.state_dict()
            self.best = {name: value.detach().cpu().clone() for name, value in state.items()}

    def _log(self, step: int, accuracy: float) -> None:
        weights = [each for each in self.module.parameters() if each.ndim > 1]
        zeros = sum(int((each == 0).sum()) for each in weights)
        if self.accelerator.is_main_process:
            self.log.step(
                step,
                self.result.losses[-self.training.log_steps :],
                accuracy=accuracy,
                learning_rate=self.optimizer.param_groups[0]["lr"],
                sparsity=zeros / max(1, sum(each.numel() for each in weights)),
            )

    def _checkpoint(self, step: int) -> None:
        """Written by the first process, and only while every weight is finite."""
        if not self.accelerator.is_main_process:
            return

        state = self.plain.state_dict()
        if not all(bool(torch.isfinite(each).all()) for each in state.values()):
            raise weights_not_finite(step, self.plan.total)
        _checkpoint.save(
            self.work,
            {
                "model": state,
                "optimizer": self.optimizer.state_dict(),
                "step": step,
                "losses": self.result.losses,
                "best": self.best,
                "best_loss": self.result.best,
                "since_best": self.since_best,
            },
            self.plan.key,
        )


class _Whole(nn.Module):
    """Both in one module, so that the wrapper for several processes sees every parameter."""

    def __init__(self, module: nn.Module, objective: nn.Module) -> None:
        super().__init__()
        self.trained, self.objective = module, objective

    def forward(self, inputs: tuple[Tensor, ...], labels: Any) -> Any:
        return self.objective(self.trained, inputs, labels)


def _laid_out(module: nn.Module, form: torch.memory_format) -> None:
    """Its kernels of four dimensions in that form, in place."""
    module.to(memory_format=form)  # type: ignore[call-overload]


def _accelerate() -> Any:
    try:
        return importlib.import_module("accelerate")
    except ImportError as error:
        raise errors.BackendMissing(
            f"accelerate is needed to train and cannot be imported ({error}).",
            next="pip install 'lepton-edge[train]'.",
        ) from None
