"""RMSNorm after a cut of the stream: what left still counted in the mean it divides by.

With K of D channels the mean square is that of the kept ones, rho D / K times the parent's, where
rho is their share of the energy. Each gain times sqrt(rho D / K) undoes that on average, norm by
norm (the energy correction of Pangu Light's SLNP, arXiv 2505.20155, worked out for a cut stream).
"""

from functools import partial
from typing import TYPE_CHECKING

from pocketlm.errors import RecipeError
from pocketlm.model.child import Child
from pocketlm.model.family import load_family
from pocketlm.stages.inherit.evidence import Evidence
from pocketlm.stages.inherit.forward import normalised
from pocketlm.stages.inherit.hidden import Cut
from pocketlm.stages.inherit.one_layer import watched_rows
from pocketlm.stages.inherit.refit import parent_walker

if TYPE_CHECKING:
    import torch


def correct_norms(evidence: Evidence, made: Cut) -> Child:
    """`made.child` with every gain over the stream times sqrt(rho D / K) of the parent's norm.

    One pass over the parent. rho is the mean over tokens of the share kept, so that no token counts
    more for its size. Raises `RecipeError` where norms are not RMSNorms.
    """
    shape = evidence.parent.shape
    family = load_family(shape.family)
    if any(row.part == "norms" and row.name.endswith(".bias") for row in family.tensors):
        raise RecipeError(f"[inherit] norm_energy: {shape.family} has no RMSNorm; leave it false")
    norms = [row.name for row in watched_rows(shape.family) if not row.writes_residual]
    theirs = parent_walker(evidence)
    kept_M: dict[str, float] = {}
    for layer in range(shape.layers):
        sums = dict.fromkeys(norms, 0.0)
        for batch, after_BTD, seen in theirs.look(layer):
            for name in norms:
                sums[name] += _kept_energy(seen[name][0], made)
            theirs.stream_NTD[batch] = after_BTD
        kept_M |= {name.format(layer=layer): total for name, total in sums.items()}
    kept_M[family.final_norm] = _kept_energy(theirs.stream_NTD, made)
    num_tokens = theirs.stream_NTD.shape[0] * theirs.stream_NTD.shape[1]
    sources = {family.final_norm: family.final_norm}
    for place, layer in enumerate(made.kept_L):
        sources |= {name.format(layer=place): name.format(layer=layer) for name in norms}
    scales = {name: (kept_M[source] / num_tokens) ** 0.5 for name, source in sources.items()}
    child = made.child.widened()
    return child.changed(
        {name: partial(_scaled, child, name, scale) for name, scale in scales.items()}
    )


def _scaled(child: Child, name: str, scale: float) -> "torch.Tensor":
    return (child.tensors[name].double() * scale).float()


def _kept_energy(stream_BTD: "torch.Tensor", made: Cut) -> float:
    """Sum over tokens of rho D / K: the kept part's mean square, of a stream of mean square one."""
    kept_NK = normalised(stream_BTD) @ made.basis_DK
    return float(kept_NK.square().mean(1).sum())
