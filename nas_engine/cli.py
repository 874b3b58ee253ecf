"""The command line: a verb a function, each thin over the Python interface.

What people read and progress go through rich; with `--json`, standard output holds one JSON document and nothing
else. Heavy libraries are imported by the verbs that need them, so that `--help` is instant.
"""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from search_spaces.errors import ConfigError, did_you_mean

from .failures import EXIT_CODES, reported

if TYPE_CHECKING:
    from .run import Run

_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code:<4} {words}" for code, words in EXIT_CODES.items())


class _Verb(TyperCommand):
    """A command whose errors are one line on standard error and a documented exit code."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        with reported(debug=bool(ctx.find_root().params.get("debug"))):
            return super().invoke(ctx)


class _Verbs(TyperGroup):
    """The group of verbs; an unknown one is answered with the nearest."""

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        if args and not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            with reported():
                raise ConfigError(f"unknown verb {args[0]!r}: {did_you_mean(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="nas-engine",
    cls=_Verbs,
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_verb: Callable[..., Any] = functools.partial(app.command, cls=_Verb)
_table = typer.Typer(cls=_Verbs, no_args_is_help=True, rich_markup_mode=None, help="Build and ask lookup tables.")
_table_verb: Callable[..., Any] = functools.partial(_table.command, cls=_Verb)
app.add_typer(_table, name="table")

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file, or the directory or URI of a run.")]
RunPath = Annotated[str, typer.Argument(metavar="RUN", help="Directory or URI of a run, or its name under results/.")]
TablePath = Annotated[
    str, typer.Argument(metavar="RUN|TABLE", help="Run (directory, URI, or name under results/), or a .parquet file.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value, such as search.trials=24; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Results = Annotated[str, typer.Option("--results", metavar="DIR", help="Directory or URI of the runs.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Ray cluster to work on, or 'auto' for the one of this machine; RAY_ADDRESS otherwise.",
    ),
]


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="nas-engine")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"nas-engine {version('nas-engine')}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; goes before the verb.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Find neural networks that fit a device: from data and bounds to trained, exported, verified networks.

    Begin with: nas-engine init
    """


@_verb()
def init(
    path: Annotated[Path, typer.Argument(metavar="[PATH]", help="File to write.")] = Path("search.yaml"),
    data: Annotated[str, typer.Option(metavar="SPEC", help="digits, npz:FILE, folder:DIR, CIFAR10, ...")] = "digits",
    space: Annotated[str, typer.Option(metavar="NAME", help="See: nas-engine list spaces.")] = "nasbench201",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented configuration."""
    from .starter import write_starter

    write_starter(path, data, space, force=force)
    file = shlex.quote(str(path))
    print(f"wrote {path}\nnext:\n  nas-engine profile {file}   what the space costs, before anything is trained")
    print(f"  nas-engine search {file}    the search; Ctrl-C stops it cleanly, the same command goes on")


@_verb()
def profile(config: ConfigPath, set_: Overrides = None, json: AsJson = False) -> None:
    """Show what a space costs before anything is trained.

    Its size, the extremes of every cost on the device, whether each bound can be met (exit code 4 where one cannot),
    and an estimate of the time of each stage.
    """
    from . import pages, pipeline
    from .profile import SpaceProfile
    from .progress import Reporter
    from .run import config_at

    asked = config_at(config, set_ or ())
    with Reporter() as reporter:
        found = pipeline.profile(asked, progress=reporter)
    _print(found, json, pages.profile)
    SpaceProfile.from_dict(found["profile"]).require()
    if not json:
        print(f"next: nas-engine search {_again(config, set_)}")


@_verb()
def search(config: ConfigPath, set_: Overrides = None, address: Address = None, json: AsJson = False) -> None:
    """Run a search, or go on with one.

    Ctrl-C once stops it cleanly, twice at once; either way the same command goes on.
    """
    from . import overview, pages
    from .interrupt import Interrupt
    from .pipeline import run_pipeline
    from .progress import Reporter
    from .run import config_at

    asked = config_at(config, set_ or ())
    with Reporter() as reporter, Interrupt() as stop:
        run = run_pipeline(asked, progress=reporter, stop=stop, address=address)
    _print(overview.outcome(run), json, pages.search)


@_verb()
def status(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="The run that changed last, if left out.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="One line for each run.")] = False,
    results: Results = "results",
    json: AsJson = False,
) -> None:
    """Show how far a run is."""
    from . import overview, pages

    if all_ and run is not None:
        raise ConfigError(f"give either a run or --all, not both: {run!r} and --all came")
    if all_:
        _print(overview.runs(_folder(results)), json, pages.runs)
        return
    found = _open(run) if run is not None else overview.latest(_folder(results))
    _print(overview.status(found), json, pages.status)


@_verb("list")
def list_(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="[KIND]",
            help="runs, spaces, operators, predictors, costs, samplers, data, models, criteria, schedules, "
            "allocations.",
        ),
    ] = "runs",
    results: Results = "results",
    json: AsJson = False,
) -> None:
    """List runs, or what is registered under a name."""
    from . import overview, pages

    if kind == "runs":
        _print(overview.runs(_folder(results)), json, pages.runs)
    else:
        _print(overview.registered(kind), json, pages.registered)


@_verb()
def compress(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="file.py:function, a name (see: nas-engine list models), a bundle, RUN or RUN:TRIAL."
        ),
    ],
    weights: Annotated[str | None, typer.Option(metavar="FILE", help="Trained weights of the model.")] = None,
    data: Annotated[str | None, typer.Option(metavar="SPEC", help="npz:FILE, folder:DIR, CIFAR10, ...")] = None,
    normalise: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What pixels the weights expect: imagenet, symmetric, unit, data."),
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(metavar="COST=VALUE", help="macs=0.5x, latency_ms=2, ...; may be repeated.")
    ] = None,
    criterion: Annotated[str | None, typer.Option(metavar="NAME", help="See: nas-engine list criteria.")] = None,
    allocation: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="global, per_cost, uniform, or blocks (whole ones go)."),
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(metavar="NAME", help="one_shot (default) and others: nas-engine list schedules.")
    ] = None,
    finetune: Annotated[int | None, typer.Option(metavar="EPOCHS", help="Train the smaller network.")] = None,
    distill: Annotated[bool, typer.Option("--distill", help="Train with the uncut network as a teacher.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to; a new directory, or one to go on in.")
    ] = None,
    set_: Overrides = None,
    json: AsJson = False,
) -> None:
    """Cut a trained network to a target, and show what that costs and brings.

    Ctrl-C once stops it cleanly, twice at once; either way the same command goes on.
    """
    from . import pages_compress
    from .compress.asking import asked, directory
    from .compress.compressing import compress as run
    from .compress.request import make_request
    from .interrupt import Interrupt
    from .progress import Reporter

    given = asked(model, weights, data, normalise, target, criterion, allocation, schedule, finetune, distill)
    request = make_request(given, set_ or ())
    place = directory(request, out)
    with Reporter() as reporter, Interrupt() as stop:
        report = run(request, place, progress=reporter, stop=stop, command=shlex.join(sys.argv))
    _print(report, json, pages_compress.compressed)


@_verb()
def scale(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A published network such as efficientnet_b0, file.py:function, timm:NAME, torchvision:NAME, a "
            "bundle, RUN or RUN:TRIAL.",
        ),
    ],
    to: Annotated[
        list[str] | None,
        typer.Option(metavar="COST=VALUE", help="The largest within latency_ms=4, macs=2x, ...; may be repeated."),
    ] = None,
    phi: Annotated[int | None, typer.Option(metavar="N", help="The family from 0 to N.")] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="compound (default), dwr, depth, width or resolution; the others are shown beside it."
        ),
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Of depth in compound scaling: 1.2.")] = None,
    beta: Annotated[float | None, typer.Option(help="Of width: 1.1.")] = None,
    gamma: Annotated[float | None, typer.Option(help="Of resolution: 1.15.")] = None,
    input_: Annotated[
        str | None, typer.Option("--input", metavar="CxHxW", help="Images of the unscaled network, such as 3x224x224.")
    ] = None,
    classes: Annotated[int | None, typer.Option(metavar="N", help="Outputs.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to; a new directory, or one to go on in.")
    ] = None,
    set_: Overrides = None,
    json: AsJson = False,
) -> None:
    """Scale a network to a device: its family by several rules, costed, measured, drawn and exported.

    Ctrl-C once stops it cleanly, twice at once; either way the same command goes on.
    """
    from . import pages_scale
    from .interrupt import Interrupt
    from .progress import Reporter
    from .scaling.request import directory, make_request
    from .scaling.work import scale as run

    exponents = {"alpha": alpha, "beta": beta, "gamma": gamma}
    given = {"model": model, "to": to, "phi": phi, "rule": rule, **exponents, "input": input_, "classes": classes}
    request = make_request(given, set_ or ())
    place = directory(request, out)
    with Reporter() as reporter, Interrupt() as stop:
        report = run(request, place, progress=reporter, stop=stop, command=shlex.join(sys.argv))
    _print(report, json, pages_scale.scaled)


@_verb("train-gnn")
def train_gnn(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file.")],
    set_: Overrides = None,
    json: AsJson = False,
) -> None:
    """Train one deep graph network, or go on with it.

    Ctrl-C once stops it cleanly, twice at once; either way the same command goes on.
    """
    from . import pages_gnn
    from .gnn import load_request
    from .gnn import train_gnn as run
    from .interrupt import Interrupt
    from .progress import Reporter

    request = load_request(config, set_ or ())
    with Reporter() as reporter, Interrupt() as stop:
        found = run(request, progress=reporter, stop=stop, command=f"nas-engine train-gnn {_again(config, set_)}")
    _print(found, json, pages_gnn.trained)


@_verb()
def predict(
    architecture: Annotated[str, typer.Argument(metavar="ARCH.json", help="File of architectures, or a code.")],
    run: Annotated[
        str, typer.Option("--run", metavar="RUN", help="Directory or URI of a run, or its name under results/.")
    ],
    json: AsJson = False,
) -> None:
    """Show what a run believes of architectures.

    A file holds an architecture as JSON, a list of them, or one or a code a line.
    """
    from . import lookup, pages_tables

    found = _open(run)
    _print(lookup.predict(found, lookup.read_architectures(architecture, found.space)), json, pages_tables.predict)


@_table_verb("build")
def table_build(config: ConfigPath, set_: Overrides = None, address: Address = None, json: AsJson = False) -> None:
    """Build the lookup table, or go on with it, and stop there.

    What comes before it (device, shared weights, scores, predictor) is done first where it is missing. Ctrl-C once
    stops cleanly, twice at once; either way the same command goes on.
    """
    from . import lookup, pages_tables
    from .interrupt import Interrupt
    from .pipeline import run_pipeline
    from .progress import Reporter

    asked = lookup.config_of(config, set_ or ())
    with Reporter() as reporter, Interrupt() as stop:
        run = run_pipeline(asked, progress=reporter, stop=stop, until="table", address=address)
    _print(run.table.about(), json, pages_tables.info)
    if not json:
        print(f"next: nas-engine table query {shlex.quote(run.location)} --where 'params < 5e5'")


@_table_verb("query")
def table_query(
    table: TablePath,
    where: Annotated[
        str | None, typer.Option(metavar="CONDITION", help="Such as 'latency_ms < 2 and params < 5e5'.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Accuracy (default) falling, all else rising.")
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, metavar="N", help="Rows to show: 10, or all of a front.")] = None,
    columns: Annotated[str | None, typer.Option(metavar="A,B,...", help="Columns to show, or all.")] = None,
    pareto: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Only rows that none beats, such as accuracy,latency_ms.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Ask a lookup table.

    It holds predicted accuracy and costs of the whole space, or of a large sample of it.
    """
    from . import lookup, pages_tables

    found = lookup.open_table(table)
    rows = lookup.ask(found, where, sort, top, columns, pareto).to_dict("records")
    hidden = () if columns else tuple(found.choices.values())
    _print(rows, json, lambda rows: pages_tables.query(rows, hidden, lookup.quality_at(table)))


@_table_verb("info")
def table_info(table: TablePath, json: AsJson = False) -> None:
    """Show what a lookup table holds and where it comes from."""
    from . import lookup, pages_tables

    _print(lookup.open_table(table).about(), json, pages_tables.info)


@_verb()
def report(run: RunPath) -> None:
    """Write the HTML report of a run again and print its path."""
    from .report import write_report

    found = _open(run)
    path = write_report(found)
    found.directory.publish_beside()
    print(path)


@_verb()
def export(
    run: RunPath,
    trial: Annotated[int | None, typer.Option(metavar="N", help="The network of this trial.")] = None,
    best: Annotated[
        str | None, typer.Option(metavar="CONDITION", help="The most accurate trained one with 'latency_ms < 2', say.")
    ] = None,
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to; export/ of the run, if left out.")] = None,
) -> None:
    """Export a trained network and print where its bundle is.

    The most accurate one, unless --trial or --best names another.
    """
    if trial is not None and best is not None:
        raise ConfigError("give either --trial or --best, not both")
    found = _open(run)
    number = int(found.best(best)["trial"]) if trial is None else trial
    print(found.export(number, to))


def _open(path: str) -> Run:
    from .run import Run

    return Run.open(path)


def _folder(results: str) -> Path:
    """The directory of runs, or the one of the working copies of those under a URI."""
    from .run import working_copies
    from .store import is_uri

    return working_copies(results) if is_uri(results) else Path(results)


def _print(value: Any, json: bool, page: Callable[[Any], Iterable[Any]]) -> None:
    """A value for machines as JSON, or for people as the page made of it."""
    from .show import show, to_json

    if json:
        print(to_json(value))
    else:
        show(page(value), sys.stdout)


def _again(config: str, overrides: list[str] | None) -> str:
    """The arguments of a verb as the user gave them."""
    parts = [config, *(part for text in overrides or () for part in ("--set", text))]
    return shlex.join(parts)


if __name__ == "__main__":
    main()
