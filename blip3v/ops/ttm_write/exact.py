"""ttm_write in float64, and how far rounding carries a correct kernel away from it; see ttm_read's `exact`.

A kernel may round z = LN2(LN1(x)), w1, w2, a = gelu(h) and the attention where they enter products, the new
memory, the frame with its stamp, normed, and the gradients of all of these, of h, of the logits and of x on
both of its ways.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from blip3v.ops.ttm_read.exact import Exact, Rounding, measure, normalise, with_statistics
from blip3v.ops.ttm_write.arguments import EPS, Arguments


def exact(
    arguments: Arguments, dgroup: Tensor | None = None, dnormed: Tensor | None = None, eps: float = EPS
) -> dict[str, Exact]:
    """`group`, and with a frame `normed`, `mean`, `rstd`; with gradients also `dmemory`, `dprocessed`, ..."""
    narrow = arguments.memory.dtype
    precise = torch.promote_types(narrow, torch.float32)
    dtypes = {"group": narrow}
    if arguments.frame is not None:
        dtypes |= {"normed": narrow, "mean": precise, "rstd": precise}
    outputs = {}
    if dgroup is not None:
        outputs["group"] = dgroup
        if arguments.frame is not None and dnormed is not None:
            outputs["normed"] = dnormed
        dtypes |= {
            f"d{name}": t.dtype
            for name, t in arguments._asdict().items()
            if t is not None and name != "stamp"
        }

    def formula(tensors: tuple[Any, ...], rounding: Rounding) -> dict[str, Tensor]:
        memory, processed, gamma1, beta1, gamma2, beta2, w1, w2, frame, stamp, weight, bias = tensors
        x = torch.cat([memory, processed], 2)
        width = x.shape[-1:]
        y = F.layer_norm(rounding(x, False), width, gamma1, beta1, eps)
        z = rounding(F.layer_norm(y, width, gamma2, beta2, eps))
        a = rounding(F.gelu(rounding(z @ rounding(w1).T, False)))
        attention = rounding(rounding(a @ rounding(w2).T, False).softmax(2))
        new = rounding(attention.transpose(2, 3) @ rounding(x, False))
        if frame is None:
            return {"group": new}
        if stamp is not None:
            # Rounded to memory's type by definition.
            frame = frame + stamp.detach().to(narrow).double()
        group = torch.cat([new, rounding(frame)[:, :, None]], 2)
        results = normalise(group, weight, bias, eps)
        return {"group": group, **results, "normed": rounding(results["normed"])}

    results = measure(formula, arguments._asdict(), dtypes, outputs, narrow)
    return results if arguments.frame is None else with_statistics(results, narrow)
