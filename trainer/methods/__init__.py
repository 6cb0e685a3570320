"""All methods by name. One file per paper; the training loop knows none of them.

May import: dataio, trainer.losses, trainer.networks, trainer.schedules, trainer.shallow,
trainer.synchronised.
"""

from __future__ import annotations

from trainer.methods.afn import Afn
from trainer.methods.astn import Astn
from trainer.methods.base import Domain, Losses, Method, MethodConfig, Now, StreamNeed, Update, Walk
from trainer.methods.cdan import Cdan
from trainer.methods.coral import Coral
from trainer.methods.daisnet import DaisNet
from trainer.methods.dan import Dan
from trainer.methods.dann import Dann
from trainer.methods.dca import Dca
from trainer.methods.dcml import Dcml
from trainer.methods.deep_coral import DeepCoral
from trainer.methods.dlea import Dlea
from trainer.methods.entropy_minimisation import EntropyMinimisation
from trainer.methods.ftspl import Ftspl
from trainer.methods.gfk import Gfk
from trainer.methods.hda import Hda
from trainer.methods.hifa import Hifa
from trainer.methods.jan import Jan
from trainer.methods.jgsa import Jgsa
from trainer.methods.meda import Meda
from trainer.methods.mstn import Mstn
from trainer.methods.siamese import Siamese
from trainer.methods.source_only import SourceOnly

__all__ = [
    "METHODS",
    "Domain",
    "Losses",
    "Method",
    "MethodConfig",
    "Now",
    "StreamNeed",
    "Update",
    "Walk",
]

METHODS: dict[str, type[Method]] = {
    m.name: m
    for m in (
        SourceOnly,
        Dann,
        Dan,
        Jan,
        DeepCoral,
        Afn,
        EntropyMinimisation,
        Cdan,
        Mstn,
        Dlea,
        Hda,
        Astn,
        Hifa,
        DaisNet,
        Ftspl,
        Dca,
        Siamese,
        Dcml,
        Coral,
        Gfk,
        Jgsa,
        Meda,
    )
}
