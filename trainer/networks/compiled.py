"""Compiled passes of trunks: torch.compile, once for all numbers of rows.

Only the passes are compiled. Modules, parameters and state dicts stay as they are, so a checkpoint
does not tell whether the run that wrote it was compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor

# A trunk needs a few variants: training, evaluation, frozen in turn, each kept set of maps.
_VARIANTS = 64


class CompilerError(RuntimeError):
    """``torch.compile`` does not work on this machine; the message says why."""


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function(module, x, ...)``, compiled at its first call; ``x [n, ...]`` of any n.

    Compiled code would treat 0 and 1 rows as constants. Such batches, which some ranks get now and
    then, run uncompiled.
    """
    import torch._dynamo.config as config

    # Otherwise a variant beyond the limit would run uncompiled, with only a warning.
    config.recompile_limit = _VARIANTS
    config.fail_on_recompile_limit_hit = True
    fast = torch.compile(function)

    @wraps(function)
    def call(module: Any, x: Tensor, **options: Any) -> Any:
        if len(x) < 2:
            return function(module, x, **options)
        torch._dynamo.maybe_mark_dynamic(x, 0)
        return fast(module, x, **options)

    return call


def require_compiler(device: torch.device) -> None:
    """Compile a few operations for ``device``, to check that there is a tool chain.

    Raises:
        CompilerError: there is none; the message is the compiler's.
    """
    x = torch.zeros(8, device=device)
    try:
        torch.compile(_probe)(x)
    except Exception as err:  # compilers, headers, drivers: anything may be missing
        lines = [line.strip() for line in str(err).splitlines() if line.strip()]
        raise CompilerError(lines[0] if lines else type(err).__name__) from err


def _probe(x: Tensor) -> Tensor:
    return (x.cos() + 1).sum()
