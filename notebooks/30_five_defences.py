# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,mystnb,-all
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Five defences, one protocol
#
# Each paper measured its defence on networks, data and budgets of its own, so their numbers cannot be laid side by side. Here they can, for one data set, one small network and one seed: the five
# defences stand before the **same attackers**, on the same images, with the same budgets. Beside them stand the classifier without any
# defence, and the plainest defence there is, training on attacked images.
#
# ```{admonition} What is known, and what is ours
# :class: note
# None of the five papers compares its defence with the other four, so **everything on this page is ours**: the data, the classifier, the
# budgets and the sizes. Each defence is here in each form that its paper proposes, or in the one that a reader of its page would deploy (never an oracle), trained by the
# method of its page. One network form, one schedule for all classifiers, one seed: what others would give, the pages of the papers show
# for some of them. This page tests no claim of a paper and gives no verdict; [those are listed here](../book/verdicts.md).
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
seeds = None  # one run has one seed; advdef reproduce --seeds N makes more

# %% tags=["hide-input"]
from itertools import product

import matplotlib.pyplot as plt
import pandas as pd
import torch
from advdef import plotting
from advdef.book import page as notebook
from advdef.book.glue import record
from advdef.evaluation import correct, cost, multiply_adds
from advdef.evaluation.results import WORST_CASE
from advdef.papers import PAPERS
from advdef.papers.comparison import ATTACK_KINDS, FiveDefences
from advdef.statistics import wilson
from tqdm import tqdm

plotting.use_style()

# %% [markdown]
# ## How much is computed
#
# The same code runs in four sizes; the numbers on this page come from the profile named in the table's caption. In the smaller
# profiles classifiers, restorer and purifier do not learn from equally many images, as the restorer and the purifier are expensive to train. The purifier takes images whose sides are multiples of 4.

# %%
PROFILES = FiveDefences.profiles
page = notebook.Page(
    "five_defences", PROFILES, profile, dataset=dataset, seed=seed, device=device, eps=eps,
    images=images, seeds=seeds,
)  # fmt: skip
P, run = page.settings, page.run
((name, study),) = page.studies(FiveDefences).items()
EPS, BUDGETS = study.eps, study.budgets
X, Y = study.images()
page.profiles()

# %% [markdown]
# ## The line-up
#
# | defence | from | what it is here | what it changes |
# |---|---|---|---|
# | **undefended** | | the classifier alone | |
# | **AT** | {cite:t}`madry2018towards` | adversarial training with PGD | training |
# | **CQ** | [QuSecNets](01_qusecnets) | thresholds at equal distances on the input, two levels on grey images and four on colour | input and training |
# | **TQ** | [QuSecNets](01_qusecnets) | as many thresholds, trained together with the network | input and training |
# | **SNS** | [neuron sensitivity](02_neuron_sensitivity) | adversarial training that also holds the most sensitive tenth of the neurons still | training |
# | **NIP** | [NIP](03_nip) | class dictionary, decided by the mean logit (V2): no label and no clean image is known | input |
# | **TRN** | [TRN](04_trn) | a network that sees the image and the average gradient map | input |
# | **purifier** | [SNN purification](05_snn_purification) | the spiking U-Net, here in front of the same classifier without spikes | input |
#
# AT and SNS share their inner attack, epochs and schedule, and are trained **for the largest budget of this page**; restorer and purifier see attacks of this and of smaller budgets (the purifier also of one half as large again), CQ, TQ and NIP none. NIP, TRN and the purifier stand in front of
# one and the same frozen classifier, the *undefended* one. On its own page the purifier has a spiking classifier behind it, and SNS another optimiser; the common ones are what makes the rows of this page comparable.
# NIP has a bank of directions, fitted on training images; its step is the largest of six that costs at most one point on *training* images, as on its page.
# QuSecNets proposes two forms, and both stand here. The one that a defender would deploy is chosen on training images that no classifier was trained on: the form that keeps more of them right under
# PGD through each of its surrogates and its own attacks, at the main budget; of equals the one with more clean images right. The [result card](../book/cards.md) is that form's.
# All settings stand in [`line_up` and `comparison`](../book/api/papers).

# %% tags=["hide-input"]
DEFENCES = {k: study.defence(k) for k in tqdm(study.names, desc="trained", leave=False)}
PLAIN, (step,) = study.classifier(), DEFENCES["NIP"].steps
page.add_network(P["network"], PLAIN, images=len(study.images_of_classifiers.train))
record("NIP/step", step, kind="number")
chosen = {
    f"thresholds of {k}, pixel values in [0, 1]": ", ".join(
        f"{t:.3f}" for t in DEFENCES[k].quantizer.thresholds.tolist()
    )
    for k in ("CQ", "TQ")
} | {
    "step of NIP, root mean square in [0, 1]": f"{step:.3g}",
}
notebook.table(
    pd.DataFrame(
        {"what was learned or chosen": chosen.keys(), "value": chosen.values()}
    ),
    "What the defences took from the training images, or were given (CQ)",
)

# %% tags=["hide-input"]
FORMS = {paper.id: paper.forms for paper in PAPERS if paper.forms}
run.values["deployed"] = {paper: study.chosen(forms) for paper, forms in FORMS.items()}
rows = []
for k in (form for forms in FORMS.values() for form in forms):
    trial = study.trial(k)
    record(f"trial/{k}/clean", trial.clean, kind="hits")
    record(f"trial/{k}/adaptive", trial.robust, kind="hits")
    rows.append(
        {
            "form": k,
            "clean %": str(wilson(int(trial.clean.sum()), len(trial.clean))),
            f"PGD and own attacks, eps {page.budget(EPS)} %": str(
                wilson(int(trial.robust.sum()), len(trial.robust))
            ),
            "a defender deploys": "this one"
            if k in run.values["deployed"].values()
            else "",
        }
    )
notebook.table(
    pd.DataFrame(rows),
    f"The forms of one paper on {len(trial.clean)} training images that no classifier saw, with 95 % intervals",
)

# %% [markdown]
# ## Three attackers
#
# The rules are those of [the protocol](../book/protocol.md): the **oblivious** attacker crafts on the undefended classifier, with four ordinary attacks; the **direct** one has those and stronger ones, all with the gradient that the deployed
# defence gives; the **adaptive** one runs the stronger ones on every surrogate, has attacks made for this defence, images replayed from the undefended network, AT and SNS
# (except from the defence itself), noise and Square, and all that the other two found. So from *direct* to *adaptive* only the knowledge of the defence, and what needs no gradient of it, is added. An image is robust when nothing broke it.

# %% tags=["hide-input"]
clean_test = study.data.test.sample(2_000)
for k, defence in tqdm(DEFENCES.items(), desc="three attackers", leave=False):
    right = correct(defence, clean_test.float_images(), clean_test.labels)
    run.add_clean(right, defence=k, model=P["network"])
    run.add_curves(study.curve(k), defence=k, model=P["network"])

# %% tags=["hide-input"]
worst = page.results(part="curve", attack=WORST_CASE)
shown = page.results(
    part=("clean", "curve"), attack=("none", WORST_CASE), eps=(0.0, EPS)
)
table = shown.pivot(("defence",), "threat", name="{} %")
if smaller := [eps for eps in BUDGETS if eps != EPS]:
    beside = worst.select(threat="adaptive", eps=smaller).pivot(
        ("defence",), "eps", lambda i: f"{100 * i.value:.1f}", name="adaptive %, eps {:.3g}",
    )  # fmt: skip
    table = table.merge(beside, on="defence")
page.headline(
    table,
    f"All defences at eps {page.budget(EPS)} ({page.run_line}): clean accuracy on {len(clean_test):,} test images, worst cases on {len(Y)}, with 95 % intervals; at the right, the adaptive attacker with smaller budgets",
)

# %% [markdown]
# From *oblivious* to *adaptive* an attacker learns more and more about the defence. Where *direct* lies above *oblivious* or far above *adaptive*, the gradient of the defence leads nowhere, and an evaluation that stops there flatters it. The question that decides
# whether a defence is worth its cost is in the column *adaptive − AT* of the next table: is it better than training on attacked images?

# %% tags=["hide-input"]
direct_, adaptive_ = {"threat": "direct"}, {"threat": "adaptive"}
rows = []
for k, eps in product(DEFENCES, BUDGETS):
    where = dict(part="curve", attack=WORST_CASE, eps=eps)
    gap = run.compare(direct_, adaptive_, defence=k, **where)
    row = {"defence": k, "eps": page.budget(eps), "direct − adaptive": f"{gap:+}"}
    for other in [n for n in ("undefended", "AT") if n != k]:
        gain = run.compare({"defence": k}, {"defence": other}, **adaptive_, **where)
        row[f"adaptive − {other}"] = f"{gain:+}"
    rows.append(row)
columns = ["defence", "eps", *(f"{a} − {b}" for a, b in (("direct", "adaptive"), ("adaptive", "undefended"), ("adaptive", "AT")))]  # fmt: skip
notebook.table(
    pd.DataFrame(rows)[columns],
    f"Differences in points over the same {len(Y)} images, with 95 % intervals",
)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Robust accuracy against eps, one panel per attacker and one colour per defence, with 95 % Wilson intervals; points are moved sideways a little so that none hides another. The right panel is the one that counts.", "name": "fig-five"}, "image": {"alt": "Three panels of accuracy against eps for the oblivious, direct and adaptive attacker; each has one line for the undefended classifier, for adversarial training and for each form of the five defences. Lines fall from left to right, and further down in the panel of the adaptive attacker."}}
plotting.threat_panels(worst)
plt.show()

# %% [markdown]
# A curve may drop suddenly between two budgets. For a quantiser this happens where eps reaches the distance from common pixel values to a threshold: on images with a dark background and two levels, no
# background pixel can flip before, and all of them can after. The thresholds, learned (TQ) and given (CQ), stand in a table above. This is why a curve is shown, and not one
# budget that somebody chose.
#
# ## Which attack broke what
#
# Here one strong attack of every kind (PGD on the margin, but for what is made for the defence) is tried on every correctly classified image, whether or not another one has broken it. The number in parentheses counts the images that *only* this kind broke.
# Which kind suffices differs from defence to defence; who tries one alone must know which.

# %% tags=["hide-input"]
table = {}
for k in tqdm(DEFENCES, desc="kinds", leave=False):
    outcome = study.kinds(k)
    run.add(outcome, defence=k, threat="adaptive", model=P["network"], part="kinds")
    broken = {kind: torch.zeros_like(outcome.clean) for kind in ATTACK_KINDS}
    for finding in outcome.findings:
        broken[finding.name.split(":")[0]] |= finding.broken
    times = torch.stack(list(broken.values())).sum(0)
    table[k] = {
        kind: "–"
        if not any(f.name.split(":")[0] == kind for f in outcome.findings)
        else f"{int(hits.sum())} ({int((hits & (times == 1)).sum())})"
        for kind, hits in broken.items()
    }
    run.values[f"unique/{k}"] = {
        kind: int((hits & (times == 1)).sum()) for kind, hits in broken.items()
    }
    table[k]["of"] = int(outcome.clean.sum())
notebook.table(
    pd.DataFrame(table).T.rename_axis("defence").reset_index(),
    f"Images broken by each kind of attack at eps {page.budget(EPS)}, and (in parentheses) by no other kind; *of* counts the images that were right before",
)

# %% [markdown]
# ## What it costs

# %% tags=["hide-input"]
base, rows = multiply_adds(PLAIN, X[:16]), []
for k, defence in DEFENCES.items():
    price = cost(defence, X[:16], rounds=1)
    extra, seconds = study.further(k), study.seconds(k)
    ratio = multiply_adds(defence, X[:16]) / base
    further = sum(p.numel() for p in extra.parameters()) if extra else 0
    rows.append(
        {
            "defence": k,
            "further parameters": f"{further:,}",
            "training s": f"{seconds:.0f}",
            "multiply-adds, of undefended": f"{ratio:.1f} ×",
            "forward passes": f"{price.forwards:g}",
            "backward passes": f"{price.backwards:g}",
        }
    )
    run.add_cost(
        k, training_seconds=round(seconds, 1), multiply_adds_ratio=round(ratio, 3),
        forwards=price.forwards, backwards=price.backwards,
    )  # fmt: skip
    record(f"cost/{k}/multiply-adds", ratio, kind="number")
notebook.table(
    pd.DataFrame(rows),
    "Cost: seconds for all that has to be trained or fitted, the classifier behind a defence included (on a machine that did other work, too); and for one image at inference, multiply-adds and passes of the common classifier",
)

# %% [markdown]
# ## Sanity checks
#
# The row of each defence under the *direct* attack. A check that fires is a reason to distrust the direct number above, and the reason why the adaptive one is there; what each means is in [the
# protocol](../book/protocol.md). E2 fires for all of them, as one seed was trained. B8 fires where a little noise moves the margin by more than the check likes, as it does for the undefended classifier.
# The hard thresholds of CQ and TQ pass no gradient (B4, B5), so the direct attacker has nothing to follow: Square, which needs no gradient, and replayed images break some of what it left (C7, C9). The adaptive attacker
# has the gradients of the surrogates (D3); the table of kinds above says whether Square is still the only one that breaks an image. For the same reason they miss planted examples (C12), and CQ even an unlimited budget (C6).
#
# TRN computes a gradient in each pass (B6). D4 asks whether a defence falls to each of its stand-ins alone: those of CQ, TRN and the purifier differ widely, and the adaptive attacker takes all. E6 names
# replayed breaks, which ask nothing. Checks that repeat an attack with more steps, starts or budgets (C2 to C5, C10, C13) and a few others do not run in this profile; more steps and starts are what the adaptive search by need tries (C14).
# At the budgets below the largest one that search ends after its first round, so those numbers may lie further above the truth.

# %% tags=["hide-input"]
found = {(name, k): study.checks(k) for k in tqdm(DEFENCES, desc="checks", leave=False)}
# only where the gradient is missing altogether does every machine agree on the row
page.checks(
    found,
    f"Sanity checks of the direct evaluation at eps {page.budget(EPS)}",
    exact=("CQ", "TQ"),
)

# %% [markdown]
# What the pages of the papers found for the same defences, each with its own data, network and budgets, stands side by side [among the result cards](../book/cards.md).

# %% [markdown]
# ## Provenance

# %% tags=["hide-input"]
page.finish()
