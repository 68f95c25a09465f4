"""An OpenVINO model to int8, or with its weights alone in 8 or 4 bits, by NNCF."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from typing import Any

from lepton_edge import errors
from lepton_edge.converters._float_onnx import backend, first_line
from lepton_edge.model import Array, Signature
from lepton_edge.samples import Samples, feeds, fingerprint


class _Batches:
    """Feeds that can be gone through again: NNCF passes over them more than once."""

    def __init__(self, samples: Samples, signature: Signature) -> None:
        fixed = {spec.shape[0] for spec in signature.inputs if spec.shape} - {None}
        self.batch = min((size for size in fixed if size), default=1)
        self.samples, self.signature = samples, signature

    def __len__(self) -> int:
        return -(-len(self.samples) // self.batch)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return feeds(self.samples, self.signature, self.batch)


def quantize(
    native: Any, signature: Signature, samples: Samples, *, bias: str, overflow: str
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The int8 model, the step's record and the calibration's.

    Ranges are the minimum and maximum over all samples: NNCF's defaults clip, and lose 13 dB on a
    small CNN and 29 dB on a Transformer.
    """
    nncf = backend("nncf", "NNCF", "openvino")
    advanced = backend("nncf.quantization.advanced_parameters", "NNCF", "openvino")
    ranges = backend("nncf.quantization.range_estimator", "NNCF", "openvino")
    batches = _Batches(samples, signature)
    nncf.set_log_level(logging.ERROR)
    minmax = ranges.RangeEstimatorParametersSet.MINMAX
    fixes = {
        "off": advanced.OverflowFix.DISABLE,
        "first-layer": advanced.OverflowFix.FIRST_LAYER,
        "all": advanced.OverflowFix.ENABLE,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # NNCF's own use of its parts
            quantized = nncf.quantize(
                native,
                nncf.Dataset(batches),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(batches),
                fast_bias_correction=bias == "fast",
                advanced_parameters=advanced.AdvancedQuantizationParameters(
                    activations_range_estimator_params=minmax,
                    weights_range_estimator_params=minmax,
                    disable_bias_correction=bias == "off",
                    overflow_fix=fixes[overflow],
                ),
            )
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise errors.CannotConvert(
            f"NNCF cannot quantise this model: {first_line(error)}.",
            next="Ask for the precision fp16 or fp32.",
        ) from None
    count = sum(node.get_type_name() == "FakeQuantize" for node in quantized.get_ops())
    if not count:
        raise errors.CannotConvert(
            "NNCF finds no operator in this model that it can quantise.",
            next="Ask for the precision fp16 or fp32.",
        )
    step = {
        "step": "int8",
        "tool": "nncf.quantize",
        "preset": "mixed",
        "ranges": "minimum and maximum",
        "bias_correction": bias,
        "overflow_fix": overflow,
        "quantize_nodes": count,
    }
    record = {
        "n": len(samples),
        "fingerprint": fingerprint(samples),
        "ranges": "minimum and maximum",
    }
    return quantized, step, record


def compress(native: Any, precision: str) -> tuple[Any, dict[str, Any]]:
    """The model with its weights in int8 or int4, and the step's record; it computes in float."""
    nncf = backend("nncf", "NNCF", "openvino")
    nncf.set_log_level(logging.ERROR)
    mode = {
        "int8-weights": nncf.CompressWeightsMode.INT8_SYM,
        "int4-weights": nncf.CompressWeightsMode.INT4_SYM,
    }[precision]
    groups: dict[str, Any] = {}
    if precision == "int4-weights":
        advanced = backend("nncf.quantization.advanced_parameters", "NNCF", "openvino")
        adjust = advanced.GroupSizeFallbackMode.ADJUST  # where K is no multiple of it
        parameters = advanced.AdvancedCompressionParameters(group_size_fallback_mode=adjust)
        groups = {"group_size": 64, "all_layers": True, "advanced_parameters": parameters}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # NNCF's own use of its parts
            compressed = nncf.compress_weights(native, mode=mode, **groups)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise errors.CannotConvert(
            f"NNCF cannot compress the weights of this model: {first_line(error)}.",
            next="Ask for the precision fp16 or fp32.",
        ) from None
    kinds = [
        node.get_output_element_type(0).get_type_name()
        for node in compressed.get_ops()
        if node.get_type_name() == "Constant" and len(node.get_output_shape(0)) > 1
    ]
    narrow = {kind: kinds.count(kind) for kind in ("i4", "u4", "i8", "u8") if kind in kinds}
    wanted = ("i4", "u4") if precision == "int4-weights" else ("i8", "u8")
    if not any(kind in narrow for kind in wanted):
        raise errors.CannotConvert(
            f"NNCF finds no weight in this model that {precision} applies to.",
            next="Ask for int8 with --calib, or fp16.",
        )
    step = {
        "step": precision,
        "tool": "nncf.compress_weights",
        "weights": narrow,
        "computes": "float: the plugin widens the weights",
    }
    return compressed, step
