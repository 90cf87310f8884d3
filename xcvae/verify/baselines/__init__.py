"""Reference forecasts to compare an ensemble with in a scorecard.

A baseline is a component ``(dataset, members, seed) -> DataArray`` that returns dims
(realization, sample, y, x) with ``units``. The dataset has the observed target and, if the data
have one, the aligned coarse precipitation condition, both with dims in the order (sample, y, x),
under any names; its attributes ``target`` and ``condition`` name the two. A baseline of a plugin
also gets all other conditions and maps (the attribute ``conditions`` has the names), and, if the
evaluated Dataset has more samples than the ensemble, their rain: the attribute ``record`` names it,
dims (<sample>_record, y, x). A baseline must not look at the target of the sample it is for; only
its missing pixels may be used as a mask. One whose members do not depend on the seed says so with
the attribute ``deterministic = True``.

A baseline with the attribute ``of_members = True`` is made from the evaluated ensemble: the dataset
has its members, dims (realization, sample, y, x), as the variable that the attribute ``members``
names. It is called for a few samples at a time.
"""

from xcvae.verify.baselines.climatology import Climatology
from xcvae.verify.baselines.interpolation import Bilinear, Block, Shuffled
from xcvae.verify.baselines.rainfarm import RainFARM
from xcvae.verify.baselines.temporal import Frozen, Independent

__all__ = [
    "Bilinear",
    "Block",
    "Climatology",
    "Frozen",
    "Independent",
    "RainFARM",
    "Shuffled",
]
