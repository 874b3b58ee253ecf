"""What each section of the report says, as plain values for the template; None or empty where a stage has not ended.

A section is a function of the findings. Words for people are made here, figures and drawings are made elsewhere.
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search_spaces.errors import EngineError

from ..profile import why_slow
from ..show import MISSING, count, duration, figure, milliseconds, percent, whole
from . import drawing
from .findings import Findings
from .words import COST_MEANINGS, cost_name, listed, plural, short, standard_error, with_error, with_spread

if TYPE_CHECKING:
    from markupsafe import Markup

    from predictors.cost import Roofline
    from search_spaces import Architecture, Graph

Row = dict[str, Any]


# ---- headline ----------------------------------------------------------------------------------------------------


def lead(f: Findings) -> tuple[str, str]:
    """The answer in one sentence, and how it was come by in another."""
    if not f.winners or f.chosen is None:
        return _unfinished_lead(f)
    best = f.winners[0]
    test = with_error(best["test_accuracy"], f.chosen["test_images"], f.quality)
    parts = (test, figure("latency_ms", best["latency_ms"]), count(best["params"]))
    right, takes, holds = (text.replace(" ", "\u00a0") for text in parts)
    answer = f"{f.quality.headline.format(right)}, {takes} on the device, {holds} parameters."
    others = f"the best on the validation {f.quality.cases} of {plural(len(f.winners), 'chosen network')}"
    trained = plural(len(f.networks), "candidate")
    met = sum(bool(n["bounds_met"]) for n in f.networks)
    bounds = f", {met} of them within the bounds when measured" if f.run.config.constraints else ""
    beside = "".join(f" {_unbroken(c['words'])}" for c in (f.beside or {}).get("comparisons", ())[:1])
    return answer, f"This is trial {best['trial']}, {others}; {trained} were trained{bounds}.{beside}"


def _unfinished_lead(f: Findings) -> tuple[str, str]:
    done = [row["stage"] for row in f.run.status if row["state"] == "done" and row["stage"] != "report"]
    reached = f"Done so far: {listed(done)}." if done else "No stage has ended yet."
    best = max((t.accuracy for t in f.trials if t.accuracy is not None), default=None)
    if best is None:
        return "This search has not ended.", reached
    begun = plural(len(f.trials), "candidate")
    return (
        "This search has not ended.",
        f"{reached} Training of {begun} has begun; best validation {f.quality.told(best)}.",
    )


def warnings(f: Findings) -> list[str]:
    """What a reader must know before believing the rest."""
    told: list[str] = []
    if f.unfinished:
        told.append(f"The run has not ended: {_stages(f.unfinished)} missing. Continue it with: {f.run.command}")
    told += (f.chosen or {}).get("warnings", []) + (f.beside or {}).get("warnings", [])
    trusts = [*f.trust.items(), *((f"{name} against trained candidates", t) for name, t in f.trust_trained.items())]
    for name, trust in trusts:
        doubtful = trust.get("low_trust", trust["low"] <= 0)
        if doubtful and not any(trust["words"] in text for text in told):
            told.append(f"{name}: {trust['words']}")
    for n in f.winners:
        if n["state"] == "stopped":
            told.append(
                f"Trial {n['trial']} is chosen although its training was stopped early, after {n['epochs']} epochs; "
                "trained to the end it may do better."
            )
    return told


def _stages(names: Sequence[str]) -> str:
    return f"stage {names[0]} is" if len(names) == 1 else f"stages {listed(names)} are"


def asked(f: Findings) -> list[tuple[str, str]]:
    """What the user asked for: term and description."""
    config = f.run.config
    goals = [_goal(f, metric, direction) for metric, direction in config.objectives.items()]
    budget = f"{plural(config.search.trials, 'candidate')} trained for up to {plural(config.search.epochs, 'epoch')}"
    return [
        ("Data", _data(f)),
        ("Device", _device(f)),
        ("Space", f"{config.space.name}{_space_size(f)}"),
        ("Objectives", listed(goals)),
        ("Bounds", listed(list(f.resolved.constraints)) or "none"),
        ("Budget", f"{budget}, seed {config.seed}"),
    ]


def _goal(f: Findings, metric: str, direction: str) -> str:
    if metric == "accuracy":
        return f"{f.quality.name} as {'low' if f.quality.falling else 'high'} as possible"
    return f"{cost_name(metric).lower()} as {'high' if direction == 'max' else 'low'} as possible"


def _in_sentence(metric: str) -> str:
    name = cost_name(metric)
    return name if name.isupper() or name[1].isupper() else name[0].lower() + name[1:]


def _data(f: Findings) -> str:
    if f.device is None:
        return f.run.config.data.source
    names = list(map(str, f.device["class_names"]))
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"{f.device['data'].rstrip('.')}. {f.quality.classes.capitalize()}: {shown}"


def _device(f: Findings) -> str:
    asked = f.run.config.device
    d: Mapping[str, Any] = (f.device or {}).get("device", {})
    where = d.get("accelerator") or d.get("processor") or asked.name
    cores = f", {plural(d['cores'], 'core')}" if d.get("cores") and not d.get("accelerator") else ""
    runtime = f"{asked.runtime} {d.get('runtime_version', '')}".strip()
    return f"{where}{cores}; {plural(asked.threads, 'thread')}, {runtime}, batch {asked.batch}"


def _space_size(f: Findings) -> str:
    return f", {whole(f.device['profile']['size'])} members" if f.device else ""


def answer(f: Findings) -> list[Row]:
    """A row a chosen network, the most accurate one first."""
    if f.chosen is None:
        return []
    return [
        {
            "trial": n["trial"],
            "id": n["id"],
            "validation": with_error(n["accuracy"], f.chosen["validation_images"], f.quality),
            "test": with_error(n["test_accuracy"], f.chosen["test_images"], f.quality),
            "latency": with_spread(n["latency_ms"], n.get("latency_spread_ms")),
            "params": count(n["params"]),
            "macs": count(n["macs"]),
            "bounds_met": n["bounds_met"],
            "stopped": n["state"] == "stopped",
            "epochs": n["epochs"],
            "bundle": _bundle(f, n),
        }
        for n in f.winners
    ]


def _bundle(f: Findings, network: Mapping[str, Any]) -> Row | None:
    bundle = f.bundles.get(network["trial"])
    if bundle is None:
        return None
    inside = (f.path / "export" / bundle["id"]).is_dir()
    worst = max(bundle["differences"].values(), default=None)
    return {
        "path": f"export/{bundle['id']}" if inside else bundle["path"],
        "inside": inside,
        "forms": ", ".join(bundle["differences"]),
        "difference": None if worst is None else f"{worst:.1e}",
    }


def test_note(f: Findings) -> Row | None:
    """How the test split was used, and what its size allows to be told apart."""
    if f.chosen is None or not f.winners:
        return None
    images = f.chosen["test_images"]
    error = standard_error(f.winners[0]["test_accuracy"] or 0.0, images)
    return {
        "images": f"{images:,}",
        "validation_images": f"{f.chosen['validation_images']:,}",
        "judged": len(f.networks),
        "difference": f"{100 * 2 * 2**0.5 * error:.1f}" if f.quality.counted else None,
        "flatters": "low" if f.quality.falling else "high",
    }


def hypervolume_words(f: Findings) -> str:
    """What the hypervolume is a share of."""
    quality = f.run.config.data.quality.name
    costs = [f"{_in_sentence(c)} 0 to {figure(c, r)}" for c, r in f.hypervolume.reference.items()] if f.trials else []
    return (
        f"Share of the box of all possible results ({quality if quality == 'accuracy' else '1 / ' + quality} 0 to 1, "
        f"{listed(costs)}) that some trained network within the bounds dominates, by the costs that were predicted; "
        "it rises with each network that the front gains."
    )


# ---- networks ----------------------------------------------------------------------------------------------------


def every_network(f: Findings) -> list[Row]:
    """All trained networks with all measured figures, most accurate first."""
    rows = sorted(f.networks, key=lambda n: -n["accuracy"])
    return [
        {
            **{key: n[key] for key in ("trial", "id", "state", "epochs", "pareto", "chosen", "bounds_met")},
            "accuracy": f.quality.words(n["accuracy"]),
            "costs": [figure(cost, n.get(cost)) for cost in f.run.config.costs],
        }
        for n in rows
    ]


def not_taken(f: Findings) -> list[Row]:
    """Why each trial that is not handed over was left, by trial."""
    if f.chosen is None:
        return []
    judged = [{**n, "accuracy": f.quality.words(n["accuracy"])} for n in f.networks if not n["chosen"]]
    dropped = [{**d, "accuracy": MISSING, "id": ""} for d in f.chosen["dropped"]]
    return sorted(judged + dropped, key=lambda row: row["trial"])


def drawings(f: Findings) -> Row:
    """Chosen networks drawn, the legend of their colours, or why there is nothing to draw.

    In a space that repeats a searched cell the cells are drawn, and the network around them once.
    """
    nothing: Row = {"networks": [], "shared": None, "families": {}, "problem": None}
    if not f.winners:
        return nothing
    try:
        space = f.run.space
        members = [space.decode(n["code"]) for n in f.winners]
        graphs = [space.graph(a) for a in members]
        shown = [space.sketch(a) for a in members] if drawing.has_cell(space, graphs) else graphs
        drawn = [_drawn(f, n, a, drawing.draw_graph(g)) for n, a, g in zip(f.winners, members, shown, strict=True)]
    except EngineError as e:
        return {**nothing, "problem": str(e)}
    for row, graph in zip(drawn, graphs, strict=True):
        row["slow"] = slowness(graph, f.roofline)
    if shown is graphs:
        return {**nothing, "networks": drawn, "families": drawing.families(*graphs)}
    cell = drawing.repeated(graphs[0])
    around = drawing.draw_graph(graphs[0], cell=cell)
    families = drawing.families(*shown, graphs[0], cell=cell)
    return {**nothing, "networks": drawn, "shared": around, "families": families}


def _drawn(f: Findings, network: Mapping[str, Any], architecture: Architecture, drawn: Markup) -> Row:
    return {
        "trial": network["trial"],
        "id": network["id"],
        "test": with_error(network["test_accuracy"], (f.chosen or {})["test_images"], f.quality),
        "latency": figure("latency_ms", network["latency_ms"]),
        "drawing": drawn,
        "choices": [(name, str(option)) for name, option in architecture.values.items()],
        "code": architecture.code,
    }


def slowness(graph: Graph, roofline: Roofline | None) -> Row:
    """Why a network is not faster: broken guidelines with the shares they concern, and what its time goes into."""
    from predictors.cost.guidelines import TITLES, worst_first

    trusted = roofline if roofline is not None and roofline.trusted else None
    findings, _ = why_slow(graph, trusted)
    broken = [
        {
            "guideline": found.guideline,
            "title": TITLES[found.guideline],
            "words": _unbroken(found.words.removeprefix(f"{found.guideline}: ")),
            "time": None if found.time_share is None else _unbroken(percent(found.time_share, 0)),
        }
        for found in worst_first(findings)
    ]
    return {"broken": broken, "time": _unbroken(trusted.explain(graph)) if trusted else None}


def _unbroken(words: str) -> str:
    """A sentence from its capital on, whose percents are not torn at the end of a line."""
    return f"{words[0].upper()}{words[1:]}".replace(" %", "\u00a0%")


# ---- trust -------------------------------------------------------------------------------------------------------

_TRUSTS = (
    (
        "predict",
        "supernet",
        "Supernet, by itself",
        "scores on one half of the validation part against the other",
    ),
    (
        "predict",
        "predictor",
        "Predictor, held out",
        "predictions against supernet scores it was not fitted to",
    ),
    ("choose", "supernet", "Supernet, against training", "supernet scores against accuracies of trained candidates"),
    ("choose", "predictor", "Predictor, against training", "predictions against accuracies of trained candidates"),
)


def trust(f: Findings) -> list[Row]:
    """Rank correlations with their intervals; places of the interval on a scale from -1 to 1, in percent."""
    rows = []
    for stage, who, name, meaning in _TRUSTS:
        found = (f.trust if stage == "predict" else f.trust_trained).get(who)
        if found is None:
            continue
        low, tau, high = (50 * (1 + found[key]) for key in ("low", "tau", "high"))
        place = {"left": round(low, 2), "width": round(max(high - low, 0.5), 2), "at": round(tau, 2)}
        interval = f"{found['low']:.2f} to {found['high']:.2f}"
        rows.append(
            {"name": name, "meaning": meaning, **place, "interval": interval}
            | {"tau": f"{found['tau']:.2f}", "n": found["n"], "words": found["words"]}
        )
    return rows


# ---- device and space --------------------------------------------------------------------------------------------


def latency_errors(f: Findings) -> list[tuple[str, str]]:
    """How far predicted latencies of the trained networks were from measured ones."""
    pairs = [(n["latency_ms_predicted"], n["latency_ms"]) for n in f.timed]
    relative = [predicted / measured - 1 for predicted, measured in pairs if measured > 0]
    if not relative:
        return []
    rows = [
        ("trained networks", f"{len(pairs)}"),
        ("median error", percent(statistics.median(map(abs, relative)))),
        ("largest error", percent(max(map(abs, relative)))),
        ("mean of signed errors", f"{100 * statistics.fmean(relative):+.1f} %"),
    ]
    if len(pairs) > 2:
        from scipy.stats import kendalltau

        tau = float(kendalltau(*zip(*pairs, strict=True)).statistic)
        rows.append(("Kendall tau of the ranks", f"{tau:.2f}"))
    return rows


def latency_table(f: Findings) -> list[tuple[str, str]]:
    """What the latency table rests on and how good it was found to be before the search."""
    found = f.latency
    if not found:
        return []
    correction, error = found.get("correction") or {}, found.get("error") or {}
    units, networks = error.get("units"), error.get("networks")
    rows = [
        ("operators that the space is made of", short(found.get("units", MISSING))),
        ("measured on the device", f"{short(found.get('measured', MISSING))} ({percent(found.get('measured_share'))})"),
        ("spread of a measurement, median", percent(found.get("median_spread"))),
        ("overhead of a call", milliseconds(found.get("overhead_ms"))),
        ("the other operators", f"interpolated by {found['interpolation']}" if "interpolation" in found else MISSING),
    ]
    if units:
        rows.append(("error of interpolation, cross-validated", _errors(units, "units", "operators")))
    if correction:
        offset, scale = milliseconds(correction["offset_ms"]), short(float(correction["scale"]))
        rows.append(("correction by whole networks", f"{offset} + {scale} × sum of the operators"))
    if networks:
        rows.append(("error of whole networks, each left out", _errors(networks, "networks", "networks")))
        rows.append(("the same without correction", f"median {percent(networks['uncorrected_ape'])}"))
    for what, why in (found.get("failed") or {}).items():
        rows.append(("could not be run on its own", f"{what}: {why}"))
    return rows


def _errors(found: Mapping[str, Any], count_key: str, what: str) -> str:
    largest = f", largest {percent(found['largest_ape'])}" if "largest_ape" in found else ""
    ranks = f"rank correlation {found['spearman']:.2f}" if found.get("spearman") is not None else ""
    return f"median {percent(found['median_ape'])}{largest}; {ranks} ({found[count_key]} {what})"


def fingerprint(f: Findings) -> list[tuple[str, str]]:
    """The fields that say which device latencies hold for; empty ones are left out."""
    device = {**(f.device or {}).get("device", {}), "id": f.latency.get("device_id", "")}
    words = {True: "yes", False: "no"}
    shown = {k: words[v] if isinstance(v, bool) else short(v) for k, v in device.items() if v not in ("", None)}
    return [(key.replace("_", " "), value) for key, value in shown.items()]


def space(f: Findings) -> Row | None:
    """Size, extents and bounds of the space."""
    if f.device is None:
        return None
    profile = f.device["profile"]
    extents = [
        {"name": cost_name(e["cost"]), "meaning": COST_MEANINGS.get(e["cost"], e["unit"])}
        | {key: figure(e["cost"], e[key]) for key in ("smallest", "median", "largest")}
        for e in profile["extents"]
    ]
    bounds = [{**b, "percent": percent(b["share"]), "width": round(100 * b["share"], 2)} for b in profile["bounds"]]
    return {
        "name": f.run.config.space.name,
        "size": whole(profile["size"]),
        "sampled": whole(profile["sampled"]),
        "extents": extents,
        "bounds": bounds,
        "share": percent(profile["share"]),
        "parameters": [(name, str(value)) for name, value in f.run.config.space.parameters.items()],
    }


def table_words(f: Findings) -> str | None:
    """How much of the space the lookup table holds, and how much of it is drawn."""
    done = f.done("table")
    if done is None or f.cloud is None:
        return None
    held = (
        f"all {whole(done['rows'])} distinct members" if done["whole"] else f"a sample of {whole(done['rows'])} members"
    )
    drawn = f"; {len(f.cloud.columns['accuracy']):,} of them are drawn" if f.cloud.thinned else ""
    return f"the lookup table holds {held} of the space{drawn}"


# ---- the run -----------------------------------------------------------------------------------------------------


def stages(f: Findings) -> Row:
    """Seconds of each stage and their share of all."""
    rows = [row for row in f.run.status if row["stage"] != "report"]
    seconds = [row["seconds"] or 0.0 for row in rows]
    longest = max(seconds, default=0.0) or 1.0
    bars = [round(100 * s / longest, 2) for s in seconds]
    shown = [
        {"name": row["stage"], "state": row["state"], "seconds": duration(row["seconds"]), "width": bar}
        for row, bar in zip(rows, bars, strict=True)
    ]
    return {"rows": shown, "total": duration(sum(seconds))}


def versions(f: Findings) -> list[tuple[str, str]]:
    made = f.made
    known = [("begun", made.get("created")), ("machine", made.get("machine")), ("Python", made.get("python"))]
    shown = [*known, *made.get("versions", {}).items(), ("seed", f.run.config.seed)]
    return [(name, str(value)) for name, value in shown if value is not None]


def commands(f: Findings) -> list[tuple[str, str]]:
    """What can be done with the run: words and the exact command."""
    path = shlex.quote(str(f.path))
    condition = next((b.plain for b in f.resolved.bounds), "latency_ms < 1")
    rows = [("Continue or repeat this run", f.run.command)]
    if f.cloud:
        query = f"nas-engine table query {path} --where {shlex.quote(condition)} --sort accuracy --top 10"
        rows.append(("Ask the lookup table under another bound", query))
    if f.networks:
        trial = f.winners[0]["trial"] if f.winners else f.networks[0]["trial"]
        rows.append(("Export the network of any trial", f"nas-engine export {path} --trial {trial}"))
    rows.append(("Write this report again", f"nas-engine report {path}"))
    return rows
