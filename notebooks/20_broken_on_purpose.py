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
# # Broken on purpose
#
# A high accuracy under attack has two explanations: the defence is strong, or the attack is weak. On a real defence one
# has to find out which. On this page we know: one undefended network is wrapped in four ways. None was trained to
# resist anything, and each spoils the attack by a fault that we planted ourselves. Then the row of sanity checks that
# stands on every page of a paper is run on all of them, and on the network alone.
#
# It is the page to read first if you have a defence of your own: the last section says how to get its row. What each check
# measures is in [the protocol](../book/protocol.md).
#
# ```{admonition} What is known, and what is ours
# :class: note
# The faults are of the kinds that {cite:t}`athalye2018obfuscated` found in published defences: gradients that vanish, are
# random, or are not there. Most checks come from {cite:t}`carlini2019evaluating`, {cite:t}`pintor2022indicators`, AutoAttack
# {cite}`croce2020reliable` and RobustBench; each names its source where it is defined, and says where a threshold is
# **ours**. The four wrappers are ours. This page tests no claim of a paper and gives no verdict.
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
from advdef import checks, plotting
from advdef.attacks import pgd, suites, traced
from advdef.book import page as notebook
from advdef.book.glue import record
from advdef.book.page import show_eps
from advdef.contract import watched
from advdef.defenses import Undefended
from advdef.defenses.broken import Detached, RandomInput, ScaledLogits
from advdef.evaluation import ATTACKERS, adaptive, direct, evaluate, oblivious
from advdef.evaluation.packed import attacked_sets
from advdef.models import CleverhansCNN
from advdef.papers.qusecnets.defence import Quantized
from advdef.papers.qusecnets.quantizer import Quantizer
from advdef.training import train_standard, trained
from tqdm import tqdm

plotting.use_style()

# %% [markdown]
# ## How much is computed
#
# The same code runs in four sizes. The numbers on this page come from the profile named in the table's caption. The network takes square images with an even
# side of at least 28.

# %%
PROFILES = {
    "smoke": dict(datasets=("digits",), width=16, train=1_297, epochs=5, images=80, steps=10, restarts=1, draws=5),
    "laptop": dict(datasets=("mnist",), width=64, train=15_000, epochs=3, images=200, steps=40, restarts=1, draws=20),
    "gpu": dict(datasets=("mnist",), width=64, train=None, epochs=6, images=1_000, steps=40, restarts=2, draws=20),
    "paper": dict(datasets=("mnist",), width=64, train=None, epochs=10, images=1_000, steps=100, restarts=5, draws=20),
}  # fmt: skip
EFFORT = {
    "smoke": checks.BRIEF,
    "laptop": checks.QUICK,
    "gpu": checks.FULL,
    "paper": checks.FULL,
}  # fmt: skip
P = notebook.choose(PROFILES, profile)
page = notebook.Page(
    "broken_on_purpose", PROFILES, profile, dataset=dataset, seed=seed, device=device, train=P["train"],
    eps=eps, images=images, seeds=seeds,
)  # fmt: skip
P = page.settings
((name, data),) = page.data.items()
USUAL = 0.3 if data.shape[0] == 1 else 8 / 255  # for grey images that of Cleverhans
EPS = USUAL if eps is None else eps
batch = notebook.sample(data.test, P["images"])
images, labels = batch.float_images(), batch.labels
page.profiles()

# %% [markdown]
# ## One network, four faults
#
# The network is the Cleverhans CNN, trained without any defence. Each wrapper is a few lines of `advdef.defenses`; what
# matters of it is one of them:
#
# | defence | the planted fault | what an attack then follows |
# |---|---|---|
# | honest | none: the network itself | the gradient |
# | scaled logits | `1000 * network(images)` | a softmax that is exactly 0 or 1: cross-entropy has no slope |
# | random input | `network(images + noise)`, fresh noise in every pass | the gradient of a network that is gone |
# | hard quantiser | `network(quantise(images))`, four grey levels | a staircase: no slope anywhere |
# | detached | `network(images.detach())` | nothing: the graph ends before the image |
#
# Scaling and detaching change **no decision at all**: whatever robustness they seem to have is an error of measurement.
# Noise and grey levels do change what the network sees, so they may keep a part of what they seem to. Each wrapper
# also hands over the *surrogate* that undoes its fault: the unscaled network, the mean over several draws of the noise,
# the quantiser with the slope of something smooth, the network that is not cut off.

# %%
network = trained(
    partial(CleverhansCNN, data.shape, data.num_classes, width=P["width"]),
    train_standard,
    data,
    seed=seed,
    epochs=P["epochs"],
    schedule="cosine",
).model
defences = {
    "honest": Undefended(network),
    "scaled logits": ScaledLogits(network, factor=1_000),
    "random input": RandomInput(network, amount=0.5, draws=P["draws"]),
    "hard quantiser": Quantized(network, Quantizer(4), undefended=network),
    "detached": Detached(network),
}
for defence in defences.values():
    defence.to(page.device).eval()

# %% [markdown]
# ## What seems, and what is
#
# The *apparent* robust accuracy is what one call of an attack library gives: PGD with the defaults of Cleverhans through
# the defence as it is (*direct*). What we call *true* adds an attacker who knows what was planted (*adaptive*): PGD and
# APGD, with two losses, through the surrogates; like every result of an attack, it is an upper bound. Success is judged
# on the wrapped network in both cases. Images that were crafted on the network alone are replayed as well
# (*oblivious*); the checks need them. The random defence is judged on draws that had no part in the attack: else trying
# often would pass for breaking.

# %%
suite = suites.cleverhans()
naive = {"PGD": suite["PGD"]}
powerful = suites.strong(steps=P["steps"], restarts=P["restarts"])
outcomes = {}  # defence -> what was run -> outcome
for k, defence in tqdm(defences.items(), desc=name, leave=False):
    attack = partial(
        evaluate, defence, images=images, labels=labels, eps=EPS, resume=page.resume,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    single = direct(defence, {"FGSM": suite["FGSM"]} | naive)
    found = {
        "single": attack(single, exhaustive=True),
        "direct": attack(direct(defence, naive)),
        "oblivious": attack(oblivious(defence, naive)),
    }
    tried = adaptive(defence, powerful, eps=EPS, steps=P["steps"])
    found["adaptive"] = attack(tried, known=[found["direct"], found["oblivious"]])
    outcomes[k] = found
    about = dict(defence=k, model="cleverhans-cnn")
    page.run.add_clean(found["direct"].clean, **about)
    for threat in ("direct", "oblivious", "adaptive"):
        page.run.add(found[threat], part="worst", threat=threat, **about)

# %% tags=["hide-input"]
sets = [
    one
    for k, found in outcomes.items()
    for one in attacked_sets(k, {threat: {EPS: found[threat]} for threat in ATTACKERS})
]
page.add_attacked(sets, images, labels, defences.__getitem__)
rows = []
for k, found in outcomes.items():
    seems, true = found["direct"].interval, found["adaptive"].interval
    error = seems.value - true.value
    record(f"{name}/error/{k}", error, kind="number", n=len(images))
    rows.append(
        {
            "defence": k,
            "clean %": f"{100 * found['direct'].clean_interval.value:.1f}",
            "apparent %": f"{seems}",
            "true %": f"{true}",
            "error, points": f"{100 * error:+.1f}",
        }
    )
notebook.table(
    pd.DataFrame(rows),
    f"Accuracy of {len(images)} images at eps {show_eps(EPS)}, with 95 % intervals; of the random defence, the mean over ten fresh draws",
)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Apparent (squares) and true (diamonds) robust accuracy of one network behind four planted faults, and alone; bars are 95 % Wilson intervals. The length of the grey line is the error of the naive evaluation.", "name": "fig-apparent"}, "image": {"alt": "Dot chart with one line per defence. For the honest network both marks lie together at the left. For the broken defences without a usable gradient the square lies far to the right of its diamond; for the random one they lie close together where the attacks that follow one draw suffice."}}
figure, panel = plt.subplots(figsize=(6.7, 2.8))
for line, measured in enumerate(outcomes.values()):
    seems, true = measured["direct"].interval, measured["adaptive"].interval
    panel.plot([true.value, seems.value], [line, line], color="0.8", lw=3, zorder=0)
    for label, marker, colour, interval, shift in [
        ("apparent", "s", "#D55E00", seems, -0.12),
        ("true", "D", "#0072B2", true, 0.12),
    ]:
        panel.errorbar(
            interval.value,
            line + shift,
            xerr=[[interval.value - interval.low], [interval.high - interval.value]],
            fmt=marker,
            color=colour,
            lw=1,
            label=label if line == 0 else None,
        )
panel.set_yticks(range(len(outcomes)), outcomes)
panel.invert_yaxis()
plotting.percent_axis(panel.xaxis, "robust accuracy")
panel.set_xlim(-0.03, 1.03)
panel.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# What an attack goes through tells a fault from robustness: PGD on the margin, pass by pass. Where the gradient is missing, the lines
# stay flat; through the surrogate of the quantiser they rise, with the same decisions.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Loss, margin and size of the perturbation at each pass of PGD: medians over the images, and the middle half of them. The grey lines are the boundary and the budget.", "name": "fig-traces"}, "image": {"alt": "Three panels against the pass of the attack. Behind the hard quantiser and the detached network loss and margin stay where they began; on the honest network and through the identity they rise within the first twenty passes."}}
SHOWN = {
    "honest": defences["honest"],
    "hard quantiser, as deployed": defences["hard quantiser"],
    "through the identity": defences["hard quantiser"].surrogate("identity"),
    "detached": defences["detached"],
}
way = partial(pgd, steps=P["steps"], loss="margin", random_start=False)
with watched():  # that gradients are missing is the point here, and no reason to warn
    traces = {
        k: traced(way, model, images, labels, eps=EPS) for k, model in SHOWN.items()
    }
plotting.attack_traces(traces, eps=EPS)
plt.show()

# %% [markdown]
# ## The row of checks
#
# One call gives the row of a defence. It receives the outcomes above and attacks a little on its own account. Groups A to C
# look at the attack, the defence and the search; group D runs only where B has found randomness or a broken gradient; E asks
# what a reader was told.

# %%
card = dict(
    goal="any wrong class", norm="Linf", eps=EPS, knowledge="everything but the noise"
)
found = {
    k: checks.row(
        defence,
        images,
        labels,
        eps=EPS,
        generator=torch.Generator().manual_seed(seed),
        card=card | dict(randomised="input" if k == "random input" else "nothing"),
        effort=EFFORT[profile],
        **outcomes[k],
    )
    for k, defence in tqdm(defences.items(), desc="checks", leave=False)
}
page.checks(
    {(name, k): row for k, row in found.items()},
    "Sanity checks of the direct evaluation, by defence",
)

# %% [markdown]
# ## Who must catch what
#
# A fault and a check belong together for a reason, so what must fire can be written down before anything runs. The
# reasons are below.

# %%
LOST = {"C6", "C7", "C9", "C12", "D3"}  # whatever made the attack lose its way
EXPECTED = {
    "honest": set(),
    "scaled logits": LOST | {"B5", "B7"},
    "random input": {"B2", "B8"},
    "hard quantiser": LOST | {"B4", "B5"},
    "detached": LOST | {"B4", "B5"},
}

# %% tags=["hide-input"]
rows = []
for k, row in found.items():
    fired = [c.id for c in row if c.status == "fire"]
    missing = [c.id for c in row if c.id in EXPECTED[k] and c.id not in fired]
    besides = [id for id in fired if id not in EXPECTED[k]]
    rows.append(
        {
            "defence": k,
            "must fire": ", ".join(c.id for c in row if c.id in EXPECTED[k]) or "none",
            "of these silent": ", ".join(missing) or "none",
            "fired besides": ", ".join(besides) or "none",
        }
    )
    record(f"{name}/missing/{k}", ", ".join(missing) or "none", kind="text")
    record(f"{name}/besides/{k}", ", ".join(besides) or "none")
notebook.table(pd.DataFrame(rows), "Expected and fired")

# %% [markdown]
# **The honest network** passes all that measures it. E2 fires in every column, and rightly so: it asks for three trained
# networks, and this page trains one.
#
# **Scaled logits.** B5 looks at the gradient of two losses. With cross-entropy it is missing in nearly every image, with
# the margin in none, and this difference *is* the diagnosis: the network is fine, the loss is saturated. B7 says the
# same in accuracy: PGD with the margin does not care about the scale, PGD with cross-entropy breaks far less. The cure
# is one argument, `loss="margin"`.
#
# **Random input.** B2 compares passes, and they differ. Now a success may be luck: PGD returns an image that was misclassified
# once, and the next draw forgives it; one long step can beat many short ones (C1), and accuracy can rise with
# eps (C5). B8 fires because predictions move even
# between neighbours. Checks that compare two counts would only compare draws, so once
# B2 has fired they do not run: the dashes in this column. The cure is the mean over the noise: D1 shows how many draws it takes, D2
# that nothing is left once the noise is frozen.
#
# **Hard quantiser** and **detached.** B4 asks autograd for a way from the loss back to the image, and there is none; B5
# follows, with either loss. The two look alike, and they should: to the attacker they are the same fault. Whether
# anything was gained can only be told by going around it, which is what D3 does (BPDA
# {cite}`athalye2018obfuscated`).
#
# **Common to all that lost their way.** C6 gives the attack the whole range of pixels, where a uniformly grey image is
# within reach; if even that leaves more than chance, the attack is broken, and not the ball too small. C7 and C9 ask
# attackers who see no gradient: Square by scores, and images replayed from the network alone. What they break is
# missing from the direct number. C12 plants an adversarial example: behind a readout that is made for one image, some
# point of the ball has another class for certain {cite}`zimmermann2022increasing`, and an attack that follows the
# gradient has to find one.

# %% [markdown]
# ## What stays silent, and why
#
# - **C2, C3, C4 and C5 have no reason to fire where the gradient is zero.** An attack that goes nowhere has converged:
#   more steps change nothing, and the loss is flat. A converged attack is not a strong one.
# - **C10 is a low bar.** Random points of the ball seldom fool even an undefended network. Where they do and the gradient
#   did not, believe it.
# - **A4 cannot see these faults.** The attack is sound on the network alone; it is the wrapper that makes it fail.
# - **A8 asks whether the surrogates decide as the deployed defence does.** These do, up to the scale of the logits; a
#   random defence has no one value to compare with. A surrogate that decides otherwise would measure another defence.
# - **A row of passes is no certificate.** The checks look for faults that somebody has met before.

# %% [markdown]
# ## Reading the row of your own defence
#
# Derive from `advdef.defenses.Defense` (or from `Undefended`, if it wraps a classifier), and hand over what an attacker
# needs:
#
# ```python
# class Mine(Undefended):
#     def forward(self, images):  # as deployed, hard decisions included
#         return super().forward(my_filter(images))
#
#     def surrogates(self):  # the same values with a useful gradient
#         return {"identity": straight_through(self, self.network)}
# ```
#
# Then the cells above are all it takes: `evaluate` with `direct` and `oblivious`, and `checks.row`. Read it in this order.
#
# 1. **A** first. If the attack is not sound, nothing else means anything.
# 2. **B** is the diagnosis: *which* assumption of the attack does not hold. B2 asks for an expectation, B4 and B5 for a surrogate,
#    B5 with one loss alone for the other loss.
# 3. **C** is the damage: how much the direct number misses. Believe these even if B passes.
# 4. **D** is the cure, and D3 the new number. Put what it needed into `surrogates()`, and report the adaptive accuracy.
# 5. **E** before you publish.
#
# A check that fires is no proof of a weak defence; it is a question that the evaluation has to answer. One that fires by
# a single image or two says that the attack could be a little stronger.

# %% tags=["hide-input"]
page.finish()
