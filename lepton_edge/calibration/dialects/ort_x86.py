"""onnxruntime on x86 without VNNI: weights of 7 bits, since u8 x s8 pairs saturate in 16 bits.

vpmaddubsw adds two products of u8 and s8 into s16: 2 * 255 * 127 overflows, 2 * 255 * 64 does not.
"""

from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.dialects.ort_x86_vnni import DIALECT as _VNNI
from lepton_edge.calibration.grid import Grid

DIALECT = Dialect(
    name="ort_x86",
    source="onnxruntime.ai, Quantize ONNX models: reduce_range for U8S8 on AVX2 and AVX512",
    activation=Grid(signed=False),
    weight=Grid(bits=7, symmetric=True, narrow=True),
    followers=_VNNI.followers,
)
