"""The same attacks in other libraries, called like ours, so that one judge serves both.

Signature as in :mod:`advdef.attacks.gradient`, except that ``eps`` is one number; options have our names and mean the
same. No peer is taken at its word: it attacks what the model gets right, and what it finds counts only inside the
budget and where the model, asked once more, is fooled. Elsewhere the image itself comes back.

foolbox and pyautoattack come with the extra ``eval``. torchattacks and ART are no dependencies, because of what they
require; they are looked for in the folder named by ``ADVDEF_PEERS``, made by ``pip install --no-deps --target``.
A missing library raises ImportError, which says what to do.
"""

from advdef.peers._art import art_jsma, art_universal
from advdef.peers._foolbox import foolbox_bim, foolbox_fgsm, foolbox_mim, foolbox_pgd
from advdef.peers._library import PEERS, version
from advdef.peers._pyautoattack import pyautoattack_apgd, pyautoattack_apgd_t
from advdef.peers._torchattacks import (
    torchattacks_carlini_wagner,
    torchattacks_deepfool,
    torchattacks_jsma,
    torchattacks_mim,
    torchattacks_single_pixel,
)

__all__ = [
    "PEERS",
    "art_jsma",
    "art_universal",
    "foolbox_bim",
    "foolbox_fgsm",
    "foolbox_mim",
    "foolbox_pgd",
    "pyautoattack_apgd",
    "pyautoattack_apgd_t",
    "torchattacks_carlini_wagner",
    "torchattacks_deepfool",
    "torchattacks_jsma",
    "torchattacks_mim",
    "torchattacks_single_pixel",
    "version",
]
