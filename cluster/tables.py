"""Results as terminal tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.terminal import console as standard_error
from cluster.terminal import say
from evalsuite.scoring import HEADLINES, INSTANCE_METRICS, LOWER_IS_BETTER
from trainer.watching import OTHER, START, shares

# Options of each section that are shown for every method, besides the method's own defaults.
SECTIONS = {
    "network": ("backbone", "embedding"),
    "optimizer": ("kind", "learning_rate", "schedule", "momentum", "weight_decay"),
    "training": ("steps", "batch"),
}
# Phases of trainer.watching.phase_clock in their order. Other phases come before the last one.
PHASES = {
    "data": "data wait",
    "copy": "copy to device",
    "augment": "augment",
    "forward": "forward, losses",
    "collectives": "collectives",
    "backward": "backward",
    "optimizer": "optimizer",
    "validation": "validation",
    "checkpoint": "checkpoint",
    "round": "round",
    "finish": "finish",
}


def print_metrics(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """One line per run, the best value of each metric in bold; ANMRR is better when lower."""
    first = rows[0][1]
    left_out = f" · {first['n_missing']} left out, no shape of their class"
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=f"{first['protocol']} protocol · {first['n_evaluated']} queries · "
        f"{first['n_gallery']} shapes · ANMRR: lower is better"
        + (left_out if first["n_missing"] else ""),
    )
    table.add_column("run", overflow="fold")  # in a narrow window the name gives way
    for name in HEADLINES:
        table.add_column(name, justify="right", min_width=5)
    best = {m: _best(m, [r[m] for _, r in rows if r[m] is not None]) for m in HEADLINES}
    for run, result in rows:
        cells = [_cell(result[m], bold=len(rows) > 1 and result[m] == best[m]) for m in HEADLINES]
        table.add_row(Text(run), *cells)  # a name may hold brackets, rich's markup
    standard_output().print(table)


def print_instances(run: str, result: Mapping[str, Any]) -> None:
    """How early the exact shapes are found, with the intervals; nothing if that was not asked."""
    if "instance" not in result:
        return
    found = result["instance"]
    left_out = [
        f"{found[name]} left out, {why}"
        for name, why in (("n_missing", "shape not in the gallery"), ("n_unnamed", "not paired"))
        if found[name]
    ]
    counts = (
        f"{found['n_evaluated']} queries",
        f"{found['n_gallery']} shapes",
        f"[low, high]: {100 * found['confidence']:g} % interval over queries",
    )
    table = Table(
        box=box.SIMPLE_HEAD,
        title="the exact shape of each query",
        caption=Text(" · ".join([*counts, *left_out])),
    )
    table.add_column("run", overflow="fold")
    cells = []
    for name in INSTANCE_METRICS:
        table.add_column(name.replace("_", " "), justify="right")
        digits = 1 if name == "median_rank" else 3
        value, one = found[name], found["intervals"][name]
        cells.append(f"{value:.{digits}f} [{one['low']:.{digits}f}, {one['high']:.{digits}f}]")
    table.add_row(*map(Text, (run, *cells)))
    standard_output().print(table)


def print_time_budget(facts: Mapping[str, Any]) -> None:
    """Where the time of a run went, by its ``run.json``: seconds and share of each phase.

    Start-up has a line of its own. Goes to standard error, as every message while training.
    """
    timings, steps = facts["timings"], facts["step_timings"]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("phase")
    for name in ("seconds", "share"):
        table.add_column(name, justify="right")
    counted = shares(timings)
    known, own = [n for n in PHASES if n in counted], counted.keys() - PHASES.keys() - {OTHER}
    for name in (*known, *sorted(own), OTHER):
        cells = f"{timings[name]:.2f}", f"{100 * counted[name]:.1f} %"
        table.add_row(Text(PHASES.get(name, name)), *cells)
    table.add_section()
    table.add_row("total", f"{sum(timings[name] for name in counted):.2f}", "")
    standard_error.print(table)
    if steps["count"]:
        say(
            f"{steps['count']} steps, {steps['per_second']:.1f} a second: "
            f"mean {1000 * steps['mean_seconds']:.1f} ms, "
            f"95th percentile {1000 * steps['p95_seconds']:.1f} ms"
        )
    say(f"start-up, not counted above: {timings[START]:.1f} s")


def standard_output() -> Console:
    """Standard output; wide for a file or a pipe, which no window limits."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _best(metric: str, values: Sequence[float]) -> float | None:
    return (min if metric in LOWER_IS_BETTER else max)(values, default=None)


def _cell(value: float | None, *, bold: bool) -> str:
    if value is None:  # not defined for these queries
        return "–"
    return f"[bold]{value:.3f}[/bold]" if bold else f"{value:.3f}"


def print_layers(result: Mapping[str, Any]) -> None:
    """Layers with parameters and multiply-adds of one image's forward pass, and the trunks."""
    print_trunks(result["trunks"])
    standard_output().print(Text(rates_line(result["rates"])), soft_wrap=True)
    table = Table(caption="multiply-adds of one image through trunk and heads")
    for name in ("layer", "kind", "output"):
        table.add_column(name)
    for name in ("parameters", "multiply-adds"):
        table.add_column(name, justify="right")
    for layer in result["layers"]:
        shape = "×".join(map(str, layer["output_shape"]))
        numbers = f"{layer['parameters']:,}", f"{layer['multiply_adds']:,}"
        table.add_row(layer["name"], layer["kind"], shape, *numbers)
    table.add_section()
    table.add_row("total", "", "", f"{result['parameters']:,}", f"{result['multiply_adds']:,}")
    table.add_row("trained", "", "", f"{result['trained']:,}", "")
    standard_output().print(table)


def print_trunks(trunks: Sequence[Mapping[str, Any]]) -> None:
    """What goes into each trunk and what is trained of it."""
    table = Table(box=None, show_header=False)
    for trunk in trunks:
        table.add_row("trunk of", f"{trunk['of']}: {trunk['backbone']}, weights {trunk['weights']}")
        table.add_row("trained", f"{trunk['train']}; stages {', '.join(trunk['stages'])}")
        tokens = "" if trunk["pool_tokens"] is None else f", tokens pooled: {trunk['pool_tokens']}"
        table.add_row("features", f"{trunk['features']}{tokens}")
        table.add_row("pictures", f"{trunk['image_size']} pixels; {trunk['pictures']}")
    standard_output().print(table)


def rates_line(rates: Mapping[str, float]) -> str:
    """``learning rates at the start: trunk 0.001, new layers 0.01``."""
    told = ", ".join(f"{of} {rate:g}" for of, rate in rates.items())
    return f"learning rates at the start: {told}"


def print_methods(methods: Sequence[Mapping[str, Any]]) -> None:
    """One line per method of :func:`trainer.method_reference.describe_all`."""
    table = Table(box=box.SIMPLE_HEAD, caption="img2shape methods NAME shows one with its options")
    for name in ("method", "paper", "trains on", "batch", "optimiser", "steps"):
        table.add_column(name, overflow="fold")
    for method in methods:
        training, optimizer = (method["defaults"][s] for s in ("training", "optimizer"))
        kind = f"{optimizer['kind']} {optimizer['learning_rate']:g} {optimizer['schedule']}"
        cells = (_streams(method), _batch(method), kind, str(training["steps"]))
        name, origin = method["name"], method["origin"]
        shown = name if origin is None else f"{name} (from {origin})"
        table.add_row(*(Text(c) for c in (shown, method["paper"], *cells)))
    standard_output().print(table)


def _streams(method: Mapping[str, Any]) -> str:
    """``labelled images; unlabelled shapes``."""
    parts = []
    for labelled, word in ((True, "labelled"), (False, "unlabelled")):
        needs = [need for need in method["streams"].values() if need["labelled"] is labelled]
        if needs:
            parts.append(f"{word} {', '.join(need['modality'] + 's' for need in needs)}")
    return "; ".join(parts)


def _batch(method: Mapping[str, Any]) -> str:
    balanced = method["balanced"]
    if balanced:
        return f"{balanced['classes_per_batch']}×{balanced['samples_per_class']}"
    return str(method["defaults"]["training"]["batch"])


def print_method(method: Mapping[str, Any]) -> None:
    """One method of :func:`trainer.method_reference.describe` with all its options."""
    console = standard_output()
    lines = [f"{method['name']}: {method['summary']}", f"paper: {method['paper']}"]
    if method["origin"] is not None:
        lines.append(f"from: {method['origin']}")
    for name, need in method["streams"].items():
        label = "labelled" if need["labelled"] else "unlabelled"
        walked = "" if need["drawn"] else ", looked at as a whole, never in batches"
        lines.append(f"data.{name}: {label} {need['modality']}s{walked}")
    if method["balanced"]:
        lines.append(
            f"batches: {_batch(method)} (classes × samples), one choice of classes for all"
        )
    lines += [_defaults(method, section) for section in SECTIONS]
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    print_fields(method["fields"], prefix="method.", caption="* the method's own default")


def print_fields(fields: Sequence[Mapping[str, Any]], *, prefix: str, caption: str) -> None:
    """One line per field of :func:`trainer.fields.describe_fields`."""
    table = Table(box=box.SIMPLE_HEAD, caption=caption)
    for name in ("option", "type", "default", "description"):
        table.add_column(name, overflow="fold")
    for field in fields:
        cells = (f"{prefix}{field['name']}", field["type"], _value(field["default"]))
        table.add_row(*(Text(c) for c in (*cells, field["description"])))
    standard_output().print(table)


def _defaults(method: Mapping[str, Any], section: str) -> str:
    """``optimizer: kind=adam*, learning_rate=0.0001*, schedule=inverse``."""
    own, values = method["own_defaults"].get(section, {}), method["defaults"][section]
    keys = dict.fromkeys((*SECTIONS[section], *own))
    return f"{section}: " + ", ".join(
        f"{key}={_value(values[key])}{'*' if key in own else ''}" for key in keys
    )


def _value(value: Any) -> str:
    """The value as YAML writes it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    named = {None: "null", True: "true", False: "false"}
    return named[value] if value is None or isinstance(value, bool) else str(value)


def print_verification(result: Mapping[str, Any]) -> None:
    """Print what ``cluster.training.verify`` found: relative differences, by strategy."""
    for strategy, found in result["strategies"].items():
        _print_differences(strategy, found)


def _print_differences(strategy: str, result: Mapping[str, Any]) -> None:
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"strategy {strategy}",
        caption=f"largest relative difference of W processes from one of plain training, in "
        f"{result['dtype']}; at most {result['tolerance']:g} is rounding",
    )
    table.add_column("method", overflow="fold")
    for name in ("W", "grad", "loss", "state"):
        table.add_column(name, justify="right")
    table.add_column("result", overflow="fold")
    for method, found in result["methods"].items():
        for world_size, values in found["world_sizes"].items():
            over = [q for q, value in values.items() if value > result["tolerance"]]
            cells = [Text(f"{v:.1e}", "bold red" if q in over else "") for q, v in values.items()]
            verdict = Text(f"differs: {', '.join(over)}", "bold red") if over else Text("ok")
            table.add_row(Text(method), world_size, *cells, verdict)
        for kind, style in (("errors", "bold red"), ("refused", "")):
            if method in result[kind]:
                text = "refused: " * (kind == "refused") + result[kind][method]
                table.add_row(Text(method), "", "–", "–", "–", Text(text, style))
    standard_output().print(table)
