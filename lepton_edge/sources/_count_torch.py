"""Counts of PyTorch models: the ATen operators of one real run on an example, batch 1."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

from lepton_edge.model import Model
from lepton_edge.sources import _torch_run
from lepton_edge.sources._counts import Counts

Shape = Sequence[int]
_BOOKKEEPING = {"lift_fresh", "detach", "alias", "clone", "to", "resolve_conj", "resolve_neg"}


# Products that FlopCounterMode knows no formula for are not passed over in silence.
_PRODUCT = re.compile(
    r"(?!_?upsample)(\w*_)?(conv\w*|linear\w*|(add|b|badd|spm)?mm|bmm|matmul|lstm|gru|rnn\w*|dot"
    r"|attention\w*|trilinear|mv|addmv|vdot|einsum)(_\w*)?"
)


def count(model: Model) -> Counts:
    """Operators and MACs as PyTorch's own FlopCounterMode sees them; buffers are no parameters.

    Attention counts its whole matrix of scores, causal or not.
    """
    torch = _torch_run.torch_library()
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode, flop_registry

    seen: Counter[str] = Counter()
    inner: Counter[Any] = Counter()

    class Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen[func.overloadpacket.__name__] += 1
            return func(*args, **(kwargs or {}))

    class Inner(TorchDispatchMode):  # type: ignore[no-untyped-call]
        """What remains once composite operators are taken apart."""

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            inner[func.overloadpacket] += 1
            return func(*args, **(kwargs or {}))

    formulas = _formulas(torch)
    flops = FlopCounterMode(display=False, custom_mapping=formulas)
    with _products_visible(torch), Inner(), flops, Seen():  # type: ignore[no-untyped-call]
        feeds = model.example(model.signature.inputs[0].shape[0] or 1)
        first = next(iter(feeds.values()))
        model.run(feeds)
    operators = {name: n for name, n in seen.items() if name not in _BOOKKEEPING}
    parameters = sum(tensor.numel() for tensor in model.native.parameters())
    uncounted = sorted(
        packet.__name__
        for packet in inner
        if packet not in flop_registry
        and packet not in formulas
        and _PRODUCT.fullmatch(packet.__name__)
    )
    if uncounted:
        return Counts(operators, parameters, None, f"no count for {', '.join(uncounted)}")
    return Counts(operators, parameters, flops.get_total_flops() // 2 // max(1, len(first)))


def _formulas(torch: Any) -> dict[Any, Callable[..., int]]:
    """Operations (two a MAC) of operators without a formula in PyTorch, from argument shapes."""
    aten = torch.ops.aten

    def attention(q: Shape, k: Shape, v: Shape, *_: Any, **_named: Any) -> int:
        return 2 * prod(q[:-1]) * k[-2] * (q[-1] + v[-1])

    def vector(matrix: Shape, *_: Any, **_named: Any) -> int:
        return 2 * prod(matrix)

    def added_vector(_bias: Shape, matrix: Shape, *_: Any, **_named: Any) -> int:
        return 2 * prod(matrix)

    return {
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten.mv: vector,
        aten.dot: vector,
        aten.addmv: added_vector,
    }


@contextlib.contextmanager
def _products_visible(torch: Any) -> Iterator[None]:
    """Without oneDNN an LSTM, without the fast path a Transformer layer, is run as its products."""
    (enabled, *_), mha = torch.backends.mkldnn.set_flags(_enabled=False), torch.backends.mha
    fast = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(_enabled=enabled)
        mha.set_fastpath_enabled(fast)
