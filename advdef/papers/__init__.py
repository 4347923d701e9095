"""The five papers: what they are called, and which row of their page's record is the defence itself."""

from dataclasses import dataclass

__all__ = ["PAPERS", "Paper"]


@dataclass(frozen=True)
class Paper:
    """A paper of this book.

    ``defence`` names its defence on the page that compares all, ``own`` in the record of its own page; ``undefended``
    and ``adversarial`` are the rows there that it is measured against.
    """

    id: str
    title: str
    arxiv: str
    notebook: str
    defence: str
    own: str
    undefended: str
    adversarial: str


PAPERS: tuple[Paper, ...] = (
    Paper("qusecnets", "QuSecNets", "1811.01437", "01_qusecnets", "TQ", "TQ", "undefended", "AT"),
    Paper("neuron_sensitivity", "Neuron sensitivity", "1909.06978", "02_neuron_sensitivity", "SNS", "SNS", "standard",
          "AT"),
    Paper("nip", "NIP", "2112.13060", "03_nip", "NIP", "V2 mean-logit", "none", "AT"),
    Paper("trn", "TRN", "2202.01117", "04_trn", "TRN", "TRN", "none", "Fast-AT"),
    Paper("snn_purification", "SNN purification", "2404.17092", "05_snn_purification", "purifier", "purifier", "none",
          "FGSM-AT"),
)  # fmt: skip
"""In the order of the pages."""
