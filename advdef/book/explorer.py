"""The page on which one looks for oneself: an image, a defence, an attacker, a budget, and what everyone answers.

All that the page shows stands in one JavaScript file, so that it works without a server; ``book/_static/explorer.js``
draws it.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from PIL import Image
from torch import Tensor

from advdef.book.cards import comparison_of
from advdef.book.finding import ROW_NAMES
from advdef.book.markup import as_text, budget, in_percent, raw, rows_of
from advdef.book.records import COMPARISON, Record
from advdef.data.titles import data_name
from advdef.evaluation.answered import Answered
from advdef.evaluation.packed import read_packed
from advdef.evaluation.threats import ATTACKERS, Threat

__all__ = ["Answers", "Looked", "Shown", "explorer", "explorer_files", "looked_at", "slider", "strip"]

LIMIT = 900_000
"""How many bytes the file of an explorer may have."""

_SHOWN = 12  # images, where nobody was asked about some
_NONE = (
    "No record of this site has its attacked images beside it yet. `advdef reproduce five_defences --profile laptop` "
    "writes them, and this page then shows them.\n"
)

_GAIN = 0.4  # of the grey levels are what the largest budget changes in the picture of the difference, up or down
_SMALL = "one"  # the name of the explorer on the first page
_STRIP_SIZE = 112  # pixels; the side of an image in the strip
_GAP = 8


@dataclass(frozen=True)
class Answers:
    """What defences answer to N images.

    Attributes:
        classes: By defence, the (N,) classes; -1 where all that is known is that it was not the label.
        confidence: By defence, the (N,) probabilities of these classes; without those that were not kept.
    """

    classes: Mapping[str, Tensor]
    confidence: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """N images as one attacker left them, of one defence at one budget.

    Attributes:
        images: (N, C, H, W) bytes; where nothing broke a defence, the image itself.
        answers: What defences make of these images: the attacked one and, where that was kept, others.
        seen: (N, C, H, W) bytes: what the defence made of the images before it decided; None where it changes none.
    """

    images: Tensor
    answers: Answers
    seen: Tensor | None = None


@dataclass(frozen=True)
class Looked:
    """What an explorer shows.

    Attributes:
        dataset: The data set's name.
        names: The names of its classes.
        images: (N, C, H, W) bytes.
        labels: (N,) classes.
        defences: What the page calls each defence, in order.
        answers: What the defences make of the images without an attack.
        attacked: The attacked images by defence, attacker and budget.
        of: How many test images were attacked; these are some of them.
        run: Of which run they are, in words.
        seen: By defence, what it made of the images without an attack, (N, C, H, W) bytes.
    """

    dataset: str
    names: Sequence[str]
    images: Tensor
    labels: Tensor
    defences: Mapping[str, str]
    answers: Answers
    attacked: Mapping[tuple[str, Threat, float], Shown]
    of: int
    run: str
    seen: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def budgets(self) -> list[float]:
        """All budgets, the smallest first."""
        return sorted({eps for _, _, eps in self.attacked})

    def only(self, rows: Sequence[int], defences: Sequence[str] | None = None) -> Looked:
        """The same for some of the images, and for some of the defences."""
        kept, which = list(self.defences if defences is None else defences), torch.tensor(rows)

        def some(answers: Answers) -> Answers:
            return Answers(
                {name: found[which] for name, found in answers.classes.items() if name in kept},
                {name: found[which] for name, found in answers.confidence.items() if name in kept},
            )

        return replace(
            self,
            images=self.images[which],
            labels=self.labels[which],
            defences={name: self.defences[name] for name in kept},
            answers=some(self.answers),
            attacked={
                key: Shown(shown.images[which], some(shown.answers), None if shown.seen is None else shown.seen[which])
                for key, shown in self.attacked.items()
                if key[0] in kept
            },
            seen={name: found[which] for name, found in self.seen.items() if name in kept},
        )


def looked_at(records: Sequence[Record]) -> Looked | None:
    """What the comparison's attacked images show; None where no record has them beside it.

    Shown are the images that all defences were asked about, else the first ones; then all that is known of an answer is
    whether it was right.
    """
    if not any(record["paper"] == COMPARISON for record in records):
        return None
    record = comparison_of(records)
    if not record.get("images"):
        return None
    kept = read_packed(record["images"])
    sets = [(i, one) for i, one in enumerate(kept.sets) if one.defence in ROW_NAMES]
    count = min(len(kept), kept.answers.classes.shape[2] if kept.answers else _SHOWN)
    labels, seen = kept.labels[:count], kept.answers.seen if kept.answers else {}
    place = dict.fromkeys((one.defence for _, one in sets), 0)
    attacked: dict[tuple[str, Threat, float], Shown] = {}
    for number, one in sets:
        place[one.defence] += 1
        mine = torch.where(~one.clean[:count] | one.broken[:count], -1, labels)
        answers = _kept_answers(kept.answers, 1 + number) or Answers({one.defence: mine})
        before = seen[one.defence][place[one.defence], :count] if one.defence in seen else None
        attacked[one.defence, one.threat, round(one.eps, 6)] = Shown(_bytes(one.attacked[:count]), answers, before)
    right = {one.defence: torch.where(one.clean[:count], labels, -1) for _, one in sets}
    told = record["provenance"]
    run = f"run of {told['date'][:10]}, profile {record['profile']}, seed {told['seed']}"
    return Looked(
        record["dataset"], kept.facts["classes"], _bytes(kept.originals[:count]), labels,
        {name: known for name, known in ROW_NAMES.items() if name in right},
        _kept_answers(kept.answers, 0) or Answers(right), attacked, kept.of, run,
        {name: images[0, :count] for name, images in seen.items()},
    )  # fmt: skip


def _kept_answers(answers: Answered | None, row: int) -> Answers | None:
    if answers is None:
        return None
    classes = dict(zip(answers.defences, answers.classes[row].long(), strict=True))
    return Answers(classes, dict(zip(answers.defences, answers.percent[row] / 100, strict=True)))


def _bytes(images: Tensor) -> Tensor:
    return (255 * images).round().to(torch.uint8)


def explorer_files(looked: Looked | None) -> dict[str, str]:
    """The parts of the page of the explorer and of the first page, and what they draw, by names in the folder of prose.

    Without attacked images the page says how to make them.

    >>> list(explorer_files(None))
    ['_generated/explorer.md', '_generated/slider.md']
    """
    if looked is None:
        return {"_generated/explorer.md": _NONE, "_generated/slider.md": ""}
    (whole, data), (small, one) = explorer(looked), slider(looked, _shown_first(looked))
    more = "[Look for yourself](explorer.md): other images, defences and attackers.\n"
    return {
        "_generated/explorer.md": whole,
        "_generated/slider.md": f"{small}\n{more}",
        "_generated/pictures.md": "",
        "_static/made/explorer-data.js": data,
        "_static/made/slider-data.js": one,
    }


def explorer(looked: Looked, *, limit: int = LIMIT) -> tuple[str, str]:
    """The page's part in Markdown, and the content of the file ``explorer-data.js`` beside ``explorer.js``.

    There are as many of the images, from the first on, as fit in ``limit`` bytes. Without scripts a reader sees the
    first of them under the strongest attack, and a table of what is left of all.
    """
    images = len(looked.images)
    data = _data(looked, _all(looked))
    while images > 1 and len(data) > limit:
        images = max(1, min(images - 1, int(images * limit / len(data))))
        data = _data(looked.only(range(images)), _all(looked.only(range(images))))
    looked = looked.only(range(images))
    first = _first(looked)
    return f"{_figure(looked, 'all', first)}\n{_left(looked)}", _file("all", data)


def slider(looked: Looked, defence: str) -> tuple[str, str]:
    """The small form of it, for the first page: one image that an attacker broke ``defence`` on, and a slider.

    Returns the part in Markdown, and the content of the file ``slider-data.js``.
    """
    one = looked.only([_first(looked, defence)], [defence])
    about = f"A test image of {data_name(looked.dataset)} and what was found for it, {looked.run}."
    return _figure(one, _SMALL, 0), _file(_SMALL, _data(one, about))


def strip(looked: Looked, row: int, defence: str) -> bytes:
    """A PNG: an image, the amplified change, the attacked image and, where there is one, what the defence made of it.

    The attacker is the one who knows the defence, the budget the largest.
    """
    shown = looked.attacked[defence, "adaptive", max(looked.budgets)]
    clean, attacked = looked.images[row].int(), shown.images[row].int()
    change = (128 + _gain(looked) * (attacked - clean)).clamp(0, 255)
    parts = [clean, change, attacked, *([] if shown.seen is None else [shown.seen[row].int()])]
    scale = max(1, _STRIP_SIZE // clean.shape[-1])
    tiles = [part.repeat_interleave(scale, 1).repeat_interleave(scale, 2) for part in parts]
    gap = torch.full((*tiles[0].shape[:2], _GAP), 255)
    with_gaps = [piece for tile in tiles for piece in (tile, gap)][:-1]
    return _png(torch.cat(with_gaps, 2).to(torch.uint8))


def _first(looked: Looked, defence: str | None = None) -> int:
    """An image that the strongest attacker broke, the first one that was right before; else the first."""
    name = defence or _shown_first(looked)
    classes = looked.attacked[name, "adaptive", max(looked.budgets)].answers.classes[name]
    fell = (looked.answers.classes[name] == looked.labels) & (classes != looked.labels)
    return int(fell.int().argmax())


def _shown_first(looked: Looked) -> str:
    """Of the defences that have a picture of what they make of an image, the one that knowing it costs most."""
    eps = max(looked.budgets)

    def right(name: str, threat: Threat) -> int:
        return int((looked.attacked[name, threat, eps].answers.classes[name] == looked.labels).sum())

    return max(looked.seen or looked.defences, key=lambda name: right(name, "oblivious") - right(name, "adaptive"))


def _gain(looked: Looked) -> int:
    """By how much differences are multiplied in pictures of them."""
    largest = max((shown.images.int() - looked.images.int()).abs().max().item() for shown in looked.attacked.values())
    return max(1, round(_GAIN * 255 / max(largest, 1)))


def _data(looked: Looked, about: str) -> str:
    """What ``explorer.js`` draws, as JSON: of each image one column of tiles in a PNG, and all answers."""
    budgets, known = looked.budgets, [name for name in looked.defences if name in looked.seen]
    cells = [(d, t, e) for d in looked.defences for t in ATTACKERS for e in budgets]
    tiles = [looked.images, *(looked.attacked[cell].images for cell in cells)]
    for name in known:
        tiles.append(looked.seen[name])
        for t in ATTACKERS:
            for e in budgets:
                seen = looked.attacked[name, t, e].seen
                tiles.append(looked.seen[name] if seen is None else seen)
    column = torch.cat(tiles, 2)
    told = [looked.answers, *(looked.attacked[cell].answers for cell in cells)]
    content = {
        "about": about,
        "classes": list(looked.names),
        "labels": looked.labels.tolist(),
        "size": list(looked.images.shape[1:]),
        "defences": list(looked.defences.values()),
        "attackers": list(ATTACKERS),
        "budgets": [budget(eps) for eps in budgets],
        "gain": _gain(looked),
        "seen": [list(looked.defences).index(name) for name in known],
        "images": [base64.b64encode(_png(image)).decode() for image in column],
        "answers": [[_answers(answers, looked, row) for answers in told] for row in range(len(looked.images))],
    }
    return json.dumps(content, separators=(",", ":"))


def _answers(answers: Answers, looked: Looked, row: int) -> list[list[int] | int]:
    """By defence [class, percent] or, where that is not known, [class] or 0."""
    found: list[list[int] | int] = []
    for name in looked.defences:
        if name not in answers.classes:
            found.append(0)
        elif name not in answers.confidence:
            found.append([int(answers.classes[name][row])])
        else:
            found.append([int(answers.classes[name][row]), int(in_percent(float(answers.confidence[name][row])))])
    return found


def _png(image: Tensor) -> bytes:
    """An image (C, H, W) of bytes as a PNG."""
    pixels = image.cpu().movedim(0, -1).numpy()
    written = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(written, "PNG", optimize=True)
    return written.getvalue()


def _file(name: str, data: str) -> str:
    return f"(globalThis.advdefExplorer ??= {{}})[{json.dumps(name)}] = {data};\n"


def _figure(looked: Looked, name: str, row: int) -> str:
    """What a reader sees before a script, or without one: the picture, and what it shows in words."""
    defence = _shown_first(looked)
    picture = base64.b64encode(strip(looked, row, defence)).decode()
    told = html.escape(_told(looked, row, defence))
    file = "slider-data.js" if name == _SMALL else "explorer-data.js"
    scripts = "".join(f'<script defer src="../_static/{path}"></script>' for path in (f"made/{file}", "explorer.js"))
    return raw(
        f'<figure class="explorer" data-explorer="{name}" data-row="{row}" '
        f'data-defence="{list(looked.defences).index(defence)}">'
        f'<div class="explorer-still"><img src="data:image/png;base64,{picture}" alt="{told}"></div>'
        f"<figcaption>{told}</figcaption></figure>\n{scripts}\n"
    )


def _told(looked: Looked, row: int, defence: str) -> str:
    eps = max(looked.budgets)
    shown, names = looked.attacked[defence, "adaptive", eps], looked.names
    before, after = (
        names[answer] if (answer := int(found.classes[defence][row])) >= 0 else "another class"
        for found in (looked.answers, shown.answers)
    )
    parts = ["a test image", f"the change, {_gain(looked)} times as strong", "the attacked image"]
    parts += [] if shown.seen is None else ["what the defence makes of it"]
    return (
        f"{data_name(looked.dataset)}, from left to right: {', '.join(parts)}. {looked.defences[defence]} answers "
        f"{before} before and {after} after an attack by somebody who knows it, with eps {budget(eps)}."
    )


def _left(looked: Looked) -> str:
    """A table of how many of the images are still right, at the largest budget."""
    eps = max(looked.budgets)
    rows = []
    for name, told in looked.defences.items():
        clean = int((looked.answers.classes[name] == looked.labels).sum())
        counts = (
            int((looked.attacked[name, threat, eps].answers.classes[name] == looked.labels).sum())
            for threat in ("adaptive", "direct", "oblivious")
        )
        rows.append([html.escape(told), *map(str, (*counts, clean))])
    about = f"Of the {len(looked.images)} images of this page, how many are right under attack, eps {budget(eps)}"
    return f"{rows_of(about, ['defence', 'adaptive', 'direct', 'oblivious', 'clean'], rows)}\n{as_text(_all(looked))}\n"


def _all(looked: Looked) -> str:
    """Which images are shown."""
    return f"The first {len(looked.images)} of the {looked.of} test images that were attacked, {looked.run}."
