"""What somebody asks of a run in the place of its profile's settings: a budget, a number of images, of seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from advdef.data import Dataset

if TYPE_CHECKING:
    from advdef.grid.study import Study

__all__ = ["Asked"]


@dataclass(frozen=True)
class Asked:
    """The page parameters that change its settings; None leaves a setting as it is.

    Attributes:
        eps: The main budget in Linf, at most 1; budgets that are shares of it change with it.
        images: How many test images the attackers meet. What is done on fewer is done on no more than these.
        seeds: With how many seeds networks are trained where a page compares over seeds.

    Raises ValueError for what is no such number.

    >>> Asked(eps=0.05, images=8).told
    {'eps': 0.05, 'images': 8}
    >>> Asked(images=0)
    Traceback (most recent call last):
    ValueError: images must be a whole number of at least 1, not 0
    """

    eps: float | None = None
    images: int | None = None
    seeds: int | None = None

    def __post_init__(self) -> None:
        number = isinstance(self.eps, int | float) and not isinstance(self.eps, bool)
        if self.eps is not None and not (number and 0 < self.eps <= 1):
            raise ValueError(f"eps must be a number above 0 and at most 1, such as 0.03, not {self.eps!r}")
        for name in ("images", "seeds"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")

    @property
    def told(self) -> dict[str, float]:
        """What was asked for, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        """``, eps 0.05, images 8``: to stand behind something else; nothing where nothing was asked for."""
        return "".join(f", {name} {value:g}" for name, value in self.told.items())

    def changed(self, settings: Mapping[str, Any], page: str, study: type[Study] | None = None) -> dict[str, Any]:
        """The settings of a page with what was asked for in their place.

        Raises ValueError, with what to do, for an eps too large for the study, and for too few or too many seeds.
        """
        found = dict(settings)
        if self.eps is not None:
            farthest = 1.0 if study is None else study.farthest
            if self.eps * farthest > 1:
                raise ValueError(
                    f"eps {self.eps:g} is too large for {page}, which also tries {farthest:.3g} times as much, and no "
                    f"pixel changes by more than 1: give at most {int(1_000 / farthest) / 1_000:g}"
                )
            found["eps"] = float(self.eps)
        if self.images is not None:
            met, fewer = ("images", ()) if study is None else (study.met, study.fewer)
            if met not in settings:
                raise ValueError(f"{page} has no setting that says how many images are attacked")
            most = settings[met]
            found[met] = self.images
            found |= {k: self.images if settings[k] >= most else min(settings[k], self.images) for k in fewer}
        if self.seeds is not None:
            several = study.several if study is not None else ("seeds",) if "seeds" in settings else ()
            if not several and self.seeds > 1:
                raise ValueError(
                    f"one run of {page} has one seed, not {self.seeds}: advdef reproduce {page} --seeds {self.seeds} "
                    "makes as many runs"
                )
            if study is not None and self.seeds < study.fewest:
                raise ValueError(f"{page} compares over seeds, so it needs at least {study.fewest}, not {self.seeds}")
            found |= dict.fromkeys(several, self.seeds)
        return found

    def fits(self, data: Dataset) -> None:
        """Raise ValueError where a data set has fewer test images than were asked for."""
        if self.images is not None and self.images > len(data.test):
            raise ValueError(f"images {self.images} are more than the {len(data.test)} test images of {data.name}")
