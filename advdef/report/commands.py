"""The commands ``advdef judge``, ``check`` and ``diff``: a report from the shell, and whether it may be believed.

Modules are imported where they are used, so that ``advdef --help`` does not wait for torch.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from advdef.book.gridcommand import SchedulerOption, TlsOption
from advdef.book.repository import InputError
from advdef.book.terminal import guarded, say

if TYPE_CHECKING:
    from advdef.norms import BallNorm

__all__ = ["ChannelsOption", "SizeOption", "check", "diff", "judge"]

Model = Annotated[str, typer.Argument(metavar="MODEL", help="module:function, which builds the network.")]
Data = Annotated[str, typer.Option(help="folder:PATH, npz:FILE, or one of advdef's data sets.")]
Weights = Annotated[Path | None, typer.Option(help="A .safetensors file of the network's weights.")]
Trust = Annotated[bool, typer.Option("--trust", help="Read pickled weights too; such a file can run any code.")]
Mean = Annotated[str | None, typer.Option(help="Of the normalisation, e.g. 0.485,0.456,0.406.")]
Std = Annotated[str | None, typer.Option(help="Of the normalisation, e.g. 0.229,0.224,0.225.")]
Output = Annotated[
    str | None, typer.Option(help="Where the logits are in what the network returns: a name or a place.")
]
SizeOption = Annotated[str | None, typer.Option(help="Resize the pictures of a folder: 64, or 48x64 (height x width).")]
ChannelsOption = Annotated[int | None, typer.Option(help="Read the pictures of a folder with 1 or 3 channels.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:N or mps.")]


_QUICK = {"images": 20, "steps": 5, "queries": 10, "rounds": 1}
"""What ``--quick`` takes in the place of defaults: a ResNet-18 on 64 x 64 pixels then needs two minutes a defence."""
_SAYS = "a record says what its data and its networks are"


def _told(settings: Mapping[str, int]) -> str:
    return ", ".join(f"--{name} {value}" for name, value in settings.items())


@guarded
def judge(
    context: typer.Context,
    model: Model,
    data: Data,
    eps: Annotated[str, typer.Option(help="The budget, e.g. 8/255.")],
    defence: Annotated[
        list[str] | None, typer.Option(help="A defence by name, or module:function; may be repeated.")
    ] = None,
    norm: Annotated[str, typer.Option(help="Linf or L2.")] = "Linf",
    out: Annotated[Path, typer.Option(help="Folder of the reports.")] = Path("advdef-reports"),
    at_least: Annotated[
        float | None,
        typer.Option(metavar="PERCENT", help="Exit with 1 if an adaptive accuracy lies below, its interval included."),
    ] = None,
    images: Annotated[int, typer.Option(help="How many test images are attacked.", min=1)] = 200,
    steps: Annotated[int, typer.Option(help="Steps of each strong attack, at first.", min=1)] = 50,
    restarts: Annotated[int, typer.Option(help="Random starts of each, at first.", min=1)] = 1,
    queries: Annotated[int, typer.Option(help="Queries of Square, at first; 0 leaves it out.", min=0)] = 500,
    rounds: Annotated[int, typer.Option(help="Most rounds with twice the effort, while that breaks.", min=0)] = 3,
    transfer: Annotated[
        list[str] | None,
        typer.Option(help="Another network, module:function, whose adversarial images are tried too; may be repeated."),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Of each training that a defence needs.", min=1)] = 5,
    batch_size: Annotated[int, typer.Option(help="Images attacked at a time.", min=1)] = 100,
    quick: Annotated[
        bool,
        typer.Option("--quick", help=f"A first look, in minutes: {_told(_QUICK)}, where you do not say otherwise."),
    ] = False,
    jobs: Annotated[int | None, typer.Option(help="Processes that share the defences and the images.", min=1)] = None,
    scheduler: SchedulerOption = None,
    tls: TlsOption = None,
    seed: Annotated[int, typer.Option(help="Of trainings and attacks.", min=0)] = 0,
    device: Device = "cpu",
    weights: Weights = None,
    trust: Trust = False,
    mean: Mean = None,
    std: Std = None,
    output: Output = None,
    size: SizeOption = None,
    channels: ChannelsOption = None,
) -> None:
    """Attack a network of yours on your images, alone and behind defences, and write a report of each.

    The same command goes on from what is finished, should it be interrupted. With --jobs several processes compute, or
    with --scheduler the workers of a dask cluster; the reports are the same. A network of --transfer brings its weights
    itself; --mean, --std and --output are for it, too, unless its function wraps it.
    """
    budget, names = _number(eps), defence or ["undefended"]
    if quick:
        said = {"images": images, "steps": steps, "queries": queries, "rounds": rounds}
        images, steps, queries, rounds = (
            _QUICK[name] if _unsaid(context, name) else value for name, value in said.items()
        )
    ball = _ball(norm)
    if at_least is not None and not 0 <= at_least <= 100:
        raise InputError(f"--at-least is a percentage from 0 to 100, not {at_least:g}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"--defence {twice[0]} is there twice")
    with _one_line():
        import torch

        from advdef.book.gridcommand import spread_out
        from advdef.report.attacking import JudgingEffort
        from advdef.report.bring import Brought, named_function
        from advdef.report.judging import robustness
        from advdef.report.report import compare
        from advdef.report.tasks import judging_cell
        from advdef.store import cache_folder, key

        makers = {name: named_function(name) if ":" in name else name for name in names}
        given = tuple(transfer or ())
        brought = Brought(data, model, weights, trust, mean, std, output, size, channels, device, given)
        loaded, network, sources = brought.dataset(), brought.network(), brought.sources()
        effort = JudgingEffort(steps, restarts, queries, rounds, epochs, seed=seed, batch_size=batch_size)
        if jobs is not None or scheduler is not None:
            content = key("judge", network=network, defences=makers, transfer=sources).digest
            cell = judging_cell(brought, loaded, tuple(makers), budget, ball, images, effort, content)
            spread_out([cell], jobs=jobs or 1, scheduler=scheduler, tls=tls, threads=1)
            torch.set_num_threads(1)  # as those that computed it
        reports = []
        for number, name in enumerate(makers, start=1):
            say(f"[{number}/{len(makers)}] {name} on {loaded.name} ...")
            report = robustness(
                network, loaded, eps=budget, norm=ball, defence=name, images=images, resume=cache_folder("judged"),
                transfer=sources, progress=True, **vars(effort),
            )  # fmt: skip
            file = report.save(out / f"{loaded.name}-{re.sub(r'[^A-Za-z0-9_.]+', '-', name)}.json")
            say(f"{report}\n  Report: {file}\n")
            reports.append(report)
        table = compare(reports).to_string(index=False)
    low = [r.facts["defence"] for r in reports if at_least is not None and 100 * r.interval().high < at_least]
    if len(reports) > 1 or at_least is not None:
        say(table)
    if low:
        typer.echo(f"advdef: below {at_least:g} %, interval included: {', '.join(low)}", err=True)
        raise typer.Exit(1)


@guarded
def check(
    file: Annotated[Path, typer.Argument(help="The .safetensors file of a report or a record, or one of these.")],
    model: Annotated[str | None, typer.Option(help="module:function, which builds the network.")] = None,
    data: Annotated[
        str | None, typer.Option(help="The data set that the images are from; of a record, only one of your own.")
    ] = None,
    defence: Annotated[
        str | None, typer.Option(help="The defence by name, or module:function; default: the one that the file names.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Of the training that the defence needs.", min=1)] = 5,
    seed: Annotated[int, typer.Option(help="Of its training.", min=0)] = 0,
    device: Device = "cpu",
    weights: Weights = None,
    trust: Trust = False,
    mean: Mean = None,
    std: Std = None,
    output: Output = None,
    size: SizeOption = None,
    channels: ChannelsOption = None,
    networks: Annotated[
        bool, typer.Option("--networks", help="Of a record: ask its networks; those that are not here are trained.")
    ] = False,
) -> None:
    """Judge attacked images again, without the run that made them: budget, range, originals, labels, the network.

    Of a report without --data and --model, budget and range alone; a record names its data and its networks, and needs
    --data where the data are of your own. Exit code 1 where something is not as it was said to be.
    """
    file = file.with_suffix(".safetensors") if file.suffix == ".json" else file
    with _one_line():
        from advdef.data import Split
        from advdef.evaluation.attacked import read_attacked, rejudge
        from advdef.evaluation.packed import is_packed
        from advdef.report.bring import Brought
        from advdef.report.deployed import deployed

        if is_packed(file):
            if any(value is not None for value in (model, weights, mean, std, output, size, channels)):
                raise InputError(f"{_SAYS}: only --networks, --device and, for data of your own, --data go")
            _check_record(file, networks, device, data)
            return
        if networks:
            raise InputError("--networks is for the images of a record; name the network of a report with --model")
        kept = read_attacked(file)
        defence = _defence_of(kept.facts, defence) if model is not None else ""
        brought = Brought(data or "", model or "", weights, trust, mean, std, output, size, channels, device)
        known = None if data is None else brought.dataset()
        if known is not None and known.checksum != kept.facts.get("checksum", known.checksum):
            raise InputError(f"{file} is of other images than {known.name}: of {kept.facts.get('data')}, says the file")
        case = None
        if model is not None:
            network = brought.network()
            levels = (255 * kept.originals).round().byte()
            case = deployed(
                network, known or Split(levels, kept.labels), eps=kept.eps, norm=kept.norm,  # type: ignore[arg-type]
                defence=defence, epochs=epochs, seed=seed,
            )  # fmt: skip
        found = rejudge(kept, defence=None if case is None else case.defence, data=known)
    of = "" if found.images == kept.of else f", a sample of {kept.of}"
    told = {name: value for name, value in kept.facts.items() if isinstance(value, str)}
    typer.echo(f"{file}: {found.images} images{of}; {kept.norm} {kept.eps:g}; {', '.join(map(' '.join, told.items()))}")
    if not found.images:
        typer.echo("  nothing was broken, so there is nothing to judge")
        return
    typer.echo(f"  within budget and range: {found.within} of {found.images}")
    same = "not asked, no --data" if found.original is None else f"{found.original} of {found.images}"
    typer.echo(f"  originals and labels are those of the data set: {same}")
    wrong = "not asked, no --model" if found.broken is None else f"{found.broken} of {found.images}"
    typer.echo(f"  the network gives another class: {wrong}")
    if not found.holds:
        typer.echo("advdef: these images are not what they are said to be", err=True)
        raise typer.Exit(1)


def _defence_of(facts: Mapping[str, Any], asked: str | None) -> str:
    """The defence whose attacked images are in a file: by the name there, or module:function of a user."""
    from advdef.report.defences import DefenceName

    said, names = str(facts.get("defence", "undefended")), get_args(DefenceName)
    if asked is None and said not in names:
        raise InputError(f"the images are of a defence of yours, {said}: name it, --defence module:function")
    if asked is not None and ":" not in asked and asked in names and asked != said:
        raise InputError(f"the images are of the defence {said}, not of {asked}: leave --defence out")
    return asked or said


def _check_record(file: Path, networks: bool, device: str, data: str | None) -> None:
    """Judge the attacked images of a record again, and print what came of it by defence."""
    from collections import Counter

    from tabulate import tabulate

    from advdef.book.recordimages import agreeing, data_address, study_behind
    from advdef.book.records import read_record
    from advdef.data import DatasetUnavailable, load
    from advdef.evaluation.attacked import rejudge
    from advdef.evaluation.packed import read_packed

    kept = read_packed(file)
    facts, known, study = kept.facts, None, None
    try:
        address = data_address(facts["dataset"], facts["checksum"], data)
        known = load(address, download=False)
        study = study_behind({**facts, "dataset": address}, device) if networks else None
    except DatasetUnavailable as missing:
        if networks:
            raise
        say(f"note: originals are not compared: {missing}")
    found: dict[str, Counter[str]] = {}
    holds = True
    for one in kept.sets:
        case = None if study is None else study.deployed(*study.cases()[one.defence])
        again = rejudge(kept.broken(one), data=known, defence=case)
        holds = holds and again.holds
        row = {"broken": again.images, "in budget": again.within}
        row |= {} if again.original is None else {"originals as in the data": again.original}
        row |= {} if again.broken is None else {"wrong again": again.broken}
        found.setdefault(one.defence, Counter()).update(row)
    sample = "" if len(kept) == kept.of else f", of {kept.of} that were attacked"
    typer.echo(f"{file}: {facts['page']} on {facts['dataset']}, {len(kept)} test images{sample}; images by defence:")
    typer.echo(tabulate([{"defence": name} | dict(row) for name, row in found.items()], headers="keys"))
    if (record := file.with_suffix(".json")).is_file():
        compared, same = agreeing(kept, read_record(record, anywhere=True)["results"])
        typer.echo(
            f"  worst cases of the record with hits of single images: {compared}; these images say the same: {same}"
        )
        holds = holds and same == compared
    if not holds:
        typer.echo("advdef: these images are not what they are said to be", err=True)
        raise typer.Exit(1)


@guarded
def diff(
    one: Annotated[Path, typer.Argument(help="A record, a report, or an executed notebook.")],
    other: Annotated[Path, typer.Argument(help="Another one, of the same page.")],
    baseline: Annotated[
        Path | None, typer.Option(help="A file of tests/baselines, which says how far each value may move.")
    ] = None,
) -> None:
    """Tell what differs between two runs, and whether it may: by rounding, or by another seed.

    Exit code 1 where something moved by more than it may.
    """
    from advdef.book.moves import difference_lines, differences

    found = differences(one, other, baseline=baseline)
    typer.echo(difference_lines(found) if found else "nothing differs")
    if any(not move.allowed for move in found):
        raise typer.Exit(1)


def _unsaid(context: typer.Context, name: str) -> bool:
    """Whether a parameter has its default because nobody gave it."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT"


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """What input is refused for ends the command in one line."""
    from advdef.data import DatasetUnavailable
    from advdef.evaluation import UnsoundAttack

    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, ImportError, DatasetUnavailable, UnsoundAttack) as error:
        raise InputError(str(error)) from error


def _ball(norm: str) -> BallNorm:
    if norm == "Linf":
        return "Linf"
    if norm == "L2":
        return "L2"
    raise InputError(f"no norm {norm!r}; there are Linf, L2")


def _number(text: str) -> float:
    """A budget such as 8/255 or 0.1."""
    above, _, below = text.partition("/")
    try:
        found = float(above) / (float(below) if below else 1.0)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"eps {text!r} is no number; write 8/255 or 0.1") from None
    return found
