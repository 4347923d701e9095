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
# # Neuron sensitivity: which neurons does an attack move?
#
# An adversarial example changes the image a little and the decision completely. Somewhere in between, neurons change
# theirs. Zhang et al. {cite}`zhang2021sensitivity` measure, neuron by neuron, how strongly the output differs between an
# image and its adversarial partner (its *sensitivity*), use that to explain adversarial training, and then train
# networks whose most sensitive neurons are held still: *Sensitive Neuron Stabilizing*, SNS
# ([arXiv 1909.06978](https://arxiv.org/abs/1909.06978)).
#
# This page measures sensitivity as the authors' laboratory codes it and in other ways, two of which do not depend on the scale of
# a neuron. It repeats the interventions with the controls they need, trains SNS beside its relatives under one schedule,
# and attacks it through the neurons that it leaves free.
#
# ```{admonition} What is known, and what is our reconstruction
# :class: note
# Of the paper we had the two abstracts alone **[paper]**: the idea of sensitivity, the sentences that became the claims
# below (all but SNS-4, which a secondary source tells), and that SNS constrains how much sensitive neurons differ between benign
# and adversarial examples. No table, no loss formula, no constant and no list of layers is known to us. The formula of sensitivity and the share of
# neurons that counts as sensitive (the top tenth) follow code that the authors' laboratory released later; that code measures
# and does not train. The form of the SNS loss, its weight, the networks, the schedule, the attacks and the rules that decide
# the claims are **our reconstruction**.
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
dataset = None  # folder:PATH, npz:FILE, or one of advdef's data sets; None: that of the profile
seed = 0
device = None  # cpu, cuda or mps; None: a GPU if there is one
eps = None  # the main budget in Linf; None: the page's own
images = None  # how many test images are attacked; None: as the profile says
seeds = None  # over how many seeds the page compares; None: as the profile says

# %% tags=["hide-input"]
from itertools import combinations, product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from advdef import plotting
from advdef.book import page as notebook
from advdef.book.glue import record
from advdef.book.page import show_eps
from advdef.devices import exact
from advdef.evaluation import ATTACKERS, Results, correct
from advdef.evaluation.results import WORST_CASE
from advdef.papers.sensitivity import (
    comparison,
    experiments,
    figures,
    readings,
    tables,
    verdicts,
)
from advdef.papers.sensitivity.measure import measure
from advdef.papers.sensitivity.methods import COMPARED, METHODS
from advdef.papers.sensitivity.migration import migration
from advdef.papers.sensitivity.study import Stabilization
from advdef.selection import layer_score, select
from advdef.statistics import paired_difference, rank_correlation, wilson
from tqdm import tqdm

plotting.use_style()

# %% [markdown]
# ## How much is computed
#
# The same code runs in four sizes. The numbers on this page come from the profile named in the table's caption. Attacks
# run on images drawn at random from the test set, always the same ones; neurons are chosen on training images. The VGG-16 of
# `gpu` and `paper` takes images whose sides are multiples of 32.

# %%
PROFILES = Stabilization.profiles
P = notebook.choose(PROFILES, profile)
page = notebook.Page(
    "neuron_sensitivity", PROFILES, profile, dataset=dataset, seed=seed, device=device,
    train=P["train"], eps=eps, images=images, seeds=seeds,
)  # fmt: skip
P = page.settings
(study,) = page.studies(Stabilization).values()
run, name, data = page.run, page.run.data.name, study.data
SEEDS, EPS, MAIN, TAPS = study.seeds, study.eps, study.architecture, study.taps
page.profiles()

# %% [markdown]
# ## Sensitivity
#
# A *neuron* is a channel of a convolutional layer, or a unit of a dense one. For pairs of an image $x_i$ and its adversarial
# partner $x'_i$ (20 steps of PGD on the measured network itself), the sensitivity of neuron $m$ in layer $l$ is
#
# $$\sigma_l^m = \frac{1}{N} \sum_{i=1}^{N} \frac{1}{\dim F_l^m} \big\lVert F_l^m(x_i) - F_l^m(x'_i) \big\rVert_1 ,$$
#
# read after the non-linearity. This is **D1**, as the laboratory's code has it. Three other readings are measured in the same pass: **D2** divides by the mean size of the
# clean activation, **D3** averages each map over space before it takes the difference, and **D4** divides D1 by the standard
# deviation of the neuron's clean values, so that it does not depend on the neuron's scale. D2 and D4 divide by no less than a
# thousandth of what is typical of the layer (the upper quartile of its neurons that are not dead), since the quotient of a nearly
# dead neuron would show the rounding of the network, which differs between processors; a table below counts these *quiet* neurons.
# The *sensitive* neurons of a layer are its top tenth.
#
# ## The networks, and how they were trained
#
# All networks share one training loop and one schedule, and all but TRADES one inner attack; the loss differs:
#
# $$\alpha\, \mathrm{CE}(F(x), y) + (1 - \alpha)\, \mathrm{CE}(F(x'), y) + \lambda\, \Omega(F, x, x').$$
#
# | name | α | penalty Ω | weight λ |
# |---|---|---|---|
# | standard | 1 | none, no attack | |
# | AT, PGD adversarial training {cite}`madry2018towards` | 0 | none | |
# | mixed AT | 0.5 | none | |
# | ALP, logit pairing {cite}`kannan2018alp` | 0 | squared distance of the logits | 0.5 |
# | TRADES {cite}`zhang2019trades` | 1 | Kullback-Leibler divergence, which its inner attack ascends | 6 |
# | SNS, SNS 0.1 | 0 | $\sum_l$ mean sensitivity of the top tenth of layer $l$ | 1, 0.1 |
# | SNS random, SNS random 0.1 | 0 | the same for random neurons | 1, 0.1, matched |
# | SNS bottom | 0 | the same for the least sensitive neurons | 1, matched |
# | VS, vulnerability suppression {cite}`madaan2020anp` | 0 | the same for all neurons | 1, matched |
# | SNS α=1 | 1 | as SNS: pairing *instead of* adversarial training | 1 |
#
# *Matched* means that each layer's term is scaled by how much more the top tenth changes than the chosen neurons, so that all four
# choices weigh equally when they are made (by at most a factor of 100, so neurons that hardly ever fire weigh less): what is held
# equal is the size of the penalty in L1, not how far it is brought down, nor the gradient. Neurons are
# chosen anew before every epoch. Penalties grow to their weight over the first epochs, those of ALP and TRADES too, so that TRADES
# and SNS α=1 begin with an epoch of standard training.
# Losses that need both images pass them through the network as one batch, AT the adversarial ones alone, so batch normalisation
# sees another mixture there; the control for that is not AT but the same penalty on random neurons.
# In the profiles `smoke` and `laptop` the networks are small and far from converged: they compare losses under one budget and are no
# benchmark of adversarial training.

# %%
nets = {}  # (method, seed) -> training of the main network
for key in tqdm([*study.jobs, study.outsider], desc="training", leave=False):
    nets[key] = study.training(*key)
size = sum(p.numel() for p in nets["AT", seed].model.parameters())
record(f"{name}/parameters", size, kind="count")
page.add_network(MAIN, nets["AT", seed].model)


def note(key, value, n=None):
    """Keep a number for the site, for prose and for the regression test."""
    run.values[key] = value
    record(f"{name}/{key}", value, kind="number", n=n)


test, clean = data.test.sample(2_000), {}
for (k, s), t in nets.items():
    clean[k, s] = correct(t.model, test.float_images(), test.labels)
    run.add_clean(clean[k, s], defence=k, model=MAIN, seed=s)
shown = page.results(part="clean", defence=tuple(METHODS), seed=seed)
for k in METHODS:
    took = [nets[k, s].seconds for s in SEEDS if (k, s) in nets]
    run.add_cost(k, training_seconds=round(float(np.mean(took)), 1))
caption = f"{MAIN} with {size:,} parameters, first seed, {len(test):,} images, with 95 % Wilson intervals"
notebook.table(shown.pivot(["defence"], "threat", name="{} accuracy %"), caption)

# %% [markdown]
# ## Does the definition matter?
#
# If the readings ranked neurons alike, it would not matter which one the paper meant. The matrices show how well
# the ranks agree within a layer (among the features, which are single numbers, D1, D3, L2 and the largest change are the same by
# construction). The curves show how many pairs a stable measurement needs; the pairs of each point are part of all pairs.

# %% tags=["hide-input"]
x, y = study.images("pairs")  # held-out images
own = {k: study.pairs(k) for k in study.plain}
keys = tqdm(study.jobs, desc="measuring", leave=False)
meters = {key: study.meter(*key) for key in keys}  # under own examples

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Left and middle: rank correlation of seven readings of sensitivity within a layer, averaged over layers, on the standard and the adversarially trained network. Right: rank correlation of D1 from the first n pairs with D1 from all.", "name": "fig-definitions"}, "image": {"alt": "Two matrices of rank correlations between seven definitions of sensitivity, for a standard and an adversarially trained network, and a panel of the rank correlation with the final ranking against the number of pairs."}}
matrices, curves = {}, {}
for k in study.plain:
    found = {a: meters[k, seed].compute(d) for a, d in readings.READINGS.items()}
    matrices[k] = readings.pairwise_table(found, readings.rank_agreement)
    curves[k] = readings.agreement_of_first(nets[k, seed].model, own[k])
    for label in ("D2 relative", "D3 pooled", "D4 standardised"):
        note(f"rank/{k}/{label}", float(matrices[k].loc["D1 absolute", label]))
figure = figures.draw_readings(matrices, curves)
plt.show()

# %% [markdown]
# Where one reads matters too: before the non-linearity the ranking is another, since a ReLU hides changes below zero. (The features enter
# these means with 1, as no ReLU lies between their two parts.)

# %% tags=["hide-input"]
found = {k: (nets[k, seed].model, own[k], meters[k, seed]) for k in study.plain}
notebook.table(
    tables.table_of_places(found),
    "Reading before batch normalisation's ReLU, or after it, and neurons too quiet for D2 to divide by",
)

# %% [markdown]
# ### The same function, other sensitive neurons
#
# Multiply one channel by $c > 0$ and divide what the next layer does with it by $c$: as ReLU commutes with positive factors,
# the network computes the same function. Its D1 sensitivities are whatever one likes. Below, each channel of one layer is scaled so that
# the ranking is turned round; the logits change by rounding alone, and D4 does not notice.

# %% tags=["hide-input"]
model, meter = nets["AT", seed].model, meters["AT", seed]
layer = next(tap for tap in TAPS if tap.endswith("inner"))
twin = readings.reordered(model, layer, meter.compute()[layer])
with torch.no_grad():
    moved = float((twin(x[:200]) - model(x[:200])).abs().max())
assert moved < 1e-3, f"rescaling changed logits by {moved}"
both = meter, measure(twin, own["AT"], layers=[layer])
rows = []
for label in ("D1 absolute", "D4 standardised"):
    sigmas = [m.compute(readings.READINGS[label])[layer] for m in both]
    top = [select({layer: v}, ratio=0.1)[layer].tolist() for v in sigmas]
    rho = rank_correlation(*sigmas)
    note(f"rescaled/{label}", rho)
    row = {"definition": label, "rank correlation with the original": f"{rho:+.2f}"}
    row["sensitive channels before"], row["after"] = (str(t)[1:-1] for t in top)
    rows.append(row)
notebook.table(
    pd.DataFrame(rows),
    f"Layer {layer} of the adversarially trained network, rescaled; largest change of a logit: {moved:.1e}",
)

# %% [markdown]
# ## SNS-2: are robust networks less sensitive?
#
# Their adversarial examples are weaker, too, as robust networks are harder to attack. So the same comparison is made a second time with
# a perturbation that is the same for all: noise of size eps, and the adversarial examples of one more standard network, which
# nothing else here uses. Lower sensitivity in robust networks would show that the two go together. The claim says more: robust *by* being less
# sensitive. For that, sensitivity has to be lowered on its own, which the penalty of SNS does; whether robustness follows is in the
# section on SNS-3, and part of the rule for SNS-2.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Top: mean sensitivity of each layer, from the input to the features. Bottom: distribution over all neurons (each layer divided by the standard network's mean). Left D1, right D4; own adversarial examples, first seed.", "name": "fig-profiles"}, "image": {"alt": "Four panels. Top: layer profiles of sensitivity of the standard and five robustly trained networks, D1 and D4. Bottom: histograms of neuron sensitivity for the same networks."}}
LABELS = {"D1": "absolute", "D4": "standardized"}
SHOWN = ("standard", "AT", "ALP", "TRADES", "SNS", "SNS α=1")
profiles = {
    label: {k: meters[k, seed].compute(d) for k in SHOWN} for label, d in LABELS.items()
}
figure = figures.draw_profiles(profiles)
plt.show()

# %% tags=["hide-input"]
scores = {}  # (perturbation, definition) -> (method, seed) -> mean over layers
for key, meter in meters.items():
    fixed = {p: study.meter(*key, p) for p in ("noise of size eps", "transferred")}
    for p, found in {"own examples": meter, **fixed}.items():
        for label, definition in LABELS.items():
            level = readings.mean_over_layers(layer_score(found.compute(definition)))
            scores.setdefault((p, label), {})[key] = level

ratios = {}  # against -> (perturbation, definition) -> change in percent
AGAINST = [(k, "standard") for k in COMPARED[1:]] + [("SNS", "AT"), ("SNS 0.1", "AT")]
for (k, other), (where, table) in product(AGAINST, scores.items()):
    found = comparison.relative_change(table, k, other)
    ratios.setdefault(f"{k}, against {other}", {})[", ".join(where)] = f"{found:+}"
    note(f"sensitivity/{k} against {other}/{'/'.join(where)}", found.value)
notebook.table(
    pd.DataFrame(ratios).T,
    "By how many percent sensitivity differs, mean over layers, with Student's 95 % interval over "
    f"{len(SEEDS)} seeds",
    index=True,
)

# %% [markdown]
# ## SNS-1: do sensitive neurons cause the wrong decisions?
#
# On images that the attack turned, overwrite the activations of some neurons of a layer with their clean values and let the
# network go on from there. If sensitive neurons carry the attack, then mending them should mend the decision. But it must: they are *by definition* those
# that changed most, and mending them removes most of the change. A fair control mends random neurons that carry as much of it
# (more of them), on average over images. As much in which norm? A few neurons that change much have more of the *energy*, the sum of squares, than many with the
# same sum of absolute changes (L1); with the same energy the many have more in L1. So there are two controls, the first favours the claim, the second
# its opposite, and they decide as two cases. Random neurons as many, and neurons as active as the others allow, are shown beside them.
# Where the others have too little, sensitive neurons fill up a control.
#
# A full attack carries an image far beyond the decision boundary, where little brings it back. So the experiment is made twice: with
# the examples of all steps, and with those of an attack that stops as soon as the decision has turned.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Accuracy on successfully attacked images when some neurons of one layer get their clean activations back, averaged over all layers. Equal change and equal energy: random neurons, as many as carry the change of the most sensitive ones in L1 or in squared L2, drawn at the share of the latter.", "name": "fig-substitution"}, "image": {"alt": "Four panels: the standard and the adversarially trained network, attacked with all steps of PGD and only until the decision turns. Restored accuracy against the share of neurons substituted, for the most sensitive, random ones of equal change and of equal energy, random, equally active and least sensitive neurons."}}
restored = {
    k + end: study.restored(k, end) for end, k in product(study.ends, study.plain)
}
figure = figures.draw_substitution(restored, study.shares)
plt.show()

# %% tags=["hide-input"]
LEADS = {}  # (network, control) -> how much more the most sensitive restore
for (k, found), c in product(restored.items(), experiments.CONTROLS[1:]):
    top, other = (found[e].mean((0, 1)) for e in ("most sensitive", c))
    LEADS[k, c] = paired_difference(top, other)
    note(f"substitution/{k}/lead over {c}", LEADS[k, c].value, n=len(other))
notebook.table(
    tables.table_of_substitution(restored, LEADS),
    "Restored accuracy in %, averaged over layers and shares, and the lead of the most sensitive neurons in points "
    "with 95 % intervals over images",
)

# %% [markdown]
# ## SNS-4: what is lost without the sensitive neurons?
#
# Occlusion sets neurons to zero (or to their mean), one layer at a time. Robust accuracy is measured twice: with adversarial examples of the
# intact network, replayed, and with an attack on the occluded network itself. Sensitive neurons may cost more just because they are active. So besides as
# many random neurons there are random ones that lose as much activation on training images, in L1 (equal change) or in squared L2 (equal energy).
# The trade-off of the claim is between accuracy and robustness: what adversarial training gains under attack and loses on clean images, in the table of
# all methods below. How the weight of the penalty trades one for the other is shown, and decides nothing.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Accuracy when some neurons of a layer are set to zero, averaged over four layers. Robust accuracy under PGD with the margin loss: replayed from the intact network (dotted) or attacked anew (solid).", "name": "fig-occlusion"}, "image": {"alt": "Three panels: clean accuracy of the standard network, clean and robust accuracy of the adversarially trained network against the share of occluded neurons, for the most sensitive, random, equally changed and least sensitive ones."}}
lost = {k: study.occluded(k) for k in study.plain}
images, labels = x[: P["occluded"]], y[: P["occluded"]]
hits = {k: correct(nets[k, seed].model, images, labels) for k in study.plain}
intact = {k: float(exact(right).mean()) for k, right in hits.items()}
figure = figures.draw_occlusion(lost, study.shares_lost, intact)
plt.show()

# %% tags=["hide-input"]
OCCLUSIONS = (
    ("standard", "zero", "clean"), ("standard", "mean", "clean"), ("AT", "zero", "clean"),
    ("AT", "mean", "clean"), ("AT", "zero", "attacked anew"), ("AT", "zero", "replayed"),
)  # fmt: skip
COSTS = {}  # (network, mode, accuracy) -> how much more the most sensitive cost
for (k, mode, what), control in product(OCCLUSIONS, experiments.OCCLUDED[1:4]):
    top, other = (
        lost[k][mode, w][what].mean((0, 1)) for w in ("most sensitive", control)
    )
    cost = COSTS.setdefault((k, mode, what), {})[control] = paired_difference(
        other, top
    )
    note(f"occlusion/{k}/{mode}/{what}/{control}", cost.value, n=len(top))
notebook.table(
    tables.table_of_occlusion(lost, COSTS),
    "Occlusion, averaged over layers and shares, in % and points",
)

# %% [markdown]
# ## What sensitive channels look at, and whether they stay the same
#
# The masks follow the laboratory's display (a channel's map, scaled up to the image and cut at a quarter of its maximum), but rank
# channels by sensitivity.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Where a channel of the first block is active (dimmed elsewhere), on clean images and on their adversarial partners: the most and the least sensitive channel of the standard network among those that are active.", "name": "fig-channels"}, "image": {"alt": "Rows of six small images: clean images, the part where the most sensitive channel is active on the clean and on the adversarial image, and the same for the least sensitive channel."}}
turned = study.pairs("standard", "", "successful").of(slice(6))
layer = TAPS[2]
sigma = study.ranking("standard", seed)[layer]
shown = experiments.channel_views(nets["standard", seed].model, turned, layer, sigma)
columns = [data.class_names[i] for i in turned.labels.tolist()]
figure = plotting.image_grid(shown, columns=columns)
plt.show()

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Common share (Jaccard) of the top tenth under different attacks, sizes and classes, averaged over layers. Two random sets of this size share a fourteenth on average in the network of the laptop profile.", "name": "fig-jaccard"}, "image": {"alt": "Two matrices, for the standard and the adversarially trained network: Jaccard index of the sets of sensitive neurons under FGSM, PGD, PGD with the margin loss, noise, other eps and two groups of classes."}}
matrices = {}
for k in study.plain:
    found = {label: study.meter(k, seed, label) for label in study.overlaps}
    found["noise"] = study.meter(k, seed, "noise of size eps")
    sets = {a: select(meter.compute(), ratio=0.1) for a, meter in found.items()}
    matrices[k] = readings.pairwise_table(sets, readings.common_share)
    others = [matrices[k].loc[a, b] for a, b in combinations(sets, 2)]
    note(f"jaccard/{k}", float(np.mean(others)))
figure = figures.draw_overlap(matrices)
plt.show()

# %% [markdown]
# ## SNS-3: does stabilising make robust?
#
# First each attack by itself on every image, then the worst case, by the rules of [the protocol](../book/protocol.md). The *oblivious* attacker
# crafts on the standard network, with four ordinary attacks, and replays; *direct* has these and PGD and APGD with two losses on the network itself. As the network
# is differentiable and nothing has to be replaced, the *adaptive* attacker adds what knows of sensitive
# neurons: **feature routing** pushes the change through the neurons that training did not hold at its end, **neuron-targeted** attacks push the
# most sensitive features towards another class, and the **feature adversary** {cite}`sabour2016adversarial` imitates the features of another image. Besides these this attacker has noise,
# Square, examples from other networks, and the package's standard suite, which is in the spirit of
# AutoAttack, without FAB: its APGD aims at each other class in turn. Every network gets all of this, each with its own neurons.

# %%
single = {}  # (method, seed) -> outcome of every attack on every image
for k, s in tqdm(study.jobs, desc="single attacks", leave=False):
    single[k, s] = study.single(k, s)
    run.add(single[k, s], part="single", defence=k, threat="direct", model=MAIN, seed=s)

# %% [markdown]
# The worst case over all attackers, on images that the single attacks saw as well. Networks of the first seed meet several budgets; what fell to a smaller one counts as fallen. Compared are networks of one seed, so all differences are between networks that met the same.

# %%
worst = {}  # (method, seed) -> threat -> outcome
full = [key for key in study.jobs if key[0] in METHODS]
for k, s in tqdm(full, desc="worst case", leave=False):
    found = study.curve(k, s)
    worst[k, s] = {threat: curve[EPS] for threat, curve in found.items()}
    run.add_curves(found, main=[EPS], defence=k, model=MAIN, seed=s)
attacked = len(found["adaptive"][EPS].robust)
first_seed = page.results(part=("worst", "curve"), seed=seed)

# %% tags=["hide-input"]
alone = page.results(
    part=("clean", "single"), attack=("none", *study.suite), seed=SEEDS
)
together = page.results(part="worst", attack=WORST_CASE, threat=ATTACKERS[1:])
ladder = Results([*alone.select(defence=tuple(METHODS)), *together])
took = {"training s": [f"{cost['training_seconds']:.0f}" for cost in run.costs]}
notebook.table(
    tables.table_of_means(ladder).assign(**took),
    f"Accuracy at eps {show_eps(EPS)}, mean ± standard deviation over seeds: single attacks on {P['images']} images, "
    f"worst cases on {P['adaptive_images']}, clean on {len(test):,}",
)

# %% tags=["hide-input"]
shown = page.results(
    part=("clean", "worst"), defence=tuple(METHODS), attack=("none", WORST_CASE), seed=seed
)  # fmt: skip
page.headline(
    shown.pivot(["dataset", "defence"], "threat", name="{} %"),
    f"Accuracy of {attacked} images (clean: of {len(test):,}) under the three attackers at eps {show_eps(EPS)}, first seed, "
    "with 95 % Wilson intervals",
)

# %% [markdown]
# Differences between methods, network by network of the same seed. With few seeds the intervals are wide, and that is as it should be: two trainings
# of the same network differ as well.

# %% tags=["hide-input"]
COMPARISONS = (
    ("SNS", "AT"), ("SNS", "SNS random"), ("SNS 0.1", "AT"), ("SNS 0.1", "SNS random 0.1"),
    ("SNS random", "AT"), ("SNS random 0.1", "AT"), ("ALP", "AT"), ("TRADES", "AT"),
)  # fmt: skip
GAINS = {}
for k, other in COMPARISONS:
    GAINS[k, other] = comparison.gain_over(together.select(threat="adaptive"), k, other)
    note(f"{k} - {other}", GAINS[k, other].interval.value, n=attacked)
notebook.table(
    tables.table_of_gains(GAINS),
    f"Robust accuracy under the adaptive attacker, {len(SEEDS)} seeds: differences with 95 % intervals for other networks and other images",
)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Robust accuracy against eps for the three attackers, worst case per image; bands are 95 % Wilson intervals.", "name": "fig-sensitivity-curves"}, "image": {"alt": "Four panels: standard, AT, SNS and SNS without adversarial cross-entropy. Robust accuracy falls with eps; one line per attacker."}}
CURVED = ("standard", "AT", "SNS", "SNS α=1")
figure = plotting.robustness_curves(
    first_seed.select(defence=CURVED, attack=WORST_CASE)
)
plt.show()

# %% tags=["hide-input"]
notebook.table(
    tables.table_of_breaks(first_seed.select(part="worst")),
    "Images that only the adaptive attacker broke, in the order in which the attacks ran, each on what was left, also by smaller budgets",
)

# %% [markdown]
# "None" may mean that nothing was left to break, or that an attack is useless. So here each attack runs alone, on every image.

# %% tags=["hide-input"]
for k in study.met_alone:
    found = study.alone(k)
    run.add_clean(found.clean, part="alone", defence=k, model=MAIN)
    run.add(found, part="alone", defence=k, threat="adaptive", model=MAIN)
notebook.table(
    page.results(part="alone").pivot(["attack"], "defence", name="{} %"),
    f"Accuracy of {len(found.clean)} images under each attack made for neurons alone, first seed, beside PGD with the margin loss and the worst "
    "of all, with 95 % Wilson intervals",
)

# %% [markdown]
# ```{admonition} What else could be tried, and is not run here
# :class: note dropdown
# *Search*: left to the [search for holes](../book/attacks.md), whose table says what was searched.
#
# - AutoAttack as published, with FAB (*search*): its other parts, APGD with cross-entropy, targeted APGD and Square, are run on every network.
# - SPSA (*search*): the networks are differentiable, and Square is run.
# - Feature routing with all sixteen pairs of weights, and the feature adversary at earlier blocks: four pairs, and the last maps with the features, are run; each more costs as much as a strong attack on every network.
# - Transfer from TRADES and between weights of the penalty: two of AT, the standard network and SNS, and the same training from another seed, are sources; each more costs the strong attacks on every network.
# - Curvature, size of the gradient and pictures of the loss surface: they describe masking, for which the checks test.
# - Another norm, and corruptions: this page judges one threat model.
# ```

# %% [markdown]
# ## Does the change migrate?
#
# SNS holds a tenth of the neurons. Does the rest take over? *Inside* is the share of a layer's whole sensitivity (D1) that the chosen
# neurons have, averaged over layers: when they were chosen for the last time, and in the finished network. A tenth of neurons without any
# distinction would have about a tenth. If the choice turns over, each epoch holds other neurons, and in the end most have been held
# for a while; then *the most sensitive* and *random* are less different than their names say.

# %% tags=["hide-input"]
HOLDING = ("SNS", "SNS random", "SNS bottom", "chosen once", "random once", "weight 0")
found = {}
for k in [k for k in HOLDING if (k, seed) in nets]:
    moved = migration(nets[k, seed].history, study.meter(k, seed, "training images"))
    found[k if k != "weight 0" else "AT, only measured"] = moved
    run.values[f"migration/{k}"] = [moved.then, moved.now, moved.kept]
    record(f"{name}/migration/{k}", moved.now, kind="number")
notebook.table(
    tables.table_of_migration(found),
    "Where the change goes that SNS suppresses, first seed",
)

# %% [markdown]
# ## How much, how many, where: ablations and the trade-off

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Clean and robust accuracy (worst of PGD and PGD with the margin loss) of all networks; the line joins SNS with growing weight.", "name": "fig-tradeoff"}, "image": {"alt": "Scatter plot of robust against clean accuracy for all trained networks, with a line through the SNS networks in the order of their weights."}}
points = {}  # (method, seed) -> clean and robust accuracy
for (k, s), outcome in single.items():
    hits = outcome.survivors("PGD") & outcome.survivors("C&W loss")
    run.add_clean(outcome.clean, part="trade-off", defence=k, model=MAIN, seed=s)
    run.add_hits(
        hits, part="trade-off", defence=k, model=MAIN, threat="direct",
        attack="PGD and C&W loss", eps=EPS, norm=outcome.norm, seed=s,
    )  # fmt: skip
    points[k, s] = outcome.clean_interval, wilson(int(hits.sum()), len(hits))
WEIGHTS = ("weight 0", "SNS 0.1", "weight 0.3", "SNS", "weight 3", "weight 10")
sweep = [k for k in WEIGHTS if (k, seed) in nets]
figure = figures.draw_trade_off(points, methods=METHODS, seed=seed, sweep=sweep)
plt.show()

# %% tags=["hide-input"]
shown = page.results(
    part="trade-off", defence=("AT", "SNS", "SNS 0.1", *study.ablated), seed=seed
)  # fmt: skip
rows, where = [], dict(part="trade-off", threat="direct", seed=seed)
for k in shown.values("defence"):
    row = {}
    if k != "SNS":
        versus = run.compare({"defence": k}, {"defence": "SNS"}, **where)
        row["against SNS, points"] = f"{versus:+}"
    for label in LABELS:
        level = scores["own examples", label]
        row[f"mean {label}, SNS = 1"] = f"{level[k, seed] / level['SNS', seed]:.2f}"
    rows.append(row)
notebook.table(
    shown.pivot(["defence"], "threat", name="{} %").join(pd.DataFrame(rows)),
    "SNS (weight 1, ratio 0.1, all layers, chosen every epoch) with one setting changed at a time (relative: also the weight, 0.5, and "
    f"the choice, by D2), first seed, {P['images']} images; direct: PGD and PGD with the margin loss; 95 % Wilson intervals, and paired ones "
    "over images",
)

# %% [markdown]
# ## SNS-5: sensitivity and robustness
#
# One point per trained network. Partialling out the mean activation asks whether anything is left once the scale of a network is known. A
# standard network is robust to nothing, so a correlation over all networks is partly a difference between two groups; the rows *adversarially
# trained* leave out the standard networks and SNS α=1. Networks of one method are no independent draws, so the bootstrap draws whole methods.
# A robust network's own examples are weaker, which alone links the two; transferred examples are the same for all.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Robust accuracy (PGD) against mean sensitivity to own adversarial examples, one point per network: D1 left, D4 right.", "name": "fig-sensitivity-scatter"}, "image": {"alt": "Two scatter plots of robust accuracy against mean sensitivity in definitions D1 and D4, one coloured point per trained network."}}
guesses, levels = {}, {}  # how many classes a network predicts, and its mean activation
for key in single:
    guesses[key], levels[key] = comparison.activity(nets[key].model, x, TAPS)
dead = [k for (k, _), n in guesses.items() if n == 1]
left = {key: points[key][1] for key in single if guesses[key] > 1}
right = {key: interval.value for key, interval in left.items()}
adversarial = [key for key in right if key[0] not in ("standard", "SNS α=1")]
links = {", ".join(w): scores[w] for w in scores if w[0] != "noise of size eps"}
RHO = comparison.correlations(links, right, activations=levels, adversarial=adversarial)
own_links = {label: scores["own examples", label] for label in LABELS}
figure = figures.draw_links(own_links, left, methods=METHODS, seed=seed)
plt.show()

# %% tags=["hide-input"]
for label, rho in RHO.items():
    note(f"rho/{label}", rho.value)
shown = [(label, f"{rho:+}") for label, rho in RHO.items()]
notebook.table(
    pd.DataFrame(shown, columns=["points", "rank correlation in %"]),
    f"Spearman's rank correlation of sensitivity and robust accuracy over {len(right)} networks, of which "
    f"{len(adversarial)} adversarially trained, with 95 % bootstrap intervals over methods; left out, since they predict one "
    f"class for every image: {', '.join(dead) or 'none'}",
)

# %% tags=["hide-input"]
for kind, k in product(P["networks"][1:], study.second):
    page.add_network(kind, study.training(k, seed, kind).model)
    found = study.curve(k, seed, kind)
    run.add_clean(found["direct"][EPS].clean, defence=k, model=kind)
    run.add_curves(found, main=[EPS], defence=k, model=kind)
rows = (row for row in run.results if row["attack"] in ("none", WORST_CASE))
found = Results(row for row in rows if row["model"] != MAIN)
frame = found.pivot(["model", "defence"], "threat", name="{} %")
caption = "A second architecture, one seed, for comparison: no verdict rests on it"
none = "<p>This profile trains one architecture; <code>paper</code> trains two.</p>"
notebook.table(frame, caption) if found else notebook.HTML(none)

# %% [markdown]
# ## Sanity checks
#
# Does the direct evaluation deserve trust? Each check has its criterion in [the protocol](../book/protocol.md). SNS is deterministic and
# differentiable, so most should pass; where a loss pairs clean and adversarial examples without training on the latter (SNS α=1), short attacks may be
# misled, and the checks of group C are there to show it.

# %% tags=["hide-input"]
found = {(name, k): study.checks(k) for k in study.checked}
page.checks(found, "Sanity checks of the direct evaluation, by training")

# %% [markdown]
# ## Verdicts

# %% tags=["hide-input"]
right, robust = (  # method -> hits (seeds, N)
    {k: torch.stack([found(k, s) for s in SEEDS]) for k in COMPARED}
    for found in (lambda k, s: clean[k, s], lambda k, s: worst[k, s]["adaptive"].robust)
)
conditions = {
    "SNS-1": verdicts.sensitive_neurons_mislead(restored),
    "SNS-2": verdicts.lower_sensitivity_makes_robust(scores, robust),
    "SNS-3": verdicts.stabilizing_makes_robust(robust),
    "SNS-4": verdicts.accuracy_and_robustness_share_neurons(lost, right, robust),
    "SNS-5": verdicts.sensitivity_goes_with_robustness(RHO),
    "SNS-6": (),
}
page.verdicts({name: conditions})

# %% [markdown]
# Each verdict follows from a rule. *Supported* means that every condition holds, *contradicted* that one cannot hold (by intervals that allow for the number of conditions),
# *mixed* that some cases are supported and others contradicted, and *undecided* that the intervals cannot tell.

# %% tags=["hide-input"]
page.rules()

# %% [markdown]
# What would change a verdict: the paper's own loss, layers and weights, should they become known; larger networks trained longer (profile
# `paper`); more seeds, which narrow the intervals of SNS-2 and SNS-3, and more trainings, which narrow those of SNS-5.
#
# ## How an evaluation can look better
#
# How the paper evaluated is not known to us. Three ordinary choices would make stabilising look better than it is: comparing with a standard network instead of
# adversarial training under the same schedule; leaving out the random control; and replacing the adversarial cross-entropy by pairing, then
# attacking with a few steps. The table shows the last one: the same network under attacks of growing strength.

# %%
shown = ladder.select(defence=("AT", "SNS", "SNS α=1"), seed=seed)
notebook.table(
    shown.pivot(["threat", "attack"], "defence", name="{} %"),
    "From one step to the worst case, first seed, numbers of images as in the table of means",
)

# %% [markdown]
# ## Cost and provenance

# %% tags=["hide-input"]
notebook.table(
    tables.table_of_costs(first_seed, run.costs),
    "Training time, mean over seeds, and the cost of the three attackers of the first seed at one budget or at several (passes are counted in images)",
)

# %% tags=["hide-input"]
page.finish()
