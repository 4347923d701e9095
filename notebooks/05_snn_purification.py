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
# # SNN purification: can a spiking network clean the image first?
#
# Spiking networks compute with spikes over time. Trained with the usual tricks they are fooled by small perturbations like any other network, and adversarial training, with its
# attack in each step, is expensive when every pass runs through time. The paper {cite}`chen2024purification` leaves the classifier alone and puts a spiking *purifier* in front of it: one network
# extracts the noise, a second one, told where the noise is, removes it ([arXiv 2404.17092](https://arxiv.org/abs/2404.17092)).
#
# Three questions decide what this is worth. Does it clean the images of an attacker who does not know of it? What is left once the attacker does, and has tried more than one derivative for a spike, which has none? And is
# it the spikes that help, or would any small network trained on the same pairs do as well?
#
# ```{admonition} What is known, and what is our reconstruction
# :class: note
# Of the paper we had the titles, the abstracts of its two versions and the first lines of the introduction **[paper]**, and digests that programs made of it **[secondary source]**. The abstracts name a noise
# extraction network, a non-blind denoising network (a residual U-Net), a classifier with multi-level firing and squeeze-and-excitation (version 1), a detector (version 2), and that the classifier stays as it is. The digests add five convolutions for the extraction, no batch normalisation, the detector's norm, the names of four losses, FGSM
# for the training images, 75 epochs and four data sets. No formula, weight, layer width, threshold, budget, baseline, table or number of the paper is known to us. Layers follow CBDNet {cite}`guo2019cbdnet`, neurons the released code of multi-level firing
# {cite}`feng2022mlf`; these choices, the weights of the losses, the detector's quantity, training, attacks and the rules that decide the claims are **our reconstruction**. A verdict here is about our reading.
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
import time
import warnings
from functools import partial
from itertools import product

import matplotlib.pyplot as plt
import pandas as pd
import torch
from advdef import plotting
from advdef.attacks import pgd, traced
from advdef.book import page as notebook
from advdef.evaluation import correct, psnr
from advdef.evaluation.results import WORST_CASE
from advdef.papers.snn import figures, measure, verdicts
from advdef.papers.snn.footprint import footprint
from advdef.papers.snn.networks import FILTERS
from advdef.papers.snn.neurons import DeadNetworkWarning, Firing, firing_rates, unrolled
from advdef.papers.snn.study import (
    CURVED,
    SHARES,
    STEPPED,
    SpikingPurification,
)
from advdef.papers.snn.surrogates import ADAPTIVE, Surrogate
from advdef.papers.snn.through import Through
from advdef.statistics import over_seeds, wilson
from advdef.training.pairs import make_attacked_pairs
from tqdm import tqdm

plotting.use_style()

# %% [markdown]
# ## How much is computed
#
# The same code runs in four sizes. The numbers on this page come from the profile named in the table's caption. Test images are drawn at random, always the same ones; the last *held* training images are in nobody's training and set the detector's
# threshold. The purifier takes images whose sides are multiples of 4.

# %%
PROFILES = SpikingPurification.profiles
page = notebook.Page(
    "snn_purification", PROFILES, profile, dataset=dataset, seed=seed, device=device, eps=eps,
    images=images, seeds=seeds,
)  # fmt: skip
P = page.settings
run, ((name, data),) = page.run, page.data.items()
(study,) = page.studies(SpikingPurification).values()
NET, EPS, SEEDS, PGD = P["network"], study.eps, study.seeds, study.pgd
X, Y, few = study.images, study.labels, slice(P["few"])
page.profiles()


# %% tags=["hide-input"]
def share(hits):
    return f"{wilson(int(hits.sum()), len(hits))}" if len(hits) else "–"


def percent(hits):
    return f"{100 * hits.float().mean():.0f}"


def met(attack):
    """The columns of rows on images that were made without knowledge of the defence."""
    if attack == "clean":
        return dict(threat="clean", attack="none", eps=0.0)
    return dict(threat="oblivious", attack=attack, eps=EPS)


# %% [markdown]
# ## The neuron
#
# A neuron with leak $\beta$ adds its current to a membrane, $u_t = \beta\,(1 - s_{t-1})\,u_{t-1} + I_t$, and fires, $s_t = 1$, where the membrane exceeds a threshold; then it begins anew from zero. In *multi-level firing* {cite}`feng2022mlf`, K such
# neurons with thresholds 0.6, 1.6 and 2.6 share one current, and what leaves is how many of them fire. A spike has no useful derivative. In training, $\partial s / \partial u$ is taken for 1 within ½ of the threshold and for 0 elsewhere; what stands there is free, and **an attacker may choose another one**.
#
# The released code of multi-level firing differentiates the reset $(1 - s_{t-1})$ as well. Here it counts as a constant, as in snntorch: in training, and in attacks unless the derivative says otherwise (`Surrogate(reset=True)`).
#
# The definition is a sum over three of snntorch's neurons, step by step. The package computes all levels and steps in one function that keeps nothing but its input; the cell asserts equal spikes and, up to rounding, equal gradients.

# %%
neurons = Firing(P["T"])  # thresholds 0.6, 1.6, 2.6
currents = torch.randn(P["T"], 8, 16, 7, 7, generator=page.draws()).requires_grad_()
stepwise, membranes = unrolled(neurons, currents)  # snntorch.Leaky, three times
at_once = neurons(currents.flatten(0, 1)).unflatten(0, (P["T"], -1))
assert torch.equal(stepwise, at_once)
gradients = [
    torch.autograd.grad(spikes.square().sum(), currents)[0]
    for spikes in (stepwise, at_once)
]
assert torch.allclose(*gradients, atol=1e-5)
pd.Series(at_once.flatten().int().tolist()).value_counts().sort_index().to_dict()

# %% [markdown]
# ## The classifiers
#
# A residual network whose blocks add spikes after the neurons; the image is shown as the same current at each step, the first convolution turns it into spikes, batch normalisation runs over time as well as over the batch, and the logits are a mean over
# time. **LIF** has one level, **MLF3** three (and **MLF2**, where the profile has it, two). **SE-MLF3** also weighs the channels, by a gate that sees their means; where the gate sits is our choice (on the current of a block's second neurons, so that what leaves a block is still spikes). SE-MLF3 is the classifier of this page,
# called *bare* below.
#
# The yardsticks are the same network under adversarial training: **FGSM-AT** with one step from a random start, **PGD-AT** with several (where the profile has it), and **RAT**, FGSM-AT with weights that are drawn towards orthonormal rows after each step {cite}`ding2022snnrat`.

# %%
CLASSIFIERS = {
    k: study.classifier(k, seed)
    for k in tqdm((*P["levels"], *P["trainings"]), "classifiers", leave=False)
}
BARE = study.network("bare", seed)
page.add_network(NET, BARE, images=len(study.learnt.train))

# %% tags=["hide-input"]
rows = []
for k, t in CLASSIFIERS.items():
    right = study.clean(k)
    run.add_clean(right, defence=k, model=NET, part="clean")
    rates = firing_rates(study.network(k, seed), X[:100])
    rows.append(
        {
            "classifier": k if k in P["levels"] else f"SE-MLF3, {k}",
            "parameters": f"{sum(p.numel() for p in t.model.parameters()):,}",
            "clean accuracy %": share(right),
            "spikes per neuron and step": f"{sum(rates.values()) / len(rates):.2f}",
            "trained in s": f"{t.seconds:.0f}",
        }
    )
caption = f"The classifiers, trained on {len(study.learnt.train):,} images for {P['epochs']} epochs, on {len(study.tested):,} test images, with 95 % Wilson intervals; firing is the mean over layers"
notebook.table(pd.DataFrame(rows), caption)

# %% [markdown]
# ## The purifier
#
# $$\hat n = N(x), \qquad P(x) = \operatorname{clip}\big(x + R(x, \hat n),\, 0,\, 1\big)$$
#
# $N$ has five convolutions with neurons between them, and gives a map of the noise, averaged over time. $R$ is a U-Net that sees image and map: two poolings, skips that are added, no batch normalisation, and a last convolution that starts at zero, so that the untrained purifier changes nothing. Training minimises
#
# $$\overline{\sqrt{(P(x') - x)^2 + 10^{-6}}} + \tfrac12 L_\text{asym}(\hat n, n) + \tfrac1{20} L_\text{TV}(\hat n) + \tfrac1{10} \mathrm{KL}\big(C(x)\,\|\,C(P(x'))\big)$$
#
# over pairs of attacked images $x'$ and clean ones $x$. $n = |x' - x|$, in units of 8/255, is the size of the perturbation; the asymmetric term punishes an estimate that is too small more than one that is too large. Half of the images stay clean. The others are attacked by FGSM on the bare classifier with a budget of ½, 1 or 1½ times
# the main one: at a single budget the map would be a constant, and $N$ would learn nothing. The last term, a divergence, asks that the frozen classifier $C$ answer for $P(x')$ as for $x$. That four such terms are added comes from a digest of the paper **[secondary source]**; their form and weights do not.
#
# Without batch normalisation, spiking layers easily die. So the purifier's weights are drawn by Kaiming's rule, and its neurons have threshold 0.3 and leak ½; the
# next table compares thresholds, all with Kaiming's rule. **ANN purifier** is the control: the same layers with ReLU in place of neurons, one time step, the same pairs and steps.

# %% tags=["hide-input"]
rows = []
INITIAL = {
    "threshold 0.3, leak ½ (ours)": {},
    "threshold 0.6, leak ¼": dict(threshold=0.6, decay=0.25),
    "threshold 1, leak ¼": dict(threshold=1.0, decay=0.25),
}
with torch.random.fork_rng(), warnings.catch_warnings():
    warnings.simplefilter("ignore", DeadNetworkWarning)
    for k, given in INITIAL.items():
        torch.manual_seed(seed)
        initial = study.untrained_purifier(**given).to(page.device)
        row = {"neurons of the untrained purifier": k}
        rows.append(row | measure.firing_in_short(firing_rates(initial, X[:32])))
caption = "Spikes per neuron and step in the layers of the untrained purifier, weights drawn by Kaiming's rule"
notebook.table(pd.DataFrame(rows), caption)

# %%
BOTH = ("purifier", "ANN purifier")
PURIFIERS = {
    key: study.purifier(*key) for key in tqdm(study.purifiers, "purifiers", leave=False)
}

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Training loss of the purifiers by epoch; losses with other terms have other scales.", "name": "fig-snn-training"}, "image": {"alt": "Curves of the training loss against the epoch for the spiking purifier and for the ANN purifier, one line per seed."}}
losses = {k: [PURIFIERS[k, s].history["loss"] for s in SEEDS] for k in BOTH}
figures.purifier_losses(losses)
plt.show()

# %% [markdown]
# ## What it does to an image
#
# First with an attacker who does not know of the purifier: PGD on the bare classifier, at the main budget. *Purified* can mean two things, that the classifier is right again, or that the image is nearer to the clean one. Below each other: what the attack did, what the network takes for noise, and what it changed.


# %% tags=["hide-input"]
SNN, GATE = PURIFIERS["purifier", seed].model, study.defence("gate")
MADE = study.replayed("bare")

# %% tags=["hide-input"] mystnb={"figure": {"caption": "From above: clean image; attacked by PGD on the bare classifier; the perturbation; the noise map; the purified image; what the purifier changed; what is left, purified minus clean. Changes are scaled to be seen, grey is zero; the noise map goes from black (none) to white. Above each column: the label, what the classifier makes of the attacked and of the purified image, and the PSNR of both in dB.", "name": "fig-snn-gallery"}, "image": {"alt": "A grid of small images for six examples: clean, attacked, perturbation, noise map, purified, change and remaining difference."}}
fooled = correct(BARE, X, Y) & ~correct(BARE, MADE[PGD], Y)
chosen = torch.nonzero(fooled if fooled.any() else ~fooled)[:6, 0]
pictures = measure.purification_stages(SNN, MADE[PGD][chosen], X[chosen])
titles = measure.told_of_each(BARE, pictures, Y[chosen], data.class_names)
plotting.image_grid(pictures, columns=titles)
plt.show()

# %% tags=["hide-input"]
SHARPER, rows = {}, []
for k in (*FILTERS, "ANN purifier", "purifier"):
    defence, row, SHARPER[k] = study.defence(k), {"purified by": k}, {}
    for attack in ("clean", "FGSM", PGD):
        images = MADE[attack]
        with torch.no_grad():
            done = torch.cat([defence.prepare(v) for v in images.split(250)])
        quality, untouched = psnr(done, X), psnr(images, X)
        row[f"{attack}: PSNR"] = f"{quality.median():.1f}"
        if attack != "clean":
            SHARPER[k][attack] = quality - untouched
            row[f"{attack}: PSNR before"] = f"{untouched.median():.1f}"
        run.values[f"psnr/{k}/{attack}"] = quality.median().item()
    rows.append(row)
caption = f"Peak signal-to-noise ratio to the clean image, median over {P['images']} test images in dB, after and before; attacks on the bare classifier at eps {page.budget(EPS)}"
notebook.table(pd.DataFrame(rows), caption)

# %% [markdown]
# Does the noise extraction see noise? The map ought to be near zero on clean images and near the budget on attacked ones. For FGSM the true size is the budget wherever no pixel is clipped, so that the correlation tells little there.

# %% tags=["hide-input"]
rows = []
for attack in ("clean", "noise", "FGSM", PGD):
    size, estimate, together = measure.noise_map_size(SNN, MADE[attack], X)
    run.values[f"noise map/{attack}"] = [size, estimate, together]
    rows.append(
        {
            "images": attack,
            "size of the perturbation, /255": f"{255 * size:.1f}",
            "size of the noise map, /255": f"{255 * estimate:.1f}",
            "correlation over pixels": "–" if together is None else f"{together:+.2f}",
        }
    )
caption = f"The noise map of the purifier on {P['images']} test images: mean size of the true perturbation and of its estimate, and how they go together"
notebook.table(pd.DataFrame(rows), caption)

# %% [markdown]
# How often neurons fire tells whether a layer works at all, and whether it notices an attack.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Left: spikes per neuron and step in each spiking layer, of the purifier left of the line and of the bare classifier right of it, for clean images and attacked ones; in the classifier also for attacked ones that are purified first. Right: spikes of 60 neurons of the classifier's last block over time, for one image; dark is 0, bright is up to three levels at once.", "name": "fig-snn-rates"}, "image": {"alt": "Left, lines of firing rates over the layers for clean, attacked and purified images. Right, three rasters of spikes over time for a clean, an attacked and a purified image."}}
shown = {"clean": X[:100], "attacked": MADE[PGD][:100]}
with torch.no_grad():
    shown["purified"] = SNN(shown["attacked"])
inside = {k: firing_rates(BARE, images) for k, images in shown.items()}
before = {k: firing_rates(SNN, shown[k]) for k in ("clean", "attacked")}
run.values |= {f"rates/{k}": rates for k, rates in inside.items()}
last = list(inside["clean"])[-1]
first = int(chosen[0]) if len(chosen) and chosen[0] < 100 else 0
image = slice(first, first + 1)
rasters = {k: measure.spike_raster(BARE, v[image], last) for k, v in shown.items()}
figures.firing_by_layer(before, inside, rasters)
plt.show()

# %% [markdown]
# ## Attackers who do not know of the purifier
#
# Images made on a classifier alone, replayed on whatever stands in front of it: most likely, we guess, what the paper calls white-box, and what others call *static* or grey-box. The purifier was trained in front of the bare classifier and on FGSM images. *purifier + FGSM-AT* is the same one, untouched, in front
# of the network with adversarial training, with images made on that network. For a classifier that stands alone, these attacks are simply attacks on it; *transfer* are PGD images that were made on another network (FGSM-AT for defences of the bare classifier, the bare one for the others). *noise* is one random draw; RFGSM spends half of the budget on random signs and half on the gradient's.

# %% tags=["hide-input"]
for k in tqdm(study.defences, desc="oblivious", leave=False):
    for attack, right in study.static(k).items():
        run.add_hits(right, part="static", defence=k, model=NET, **met(attack))
both = {"defence": "purifier + FGSM-AT"}
right = study.clean("purifier + FGSM-AT")
run.add_clean(right, part="clean", model=NET, **both)
cost = run.compare(both, {"defence": "FGSM-AT"}, part="clean")
caption = f"Accuracy on {P['images']} test images ({P['few']} for APGD and Square) under attacks on the classifier alone, at eps {page.budget(EPS)}, with 95 % Wilson intervals (purifier + FGSM-AT minus FGSM-AT on {len(right):,} clean images: {cost:+} points)"
static = page.results(part="static").pivot(("defence",), "attack", name="{} %")
notebook.table(static.rename(columns={"none %": "clean %"}), caption)

# %% [markdown]
# ## Which parts matter?
#
# Every variant has the same pairs, epochs and settings but for what is named. *no divergence* leaves the classifier out of the loss; *no noise map* gives the U-Net zeros; *signed map* estimates the perturbation with its sign; *PGD-7 pairs* trains on a stronger attack; *end to end* is trained on FGSM images made through the purifier as it is at
# that moment, adversarial training of the purifier. The spiking and the ANN purifier have several seeds where the profile has them; the others have one, so a difference of a few points may be the seed's.

# %% tags=["hide-input"]
for k, s in PURIFIERS:
    for attack, right in study.ablation(k, s).items():
        where = dict(part="ablation", defence=k, model=NET, seed=s) | met(attack)
        run.add_hits(right, **where)


def by_seed(k, attack):
    found = page.results(part="ablation", defence=k, **met(attack))
    return [found.interval(seed=s).value for s in found.values("seed")]


def lead(k, attack, other="purifier"):
    where = dict(part="ablation", seed=seed) | met(attack)
    return run.compare({"defence": k}, {"defence": other}, **where)


rows = []
for k in ("purifier", *P["ablations"]):
    t = PURIFIERS[k, seed]
    row = {"variant": k, "parameters": f"{sum(p.numel() for p in t.model.parameters()):,}"}  # fmt: skip
    for attack in ("clean", "FGSM", PGD):
        found = by_seed(k, attack)
        row[f"{attack} %"] = f"{100 * sum(found) / len(found):.1f}"
    row[f"{PGD}, − purifier (images)"] = f"{lead(k, PGD):+}" if k != "purifier" else "–"
    row["seeds"] = len(found)
    row["trained in s"] = f"{t.seconds:.0f}"
    rows.append(row)
caption = f"Variants of the purifier: mean accuracy over seeds on {P['images']} test images under attacks on the bare classifier, and paired 95 % intervals over images of the difference to the purifier in points (first seed); pairs of {len(study.paired.train):,} images, {P['purifier_epochs']} epochs"
notebook.table(pd.DataFrame(rows), caption)

# %% tags=["hide-input"]
row = {}
for attack in ("clean", "FGSM", PGD):
    row[attack] = f"{lead('purifier', attack, other='ANN purifier'):+}"
    if len(SEEDS) > 1:
        both = (by_seed(k, attack) for k in BOTH)
        gains = [a - b for a, b in zip(*both, strict=True)]
        row[attack] += f", over seeds {over_seeds(gains):+}"
caption = "Do the spikes help? Spiking purifier minus ANN purifier of equal size, in points, 95 % intervals over images (first seed) and over seeds"
notebook.table(pd.DataFrame([row]), caption)

# %% [markdown]
# ## Attackers who know
#
# The attackers are those of [the protocol](../book/protocol.md), the same for every defence of this book. The **oblivious** one runs four ordinary attacks on the classifier alone. The **direct** one runs them and stronger ones (PGD and APGD, each with two losses) on the pipeline $C(P(x))$, which can be differentiated from end to
# end, with the derivative of training. The **adaptive** one runs the stronger ones through other derivatives of a spike, in all layers and in the purifier alone, and through the identity in place of the purifier's gradient (BPDA). It also has APGD with a third loss (DLR), the attacks made for the gate, those made for spikes, Square and
# noise, which need no gradient, and what the stronger ones make on relatives: the pipeline with another seed or with the ANN purifier, the bare network and the adversarially trained one. An image counts only if nothing broke it. No part is random, so that there is nothing to average over.
#
# The attacks made for spikes have the step rule of {cite:t}`wang2025reliable`, SA-PGD: each pixel has a step of its own, as with Adam, since most of these gradients are rough or zero. One goes through the *adaptive* derivative, one through all derivatives in turn, a step each. That derivative is our reconstruction of the same paper's ASSG: as wide as a neuron is far from
# its threshold, on average over its time steps (there, over the steps of the attack). Two more ways to a gradient are in the package and not on this page: rate and time together, after [HART](https://openreview.net/forum?id=xv8iGxENyI), and the mean over all derivatives. (In a trial on FGSM-AT and RAT, which is on no record, neither broke an image that the rest had left.)
#
# Two short attacks are run alone before them, for the headline and for SNN-7: PGD with BPDA, and a *black box* of noise, Square and PGD on FGSM-AT and LIF, which share no weight with the bare classifier or the purifier. What they break, the adaptive attacker has broken.

# %% tags=["hide-input"]
KNOWN = study.known
SHORT = {k: study.short(k) for k in KNOWN}  # what each short attack leaves
for k, tried in SHORT.items():
    for part, outcome in tried.items():
        run.add(outcome, part=part, defence=k, threat="adaptive", model=NET)

# %% tags=["hide-input"]
WORST, only = {}, []
for k in tqdm(KNOWN, desc="three attackers", leave=False):
    curves = study.curve(k)
    WORST[k] = found = {threat: curve[EPS] for threat, curve in curves.items()}
    run.add_clean(found["direct"].clean, part="worst", defence=k, model=NET)
    run.add_curves(curves, main=[EPS], defence=k, model=NET)
    unique = found["adaptive"].unique_breaks().items()
    only.append(", ".join(f"{n}: {c}" for n, c in unique if c) or "none")
caption = f"Accuracy on {P['few']} test images at eps {page.budget(EPS)} under three attackers, worst case per image, with 95 % Wilson intervals, and paired 95 % intervals of the difference to no defence in points; at the right, how many images fell to what the adaptive attacker has beyond the other two, the short attacks and smaller eps"
worst = page.results(part="worst", attack=("none", WORST_CASE))
shown = worst.pivot(("defence",), "threat", name="{} %")
strongest = dict(part="worst", threat="adaptive", attack=WORST_CASE)
bare = {"defence": "none"}
gains = [run.compare({"defence": k}, bare, **strongest) for k in KNOWN[1:]]
shown["adaptive − none"] = ["–", *(f"{gain:+}" for gain in gains)]
shown["broken by the rest"] = only
notebook.table(shown, caption)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Accuracy against eps under the three attackers, with 95 % Wilson intervals; at the main budget, the numbers of the table.", "name": "fig-snn-curves"}, "image": {"alt": "One panel per defence: accuracy against eps for the oblivious, the direct and the adaptive attacker."}}
plotting.robustness_curves(
    page.results(part=("worst", "curve"), attack=WORST_CASE, defence=CURVED)
)
plt.show()

# %% [markdown]
# ```{admonition} What else could be tried, and is not run here
# :class: note dropdown
# *Search*: left to the [search for holes](../book/attacks.md), whose table says what was searched.
#
# - All 22 derivatives of the ensemble (*search*): this page takes a smaller set, as each costs the strong attacks on every defence, through time.
# - The gradient of a network without spikes, its activations clamped at the number of levels (*search*): *rate* and *straight-through* are its relatives that are run.
# - Transfer from a classifier without spikes: the ANN purifier, another seed, the bare network and FGSM-AT are sources; one more had to be trained.
# - C&W: it looks for the smallest change in $L_2$, and a budget in $L_\infty$ is judged.
# - HIRE-SNN and DLIF as yardsticks: nothing that we could read says that the paper compares itself with them; RAT stands for adversarial training made for spikes.
# ```

# %% [markdown]
# Two questions about the attack itself. Do more steps help, and do they reach a plateau? And does a very large budget leave nothing? (What a smaller one broke counts as broken.)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Left: accuracy at half the main budget against the number of steps of PGD, each an attack of its own; solid lines are attacks on the deployed defence, the dotted one is replayed from the bare classifier. Right: accuracy under PGD on the deployed defence against eps up to eight times the main budget.", "name": "fig-snn-steps"}, "image": {"alt": "Two panels: accuracy against the number of attack steps, and accuracy against large budgets, for the bare classifier, the purifier and adversarial training."}}
for k in STEPPED:
    for (threat, n), outcome in study.steps(k).items():
        run.add(outcome, part="steps", defence=k, threat=threat, model=NET, steps=n)
    for outcome in study.large(k).values():
        run.add(outcome, part="large", defence=k, threat="direct", model=NET)
longer, larger = (page.results(part=p, attack=WORST_CASE) for p in ("steps", "large"))
figures.more_steps_and_larger_budgets(longer, larger)
plt.show()

# %% [markdown]
# ## Levels and gate, without a purifier
#
# Each network attacked through each derivative of a spike, and then by the adaptive attacker of the protocol, at a quarter and at half of the main budget, so that something is left to compare. SNN-2 compares SE-MLF3 with LIF, the plain network, over several seeds where the profile has them. The columns show how much an evaluation depends on a choice that the network does not even use at inference; the worst case over all of them decides.

# %% tags=["hide-input"]
for share_of_eps, (k, s) in tqdm(
    list(product(SHARES, study.compared)), desc="derivatives", leave=False
):
    eps = share_of_eps * EPS
    each, worst = study.core(k, s, share_of_eps)
    row = dict(part="core", defence=k, model=NET, seed=s, budget=page.budget(eps))
    run.add_clean(each.clean, **row)
    row["threat"] = "adaptive"
    for n in study.derivatives:
        run.add_hits(each.survivors(n), attack=n, eps=eps, **row)
    run.add(worst, **row)
caption = f"Accuracy in % on {P['few']} test images under {PGD} through each derivative alone, and in the worst case over these and all else that the adaptive attacker tries, with 95 % Wilson intervals (first seed)"
core = page.results(
    part="core", seed=seed, attack=("none", *study.derivatives, WORST_CASE)
)
shown = core.pivot(("budget", "defence"), "attack")
heads = {"budget": "eps", "defence": "classifier", "none": "clean"}
notebook.table(shown.rename(columns=heads), caption)

# %% [markdown]
# ## Gradient health
#
# An attack through a dead gradient does nothing and says nothing. The table has the share of pixels whose input gradient is exactly zero, for each derivative, and of images where all are.

# %% tags=["hide-input"]
HEALTH, rows = {}, []
for n in study.derivatives:
    row = {"derivative": n}
    for k, label in {"none": "bare classifier", "purifier": "purifier and classifier"}.items():  # fmt: skip
        model = study.defence(k).surrogates()[n]
        HEALTH[f"{n}/{k}"] = shares = measure.zero_gradients(model, X[few], Y[few])
        row[f"{label}: pixels %"], row[f"{label}: images %"] = (f"{100 * v:.1f}" for v in shares)  # fmt: skip
    rows.append(row)
run.values["zero gradients"] = HEALTH
caption = f"Share of exactly zero input gradients on {P['few']} clean test images"
notebook.table(pd.DataFrame(rows), caption)

# %% [markdown]
# A gradient that is there may still lead astray. So here is PGD on the margin of FGSM-AT, pass by pass, through the derivative of training and through two others, with the same decisions. Where the margin rises further through another one, that of training hides a way.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Loss, margin and size of the perturbation at each pass of PGD on the margin of FGSM-AT, through the derivative of training and through others: medians over the images, and the middle half of them. The grey lines are the boundary and the budget.", "name": "fig-snn-traces"}, "image": {"alt": "Three panels against the pass of the attack: loss, margin and size of the perturbation, one line per derivative of a spike."}}
robust = study.defence("FGSM-AT")
shown = {"as trained": robust, "through rate": Through(robust, Surrogate("rate"))}
shown["through adaptive"] = Through(robust, ADAPTIVE)
way = partial(pgd, steps=P["steps"], loss="margin", random_start=False)
traces = {k: traced(way, m, X[few], Y[few], eps=EPS) for k, m in shown.items()}
plotting.attack_traces(traces, eps=EPS)
plt.show()

# %% [markdown]
# ## The detector
#
# Version 2 of the paper has a detector **[paper]**, with an $L_\infty$ criterion by one digest **[secondary source]**; of which quantity is not known. Ours is the largest difference between the classifier's probabilities for $x$ and for $P(x)$: an image is attacked if purification changes the answer much. The threshold is the 95th percentile on clean images that were in nobody's training. Where the detector is quiet, the *gate* lets the image
# through as it is. A detector is also an invitation: *unnoticed* fools the bare classifier and keeps the distance just within the threshold. Most clean images lie lower still, so that its area under the curve can be large though not one image is flagged: what counts is the share that is wrong and not refused, over the images that the bare classifier has right when they are clean.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Receiver operating characteristic of the detector: the share of attacked images found against the share of clean images flagged, for attacks on the bare classifier and for one that knows the detector. The dotted line is chance, the dashed one the threshold of the gate on clean training images held back.", "name": "fig-snn-roc"}, "image": {"alt": "Curves of true against false positive rate for FGSM and PGD on the bare classifier and for the attack that wants to go unnoticed."}}
SEEN = {k: MADE[k][few] for k in ("clean", "FGSM", PGD)}
SEEN["unnoticed"] = study.unnoticed()
with torch.no_grad():
    DISTANCE = {k: GATE.distance(v) for k, v in SEEN.items()}
FOUND = {k: measure.detection(DISTANCE["clean"], v) for k, v in DISTANCE.items() if k != "clean"}  # fmt: skip
run.values["detector area"] = {k: found.area for k, found in FOUND.items()}
figures.detection_curves(FOUND)
plt.show()

# %% tags=["hide-input"]
SLIPPED, rows = {}, []
at_first = correct(BARE, X[few], Y[few])
for k, images in SEEN.items():
    flagged, bare = DISTANCE[k] > GATE.threshold, correct(BARE, images, Y[few])
    SLIPPED[k] = (~bare & ~flagged)[at_first]
    rows.append(
        {
            "images": k,
            "area under the curve %": f"{FOUND[k].interval}" if k in FOUND else "–",
            "flagged %": share(flagged),
            "bare classifier right %": share(bare),
            "gate off: always purified, right %": share(correct(study.defence("purifier"), images, Y[few])),
            "gate on, right %": share(correct(GATE, images, Y[few])),
            "if flagged images are refused: wrong and not refused %": share(SLIPPED[k]),
        }
    )  # fmt: skip
caption = f"The detector at threshold {GATE.threshold:.3f} on {P['few']} test images, with 95 % intervals (Newcombe's of the area, else Wilson's); *wrong and not refused* is of the {len(SLIPPED['clean'])} that are right when clean"
notebook.table(pd.DataFrame(rows), caption)

# %% [markdown]
# ## What it costs
#
# Counted for one image and all time steps, as carried out here: the first convolution of each network runs once for all steps, its output being the same. *Kept* is what automatic differentiation stores of one image in a forward pass of what is trained: for adversarial training the classifier; for
# purifiers the whole pipeline, through which the divergence is differentiated. *Spikes* count a neuron that fires at three levels thrice; counts of spikes and real-valued gates have to be multiplied, not just added, so that spikes are no measure of energy. Seconds are those of this run on its machine; the purifier's may include making its pairs, which the other variants found ready-made. Where several networks were trained at the same time, each takes longer than alone.

# %% tags=["hide-input"]
rows = []
for k in (k for k in KNOWN if k != "purifier + FGSM-AT"):
    found = footprint(study.defence(k), X[: P["timed"]])
    t = CLASSIFIERS.get("SE-MLF3" if k == "none" else k) or PURIFIERS.get((k, seed))
    is_network = k in (*P["trainings"], "none")
    used, epochs = (
        (study.learnt, P["epochs"])
        if is_network
        else (study.paired, P["purifier_epochs"])
    )
    rows.append(
        {
            "defence": k,
            "parameters": f"{found.parameters:,}",
            "multiply-adds, millions": f"{found.multiply_adds / 1e6:,.1f}",
            "spikes, thousands": f"{found.spikes / 1e3:,.1f}",
            "kept, MiB": f"{found.kept_bytes / 2**20:.2f}",
            "epochs": "–" if t is None else epochs,
            "images per epoch": "–" if t is None else f"{len(used.train):,}",
            "trained in s": "–" if t is None else f"{t.seconds:.0f}",
        }
    )
    run.add_cost(k, **vars(found), own_training_seconds=t.seconds if t else None)
caption = "Parameters, and for one image: multiply-adds and spikes at inference, memory kept for the gradient; training (the purifiers' beside that of the bare classifier, which they need)"
notebook.table(pd.DataFrame(rows), caption)

# %% tags=["hide-input"]
part = study.paired.train.head(min(2 * P["timed"], len(study.paired.train)))
PAIR_SECONDS = {}
for k in ("FGSM", "PGD-7"):
    made = []
    for _ in range(4):
        began = time.perf_counter()
        pairs = make_attacked_pairs(
            BARE, part, study.recipe(k), generator=page.draws(12)
        )
        pairs.labels.cpu()
        made.append(time.perf_counter() - began)
    PAIR_SECONDS[k] = min(made[1:])
run.values["pair seconds"] = PAIR_SECONDS
ratio = PAIR_SECONDS["PGD-7"] / PAIR_SECONDS["FGSM"]
MEMORY, rows = {}, []
for steps in (1, 2, 4, 8):
    grown = study.untrained_classifier(steps=steps, gated=True).to(page.device)
    MEMORY[steps] = footprint(grown, X[:8]).kept_bytes / 2**20
    rows.append({"time steps": steps, "kept for one image, MiB": f"{MEMORY[steps]:.2f}", "times that of one step": f"{MEMORY[steps] / MEMORY[1]:.2f}"})  # fmt: skip
run.values["memory"] = {str(k): v for k, v in MEMORY.items()}
assert all(MEMORY[t] <= 1.05 * t * MEMORY[1] for t in MEMORY)  # at most linear
caption = f"Memory of the classifier's gradient against the number of time steps. (Making pairs with PGD-7 took {ratio:.1f} times as long as with FGSM on {len(part)} images.)"
notebook.table(pd.DataFrame(rows), caption)

# %% [markdown]
# ## Sanity checks
#
# The ids are those of the list of checks in [the protocol](../book/protocol.md). A check that fires asks for an explanation. B6 asks whether a defence needs gradients or optimisation at inference; B8 fires where a little noise changes the margin much, as it does where neurons are steps. C7 fires where Square, with as many queries as its line says, breaks an image that the direct attacker left, and D3 where other derivatives break more than that of training: there the derivative led the attack astray, the direct number says nothing, and the adaptive one is an upper bound, as it always is. Where C14 fires, the search still broke images when it ended, so that more effort lowers the number, and a verdict that rests on it rests on this effort. D4 asks whether a network falls to each derivative alone. The yardsticks have
# a row of their own, since they are the ones whose gradients adversarial training may have spoilt. E2 asks for three trained networks, and the attackers meet one.

# %% tags=["hide-input"]
found = {(name, k): study.checks(k) for k in study.checked}
page.checks(found, f"Sanity checks of the evaluation at eps {page.budget(EPS)}")

# %% [markdown]
# ## Verdicts

# %% tags=["hide-input"]
found = page.results(seed=seed)
conditions = {
    "SNN-1": verdicts.purifier_cleans(found, sharper=SHARPER["purifier"]),
    "SNN-2": verdicts.levels_and_gate_help(page.results()),
    "SNN-3": verdicts.purifier_combines(found, attack=PGD),
    "SNN-4": verdicts.purifier_is_better(found, rivals=P["trainings"], attack=PGD),
    "SNN-5": verdicts.detector_helps(
        found, area=FOUND[PGD].interval, images=P["few"], slipped=SLIPPED["unnoticed"],
        attack=PGD,
    ),
    "SNN-6": verdicts.one_step_suffices(found, attack=PGD),
    "SNN-7": verdicts.purifier_does_well(found, attack=PGD),
}  # fmt: skip
volatile = [f"SNN-{i}" for i in range(1, 7)]  # by rounding
page.verdicts({name: conditions}, volatile=volatile)

# %% [markdown]
# Each verdict follows from a rule. *Supported* means that every condition holds, *contradicted* that one cannot hold (by intervals that allow for the number of conditions), *mixed* that some cases are supported and others contradicted, and *undecided* that the intervals cannot tell.

# %% tags=["hide-input"]
page.rules()

# %% [markdown]
# ## Limitations
#
# - The networks are small and trained for few epochs; the table of profiles says how few. The paper's own widths, thresholds and budgets are not known, and 75 epochs of purifier training, which a digest names, were not tried.
# - Attackers who know the defence meet one network of each kind, on as many images as the captions say. JPEG, bit depth, the median and the blur did not meet such attackers here; the page on NIP shows how such filters fall to one who knows them.
# - The derivatives are a few of many; each further one can only lower the numbers. The *membrane* derivative takes its spread from one image, where the attack that it is modelled on takes it over a batch; the *adaptive* one takes means over time, where its model takes them over the steps of an attack.
# - Seconds of training are wall times, in the run shown beside other work that did not slow all trainings alike. They decide nothing.
# - One norm, no corruptions. Strong attacks have one random start at first; where the search goes on by need, those on the images nearest to breaking have five or more, through the two stand-ins that brought most images there. The networks that SNN-2 compares do not go on by need. But for SNN-2, the verdicts use the first seed.
# - The end-to-end variant was trained on single steps, its purifier alone; adversarial training of purifier and classifier together was not tried.
#
# What would change a verdict: the paper's own layers, losses and training, and an evaluation of it that differentiates through the purifier.
#
# ## Why such an evaluation looks good
#
# The images and the budget are the same in every column; only the attacker changes (for FGSM-AT, which has nothing in front of it, not knowing only means fewer attacks). Where the identity does better than differentiation, the purifier would be hiding its gradient. The first one attacks the classifier and has never heard of the purifier, which is what the purifier was trained for. The second takes the purifier's gradient for the identity, one line of code. The third lets automatic differentiation run
# through it, which needs no trick at all. The last one is the adaptive attacker of this page.

# %% tags=["hide-input"]
rows = []
for k in [k for k in ("ANN purifier", "purifier", "gate", "FGSM-AT") if k in KNOWN]:
    row = {"defence": k, "undefended %": percent(WORST["none"]["direct"].robust)}
    row["clean %"] = percent(WORST[k]["direct"].clean)
    row["does not know of it %"] = percent(WORST[k]["oblivious"].robust)
    if "identity" in SHORT[k]:
        row["takes it for the identity %"] = percent(SHORT[k]["identity"].robust)
    row["differentiates it %"] = percent(WORST[k]["direct"].robust)
    row["adapts to it %"] = percent(WORST[k]["adaptive"].robust)
    rows.append(row)
caption = f"Accuracy on the same {P['few']} test images ({name}, eps {page.budget(EPS)}) as the attacker learns more"
page.headline(pd.DataFrame(rows), caption)

# %% [markdown]
# ## Provenance

# %% tags=["hide-input"]
page.finish()
