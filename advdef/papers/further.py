"""Further stand-ins of the papers' defences: gradients that a search for holes follows, and no page's attackers do."""

from torch import nn

from advdef.attacks.wrappers import straight_through
from advdef.defenses import Defense
from advdef.papers.nip.defence import NIPSelf
from advdef.papers.qusecnets.defence import Quantized, Ramped
from advdef.papers.snn.surrogates import ENSEMBLE
from advdef.papers.snn.through import clamped, spiking_stand_ins
from advdef.papers.trn.smoothing import smoothed

__all__ = ["further_stand_ins"]


def further_stand_ins(defence: Defense) -> dict[str, nn.Module]:
    """Stand-ins by name, each with the defence's own values, beyond those of its ``surrogates``; none for most.

    A quantiser gets ramps across its thresholds. NIP for an image's own class gets a twin of its classifier with
    softplus in place of ReLU, whose second derivatives are not zero. Where there are spikes, they get all of
    :data:`advdef.papers.snn.surrogates.ENSEMBLE` that the defence does not name itself, and the gradient of a clamp.

    >>> from advdef.defenses import Undefended
    >>> further_stand_ins(Undefended(nn.Flatten()))
    {}
    """
    if isinstance(defence, Quantized):
        return {"ramps": Ramped(defence)}
    if isinstance(defence, NIPSelf):
        if not any(isinstance(module, nn.ReLU) for module in defence.classifier.modules()):
            return {}
        smooth = defence.over(smoothed(defence.classifier))
        return {"softplus": straight_through(defence, smooth.surrogates()["soft weights"])}
    known = getattr(defence, "derivatives", {}).values()
    spiking = spiking_stand_ins(defence, {name: rule for name, rule in ENSEMBLE.items() if rule not in known})
    return {**spiking, "clamp": clamped(defence)} if spiking else {}
