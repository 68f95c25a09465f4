"""A float .tflite file to fp16, int8-dynamic, int8-weights or static int8, by ai_edge_quantizer."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lepton_edge import errors
from lepton_edge.artifact import Binding
from lepton_edge.converters import _tflite_bind
from lepton_edge.model import Model
from lepton_edge.samples import Samples, feeds, fingerprint

IO = Literal["float", "int8"]


def quantize(
    source: Path,
    file: Path,
    precision: str,
    *,
    io: IO = "float",
    ranges: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes the file in `precision`; `ranges` are what `calibrate` found, for static int8."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own imports (jax, absl) announce changes
        try:
            from ai_edge_quantizer import algorithm_manager, qtyping, quantizer
        except ImportError:
            raise missing() from None
        names, every = algorithm_manager.AlgorithmName, qtyping.TFLOperationName.ALL_SUPPORTED
        worker = quantizer.Quantizer(source.read_bytes())
        if precision == "fp16":
            worker.add_weight_only_config(
                ".*", every, num_bits=16, algorithm_key=names.FLOAT_CASTING
            )
            step = {
                "scheme": "float16 weights",
                "computes": "float32: the interpreter's CPU kernels widen the weights when loading",
            }
        elif precision == "int8-weights":
            worker.add_weight_only_config(".*", every, num_bits=8)
            step = {"scheme": "int8 weights per channel", "computes": "float32"}
        elif precision == "int4-weights":
            worker.add_weight_only_config(".*", every, num_bits=4)
            step = {"scheme": "int4 weights per channel", "computes": "float32"}
        elif precision == "int8-dynamic":
            worker.add_dynamic_config(".*", every, num_bits=8)
            step = {
                "scheme": "int8 weights per channel, activations quantised at run time",
                "computes": "int8 where the kernel has it",
            }
        else:
            worker.add_static_config(".*", every, activation_num_bits=8, weight_num_bits=8)
            if io == "float":
                _leave(worker, qtyping.TFLOperationName.INPUT, names.NO_QUANTIZE)
                _leave(worker, qtyping.TFLOperationName.OUTPUT, names.NO_QUANTIZE)
            step = {
                "scheme": "int8 weights per channel, int8 activations per tensor",
                "ranges": "min-max",
                "io": io,
                "computes": "int8 where the kernel has it",
            }
        try:
            result = worker.quantize(ranges, enable_progress_report=False)
        except (ValueError, RuntimeError, KeyError) as error:
            raise errors.CannotConvert(
                f"ai_edge_quantizer cannot make this model {precision}:"
                f" {_tflite_bind.first_line(error)}.",
                next="Use precision fp32 or fp16.",
            ) from error
    content = bytes(result.quantized_model)
    if content == source.read_bytes():
        raise errors.CannotConvert(
            f"ai_edge_quantizer found no operator of this model that {precision} applies to.",
            next="Use precision fp32.",
        )
    file.write_bytes(content)
    return {"step": "ai_edge_quantizer", "precision": precision, **step}


def _leave(worker: Any, operation: Any, algorithm: Any) -> None:
    worker.update_quantization_recipe(".*", operation, None, algorithm_key=algorithm)


def calibrate(
    source: Path, model: Model, bindings: tuple[Binding, ...], samples: Samples
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ranges of every tensor over all samples, one batch in memory at a time; and the record.

    The library's default is a moving average, which clips: with 128 samples of the demo's CNN the
    SQNR is 16.8 dB, with the smallest and the largest value seen, as here, it is 34.6 dB.
    """
    with warnings.catch_warnings():
        # It keeps all tensors on purpose, and the interpreter warns about the memory.
        warnings.simplefilter("ignore")
        try:
            from ai_edge_quantizer import calibrator, qtyping, recipe_manager
            from ai_edge_quantizer.utils import qsv_utils
        except ImportError:
            raise missing() from None
        content = source.read_bytes()
        worker = calibrator.Calibrator(
            content,
            num_threads=os.cpu_count() or 1,
            qsv_update_func=qsv_utils.min_max_update,
        )
        recipe = recipe_manager.RecipeManager()
        recipe.add_static_config(
            ".*",
            qtyping.TFLOperationName.ALL_SUPPORTED,
            activation_num_bits=8,
            weight_num_bits=8,
        )
        opened = _tflite_bind.interpreter(source)
        key = next(iter(opened.get_signature_list()), None)
        if key is None:
            raise errors.CannotConvert(
                f"{model.source.path!r} has no signature, and calibration runs through one.",
                next="Give the model that this file was made from.",
            )
        batch = int(opened.get_input_details()[0]["shape"][0])
        by_index = {each["index"]: each["name"] for each in opened.get_input_details()}
        runner = opened.get_signature_runner()
        argument = {
            by_index[details["index"]]: name for name, details in runner.get_input_details().items()
        }
        seen = 0
        for arrays in feeds(samples, model.signature.with_batch(batch), batch):
            prepared = {}
            for binding in bindings:
                value = arrays[binding.name]
                if binding.permute is not None:
                    value = np.ascontiguousarray(value.transpose(binding.permute))
                prepared[argument[binding.tensor]] = value
            # One call a batch: the library would make a list of all the data that it is given.
            worker.calibrate({key: [prepared]}, recipe)
            seen += 1
    if not seen:
        raise errors.BadInput("The calibration data is empty.")
    record = {"n": len(samples), "fingerprint": fingerprint(samples), "ranges": "min-max"}
    return worker.get_model_qsvs(), record


def missing() -> errors.BackendMissing:
    return errors.BackendMissing(
        "ai-edge-quantizer is not installed.", next="pip install 'lepton-edge[tflite-convert]'."
    )
