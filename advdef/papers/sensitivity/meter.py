"""Adds up how much each neuron changes between images and their partners, for seven readings of sensitivity at once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from advdef.devices import has_float64
from advdef.selection import same_layers

__all__ = ["Definition", "SensitivityMeter"]

Definition = Literal["absolute", "relative", "relative_per_pair", "pooled", "standardized", "absolute_l2", "largest"]

# A divisor is never smaller than this share of what is typical of the layer. Rounding in float32 leaves about 1e-6 of a
# layer's activations unsure (1e-7 for each operation, and some hundred are summed), so that quotients are sure to 1e-3.
_FLOOR = 1e-3


@dataclass(eq=False)
class _Sums:
    """Running sums over the pairs of one layer, in float64 where the device has it: the size of batches does not
    matter.

    The variance of a channel's clean values is joined batch by batch, as Chan, Golub and LeVeque do: as the difference
    of two large sums nothing would be left of a small one.
    """

    shape: tuple[int, ...]
    totals: Tensor
    mean: Tensor
    variance: Tensor
    pairs: int = 0

    @classmethod
    def begin(cls, clean: Tensor) -> "_Sums":
        """Sums of no pair yet, for a layer with such activations."""
        wide = torch.float64 if has_float64(clean.device) else torch.float32
        mean = clean.mean([dim for dim in range(clean.dim()) if dim != 1]).to(wide)  # corrected by `add`
        totals = torch.zeros(6, clean.shape[1], dtype=wide, device=clean.device)
        return cls(tuple(clean.shape[1:]), totals, mean, torch.zeros_like(mean))

    @property
    def positions(self) -> int:
        """The values of one neuron."""
        return math.prod(self.shape[1:])

    def add(self, clean: Tensor, adversarial: Tensor) -> None:
        """Add one batch. All is done in one buffer: memory that was never touched costs more than the arithmetic."""
        if clean.dim() == 2:
            clean, adversarial = clean[..., None, None], adversarial[..., None, None]
        space = (2, 3)
        buffer = adversarial - clean
        pooled = buffer.sum(space).abs_()
        change = buffer.abs_().sum(space)
        # with few channels in the channels-last layout amax is slow
        largest = buffer.amax(space) if buffer.is_contiguous() else max_pool2d(buffer, buffer.shape[2:])[..., 0, 0]
        length = buffer.square_().sum(space).sqrt_()
        size = torch.abs(clean, out=buffer).sum(space)
        ratio = torch.where(size == 0, 1.0, change / size.clamp(min=_FLOOR * _typical(size)))
        self.totals += torch.stack([change, size, pooled, length, ratio, largest]).sum(1, dtype=self.totals.dtype)

        # around the mean of the batches before, rounded to the precision of the maps; ``drift`` makes up for it
        centre, wide = self.mean.to(clean.dtype), self.totals.dtype
        torch.sub(clean, centre[:, None, None], out=buffer)
        values = len(clean) * self.positions
        rest = buffer.sum(space).sum(0, dtype=wide) / values
        variance = buffer.square_().sum(space).sum(0, dtype=wide) / values - rest**2
        self.pairs += len(clean)
        share, drift = len(clean) / self.pairs, centre + rest - self.mean
        self.variance += share * (variance - self.variance) + share * (1 - share) * drift**2
        self.mean += share * drift

    def divisor(self, definition: Literal["relative", "standardized"]) -> Tensor:
        """What is divided by (C,), before a floor is put under it."""
        size = self.totals[1] / self.pairs / self.positions
        return size if definition == "relative" else self.variance.clamp(min=0).sqrt()

    def sensitivity(self, definition: Definition) -> Tensor:
        """One definition's sensitivities (C,)."""
        change, _, pooled, length, ratio, largest = self.totals / self.pairs
        if definition in ("relative", "standardized"):
            scale = self.divisor(definition)
            scale = scale.clamp(min=_FLOOR * _typical(scale))
            change = change / self.positions
            return torch.where(scale == 0, (change > 0).to(change), change / scale)
        plain = {"absolute": change, "pooled": pooled, "absolute_l2": length}
        if definition in plain:
            return plain[definition] / self.positions
        return ratio if definition == "relative_per_pair" else largest


def _typical(values: Tensor) -> Tensor:
    """The upper quartile (..., 1) of those of (..., C) values that are not 0; neither quiet nor very large ones move it
    much.
    """
    alive = (values > 0).sum(-1, keepdim=True)
    return values.sort(-1, descending=True).values.gather(-1, alive // 4)


class SensitivityMeter:
    """Adds up, batch by batch, by what pairs of activations differ, for all definitions at once.

    Let a be the clean and b the adversarial output of a neuron, of ``dim`` values each. The definitions are averages
    over pairs of

    - ``absolute``: `|b - a|_1 / dim`, sensitivity as the authors' laboratory codes it
      (https://github.com/DIG-Beihang/AISafety);
    - ``relative``: the same, where the average over pairs is divided by that of `|a|_1 / dim`;
    - ``relative_per_pair``: `|b - a|_1 / |a|_1`, and 1 where a is 0, as the same laboratory has it;
    - ``pooled``: `|mean(b) - mean(a)|`, in which changes of both signs in one map cancel;
    - ``standardized``: ``absolute``, divided by the standard deviation of all clean values of the neuron;
    - ``absolute_l2``: `|b - a|_2 / dim`, with the divisor of the laboratory's code;
    - ``largest``: the largest `|b - a|` of the map, which a local change moves most.

    ``relative``, ``relative_per_pair`` and ``standardized`` do not depend on the scale of a layer, nor on that of one
    neuron, unless it is quiet. Dividing by the activation of a nearly dead neuron would only show the rounding of the
    network. So no divisor is smaller than a thousandth of what is typical of the layer, the upper quartile of its
    neurons' divisors, zeros aside (for ``relative_per_pair``: on the same image); a neuron below that is quiet. In a
    layer that is 0 on all clean images (for ``standardized``: constant), ``relative`` and ``standardized`` are 0 for a
    neuron that the attack leaves so, and else 1.

    >>> meter = SensitivityMeter()
    >>> meter.update({"relu": torch.tensor([[1.0, 2.0], [3.0, 0.0]])}, {"relu": torch.tensor([[1.0, 4.0], [2.0, 0.0]])})
    >>> meter.compute()
    {'relu': tensor([0.5000, 1.0000], dtype=torch.float64)}
    >>> meter.compute("relative")
    {'relu': tensor([0.2500, 1.0000], dtype=torch.float64)}
    """

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}

    def update(self, clean: Mapping[str, Tensor], adversarial: Mapping[str, Tensor]) -> None:
        """Add a batch of pairs: clean and adversarial activations by layer, (N, C) or (N, C, H, W).

        Raises ValueError, and adds nothing, for layers that are not the same on both sides and in all batches, or whose
        shapes do not fit.
        """
        same_layers("the adversarial side", adversarial, clean)
        if self._sums:
            same_layers("this batch", clean, self._sums)
        for layer, maps in clean.items():
            shape, partners = tuple(maps.shape), tuple(adversarial[layer].shape)
            if maps.dim() not in (2, 4) or maps.numel() == 0:
                raise ValueError(f"layer {layer!r} must give (N, C) or (N, C, H, W), none of them 0, not {shape}")
            if partners != shape:
                raise ValueError(f"layer {layer!r} gives {shape} on clean images and {partners} on their partners")
            if self._sums and self._sums[layer].shape != shape[1:]:
                raise ValueError(f"layer {layer!r} gave (N, *{self._sums[layer].shape}) before, and now {shape}")
        if not self._sums:
            self._sums = {layer: _Sums.begin(maps.detach()) for layer, maps in clean.items()}
        for layer, sums in self._sums.items():
            sums.add(clean[layer].detach(), adversarial[layer].detach())

    def tensors(self) -> dict[str, Tensor]:
        """All that it holds, by name; :meth:`of` makes an equal meter of it."""
        found: dict[str, Tensor] = {}
        for layer, sums in self._sums.items():
            seen = torch.tensor([sums.pairs, *sums.shape])
            parts = {"totals": sums.totals, "mean": sums.mean, "variance": sums.variance, "seen": seen}
            found |= {f"{layer} {name}": value for name, value in parts.items()}
        return found

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "SensitivityMeter":
        """The meter that gave these :meth:`tensors`.

        >>> meter = SensitivityMeter()
        >>> meter.update({"relu": torch.rand(5, 3)}, {"relu": torch.rand(5, 3)})
        >>> torch.equal(SensitivityMeter.of(meter.tensors()).compute()["relu"], meter.compute()["relu"])
        True
        """
        meter = cls()
        for layer in dict.fromkeys(name.rpartition(" ")[0] for name in tensors):
            pairs, *shape = tensors[f"{layer} seen"].tolist()
            totals, mean, variance = (tensors[f"{layer} {name}"].clone() for name in ("totals", "mean", "variance"))
            meter._sums[layer] = _Sums(tuple(shape), totals, mean, variance, pairs)
        return meter

    def compute(self, definition: Definition = "absolute") -> dict[str, Tensor]:
        """Sensitivities (C,) by layer, on the CPU.

        Raises ValueError for an unknown definition and before the first update.
        """
        if definition not in get_args(Definition):
            raise ValueError(f"no definition {definition!r}; there are {', '.join(get_args(Definition))}")
        if not self._sums:
            raise ValueError("no pairs yet: call update first")
        return {layer: sums.sensitivity(definition).cpu() for layer, sums in self._sums.items()}

    def quiet(self, definition: Literal["relative", "standardized"] = "relative") -> dict[str, int]:
        """How many neurons of each layer are quiet: dead, or so nearly dead that they are divided by the floor.

        >>> meter = SensitivityMeter()
        >>> meter.update({"relu": torch.tensor([[2.0, 0.0, 1.0]])}, {"relu": torch.tensor([[2.0, 0.1, 2.0]])})
        >>> meter.compute("relative")["relu"].round(decimals=3).tolist(), meter.quiet()
        ([0.0, 50.0, 1.0], {'relu': 1})
        """
        divisors = {layer: sums.divisor(definition) for layer, sums in self._sums.items()}
        return {layer: int((d <= _FLOOR * _typical(d)).sum()) for layer, d in divisors.items()}
