"""Output of ``--plan``: the encoders to compute, their time, and the origins of the profile's values."""

from __future__ import annotations

import math
from collections.abc import Callable

from cl_bench.claims.sequential import Look
from cl_bench.compute.devices import usable_devices
from cl_bench.compute.record import load_record
from cl_bench.errors import first_line, first_line_of
from cl_bench.plugin.options import or_usage_error
from cl_bench.plugin.session import Session
from cl_bench.report import looks_table, origins_table, plan_table
from cl_bench.report.plan import encoder_seconds, missing, wall_time
from cl_bench.spec import RunSpec
from cl_bench.spec.provenance import provenance
from cl_bench.spec.records import RANDOM_INIT, Record

Known = list[tuple[RunSpec, str, Record | None]]  # of a row: each spec, its configuration, what the store holds
Wanted = dict[str, list[RunSpec]]


class Planner:
    """Planner of the encoders that a session would compute, and of their time."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._timings: dict[str, dict[str, float]] = {}

    def show(self, wanted: Wanted, by_look: Callable[[Look], Wanted]) -> None:
        """Show the encoders to compute, their time, missing data, and the origins of the profile's values."""
        console, looks = self.session.console(), self.session.looks
        state = self._state(wanted)
        # Of several looks the power is the last one's alone, which the others add to.
        estimates = self._estimates(state)
        console.print(plan_table(state, looks[-1].alpha, self.session.engine.jobs, estimates, self._gpus))
        if (together := self.session.options.gpus_per_model) > 1:
            console.print(f"Times are those of one device a model: {together} pre-train it in less.", highlight=False)
        if (share := self.session.options.share_views) > 1:
            console.print(f"Times are those of encoders one by one: {share} in lock-step take less.", highlight=False)
        if len(looks) > 1:
            costs = [self.cost(by_look(look)) for look in looks]
            console.print(looks_table([(look, *cost) for look, cost in zip(looks, costs, strict=True)]))
        for line in dict.fromkeys(self.session.data.missing.values()):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        console.print(
            origins_table(or_usage_error(lambda: provenance(self.session.options.profile, self.session.settings)))
        )

    def _state(self, wanted: Wanted) -> dict[str, Known]:
        """Return the specs of each row, with their stored records."""
        return {
            name: [(s, s.pretrain.objective.config, load_record(s, self.session.store)) for s in specs]
            for name, specs in wanted.items()
        }

    def _estimates(self, state: dict[str, Known]) -> dict[str, dict[str, float]]:
        """Return the seconds per encoder by stage, for rows without a stored record; each row is timed once."""
        for row, cases in state.items():
            if row not in self._timings and not any(record is not None for _, _, record in cases):
                self._timings[row] = self._timed(row, cases[0][0])
        return {row: stages for row, stages in self._timings.items() if row in state and stages}

    def cost(self, wanted: Wanted) -> tuple[int, float]:
        """Return the number of encoders to compute and the seconds for them; nan if a row could not be timed."""
        state = self._state(wanted)
        absent = {row: len(missing(cases)) for row, cases in state.items() if missing(cases)}
        seconds = encoder_seconds(state, self._estimates(state)) if absent else {}
        jobs = self.session.workers[2]
        each = [seconds.get(row, math.nan) for row, n in absent.items() for _ in range(n)]
        return len(each), math.nan if any(map(math.isnan, each)) else wall_time(each, min(jobs, self._gpus or jobs))

    @property
    def _gpus(self) -> int | None:
        """Number of GPUs that the workers run on; None on a CPU."""
        devices = self.session.workers[1]
        return len(devices) if devices[0].startswith("cuda") else None

    def _timed(self, row: str, spec: RunSpec) -> dict[str, float]:
        """Time an encoder of a row on this machine, in seconds by stage."""
        import torch

        from cl_bench.compute.estimate import estimate

        name = "auto" if self.session.options.engine == "ray" else self.session.options.device
        device, method = torch.device(usable_devices(name)[0]), None
        console = self.session.console()
        console.print(f"timing a few steps of {row} on {device} ...", highlight=False, markup=False)
        if device.type == "cpu":
            torch.set_num_threads(1)  # as a worker has
        if spec.pretrain.method.name != RANDOM_INIT:
            method = self.session.registry.resolve(str(spec.pretrain.method))
        try:
            return estimate(spec, method, device)
        except (ValueError, RuntimeError) as error:  # a plan that cannot time one row is one all the same
            why = first_line_of(str(error)) if isinstance(error, ValueError) else first_line(error)
            console.print(f"{row} could not be timed: {why}", highlight=False, markup=False)
            return {}
