"""Counts of PyTorch models: the ATen operators of one real run on an example, batch 1."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from lepton_edge.model import Model
from lepton_edge.sources import _torch_run
from lepton_edge.sources._counts import Counts

_BOOKKEEPING = {"detach", "alias", "clone", "to", "resolve_conj", "resolve_neg"}


def count(model: Model) -> Counts:
    """Operators and MACs as PyTorch's own FlopCounterMode sees them; buffers are no parameters."""
    torch = _torch_run.torch_library()
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    seen: Counter[str] = Counter()

    class Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen[func.overloadpacket.__name__] += 1
            return func(*args, **(kwargs or {}))

    flops = FlopCounterMode(display=False)
    with _products_visible(torch), flops, Seen():  # type: ignore[no-untyped-call]
        feeds = model.example(model.signature.inputs[0].shape[0] or 1)
        first = next(iter(feeds.values()))
        model.run(feeds)
    operators = {name: n for name, n in seen.items() if name not in _BOOKKEEPING}
    parameters = sum(tensor.numel() for tensor in model.native.parameters())
    return Counts(operators, parameters, flops.get_total_flops() // 2 // max(1, len(first)))


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
