# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,mystnb,-all
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Do our attacks agree with other libraries?
#
# A defence looks strong if the attack is weak, and an attack may be weak because somebody wrote it wrongly. DEEPSEC
# {cite}`ling2019deepsec` compared many defences with attacks of its own, and its FGSM, BIM and PGD broke fewer images than those of
# other libraries did ([issue 3](https://github.com/ryderling/DEEPSEC/issues/3),
# [issue 15](https://github.com/ryderling/DEEPSEC/issues/15)). So this page runs other people's code for the attacks that do most of the work in this book, on the same network and images, with the same settings, and counts.
#
# ```{admonition} What is compared, and how
# :class: note
# The peers are [Foolbox](https://github.com/bethgelab/foolbox) {cite}`rauber2020foolbox`,
# [pyautoattack](https://pypi.org/project/pyautoattack/), which is the code of AutoAttack {cite}`croce2020reliable` as a package,
# [torchattacks](https://github.com/Harry24k/adversarial-attacks-pytorch) and
# [ART](https://github.com/Trusted-AI/adversarial-robustness-toolbox). No library is taken at its word, ours included: an image
# counts as broken if it lies in the budget and in $[0, 1]$ and the network, asked once more, is wrong. The last two libraries
# are not installed with the book, so rows that need them may be empty: `nox -s reproduce -- attack_agreement` installs both in `.nox/peers` and finds them there; without nox, set `ADVDEF_PEERS` to that folder. This page tests no claim of a paper and gives no verdict.
# ```

# %% tags=["remove-cell", "skip-execution"]
# @title Set-up (Colab only: installs advdef)
import sys

if "google.colab" in sys.modules:
    import os

    source = os.environ.get("ADVDEF_SOURCE", "git+https://github.com/advdef/advdef")
    # %pip install "advdef[eval] @ {source}"
    print("Records go to /content/advdef-results, and vanish with this runtime.")
    print("How to keep them: 'Run it yourself', On Colab.")

# %% tags=["parameters"]
profile = "smoke"  # smoke, laptop, gpu or paper; what is shown below may be another
dataset = None  # folder:PATH, npz:FILE, or one of advdef's data sets; None: those of the profile
seed = 0
device = None  # cpu, cuda or mps; None: a GPU if there is one
eps = None  # the main budget in Linf; None: the page's own
images = None  # how many test images are attacked; None: as the profile says
seeds = None  # one run has one seed; advdef reproduce --seeds N makes more

# %% tags=["hide-input"]
from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import torch
from advdef import peers, plotting
from advdef.attacks import apgd, bim, carlini_wagner, deepfool, fgsm, mim, pgd
from advdef.book import page as notebook
from advdef.book.glue import record
from advdef.evaluation import correct
from advdef.peers import figures, tables
from advdef.peers.agreement import agreement, pairs
from advdef.peers.budgets import contestants, equal_budgets, local_optimality, strongest
from advdef.peers.closest import search_closest
from advdef.peers.subjects import linear_subject, subject_network
from advdef.training import train_standard, trained

plotting.use_style()

# %% [markdown]
# ## How much is computed
#
# The same code runs in four sizes. The numbers on this page come from the profile named in the table's caption. The network takes square images with an even side of at least 28
# (in `smoke` also smaller ones), and the targeted DLR loss of pyautoattack needs four classes. Budgets in Linf and L2 leave some images standing, where a weaker attack would show.

# %%
PROFILES = {
    "smoke": dict(
        datasets=("digits",), train=1_297, epochs={1: 8, 3: 8}, images=112, steps=20, rounds=1, optimise=50,
        spending=16, passes=(20, 40),
    ),
    "laptop": dict(
        datasets=("mnist",), train=15_000, epochs={1: 3, 3: 6}, images=256, steps=100, rounds=10, optimise=500,
        spending=64, passes=(20, 60, 200, 600, 2_000),
    ),
    "gpu": dict(
        datasets=("mnist", "cifar10"), train=25_000, epochs={1: 6, 3: 15}, images=512, steps=100, rounds=10,
        optimise=500, spending=128, passes=(20, 60, 200, 600, 2_000),
    ),
    "paper": dict(
        datasets=("mnist", "cifar10"), train=None, epochs={1: 10, 3: 30}, images=1_000, steps=100, rounds=10,
        optimise=1_000, spending=500, passes=(20, 60, 200, 600, 2_000),
    ),
}  # fmt: skip
BUDGETS = {
    "digits": dict(linf=(0.09,), l2=(1.4,), pixels=(6,), universal_linf=(0.2,)),
    1: dict(linf=(0.1, 0.12), l2=(1.3, 1.6), pixels=(20,), universal_linf=(0.25,)),
    3: dict(linf=(1 / 255, 2 / 255), l2=(0.1, 0.2), universal_linf=(12 / 255,)),
}  # by data set or number of channels; what changes single pixels is alike in all libraries on grey images only
P = notebook.choose(PROFILES, profile)
page = notebook.Page(
    "attack_agreement", PROFILES, profile, dataset=dataset, seed=seed, device=device, train=P["train"],
    eps=eps, images=images, seeds=seeds,
)  # fmt: skip
P = page.settings
if any(data.num_classes < 4 for data in page.data.values()):
    raise ValueError(
        "the targeted DLR loss of pyautoattack needs at least four classes"
    )
if eps is not None:  # the other norms keep their budgets
    BUDGETS = {kind: budgets | dict(linf=(eps,)) for kind, budgets in BUDGETS.items()}
page.profiles()

# %% [markdown]
# The network is the Cleverhans CNN of the other pages; in the profile `smoke`, a smaller one. It is trained without any
# defence: a difference between two attacks shall not be one between their ways around a defence.

# %%
models, batches = {}, {}
for name, data in page.data.items():
    epochs, small = P["epochs"][data.shape[0]], profile == "smoke"
    models[name] = trained(
        partial(subject_network, data.shape, data.num_classes, small=small),
        train_standard,
        data,
        seed=seed,
        epochs=epochs,
        learning_rate=3e-3 if small else 1e-3,
        schedule="cosine",
    ).model
    batches[name] = notebook.sample(data.test, P["images"])

# %% [markdown]
# ## The comparison
#
# Each row runs one attack twice, ours and the peer's, on the same images. Where an attack starts at random, both are handed the
# same random points; where it needs a target, the same target, and then it counts whether that is reached.

# %%
found = {}
for name, data in page.data.items():
    budgets = BUDGETS.get(name) or BUDGETS[data.shape[0]]
    table = pairs(**budgets, steps=P["steps"], rounds=P["rounds"])
    images, labels = batches[name].float_images(), batches[name].labels
    draws = torch.Generator().manual_seed(seed)
    found[name] = agreement(
        models[name], images, labels, table, generator=draws, progress=True
    )

# %% tags=["hide-input"]
versions = {f"{c.peer} {c.version}" for row in found.values() for c in row if c.version}
rows = []
for name, comparisons in found.items():
    for c in comparisons:
        keep = partial(
            page.runs[name].add_hits, part="agreement", model="cnn", defence="undefended", threat="direct",
            attack=c.attack, norm=c.norm, eps=c.eps, beside=c.peer,
        )  # fmt: skip
        keep(c.ours, library="advdef", seconds=round(c.seconds, 3))
        if c.theirs is not None:
            about = dict(library=c.peer, version=c.version, note=c.note)
            keep(c.theirs, seconds=round(c.their_seconds, 3), **about)
        rows.append({"data": name} | tables.comparison_row(c))
notebook.table(
    pd.DataFrame(rows),
    f"Robust accuracy of {P['images']} images under the same attack in two libraries ({page.run_line}); "
    f"versions: {', '.join(sorted(versions))}",
)

# %% [markdown]
# ## How to read it
#
# - **The difference** is our robust accuracy minus the peer's, in points: above zero, our attack is the weaker one, and below zero the
#   stronger. One point is what we allow, in the tests too (`pytest tests/test_agreement.py`).
# - **Only ours / peer** counts images that one attack broke and the other did not; equal accuracies could hide them. For a
#   deterministic attack both counts should be zero, or nearly so: ours keeps the best point of its way and Foolbox the last one, so an
#   image that was broken on the way and repaired again counts for us alone.
# - **APGD-T** draws new random points for each target class, so both sides start differently. PGD and the other two APGD start alike.
# - **The time ratio** is the peer's time over ours, for whole calls with the check of the result; calls of less than a fifth of a second are left out.
# - **Single pixel** and **universal** are other algorithms for the same budget; there the question is only whether ours is weaker. Ours
#   tries every pixel in black and in white, that of torchattacks lets a population of pixels evolve. Ours ascends the loss of all
#   images at once {cite}`shafahi2020universal`, ART goes from image to image.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Left: robust accuracy under our attack and under the peer's, one mark per row of the table; on the diagonal they are equal. Right: the difference for attacks that are the same algorithm on both sides; grey: within one point.", "name": "fig-agreement"}, "image": {"alt": "Left panel: marks for four libraries along the diagonal of our against their robust accuracy. Right panel: one line per attack with the difference in points; the marks lie in the grey band of one point around zero."}}
figures.ours_and_theirs(found.values())
plt.show()

# %% [markdown]
# ## Equal budgets
#
# Equal settings are not equal effort: a step of one attack may ask for one gradient or for ten. AttackBench {cite}`cina2025attackbench` gives
# each attack the same number of forward and backward passes for an image, 2,000, and asks what is left. So does this section, for fewer passes as
# well: *spending* images that the network gets right, and for each attack the settings that fit into the budget. Attacks that look for the **closest** adversarial
# image (FAB, DeepFool, DDN, C&W and our `minimal`) get no eps; their image counts where it is within eps.
#
# **Local optimality** is 1 for an attack that, at every budget, breaks all that any attack of its norm breaks: 1 minus the area between its curve and
# that lower envelope, over the logarithm of the passes, as a share of the area between no attack and the envelope.

# %%
spent = {}
for name, data in page.data.items():
    budgets = BUDGETS.get(name) or BUDGETS[data.shape[0]]
    chosen = batches[name].head(min(P["spending"], len(batches[name])))
    spent[name] = equal_budgets(
        models[name],
        chosen.float_images(),
        chosen.labels,
        contestants(data.num_classes),
        eps={"Linf": budgets["linf"][0], "L2": budgets["l2"][0]},
        budgets=P["passes"],
        generator=torch.Generator().manual_seed(seed),
        progress=True,
    )

# %% tags=["hide-input"]
rows = []
for name, found_here in spent.items():
    for one, share in zip(found_here, local_optimality(found_here), strict=True):
        about = {"norm": one.attack.norm, "eps": one.eps, "library": one.attack.library}
        row = {"data": name, "attack": one.attack.name, **about}
        for most, robust, left in zip(P["passes"], one.robust, one.left, strict=True):
            key = f"{name}/passes/{one.attack.norm}/{one.attack.library}/{one.attack.name}/{most}"
            record(key, robust, kind="hits")
            row[f"{most:,} passes, %"] = f"{100 * left:.1f}"
        row["passes made"] = f"{one.passes[-1]:,.0f}"
        rows.append(row | {"local optimality": f"{share:.3f}"})
notebook.table(
    pd.DataFrame(rows),
    f"Robust accuracy by the passes that an attack may make for an image ({page.run_line}), how many it made of the most (the mean; "
    "it may stop early), and its local optimality",
)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Robust accuracy against the forward and backward passes that an attack may make for an image: lower is stronger. Thick lines with circles are ours.", "name": "fig-passes"}, "image": {"alt": "Two panels, Linf and L2, with a line for each attack that falls from left to right as more passes are allowed. Most gradient attacks meet at nearly the same level; Square and most searches for the closest image need more passes to come there, or stay above it."}}
figures.passes_and_accuracy(next(iter(spent.values())))
plt.show()

# %% [markdown]
# The attacks of ours that leave the fewest images at each budget, and the best of the other libraries:

# %% tags=["hide-input"]
rows = [{"data": k} | row for k, these in spent.items() for row in strongest(these)]
notebook.table(
    pd.DataFrame(rows),
    "The strongest attacks by norm and passes; all that are equally good",
)

# %% [markdown]
# With few passes the likely classes should come first: the order by distance costs a gradient for each class before the attack
# begins. Our search for the closest image (`minimal`) needs a run for each radius, so it is no match for DDN or FAB where passes are
# few; it is there for attacks that have no other way to a smallest budget.
#
# ## Agreement is not truth
#
# Two libraries can share a mistake. So the tests also ask a question whose answer is known: a linear classifier falls exactly
# at a distance that a formula gives, for two classes with logits $z$, weights $w$ and the dual norm $q$
# ($\ell_1$ for Linf, $\ell_2$ for L2),
#
# $$d(x) = \frac{z_y(x) - z_k(x)}{\lVert w_y - w_k \rVert_q}.$$
#
# An attack with a smaller budget must break nothing, and one with a little more everything. The tests do this for more attacks, classes
# and shapes (`tests/test_attacks.py`, `tests/test_classic_attacks.py`, `tests/test_adapters.py`); here are six attacks.

# %% tags=["hide-input"]
draws = torch.Generator().manual_seed(seed)
linear, by_norm = linear_subject(draws)
rows = []
for norm, (x, y, d) in by_norm.items():
    for attack in (fgsm, bim, mim, pgd, apgd, partial(apgd, loss="margin")):
        label = getattr(attack, "__name__", "apgd, margin")
        broken = {}
        for factor in (0.99, 1.05):
            moved = attack(linear, x, y, eps=factor * d, norm=norm, generator=draws)
            wrong = ~correct(linear, moved, y)
            share = f"{100 * wrong.float().mean():.1f}"
            broken[f"broken at {factor} times the optimum, %"] = share
            record(f"optimum/{norm}/{label}/{factor}", wrong, kind="hits")
        rows.append({"attack": label, "norm": norm, "images": len(x)} | broken)
notebook.table(
    pd.DataFrame(rows),
    "Attacks on a linear classifier of two classes, where the optimum is known",
)

# %% [markdown]
# ## Where a library is wrong
#
# Two attacks of torchattacks are left out of the table above, and two rows stay in it for what they show. The table below is of this run.
#
# **Carlini & Wagner** {cite}`carlini2017towards` replace a pixel by the hyperbolic tangent of a free variable. For a pixel of exactly 0 or
# 1 that variable is infinite and its gradient zero, so torchattacks never moves such a pixel, as the table shows; most of an image of digits is of that
# kind. The row *C&W, foolbox* is our adapter: it widens the range of pixels by 0.02 on both sides, so that black and white ones can move. It also searches for the weight of the
# loss, which torchattacks keeps fixed.
#
# **DeepFool** {cite}`moosavi2016deepfool` steps to the boundary and, in the end, a little beyond it. torchattacks goes beyond in each
# step and stops at the first point that it sees misclassified, however near to the boundary that is. The column *broken* says how
# many of these points are still misclassified when the network is asked again, for all images together.

# %% tags=["hide-input"]
SEARCHES = {
    "C&W, foolbox": partial(carlini_wagner, steps=P["optimise"], binary_search_steps=5),
    "C&W, torchattacks, its defaults": peers.torchattacks_carlini_wagner,
    f"C&W, torchattacks, {P['optimise']} steps": partial(
        peers.torchattacks_carlini_wagner, steps=P["optimise"]
    ),
    "DeepFool, foolbox": deepfool,
    "DeepFool, torchattacks": peers.torchattacks_deepfool,
}
rows = []
for name, model in models.items():
    images, labels = batches[name].float_images()[:64], batches[name].labels[:64]
    right = correct(model, images, labels)
    images, labels = images[right], labels[right]
    for label, attack in SEARCHES.items():
        draws = torch.Generator().manual_seed(seed)
        search = search_closest(attack, model, images, labels, generator=draws)
        rows.append({"data": name, "attack": label} | tables.closest_row(search))
        if search is not None:
            # of the right images; the peer is not part of every installation
            kind = "info" if "torch" in label else "number"
            record(f"{name}/wrong/{label}", search.share, kind=kind, n=len(images))
notebook.table(
    pd.DataFrame(rows),
    "Search for the closest adversarial image, of the first images that the network gets right; verified",
)

# %% [markdown]
# **MIM** {cite}`dong2018boosting` accumulates gradients, each divided by its L1 norm. Foolbox's accumulates the directions of its steps (in Linf,
# their signs), which is another attack: row *MIM*. With that one line corrected, row *MIM, corrected*, it is the attack of the
# paper. The tests compare the corrected one with ours image by image.
#
# **The saliency map attack** {cite}`papernot2016limitations` changes the two pixels that together push the target's logit up and the others down. In
# torchattacks it does. ART takes the two with the largest slope of the target alone; the row shows what that comes to. It is a
# different rule, weaker or stronger, and no yardstick for JSMA.

# %% [markdown]
# ## Provenance

# %% tags=["hide-input"]
page.finish()
