"""Normal deviates on a GPU in one kernel, in Triton.

The same arithmetic as in `philox_torch`, operation by operation; the import needs Triton. For the
same bits, products and sums must not be fused (``enable_fp_fusion``), and quotient and root must
be rounded by IEEE 754. Triton's interpreter runs it on a CPU in the
tests.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from xcvae.generator.noise import philox_numpy as philox
from xcvae.generator.noise.address import ROWS, Window

_SIZE = 256
# Globals that a kernel reads must be of this type.
M0, M1 = (tl.constexpr(m) for m in philox.MULTIPLIERS)
W0, W1 = (tl.constexpr(w) for w in philox.WEYL)
N_ROUNDS = tl.constexpr(philox.ROUNDS)
S0, S1, S2, S3, S4 = (tl.constexpr(c) for c in philox.SINE)
C0, C1, C2, C3, C4 = (tl.constexpr(c) for c in philox.COSINE)
L0, L1, L2 = (tl.constexpr(c) for c in philox.LOGARITHM)
LN2 = tl.constexpr(philox.LN2_TWICE)
HALF = tl.constexpr(philox.SQRT_HALF)


def fused_normals(words: Tensor, window: Window) -> Tensor:
    """Compute `tensor_normals` in one kernel on a CUDA device."""
    (latents, height, width), (top, left) = window.shape, window.origin
    blocks = window.row_blocks
    shape = (words.shape[0], *window.shape)
    out = torch.empty(shape, dtype=torch.float32, device=words.device)
    parts = triton.cdiv(latents * len(blocks) * width, _SIZE)
    # Triton launches on the current device, which may differ from that of the words.
    with torch.cuda.device_of(words):  # type: ignore[no-untyped-call] # torch leaves it untyped
        _normals[(parts * shape[0],)](
            out,
            words.contiguous(),
            parts,
            latents,
            height,
            width,
            len(blocks),
            blocks.start,
            top - blocks.start * ROWS,
            left,
            window.level << 16,
            SIZE=_SIZE,
            enable_fp_fusion=False,
        )
    return out


def _pair(even: tl.tensor, odd: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    u = even.to(tl.float32) + 0.5
    bits = u.to(tl.int32, bitcast=True) - (HALF + (32 << 23))
    exponent = (bits >> 23).to(tl.float32)
    m = ((bits & 0x007FFFFF) + HALF).to(tl.float32, bitcast=True)
    s = tl.div_rn(m - 1.0, m + 1.0)
    z = s * s
    radius = tl.sqrt_rn(exponent * -LN2 - ((L2 * z + L1) * z + L0) * s)
    turn = (odd << 1).to(tl.int32, bitcast=True).to(tl.float32) * (0.5**31)
    q = turn * turn
    cosine = ((((C4 * q + C3) * q + C2) * q + C1) * q + C0) * radius
    sine = ((((S4 * q + S3) * q + S2) * q + S1) * q + S0) * turn * radius
    return tl.where(odd >> 31 == 0, cosine, -cosine), sine


def _fused(  # noqa: PLR0917 - the language knows no keyword-only arguments
    out: tl.tensor,
    words: tl.tensor,
    parts: tl.tensor,
    latents: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    blocks: tl.tensor,
    block: tl.tensor,
    above: tl.tensor,
    left: tl.tensor,
    level: tl.tensor,
    SIZE: tl.constexpr,
) -> None:
    address = (tl.program_id(0) // parts).to(tl.int64)
    index = (tl.program_id(0) % parts) * SIZE + tl.arange(0, SIZE)
    column, channel = index % width, index // width // blocks
    row = index // width % blocks
    k0 = tl.load(words + 4 * address).to(tl.uint32)
    k1 = tl.load(words + 4 * address + 1).to(tl.uint32)
    c0 = (column + left).to(tl.uint32)
    c1 = (row + block).to(tl.uint32) ^ tl.load(words + 4 * address + 2).to(tl.uint32)
    c2 = (channel + level).to(tl.uint32)
    c3 = tl.load(words + 4 * address + 3).to(tl.uint32) + tl.zeros_like(c0)
    for _ in tl.static_range(N_ROUNDS):
        one, two = c0.to(tl.uint64) * M0, c2.to(tl.uint64) * M1
        c0 = (two >> 32).to(tl.uint32) ^ c1 ^ k0
        c2 = (one >> 32).to(tl.uint32) ^ c3 ^ k1
        c1, c3 = two.to(tl.uint32), one.to(tl.uint32)
        k0, k1 = k0 + W0, k1 + W1
    n0, n2 = _pair(c0, c1)
    n1, n3 = _pair(c2, c3)
    line = row * 4 - above
    place = out + ((address * latents + channel) * height + line) * width + column
    valid = channel < latents
    tl.store(place, n0, mask=valid & (line >= 0) & (line < height))
    tl.store(place + width, n1, mask=valid & (line >= -1) & (line + 1 < height))
    tl.store(place + 2 * width, n2, mask=valid & (line >= -2) & (line + 2 < height))
    tl.store(place + 3 * width, n3, mask=valid & (line >= -3) & (line + 3 < height))


# Applied here and not as decorators, which are untyped.
_pair = triton.jit(_pair)
_normals = triton.jit(_fused)
