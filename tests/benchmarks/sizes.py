"""Cost against size, as tables and as two plots: a rebuild by its entries, and a page by its salts.

The plots are SVG files, in ``tests/benchmarks/plots``, where README shows them. Both axes have a logarithmic scale,
so that work that costs twice as much for twice the size is a straight line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from saltctl.settings import Settings
from tests.benchmarks.backup_pages import PagesServer
from tests.benchmarks.history import DELAY, FIRST, LIMIT, NAIVE, NEXT, ONE, measure_pages
from tests.benchmarks.rebuild import LABELS, run_contender
from tests.benchmarks.report import Table, times
from tests.benchmarks.servers import redis_server

ENTRIES = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000)
MOST = {"rebuild": 3_000_000, "careful": 1_000_000, "naive": 100_000}
"""The most entries that each way to rebuild is tried with: at its rate, none takes longer than half a minute."""
SALTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PLOTS = Path(__file__).with_name("plots")
Costs = Mapping[str, Sequence[float | None]]
"""The cost at each size, by contender; None where it was not tried."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The costs at some sizes: what the tables and a plot show.

    Args:
        file: the name of the plot's file.
        kept: what the sizes count.
        unit: of the costs.
        digits: decimal places of the costs in the table.
    """

    title: str
    file: str
    kept: str
    unit: str
    digits: int
    sizes: Sequence[int]
    costs: Costs

    def table(self) -> Table:
        """Return the table to print."""
        rows = [
            (f"{size:,}", *("" if cost[at] is None else f"{cost[at]:,.{self.digits}f}" for cost in self.costs.values()))
            for at, size in enumerate(self.sizes)
        ]
        return Table(f"{self.title}, {self.unit}", (self.kept, *self.costs), rows)

    def plot(self, directory: Path) -> Path:
        """Write the plot, and return its path."""
        import matplotlib as mpl  # takes half a second, which no other benchmark needs to wait
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.add_subplot(
            title=self.title, xlabel=self.kept, ylabel=self.unit, xscale="log", yscale="log", xticks=self.sizes
        )
        axes.minorticks_off()
        axes.set_xticks(self.sizes, [f"{size:,}" for size in self.sizes])
        ticks = _ticks([cost for costs in self.costs.values() for cost in costs if cost is not None])
        axes.set_yticks(ticks, [f"{tick:,g}" for tick in ticks])
        axes.grid(visible=True, color="0.9")
        for name, costs in self.costs.items():
            tried = [(size, cost) for size, cost in zip(self.sizes, costs, strict=True) if cost is not None]
            axes.plot(*zip(*tried, strict=True), marker="o", label=name)
        axes.legend(frameon=False)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / self.file
        with mpl.rc_context(
            {"svg.fonttype": "none", "svg.hashsalt": self.file}
        ):  # text as text, the same ids each time
            figure.savefig(path, metadata={"Date": None, "Creator": None})
        return path


@dataclass(frozen=True, slots=True)
class SizesOutcome:
    """The costs of a rebuild and of a page, and where their plots are."""

    measured: Sequence[Sizes]
    plots: Sequence[Path]

    def tables(self) -> list[Table]:
        """Return the tables to print."""
        return [each.table() for each in self.measured]


def run(*, quick: bool = False, plots: Path | None = None) -> SizesOutcome:
    """Run the benchmark, and write its plots; a quick run writes them only into a named directory."""
    measured = [_rebuilds(quick=quick), _pages(quick=quick)]
    directory = plots or (None if quick else PLOTS)
    return SizesOutcome(measured, [each.plot(directory) for each in measured] if directory else [])


def _ticks(costs: Sequence[float]) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten that the costs lie between, and one more at each end."""
    steps = [factor * 10.0**power for power in range(-3, 6) for factor in (1, 2, 5)]
    first = max((at for at, step in enumerate(steps) if step <= min(costs)), default=0)
    last = min((at for at, step in enumerate(steps) if step >= max(costs)), default=len(steps) - 1)
    return steps[first : last + 1]


def _rebuilds(*, quick: bool) -> Sizes:
    sizes = (200,) if quick else ENTRIES
    costs: dict[str, list[float | None]] = {LABELS[name]: [] for name in MOST}
    for size in sizes:
        with PagesServer(size) as pages:
            for name, most in MOST.items():
                cost = _rebuild(name, pages, size, quick=quick) if size <= most else None
                costs[LABELS[name]].append(cost)
    title = "a rebuild from pages of 1 MB over HTTP, Redis with its AOF on"
    return Sizes(title, "rebuild.svg", "entries", "seconds", 2, sizes, costs)


def _rebuild(name: str, pages: PagesServer, size: int, *, quick: bool) -> float:
    """Return the seconds of a contender."""
    with redis_server() as server:
        return run_contender(name, pages, size, 64 if quick else Settings.buckets, server).seconds


def _pages(*, quick: bool) -> Sizes:
    sizes, rounds = ((1, 4), 2) if quick else (SALTS, 31)
    costs: dict[str, list[float | None]] = {name: [] for name in (ONE, NAIVE, FIRST, NEXT)}
    for n in sizes:
        seconds = measure_pages(n, rounds).seconds
        for name, of_name in costs.items():
            of_name.append(1000 * median(seconds[name]))
    title = f"a page of {LIMIT}, {1000 * DELAY:.0f} ms a query, median of {times(rounds, 'round')}"
    return Sizes(title, "page.svg", "salts", "milliseconds", 1, sizes, costs)
