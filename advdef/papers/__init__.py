"""The list of the papers, and a room for each of them.

In every room ``defence`` is the defence, ``training`` trains it where it is trained, and ``attacks`` are those that
exist because of it.
"""

from dataclasses import dataclass

__all__ = ["PAPERS", "Paper"]


@dataclass(frozen=True)
class Paper:
    """A paper of this book, and where its numbers stand.

    Attributes:
        id: Its name in claims, records and on the command line.
        title: Its name in prose.
        arxiv: Its number there.
        notebook: Its page, without a suffix.
        defence: The name of its defence on the page that compares all defences.
        own: The name of its defence on its own page.
        undefended: There, the row without a defence that it is measured against.
        adversarial: There, the row of adversarial training.
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
"""All papers, in the order of their pages."""
