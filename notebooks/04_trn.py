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
# # TRN: does the attacker's gradient help the defender?
#
# An attacker reads from the gradient of the loss which pixels matter. TRN {cite}`hong2022eye` gives the same gradient to the defender: a
# network looks at the attacked image through one stream and at a *gradient map* of it through another, fuses the two, and restores the image, which
# the classifier (unchanged, as we take it) then labels ([arXiv 2202.01117](https://arxiv.org/abs/2202.01117)).
#
# Two questions decide what this is worth. Is it the gradient map that helps, or would any small network trained to remove such perturbations do as
# well? And what is left once the attacker knows that the image will be restored? This page trains the network with the map, without it, with maps
# that know nothing and with one that knows too much; then it climbs a ladder of attacks with ten rungs.
#
# ```{admonition} What is known, and what is our reconstruction
# :class: note
# Of the paper we had the abstract and the first sentences of the introduction **[paper]**, and an article about it **[secondary source]**. The paper's text names a gradient map
# estimation mechanism, a restoration network with two streams, and a fusion block; FGSM, BIM and PGD; CIFAR-10, SVHN and Fashion-MNIST. The article adds MIM and FFGSM. No formula, layer, loss,
# budget, baseline, table or number of the paper is known to us. How the gradient is estimated without the label, the layers, the fusion, the losses, the training
# data, the classifiers, the baselines and the rules that decide the claims are **our reconstruction**; where a choice is free, the page tries the others as
# well. A verdict here is about our reading of TRN.
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
seeds = None  # over how many seeds the page compares; None: as the profile says

# %% tags=["hide-input"]
from itertools import product

import matplotlib.pyplot as plt
import pandas as pd
import torch
from advdef import plotting
from advdef.book import page as notebook
from advdef.book.glue import record
from advdef.evaluation import ATTACKERS, correct, cost, psnr
from advdef.evaluation.results import WORST_CASE
from advdef.papers.trn import figures, measure, tables, verdicts
from advdef.papers.trn.ladder import RUNGS, rung_attacker
from advdef.papers.trn.maps import GradientMap
from advdef.papers.trn.networks import DEFENCES, PURIFIED
from advdef.papers.trn.study import (
    BLANK,
    BY_EPS,
    CHECKED,
    FIVE,
    JUDGED,
    LEAKING,
    SMALLEST,
    STUDIED,
    UNSEEN,
    Restorers,
)
from tqdm import tqdm

plotting.use_style()


def percent(interval):
    return f"{100 * interval.value:.1f}"


def parameters(model):
    return f"{sum(p.numel() for p in model.parameters()):,}"


def table(rows, caption):
    return notebook.table(pd.DataFrame(rows), caption)


def by_attack(results, index, cell=str):
    """A table of accuracies with a column for each attack."""
    shown = results.pivot(index, "attack", cell, name="{} %")
    return shown.rename(columns={"none %": "clean %"})


def ahead(case, mine, other, **where):
    """By how much one row exceeds another, on the same images."""
    if mine == other:
        return "–"
    return f"{page.runs[case.name].compare(mine, other, **where):+}"


def keep(case, hits, attacks=None, **about):
    for attack in hits if attacks is None else ("none", *attacks):
        threat = "clean" if attack == "none" else "oblivious"
        row = dict(threat=threat, model=case.kind, eps=case.budgets[attack]) | about
        page.runs[case.name].add_hits(hits[attack], attack=attack, **row)


# %% [markdown]
# ## How much is computed
#
# The same code runs in four sizes. The numbers on this page come from the profile named in the table's caption. Test images are drawn at random, always the
# same ones; restorers are trained and chosen on training images alone.
# LeNet-5 takes images with even sides from 28 to 64, and the CleverHans CNN of `laptop` square ones.

# %%
PROFILES = Restorers.profiles
page = notebook.Page(
    "trn", PROFILES, profile, dataset=dataset, seed=seed, device=device, eps=eps,
    images=images, seeds=seeds,
)  # fmt: skip
P = page.settings
cases = list(page.studies(Restorers).values())
MAIN, SEEDS = cases[0], cases[0].seeds
page.profiles()

# %% [markdown]
# ## The classifiers
#
# They are trained on clean images and then frozen; TRN never changes them. Beside each stands a network of the same form that was trained with Fast
# adversarial training {cite}`wong2020fast`, one step of FGSM from a random start at the main budget: a cheap defence that keeps much of its accuracy against attackers who know it, and so the yardstick
# for the ladder below.

# %%
NETWORKS = [(case, k) for case in cases for k in case.classifiers]
for case, k in tqdm(NETWORKS, desc="classifiers", leave=False):
    case.classifier(k)

# %% [markdown]
# ## The gradient map
#
# The loss gradient that guided the attack is taken at the true label, which the defender does not have. With the Jacobian $J$ of the logits, the softmax $p$ and
# the unit vectors $e_k$, cross-entropy to class $k$ has the gradient $J^\top (p - e_k)$. What can be had without a label is
#
# | map | formula | backward passes |
# |---|---|---|
# | **average** over the classes (ours) | $J^\top (p - \tfrac1K \mathbf{1})$, the gradient of $\log\sum_k e^{z_k} - \tfrac1K \sum_k z_k$ | 1 |
# | **stack** of all classes | $J^\top (p - e_k)$ for every $k$ | K, in one batched call |
# | **predicted**, **second** most and **least** likely label | $J^\top (p - e_{k})$ for that $k$ | 1 |
#
# each divided by its mean size and cut to $[-4, 4]$. (The mean weighted with $p$ is zero, always: $\sum_k p_k (p - e_k) = 0$.) The gradient of
# the prediction shrinks with $1 - p$ of that class; the average has no such factor. The map of the true label is an *oracle*: in the code it is kept apart from the others, and no defence can have it.

# %%
example, f = MAIN.data.test.float_images()[:4], MAIN.bare()
average = GradientMap(f)  # refuses a classifier that could change
unscaled = GradientMap(f, scale="none")
stack = GradientMap(f, "stack", scale="none")
each = stack(example).unflatten(1, (-1, MAIN.data.shape[0]))
p = f(example).softmax(1)[:, :, None, None, None]
assert (p * each).sum(1).abs().max() < 1e-4 * each.abs().max()
assert torch.allclose(unscaled(example), each.mean(1), atol=1e-5)
{"average": tuple(average(example).shape), "stack": tuple(stack(example).shape)}

# %% [markdown]
# ## The restoration network, and what it is compared with
#
# Two streams of residual blocks, one for the image and one for the map; a fusion block that weighs the channels of both by a gate and mixes them; more residual blocks; and a last convolution, which also sees what the first one made of the image, and starts at zero, so
# that the untrained network changes nothing. What it puts out is subtracted from the image, to give $T$. Training minimises
#
# $$\begin{aligned} &\overline{\lvert T - x \rvert} + 0.1\; \overline{\lvert \varphi(\hat T) - \varphi(x) \rvert} \\ &\quad + 0.05\, \mathrm{CE}(f(\hat T), y) \end{aligned}$$
#
# over pairs of attacked and clean images, with means over pixels and features, $\hat T$ the restored image cut to $[0, 1]$ and $\varphi$ the last features of the frozen classifier $f$. A quarter of the images are clean, a twentieth have uniform noise, and the others are attacked by FGSM or PGD at a quarter, half, three
# quarters or all of the budget. BIM, MIM, FFGSM and all the others are not seen in training. Every variant below has the same pairs, steps and (but for the larger fusion) almost the same number of parameters.

# %%
for case in cases:
    wanted = [*product(case.variants, SEEDS)]
    for k, s in tqdm(wanted, desc=f"restorers, {case.name}", leave=False):
        case.restorer(k, s)
    trn, images = case.restorer("TRN", seed)[1].model, len(case.seen.train)
    page.add_network("TRN", trn, dataset=case.name, images=images)

# %% [markdown]
# Held-out loss by epoch; the weights used are a running average, taken at its best epoch.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Loss on held-out training images after each epoch, the mean over seeds: at the left by map, at the right by fusion. (Other losses have other scales.)", "name": "fig-trn-training"}, "image": {"alt": "Two panels of curves of held-out loss against the epoch, one line per map at the left and one per fusion at the right."}}
GROUPS = {
    "map": ("TRN", "image only", "random map", "shuffled map", "Sobel map", "predicted", "stack", "oracle map"),
    "fusion": ("TRN", "early", "sum", "concat", "heavy"),
    "loss": ("TRN", "pixel loss", "pixel + CE", "pixel + feature", "HGD-style"),
}  # fmt: skip
GROUPS = {g: [k for k in ks if k in MAIN.variants] for g, ks in GROUPS.items()}
losses = {
    k: [MAIN.restorer(k, s)[1].history["validation"] for s in SEEDS]
    for k in MAIN.variants
}
panels = {
    f"{MAIN.name}, by {g}": {k: losses[k] for k in GROUPS[g]} for g in ("map", "fusion")
}
figures.held_out_losses(panels)
plt.show()

# %% tags=["hide-input"]
rows = []
for case, k in NETWORKS:
    test, t = case.data.test.sample(2_000), case.classifier(k)
    label, kind = ("standard", k) if k in case.others else (k, case.kind)
    right = correct(t.model, test.float_images(), test.labels)
    where = {"defence": label, "model": kind, "part": "classifiers"}
    page.runs[case.name].add_clean(right, **where)
    row = {"dataset": case.name, "network": kind, "training": label}
    row["parameters"] = parameters(t.model)
    row["clean accuracy %"] = f"{page.runs[case.name].results.interval(**where)}"
    rows.append(row | {"trained in s": f"{t.seconds:.0f}"})
caption = "The classifiers on 2,000 test images (or all), with 95 % Wilson intervals"
table(rows, caption)

# %% tags=["hide-input", "hide-output"]
rows = []
for case in cases:
    for k, s in product(case.variants, SEEDS):
        t = case.restorer(k, s)[1]
        size, epoch = parameters(t.model), int(t.history["epoch"])
        row = {"dataset": case.name, "variant": k, "seed": s, "parameters": size}
        rows.append(row | {"epoch taken": epoch, "trained in s": f"{t.seconds:.0f}"})
        told = {"validation": t.history["validation"].tolist(), "seconds": t.seconds}
        page.runs[case.name].values[f"restorer/{k}/{s}"] = told
caption = f"The restorers, each trained on pairs of {len(MAIN.seen.train):,} training images ({MAIN.name}) for {P['restorer_epochs']} epochs"
table(rows, caption)

# %% [markdown]
# ## The attacks
#
# All are made on the bare classifier; attackers who know of the restoration come later. FGSM, BIM and PGD are named in the introduction **[paper]**, MIM and FFGSM in the article **[secondary source]**: *the five attacks* from here on. Training uses FGSM and PGD, of which FFGSM, BIM and MIM are close relatives. The others follow,
# on fewer images. Attacked images are not rounded to bytes, those of training are. The budget is the largest of training, in $L_\infty$. C&W and DeepFool look for the smallest change in $L_2$ and stop just behind the border, where
# almost any change to the image can undo them: compare the row of JPEG.

# %% tags=["hide-input"]
made = [*product(cases, (*FIVE, *UNSEEN, *SMALLEST, *BY_EPS))]
for case, attack in tqdm(made, desc="attacks", leave=False):
    case.attacked(attack)

# %% [markdown]
# ## TRN-3: how good is the estimate?
#
# On attacked images that fool the classifier: the cosine of each map to the gradient at the true label, and how both compare with the perturbation $\delta$ that the attack
# made. For a confidently fooled network whose logits have orthogonal gradients of equal length, theory gives $\cos(G_\text{avg}, G_\text{true}) = 1/\sqrt{2(1 - 1/K)}$, 0.745 for ten classes. The
# predicted label's map leads away from what the classifier now believes, towards the runner-up: under the same assumption its cosine to the true gradient is −1 where that is the true class, and −1/2 where it is another. The gradient at any other wrong class has +1/2. Real logits
# do not have such gradients: how far the table is from these numbers shows how rough the assumption is.

# %% tags=["hide-input"]
rows, COSINES = [], {}  # data set -> attack -> (n,)
for case in cases:
    run, COSINES[case.name] = page.runs[case.name], {}
    for k in STUDIED:
        study = case.map_study(k)
        if study is None:
            continue
        fooled = len(study.sizes["average"])
        row = {"dataset": case.name, "attack": k, "fooled": fooled}
        rows.append(row | tables.map_row(study))
        means = study.means()
        run.values |= {f"maps/{k}/{what}": pair for what, pair in means.items()}
        if "average" in means:
            COSINES[case.name][k] = study.cosines["average"]
    if "PGD" in COSINES[case.name]:
        value = COSINES[case.name]["PGD"].nanmean().item()
        record(f"{case.name}/cosine", value, kind="number")
caption = "Maps (before scaling) on attacked images that fool the classifier: mean cosine to the gradient at the true label and to the perturbation δ, share of equal signs, and median over images of the mean absolute value"
table(rows, caption)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Mean absolute value of the unscaled maps on images that PGD made (those that fool the classifier). The gradient of the prediction has a factor 1 − p of that class, the average has none.", "name": "fig-trn-saturation"}, "image": {"alt": "Histograms of the logarithm of the size of the average map and of the predicted label's map, one panel per data set."}}
found = {case.name: case.map_study("PGD") for case in cases}
sizes = {k: study.sizes for k, study in found.items() if study}
shown = ("average", "predicted")
if sizes:  # where PGD fools nobody, there is nothing to compare
    figures.map_sizes(
        {k: {label: v[label] for label in shown} for k, v in sizes.items()}
    )
    plt.show()

# %% tags=["hide-input"] mystnb={"figure": {"caption": "From above: clean image; attacked by PGD; the perturbation; the gradient at the true label, which the defender does not know; the map averaged over the classes; that of the predicted label; Sobel's map. All but the first two rows are scaled to be seen; grey is zero. Above each column: the label, and what the classifier makes of the attacked image.", "name": "fig-trn-maps"}, "image": {"alt": "A grid of small images: clean and attacked images, the perturbation, and four kinds of maps for several examples of each data set."}}
pictures, classes, EXAMPLES = [], [], {}
for case in cases:
    f, (x, y), partner = case.bare(), case.images(), case.attacked("PGD")
    fooled = measure.newly_wrong(f, x, y, partner)
    chosen = (~fooled).long().argsort(stable=True)[:4]  # those that fool it first
    EXAMPLES[case.name] = x, y, partner = x[chosen], y[chosen], partner[chosen]
    pictures.append(figures.map_pictures(f, x, y, partner))
    classes += figures.class_turns(case.data.class_names, y, f(partner))
figures.example_grid(pictures, classes=classes)
plt.show()

# %% [markdown]
# ## Restoration
#
# *Restored* can mean two things: that the classifier is right again, or that the image is nearer to the clean one than before. TRN-1 is decided by the first alone. The second is in the columns *PSNR* and *PSNR before* below: where the first is not the larger,
# the image was made readable for this classifier, not cleaned.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "From above: clean image, attacked by PGD, restored by TRN, what was subtracted, and what is left: restored minus clean. The last two are scaled to be seen; grey is zero. Above each column: the label, and what the classifier makes of the attacked and of the restored image.", "name": "fig-trn-gallery"}, "image": {"alt": "A grid of small images for several examples of each data set: clean, attacked, restored, the subtracted residual and the remaining difference to the clean image."}}
pictures, classes = [], []
for case in cases:
    f, (x, y, partner) = case.bare(), EXAMPLES[case.name]
    with torch.no_grad():
        restored = case.defence("TRN", seed).prepare(partner)
    taken = f(partner), f(restored)
    classes += figures.class_turns(case.data.class_names, y, *taken)
    pictures.append(figures.restored_pictures(x, partner, restored))
figures.example_grid(pictures, classes=classes)
plt.show()

# %% tags=["hide-input"]
rows = []
for case, k in product(cases, PURIFIED):
    row, shown = {"dataset": case.name, "restored by": k}, case.shown("FGSM", "PGD")
    for attack, found in case.quality(k).items():
        what = "clean" if attack == "none" else attack
        row[f"{what}: PSNR"] = f"{found[0]:.1f}"
        if what != "clean":
            before = psnr(shown[attack], shown["none"]).median()
            row[f"{what}: PSNR before"] = f"{before:.1f}"
            row[f"{what}: cos to δ"] = f"{found[1]:+.2f}"
            page.runs[case.name].values[f"restored/{k}/{what}"] = list(found)
    rows.append(row)
caption = f"Restored images on {P['images']} test images: median peak signal-to-noise ratio to the clean image in dB, before and after, and the mean cosine of what was subtracted to the perturbation"
table(rows, caption)

# %% [markdown]
# ## TRN-1, TRN-5, TRN-6 and TRN-10: attackers who do not know of the defence
#
# Examples made on the bare classifier, replayed on each defence: most likely, we guess, the setting of the paper's main results. Fast-AT has other weights, so for it this is a transfer attack, and its row no fair comparison;
# that comes with the ladder. Of the trained restorers the first table has the mean over all seeds, with intervals for other seeds and other images: another seed can shrink or turn a difference of several points between them. The tables of other attacks,
# and those after the next section, have the first seed; the rules take all that were trained.

# %% tags=["hide-input"]
for case in tqdm(cases, desc="oblivious", leave=False):
    for k, s in case.defended():
        others = (*FIVE, *UNSEEN, *SMALLEST)
        keep(case, case.hits(k, s), others, defence=k, seed=s, part="oblivious")
        if k in ("none", "TRN"):
            keep(case, case.clean(k, s), defence=k, seed=s, part="clean")
rows, SHOWN = [], {"clean": ("none",)} | {a: (a,) for a in FIVE}
for case, k in product(cases, DEFENCES):
    found = page.results(part="oblivious", dataset=case.name, defence=k)
    row = {"dataset": case.name, "defence": k, "seeds": len(found.values("seed"))}
    for what, wanted in SHOWN.items():
        share = measure.share_withstood(found, wanted).mean()
        row[f"{what} %"] = f"{100 * share:.1f}"
    mean = measure.mean_withstood(measure.share_withstood(found, FIVE))
    rows.append(row | {"mean of five %": f"{mean}"})
where = ", ".join(f"{page.budget(c.eps, c.name)} ({c.name})" for c in cases)
caption = f"Accuracy on {P['images']} test images under attacks on the bare classifier at eps {where}; 95 % intervals"
table(rows, caption)

# %% tags=["hide-input"]
found = page.results(part="oblivious", attack=(*UNSEEN, *SMALLEST), seed=seed)
rows = by_attack(found, ["dataset", "defence"], percent)
caption = f"Accuracy, first seed, on {P['wide']} test images under other attacks that training did not see, made on the bare classifier; where C&W or DeepFool finds nothing, the image stays as it is"
table(rows, caption)

# %% [markdown]
# ## TRN-2 and TRN-4: what does it?
#
# The heart of the matter. Every variant below is trained on the same pairs with the same settings, over the same seeds. A map of noise, of the neighbour's image or of Sobel's filter has the two streams, and nothing of the classifier's gradient at this image; the network
# without a map spends the same number of blocks on the image. *Oracle map* knows the label and is out of competition. Of the fusions, *early* stacks image
# and map before the first layer, *sum* adds the streams, *concat* mixes them without the gate, and *heavy* has a residual block on the channels of both. Of the losses, those named remain; without cross-entropy the labels have no part in training. *HGD-style* has no map and learns from
# the classifier's features alone, as the high-level representation guided denoiser does. Where leaving out a loss changes more than leaving out the map, it is the loss, and not the gradient, that does the work.

# %% tags=["hide-input"]
wanted = [*product(MAIN.variants, SEEDS)]
for k, s in tqdm(wanted, desc="ablations", leave=False):
    some = (*FIVE, "PGD, 1.5 eps")
    keep(MAIN, MAIN.hits(k, s), some, defence=k, seed=s, part="ablation")
found = page.results(part="ablation")
SHARES = measure.shares_withstood(found, FIVE)
lead = measure.lead_over(SHARES["TRN"], SHARES["image only"])
rows = []
for group, k in [(group, k) for group, ks in GROUPS.items() for k in ks]:
    size = parameters(MAIN.restorer(k, seed)[1].model)
    row = {"choice": group, "variant": k, "parameters": size}
    rows.append(row | tables.ablation_row(found, k, FIVE))
value, n = SHARES["image only"].mean().item(), SHARES["image only"].shape[1]
record("image only/five", value, kind="number", n=n)
caption = f"Variants on {MAIN.name}: mean accuracy over {len(SEEDS)} seed{'s' * (len(SEEDS) > 1)}, and on the mean of the five attacks also each seed's, and the difference to TRN in points (paired; 95 % interval for other images{' and other seeds' * (len(SEEDS) > 1)})"
table(rows, caption)

# %% tags=["hide-input"]
caption = f"Does the gradient stream help? Mean of the five attacks on {MAIN.name}"
table([tables.stream_row(lead)], caption)

# %% [markdown]
# ## Is the map looked at, and does it leak the label?
#
# Two tests on trained networks. First, TRN keeps its weights and gets another map at test time: that of its neighbour in the batch, noise, zeros, that of Sobel's filter, or its own with the sign turned. If accuracy stays, the stream matters little. A fall shows that it is used, not that it helps, since this
# network never saw such maps in training; a rise shows that its own map costs accuracy there. Second, images that show nothing
# (noise, or grey) are labelled at random: a map that knows the label can give it back. How often the oracle's map does so shows how much the test can see; where it is near chance, the test sees little. TRN's map takes no label, so that chance is
# what must come out: a test of the code.

# %% tags=["hide-input"]
rows, own = [], {"map": "its own"}
for case in cases:
    for k, hits in case.swapped().items():
        row = {"dataset": case.name, "map at test time": k}
        keep(case, hits, defence="TRN", part="swapped", map=k)
        for what, a in {"clean": "none", "PGD": "PGD"}.items():
            where = {"part": "swapped", "attack": a}
            right = page.runs[case.name].results.interval(map=k, **where)
            row[f"{what} %"] = f"{right}"
            row[f"{what}, − its own"] = ahead(case, {"map": k}, own, **where)
        rows.append(row)
caption = f"TRN with another map at test time, {P['images']} images, 95 % intervals (differences paired)"
table(rows, caption)

# %% tags=["hide-input"]
for k, kind in product([k for k in LEAKING if k in MAIN.variants], BLANK):
    about = {"defence": k, "model": MAIN.kind, "part": "leak", "images": kind}
    page.runs[MAIN.name].add_clean(MAIN.leak(k, kind), **about)
found = page.results(part="leak")
rows = found.pivot(["defence"], "images", name="{}: labels given back %")
caption = f"Random labels given back for images that show nothing ({MAIN.name}, 1,000 images; chance: {100 / MAIN.data.num_classes:.0f} %)"
table(rows, caption)

# %% [markdown]
# ## TRN-7: other budgets, other classifiers
#
# The attack's budget first: training saw a quarter to all of it.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Accuracy under PGD on the bare classifier against eps, with 95 % Wilson intervals; the dashed line marks the largest eps of training. Fast-AT has other weights, so that this is a transfer attack for it. First seed.", "name": "fig-trn-eps"}, "image": {"alt": "Curves of accuracy against eps for the undefended classifier, the transforms, the restorers and Fast-AT; one panel per data set."}}
for case in cases:
    for k, s in case.defended():
        keep(case, case.hits(k, s), BY_EPS, defence=k, seed=s, part="eps")
found = page.results(part="eps", seed=seed)
figures.accuracy_by_eps(found, trained=[case.eps for case in cases])
plt.show()

# %% [markdown]
# Then the classifier: TRN was trained in front of one, and now stands in front of another, attacked by PGD on that other one. Its map comes from the deployed classifier, or from the one that it was trained with.

# %% tags=["hide-input"]
for kind in MAIN.others:
    for (k, used, s), hits in MAIN.moved(kind).items():
        keep(MAIN, hits, defence=k, model=kind, map=used, seed=s, part="moved")
rows = [{"classifier": "none: this profile has one kind on these data"}]
if MAIN.others:
    found = page.results(part="moved", seed=seed)
    rows = by_attack(found, ["model", "defence", "map"])
caption = f"Restorers trained in front of {MAIN.kind}, in front of other classifiers ({MAIN.name}, eps {page.budget(MAIN.eps, MAIN.name)}, {P['images']} images, first seed, 95 % Wilson intervals)"
table(rows, caption)

# %% [markdown]
# ## TRN-9: the ladder
#
# Now the attacker knows that the image will be restored. The ladder goes from an attack that ignores it to attacks made against it:

# %% tags=["hide-input"]
restarts = P["strong"][1]
caption = f"The rungs of the ladder; here with {P['ladder_steps']} steps, {restarts} start{'s' * (restarts > 1)} of APGD, {P['queries']} queries and {P['classes']} target classes"
table([{"rung": k, "attack": v} for k, v in RUNGS.items()], caption)

# %% [markdown]
# A preprocessor that can be differentiated needs none of the tricks that hidden gradients call for: *R2* (in runs of November 2026 the rungs are called A0 to A9) is one line of automatic differentiation. The rungs around it are there to see what an evaluation would report that stops early (*R0*, *R1*), and whether
# anything is left that R2 does not find. The restoration is deterministic, so no average over draws is needed. For R4, ReLU becomes softplus with β = 10 in a copy of the classifier, at a temperature where its mean largest probability is 0.9.

# %% tags=["hide-input"]
for case, k in tqdm([*product(cases, JUDGED)], desc="ladder", leave=False):
    about, run = {"defence": k, "model": case.kind}, page.runs[case.name]
    for eps, rung in product(case.curve_eps, JUDGED[k]):
        threat = rung_attacker(rung, JUDGED[k])
        run.add(case.rung(k, eps, rung), threat=threat, part=rung, **about)
    curves = case.curve(k)
    run.add_curves(curves, part="worst", **about)
    run.add_clean(curves["adaptive"][case.eps].clean, part="worst", **about)
jobs = [(case, k, eps) for case in cases for eps in case.curve_eps for k in JUDGED]


def met(case, k, eps):
    """What a defence is right on without an attack, after each rung, and under each attacker."""
    where = {"part": (*RUNGS, "worst"), "attack": ("none", WORST_CASE)}
    return page.results(dataset=case.name, defence=k, eps=(0.0, eps), **where)


ALL = {"part": "worst", "threat": "adaptive", "attack": WORST_CASE}
rows = []
for case, k, eps in jobs:
    found = met(case, k, eps)
    row = {"dataset": case.name, "eps": page.budget(eps, case.name), "defence": k}
    gain = ahead(case, {"defence": k}, {"defence": "Fast-AT"}, eps=eps, **ALL)
    rows.append(row | tables.ladder_row(found) | {"− Fast-AT": gain})
caption = f"Accuracy in % on {P['ladder_images']} test images after each rung alone (a dash: the rung makes no sense there), and in the worst case over all of them and the three attackers below, with 95 % Wilson intervals; paired 95 % intervals of the difference to Fast-AT in points"
table(rows, caption)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Accuracy of TRN after each rung alone, and in the worst case over all of them and the three attackers below, at the main budget.", "name": "fig-trn-ladder"}, "image": {"alt": "Bars of the accuracy of TRN after each rung of the ladder and in the worst case, one colour per data set."}}
figures.accuracy_by_rung({case.name: met(case, "TRN", case.eps) for case in cases})
plt.show()

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Accuracy of TRN against the number of steps of PGD at half the main budget; each number of steps is an attack of its own, with steps of 2.5 eps divided by it (at most eps).", "name": "fig-trn-steps"}, "image": {"alt": "Curves of accuracy against the number of attack steps for the oblivious attack, the identity in place of the gradient, the detached map, and end to end."}}
for n, rung in product(MAIN.step_counts(), ("R0", "R1", "R2", "R3", "R4")):
    about = {"defence": "TRN", "model": MAIN.kind, "part": "steps", "rung": rung}
    about["threat"] = rung_attacker(rung, RUNGS)
    page.runs[MAIN.name].add(MAIN.by_steps(n, rung), steps=n, **about)
figures.accuracy_by_steps(page.results(part="steps", attack=WORST_CASE))
plt.show()

# %% [markdown]
# ## Three attackers
#
# On the same images, the attackers of [the protocol](../book/protocol.md), who are the same for every defence of this book. The **oblivious** one runs four ordinary attacks on the bare classifier, as R0 runs one; the **direct** one has them and stronger ones (PGD and APGD, each with two losses) through the deployed
# pipeline, as R3 has one (R2 where there is no map). The **adaptive** one begins with what all rungs and the other two found. What is left it attacks with the stronger ones through the identity and through the detached map, with the decoy of R6, noise and Square, and with what the stronger ones make on the relatives of R8. A rung has other steps than the first two attackers and may find what they miss; only the adaptive one has both.

# %% tags=["hide-input"]
rows = []
for case, k, eps in jobs:
    found = met(case, k, eps).select(part="worst")
    row = {"dataset": case.name, "eps": page.budget(eps, case.name), "defence": k}
    row |= {f"{t} %": f"{found.interval(threat=t)}" for t in ("clean", *ATTACKERS)}
    gain = ahead(case, {"defence": k}, {"defence": "none"}, eps=eps, **ALL)
    rows.append(row | {"adaptive − undefended": gain})
caption = f"Accuracy on {P['ladder_images']} test images under three attackers, with 95 % Wilson intervals, and paired 95 % intervals of the difference to no defence in points"
table(rows, caption)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Accuracy on the first data set against eps under three attackers, with 95 % Wilson intervals.", "name": "fig-trn-curves"}, "image": {"alt": "One panel per defence: accuracy against eps for the oblivious, the direct and the adaptive attacker."}}
worst = page.results(part="worst", attack=WORST_CASE, dataset=MAIN.name)
plotting.robustness_curves(worst)
plt.show()

# %% [markdown]
# ```{admonition} What else could be tried, and is not run here
# :class: note dropdown
# Attacks, controls and measures, each with the reason.
#
# - An objective with the cosine between map and perturbation: the decoy, which is R6, has the same aim.
# - R4 with a β of 5 and of 20: one of that range is run, and R2 needs no second derivative at all.
# - Patches and spatial changes: other threat models.
# - ARN, APE-GAN and NRP: further defences; *image only* and *HGD-style* stand for restoration without a map.
# - SSIM of restored images: the PSNR is shown.
# ```

# %% [markdown]
# The ids in the next table are those of the list of checks in [the protocol](../book/protocol.md). A check that fires asks for an explanation. B6 has to fire for TRN, which takes a gradient to classify. B8 fires where a little noise changes the margin
# much. E2 asks for three trained networks, and the ladder meets one.

# %% tags=["hide-input"]
found = {(MAIN.name, k): MAIN.checks(k) for k in CHECKED}
page.checks(
    found, f"Sanity checks of the evaluation at eps {page.budget(MAIN.eps, MAIN.name)}"
)

# %% [markdown]
# ## TRN-8: what it costs, and how it grows
#
# $f$ is the classifier. Fast-AT is the same network as the bare classifier with other weights: as far as their rows differ, the times are noise. TRN-8 asks only whether a larger network restores better; whether a larger network
# *without* a map gains as much was not tried.

# %% tags=["hide-input"]
rows, (batch, rounds) = [], P["timed"]
for case in cases:
    images = case.images()[0][:batch]
    costs = {k: cost(case.defence(k, seed), images, rounds=rounds) for k in DEFENCES}
    for k, found in costs.items():
        row = tables.cost_row(found, costs["none"], batch=len(images))
        rows.append({"dataset": case.name, "defence": k} | row)
        page.runs[case.name].add_cost(k, **vars(found))
caption = f"Cost of classifying one image: passes through the classifier, and milliseconds (medians of {rounds} runs on {page.device.type})"
table(rows, caption)

# %% tags=["hide-input"]
caption = "How the restoration network grows with the number of classes and the size of the image, with the average map and with the stack of all classes; counted, without the classifier's passes"
table(tables.growth_rows(), caption)

# %% tags=["hide-input"]
rows = [{"note": f"profile {profile} has one size"}]
caption = "A larger network"
large, LARGER = MAIN.larger, {}  # sizes -> shares that both withstand of the five
if large:
    for s in SEEDS:
        keep(MAIN, MAIN.hits(large, s), defence=large, seed=s, part="larger")
    took = [MAIN.restorer(k, seed)[1].seconds for k in (large, "TRN")]
    both = {"part": ("oblivious", "larger"), "defence": ("TRN", large)}
    found = page.results(dataset=MAIN.name, attack=("none", *FIVE), **both)
    rows = []
    for what, wanted in (SHOWN | {"mean of five": FIVE}).items():
        pair = measure.shares_withstood(found, wanted)
        row = {"attack": what} | {f"{k} %": f"{100 * pair[k].mean():.1f}" for k in pair}
        row["difference"] = f"{measure.lead_over(pair[large], pair['TRN']):+}"
        rows.append(row)
    LARGER[f"{large} − TRN-{P['size']}"] = pair[large], pair["TRN"]
    caption += f" than TRN-{P['size']} ({MAIN.name}, {P['images']} images, {len(SEEDS)} seed{'s' * (len(SEEDS) > 1)}, the same pairs and epochs, its own learning rate; trained in {took[0]:.0f} s, the smaller one in {took[1]:.0f} s)"
table(rows, caption)

# %% [markdown]
# ## Verdicts

# %% tags=["hide-input"]
conditions = {}
for case in cases:
    of = page.results(dataset=case.name).select
    found, clean = of(part="oblivious"), of(part="clean")
    worst = of(part="worst", eps=(0.0, case.eps), attack=("none", WORST_CASE))
    five = measure.shares_withstood(found, FIVE)
    left = {page.budget(eps, case.name): of(eps=eps, **ALL) for eps in case.curve_eps}
    ablated, sizes, others = {}, {}, ()
    if case is MAIN:
        ablated, sizes, others = SHARES, LARGER, MAIN.others
    settings = measure.other_settings(of(), case.eps, others)
    conditions[case.name] = {
        "TRN-1": verdicts.restores_the_five_attacks(found, worst),
        "TRN-2": verdicts.exceeds_blind_maps(ablated),
        "TRN-3": verdicts.label_is_not_needed(COSINES[case.name], ablated),
        "TRN-4": verdicts.exceeds_simpler_fusions(ablated),
        "TRN-5": verdicts.restores_unseen_attacks(found, worst),
        "TRN-6": verdicts.benign_accuracy_stays(clean),
        "TRN-7": verdicts.generalises(settings, worst),
        "TRN-8": verdicts.a_larger_network_restores_better(sizes),
        "TRN-9": verdicts.holds_against_all_rungs(left),
        "TRN-10": verdicts.exceeds_other_purifications(five, worst),
        "TRN-11": (),
    }
page.verdicts(conditions, volatile=[f"TRN-{i}" for i in range(2, 10)])

# %% [markdown]
# Each verdict follows from a rule. *Supported* means that every condition holds, *contradicted* that one cannot hold (by intervals that allow for the number of conditions), *mixed* that some cases are supported and others contradicted, and *undecided* that the intervals cannot tell.
# TRN-2 and TRN-4 are decided on the first data set, where every variant was trained; so are the comparison with the oracle in TRN-3, the other classifiers of TRN-7 and the larger network of TRN-8. Where a rule speaks of an attacker who knows the defence,
# it has the first seed of all networks; elsewhere all seeds of the restorers in front of one classifier.

# %% tags=["hide-input"]
page.rules()

# %% [markdown]
# ## Limitations
#
# - Unless the profile is `paper`, all verdicts are about a small network that was trained for few epochs, and the restorers see fewer images than the classifiers and Fast-AT do. What was trained, on how many images and for how long, is in the table of profiles and in the folded table
#   above *The attacks*.
# - In the ladder, one network of each kind meets the attacks, on as many images as its caption says. Fast-AT has no map and no restoration, so some rungs do not exist for it; it was trained at the main eps, and also meets smaller ones.
# - The transforms have usual settings that were not tuned here; a weaker or stronger one may do better. Only TRN, the network without a map and Fast-AT met attackers who know the defence; JPEG, bit depth, the median, total variation and HGD-style did not. None of the defences in TRN-10 is
#   meant as the state of the art, and SVHN, which TRN-10 names, is in the profile `paper` alone.
# - Training TRN on attacks through itself was not tried.
#
# What would change a verdict: the paper's own estimate of the gradient, network, losses and training attacks; larger networks and longer training (profile `paper`). None of them would make a preprocessor that can be differentiated hard to differentiate.
#
# ## Why such an evaluation looks good
#
# The attack decides. The images and the budget are the same in every column. In the columns of TRN the defence is the same as well, and only the attacker changes: R0 does nothing about the restoration, R1 takes its gradient for the identity, R2 differentiates it
# with the map held constant (one line of automatic differentiation), and the last has all rungs and the three attackers. The columns beside them are other defences on the same images.

# %% tags=["hide-input"]
rows = []
for case in cases:
    found = page.results(dataset=case.name, eps=case.eps, attack=WORST_CASE)
    row = {"dataset": case.name, "eps": page.budget(case.eps, case.name)}
    rows.append(row | tables.headline_row(found))
caption = (
    f"Accuracy on the same {P['ladder_images']} test images as the attacker learns more"
)
page.headline(pd.DataFrame(rows), caption)

# %% [markdown]
# ## Provenance

# %% tags=["hide-input"]
page.finish()
