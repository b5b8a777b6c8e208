"""Part about one model in several processes: on one card over gloo, and a process alone over NCCL."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cl_bench.compute.numerics import settled
from cl_bench.data import load
from cl_bench.losses.distributed import ALONE, Together
from cl_bench.methods.registry import Registry, spec_of
from cl_bench.spec import PretrainSpec
from cl_bench.spec.profile import Row
from cl_bench.spec.profile_files import load_profile
from cl_bench.train.pretrain import pretrain
from cl_bench.train.training import untrained
from gpu.running import Setting

PROFILE, TINY = "gpu-scenes", "ci"
LIMIT = 120.0
"""Seconds after which processes that wait for each other are stopped."""


def teams(setting: Setting) -> dict[str, Any]:
    """Train one model for a few steps in one process, in two on one device, and in one that talks over NCCL.

    Two processes cannot use NCCL on one card, so that they talk over gloo there.

    Returns:
        For each team its backend, the largest relative difference of a loss from that of one process, after one step
        and after all, and the norm of the difference of all weights relative to that of their change in training.
    """
    alone = _trained(setting.device, setting.tiny, ALONE)
    ways = {"two processes, gloo": (2, "gloo")}
    if setting.device.type == "cuda":
        ways["one process, nccl"] = (1, "nccl")
    return {name: _compared(alone, _together(setting, *way)) for name, way in ways.items()}


def _together(setting: Setting, size: int, backend: str) -> dict[str, Any]:
    """Train in processes of their own and return what the first has."""
    folder = setting.folder / f"{backend}-{size}"
    folder.mkdir()
    context = multiprocessing.get_context("forkserver")
    told = folder, setting.name, setting.tiny, size, backend
    processes = [context.Process(target=_member, args=(*told, rank)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    if codes != [0] * size:
        raise RuntimeError(f"{backend}: the processes ended with exit codes {codes}")
    done: dict[str, Any] = torch.load(folder / "done.pt")
    return done


def _member(folder: Path, device_name: str, tiny: bool, size: int, backend: str, rank: int) -> None:
    device = torch.device(device_name)
    # As distributed.join does, which takes NCCL on every card.
    dist.init_process_group(backend, f"file://{folder / 'meeting'}", rank=rank, world_size=size)
    over = Together()
    done = _trained(device, tiny, over)
    if rank == 0:
        torch.save(done, folder / "done.pt")
    dist.destroy_process_group()


def _trained(device: torch.device, tiny: bool, over: Any) -> dict[str, Any]:
    """Train, every step of it logged; return the losses, and the weights before and after on the CPU."""
    spec = _spec(tiny)
    method = Registry().resolve("dense_index")
    with settled(device):
        done = pretrain(spec, method, load(spec.data), device, over=over)
    return {
        "losses": [entry["loss"] for entry in done.history],
        "before": untrained(spec).state_dict(),
        "after": {name: w.detach().cpu() for name, w in done.encoder.state_dict().items()},
    }


def _spec(tiny: bool) -> PretrainSpec:
    fewer = ["optimiser.epochs=1", "optimiser.log_every=1"]
    if not tiny:
        fewer += ["single_object.data.images=2048"]
    profile = load_profile(TINY if tiny else PROFILE, fewer)
    return profile.sweep(Row(spec_of(Registry().resolve("dense_index")), "single_object", "overlapping"))[0].pretrain


def _compared(alone: dict[str, Any], team: dict[str, Any]) -> dict[str, Any]:
    apart = [abs(b - a) / max(1.0, abs(a)) for a, b in zip(alone["losses"], team["losses"], strict=True)]
    floats = [name for name, w in alone["after"].items() if w.is_floating_point()]
    difference, change = (
        torch.cat([(a[name] - b[name]).double().flatten() for name in floats]).norm()
        for a, b in ((alone["after"], team["after"]), (alone["after"], alone["before"]))
    )
    return {"steps": len(apart), "first": apart[0], "most": max(apart), "weights": float(difference / change)}
