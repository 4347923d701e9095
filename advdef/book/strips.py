"""Many differences in one picture: a strip for each group of them, drawn when the site is rendered."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from advdef.book.markup import raw
from advdef.statistics import Interval

__all__ = ["strips"]

_LEFT, _RIGHT, _WIDTH, _STEP, _LEAST = 22, 346, 368, 42, 2  # in units of the picture; the last in points


def strips(groups: Mapping[str, Sequence[Interval]], about: str) -> str:
    """A figure in Markdown: for each group a strip with a mark and a 95 % interval for each difference.

    In the middle is no difference; the ends are whole points, as many on both sides. ``about`` is the caption.
    """
    ends = [100 * abs(end) for found in groups.values() for one in found for end in (one.low, one.high)]
    most = max(_LEAST, 2 * math.ceil(max(ends, default=0) / 2))

    def x(share: float) -> float:
        return (_LEFT + _RIGHT) / 2 + 100 * share / most * (_RIGHT - _LEFT) / 2

    parts, bottom = list[str](), _STEP * len(groups)
    for tick in (-most, -most // 2, 0, most // 2, most):
        place = x(tick / 100)
        parts.append(f'<path class="grid" d="M{place:.1f} 8V{bottom + 2}"/>')
        parts.append(f'<text class="tick" x="{place:.1f}" y="{bottom + 16}">{f"{tick:+d}" if tick else 0}</text>')
    told = []
    for number, (name, found) in enumerate(groups.items()):
        y, values = _STEP * number + 30, [one.value for one in found]
        said = f"{100 * min(values):+.1f} to {100 * max(values):+.1f}"
        unlike = dict.fromkeys(found)
        told.append(f"{name} {said} in {len(found)} comparisons")
        parts.append(f'<text class="name" x="{_LEFT}" y="{y - 14}">{html.escape(name)}</text>')
        parts.append(f'<text class="value" x="{_RIGHT}" y="{y - 14}">{said}</text>')
        parts += [f'<path class="interval adaptive" d="M{x(one.low):.1f} {y}H{x(one.high):.1f}"/>' for one in unlike]
        parts += [
            f'<path class="adaptive" d="M{x(value):.1f} {y - 6}l6 6l-6 6l-6 -6z"/>' for value in dict.fromkeys(values)
        ]
    label = html.escape(f"Differences in points: {'; '.join(told)}")
    return raw(
        f'<figure class="finding"><svg viewBox="0 0 {_WIDTH} {bottom + 20}" role="img"><title>{label}</title>'
        f"{''.join(parts)}</svg><figcaption>{html.escape(about)}</figcaption></figure>\n"
    )
