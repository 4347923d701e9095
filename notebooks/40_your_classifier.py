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
# # Judge your own classifier
#
# You have a network and a folder of pictures, and want to know how robust it is. This page gets that number, and what it
# takes to believe it: three attackers, the checks of the attack, a second opinion by AutoAttack, and the attacked images
# in a file, which anybody can judge again. What it shows was made with a small network that the package brings; the same
# page runs on yours.
#
# ```{admonition} What such a number is
# :class: note
# An upper bound: a stronger attack can only lower it. It holds for one network, one set of images, one norm and one budget. The
# defences here are those of the five papers, put in front of *this* network and trained by our recipes for a few epochs. The page
# tests no claim of a paper and gives no verdict.
# ```

# %% [markdown]
# ## The steps
#
# **1. A function that builds your network**, in a file of yours, `my_module.py`. `wrap` puts the normalisation inside, since
# attackers work on images in $[0, 1]$, and finds the logits in what the network returns: a tensor, an object with `logits` as
# Hugging Face has it, one logit for two classes.
#
# ```python
# import safetensors.torch
# from advdef import wrap
# from torchvision.models import resnet18
#
#
# def build():
#     network = resnet18(num_classes=7)
#     network.load_state_dict(safetensors.torch.load_file("signs.safetensors"))
#     return wrap(network.eval(), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
# ```
#
# **2. Your pictures**, in one folder for each class: `signs/train/stop/017.png`, `signs/test/stop/003.png`. Without `train/` and `test/` a
# fifth of each class is held out to test with. Classes are numbered by name, as torchvision's `ImageFolder` does it. Arrays in a file
# (`npz:FILE`), or a loader (`Split.from_loader`), will do as well ([the formats](../book/own_data.md)).
#
# **3. One command**, in the folder of `my_module.py`:
#
# ```shell
# advdef judge my_module:build --data folder:signs --eps 8/255 \
#     --defence undefended --defence jpeg
# ```
#
# Where `build` loads no weights, `--weights signs.safetensors` does. A defence of your own is a function, here of a random one, for `--defence my_module:noisy`;
# a class of yours that draws random numbers says `random = True` ([the guide](../book/add_a_defence.md)):
#
# ```python
# from advdef.papers.nip.baselines import NoiseVote
#
#
# def noisy(network):
#     return NoiseVote(network, 0.02)
# ```
#
# The command prints a report of each defence, and writes it to `advdef-reports/`, with the attacked images beside it. Interrupted, the same command goes
# on from what is finished; `--jobs 4` shares the work among processes. With `--transfer my_module:other`, which may be repeated, what
# fools another network for the same classes is tried on yours, too; the pages of the papers take at least two. Begin with `--quick`, to see that all fits together: few images
# and steps, unless you say how many. With `--quick --eps 2/255` both defences together took four minutes of one core for a ResNet-18 on 64 × 64 pixels. The command
# computes on the CPU unless you say `--device cuda`. At 8/255 nearly every network that was not trained against attacks falls to 0 %; a smaller budget shows differences. `advdef judge --help` lists what else says how much is computed. In Python it is one call, `robustness`, which the cells below use.
#
# **This page on your network**, with papermill:
#
# ```shell
# papermill notebooks/40_your_classifier.ipynb out.ipynb \
#     -p model my_module:build -p dataset folder:/path/to/signs \
#     -p eps 0.03137 -p defences "undefended jpeg my_module:noisy"
# ```
#
# `defences` are names and functions of yours, with spaces between them. For pictures of several sizes, first `advdef data export folder:signs OUT --size 64`, and then `npz:OUT/folder-signs.npz` as `dataset`.

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
model = None  # module:function that builds it; None: a small one, trained here
eps = None  # the budget in Linf; None: that of the profile
images = None  # how many test images are attacked; None: as the profile says
seeds = None  # one run has one seed; advdef reproduce --seeds N makes more
defences = None  # names with spaces between them; None: those of the profile
transfer = None  # module:function of other networks to transfer attacks from, with spaces between them; None: none

# %% tags=["hide-input"]
from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
from advdef import compare, plotting, robustness, wrap
from advdef.attacks import autoattack
from advdef.book import page as notebook
from advdef.book.glue import record
from advdef.book.page import show_eps
from advdef.book.records import results_folder
from advdef.evaluation import correct
from advdef.evaluation.attacked import read_attacked, rejudge
from advdef.papers.nip.baselines import NoiseVote
from advdef.report.bring import made_by
from advdef.report.defences import DEFENCE_NAMES
from advdef.report.deployed import deployed
from advdef.report.example import small_network
from advdef.report.report import plot_reports

plotting.use_style()

# %% [markdown]
# ## How much is computed
#
# *beside* says how many images AutoAttack attacks as well, *noise* how large the noise of the random defence below is.

# %%
PROFILES = {
    "smoke": dict(
        datasets=("digits",), train=1_297, epochs=6, eps=0.1, images=16, steps=5, queries=20, rounds=1,
        defences="undefended jpeg at", noise=0.1, beside=4,
    ),
    "laptop": dict(
        datasets=("fashion_mnist",), train=10_000, epochs=6, eps=0.03, images=100, steps=40, queries=500, rounds=3,
        defences="undefended jpeg tq at", noise=0.1, beside=50,
    ),
    "gpu": dict(
        datasets=("gtsrb",), train=None, epochs=15, eps=4 / 255, images=500, steps=50, queries=1_000, rounds=3,
        defences="undefended jpeg tq at", noise=0.1, beside=100,
    ),
    "paper": dict(
        datasets=("cifar10",), train=None, epochs=30, eps=2 / 255, images=1_000, steps=100, queries=5_000, rounds=3,
        defences="undefended jpeg bitdepth median tv cq tq nip trn purifier sns at", noise=0.1, beside=1_000,
    ),
}  # fmt: skip
P = notebook.choose(PROFILES, profile)
page = notebook.Page(
    "your_classifier", PROFILES, profile, dataset=dataset, seed=seed, device=device, train=P["train"],
    eps=eps, images=images, seeds=seeds,
)  # fmt: skip
P = page.settings
((name, data),) = page.data.items()
EPS = P["eps"]
page.profiles()

# %% [markdown]
# ## One call, one report
#
# `robustness` runs [the protocol](../book/protocol.md) on {glue:text}`images` test images: the *oblivious*, the *direct* and the *adaptive* attacker, and the checks that
# would show an attack that failed for the wrong reason. It refuses what would give a wrong number, in one line: a network in training
# mode, probabilities in place of logits, other classes than the data have, images out of range.

# %%
if model is None:
    network = wrap(small_network(data, epochs=P["epochs"], seed=seed))
    page.add_network("small CNN", network)
else:
    network = made_by(model).to(page.device)
sources = [made_by(source).to(page.device) for source in (transfer or "").split()]
judge = partial(
    robustness, network, data, eps=EPS, images=P["images"], steps=P["steps"], queries=P["queries"],
    rounds=P["rounds"], transfer=sources, epochs=P["epochs"], seed=seed, resume=page.resume,
)  # fmt: skip
report = judge()
report

# %% tags=["remove-cell"]
record("images", report.facts["data"]["images"])

# %% [markdown]
# ## Behind defences
#
# The defences have names: `undefended`, `jpeg`, `bitdepth`, `median`, `tv` (total variation), `cq` and `tq` (quantisers with constant and with trained
# thresholds), `nip`, `trn`, `purifier`, `sns`, and `at` (adversarial training). Those that learn train a copy of your network, or a part in
# front of it, on your training images; NIP, TRN and SNS look at the layer that the last linear layer reads, which is found, or asked for.
#
# One of your own is a function that puts it in front of a network. Here it is a **random** one, which adds noise to each image: it says that it
# draws random numbers, is attacked through the mean over its draws, and judged by draws that no attack saw.

# %%
keys = (defences or P["defences"]).split()
asked = {DEFENCE_NAMES.get(k, k): k for k in keys}
reports = {
    name: report if k == "undefended" else judge(defence=k, name=name)
    for name, k in asked.items()
}
noisy = partial(NoiseVote, step=P["noise"])
reports["noise"] = judge(defence=noisy, name="noise")

# %% tags=["hide-input"]
for row in (row for found in reports.values() for row in found.results):
    page.run.results.append(row)
test = notebook.sample(data.test, P["images"])
X, Y = test.float_images(), test.labels
behind = partial(deployed, network, data, eps=EPS, epochs=P["epochs"], seed=seed)
page.add_attacked(
    [found.attacked_set(X) for found in reports.values()], X, Y,
    lambda name: behind(defence=asked.get(name, noisy)).defence,
)  # fmt: skip
page.headline(
    compare(list(reports.values())),
    f"One network behind defences, at eps {show_eps(EPS)} ({page.run_line}), {report.facts['data']['images']} images, with 95 % intervals; *adaptive − undefended* is a difference in points over the same images",
)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "What is left of one network behind each defence, without an attack and under three attackers, with 95 % intervals. Where the square lies far to the right of the diamond, the gradient of the defence misled the attacker.", "name": "fig-your-classifier"}, "image": {"alt": "Dot chart with a line for each defence. Each line has a mark for the accuracy without an attack, and one for each of three attackers; no mark lies left of that of the adaptive attacker."}}
plot_reports(list(reports.values()))
plt.show()

# %% [markdown]
# Only the adaptive column says how robust a defence is. (The numbers of the random one move by a point or two with its draws, so an attacker who
# knows more may seem to leave a little more.) What else a report holds, in sentences, for the last of the defences with a name:

# %%
reports[list(asked)[-1]]

# %% [markdown]
# ## A second opinion
#
# AutoAttack {cite}`croce2020reliable`, as its own library runs it, attacks the undefended network on the first images of the same sample. Its
# parts are many times longer than ours are by default. If it breaks much more than ours, ours needs more `steps` and `restarts`.

# %% tags=["hide-input"]
opinion = f"No comparison: AutoAttack needs at least four classes for its DLR loss, and these data have {data.num_classes}."
if data.num_classes > 3:
    x, y = X[: P["beside"]], Y[: P["beside"]]
    ours = report.hits()[: len(y)]
    moved = autoattack(network, x, y, eps=EPS, generator=page.draws(4))
    theirs = correct(network, moved, y).cpu()
    where = dict(part="autoattack", defence="undefended", threat="adaptive", model="the network", eps=EPS, norm="Linf")  # fmt: skip
    page.run.add_hits(theirs, attack="AutoAttack", **where)
    page.run.add_hits(ours, attack="this page's", **where)
    rows = {
        "right under ours": int(ours.sum()),
        "right under AutoAttack": int(theirs.sum()),
        "broken by ours alone": int((theirs & ~ours).sum()),
        "broken by AutoAttack alone": int((ours & ~theirs).sum()),
    }
    opinion = notebook.table(pd.DataFrame([rows]), f"The undefended network under both, on {len(y)} images at eps {show_eps(EPS)}")  # fmt: skip
opinion

# %% [markdown]
# ## The attacked images
#
# `save` writes a report as JSON, and the images that the adaptive attacker broke beside it, exactly as they were found, with
# their originals and places in the test set. Whoever has the file need not believe the run: `advdef check` measures budget and range, compares the originals
# with the data set, and asks the network.
#
# ```shell
# advdef check advdef-reports/folder-signs-undefended.safetensors \
#     --model my_module:build --data folder:signs
# ```

# %%
folder = results_folder() / "your_classifier" / "reports"
file = report.save(folder / "undefended.json").with_suffix(".safetensors")
case = deployed(network, data, eps=EPS)
again = rejudge(read_attacked(file), defence=case.defence, data=case.data)

# %% tags=["hide-input"]
told = {
    "images": again.images,
    "within budget and range": again.within,
    "originals as in the data set": again.original,
    "wrong when asked again": again.broken,
}
notebook.table(pd.DataFrame([told]), "The attacked images of the undefended network, judged again from their file")  # fmt: skip

# %% [markdown]
# ## In your own continuous integration
#
# ```shell
# advdef judge my_module:build --data folder:signs --eps 8/255 --at-least 40
# ```
#
# exits with 1, and a table, when the adaptive accuracy lies below 40 %, its whole interval included: chance alone does not fail the job. `advdef diff OLD.json
# NEW.json` tells what moved between two reports, records or executed notebooks, and whether it may have: with one seed only rounding may
# differ, with another seed as much as chance explains.
#
# ## Before you quote the number
#
# - Which checks fired? A fired check is a reason to distrust the direct number, and says where to look ([](20_broken_on_purpose)).
# - Is *direct* far above *adaptive*? Then only the adaptive one may be quoted.
# - Is the interval narrow enough for what you say? More `--images` narrow it.
# - Is your defence better than `at`, which is what everybody could do?

# %% [markdown]
# ## Provenance

# %% tags=["hide-input"]
page.finish()
