"""The list of the papers, and a room for each of them with the rules that decide its claims.

In every room ``defence`` is the defence, ``training`` trains it where it is trained, and ``attacks`` are those that
exist because of it; ``verdicts`` has the rules, ``figures`` the figures of its page.
"""

import importlib
from dataclasses import dataclass

from advdef.claims import Rule, claims

__all__ = ["PAPERS", "STUDIES", "Paper", "how_decided", "rules"]


@dataclass(frozen=True)
class Paper:
    """A paper of this book, and where its numbers stand.

    Attributes:
        id: Its name in claims, records and on the command line.
        room: Its folder in ``advdef/papers``.
        title: Its name in prose.
        arxiv: Its number on arXiv.
        notebook: Its page, without a suffix.
        defence: The name of its defence on the page that compares all defences; of several forms, the first choice.
        own: The name of its defence on its own page.
        undefended: The name of the undefended network on its own page.
        adversarial: The name of adversarial training on its own page.
        forms: The names of all forms that the paper proposes, on both pages, where there are several.
    """

    id: str
    room: str
    title: str
    arxiv: str
    notebook: str
    defence: str
    own: str
    undefended: str
    adversarial: str
    forms: tuple[str, ...] = ()


PAPERS: tuple[Paper, ...] = (
    Paper("qusecnets", "qusecnets", "QuSecNets", "1811.01437", "01_qusecnets", "TQ", "TQ", "undefended", "AT",
          ("CQ", "TQ")),
    Paper("neuron_sensitivity", "sensitivity", "Neuron sensitivity", "1909.06978", "02_neuron_sensitivity", "SNS",
          "SNS", "standard", "AT"),
    Paper("nip", "nip", "NIP", "2112.13060", "03_nip", "NIP", "V2 mean-logit", "none", "AT"),
    Paper("trn", "trn", "TRN", "2202.01117", "04_trn", "TRN", "TRN", "none", "Fast-AT"),
    Paper("snn_purification", "snn", "SNN purification", "2404.17092", "05_snn_purification", "purifier", "purifier",
          "none", "FGSM-AT"),
)  # fmt: skip
"""All papers, in the order of their pages."""


STUDIES: dict[str, str] = {
    "qusecnets": "advdef.papers.qusecnets.study:Quantization",
    "neuron_sensitivity": "advdef.papers.sensitivity.study:Stabilization",
    "nip": "advdef.papers.nip.study:InversePerturbation",
    "trn": "advdef.papers.trn.study:Restorers",
    "snn_purification": "advdef.papers.snn.study:SpikingPurification",
    "five_defences": "advdef.papers.comparison:FiveDefences",
}
"""What the pages compute, as "module:class" by the page's name."""


def rules(paper: str) -> dict[str, Rule]:
    """The rules of a paper's claims, by claim; none for a paper without a room here."""
    room = next((known.room for known in PAPERS if known.id == paper), None)
    if room is None:
        return {}
    module = importlib.import_module(f"advdef.papers.{room}.verdicts")
    return {found.claim: found for found in vars(module).values() if isinstance(found, Rule)}


def how_decided(paper: str) -> dict[str, str]:
    """How each claim of a paper is decided, in words: its rule, else what the claim itself says."""
    known = rules(paper)
    return {id: known[id].text if id in known else claim.decided_by for id, claim in claims(paper).items()}
