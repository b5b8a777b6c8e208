"""The losses compared with other implementations: time and memory of forward + backward, and their growth with n.

python benchmarks/losses.py            # the table (ten minutes on two cores; lightly alone needs 10 GB)
python benchmarks/losses.py --scaling  # cost against n, as a plot
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from timing import extra_memory, in_own_process, machine, medians
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cl_bench import info_nce, uniformity
from cl_bench.losses.pairwise import BLOCK_ELEMENTS, MIN_ROWS

TEMPERATURE, T, CELLS, D = 0.2, 2.0, 49, 128
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HERE = Path(__file__)


def features(n: int, cells: int = 0, device: torch.device = DEVICE) -> tuple[Tensor, Tensor]:
    """Make two views of n / 2 vectors, leaves of the graph; with 49 cells an image by default if that divides n / 2."""
    cells = cells or (CELLS if n % (2 * CELLS) == 0 else 64)
    z = torch.randn(2, n // 2 // cells, cells, D, generator=torch.Generator().manual_seed(0)).to(device)
    return z[0].requires_grad_(), z[1].requires_grad_()


def streaming(z1: Tensor, z2: Tensor) -> Tensor:
    """Compute NT-Xent on all cells by cl-bench."""
    return info_nce(normalize(z1, dim=-1), normalize(z2, dim=-1), temperature=TEMPERATURE, negatives="ntxent").total


def lightly(z1: Tensor, z2: Tensor) -> Tensor:
    """Compute the same loss by lightly, which also normalises."""
    from lightly.loss import NTXentLoss

    loss: Tensor = NTXentLoss(temperature=TEMPERATURE)(z1.flatten(0, 1), z2.flatten(0, 1))
    return loss


def full_matrix(z1: Tensor, z2: Tensor) -> Tensor:
    """Compute the same loss in the most common way, as cross-entropy over the n x n matrix."""
    z = normalize(torch.cat([z1.flatten(0, 1), z2.flatten(0, 1)]), dim=-1)
    n = len(z)
    logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-math.inf)
    return cross_entropy(logits, (torch.arange(n, device=z.device) + n // 2) % n)


def streaming_uniformity(z1: Tensor, z2: Tensor) -> Tensor:
    """Compute uniformity over every two of the n vectors by cl-bench."""
    return uniformity(normalize(torch.cat([z1, z2]), dim=-1), t=T, scope="all_pairs")


def pdist(z1: Tensor, z2: Tensor) -> Tensor:
    """Compute uniformity by the code that Wang & Isola print."""
    return torch.pdist(normalize(torch.cat([z1, z2]), dim=-1).flatten(0, 1)).pow(2).mul(-T).exp().mean().log()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    f.__name__: f for f in (streaming, lightly, full_matrix, streaming_uniformity, pdist)
}


def step(name: str, z: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Run forward and backward, and return the loss and its gradients."""
    loss = LOSSES[name](*z)
    return loss.detach(), *torch.autograd.grad(loss, z)


def products(n: int, rows: int) -> Callable[[], None]:
    """Make a function that runs the bare matrix products: similarities twice, and their product with the vectors."""
    x = normalize(torch.randn(n, D, device=DEVICE), dim=-1)
    block, out = x.new_empty(rows, n), torch.empty_like(x)

    def run() -> None:
        for start in range(0, n, rows):
            stop = min(n, start + rows)
            s = block[: stop - start]
            torch.mm(x[start:stop], x.T, out=s)
            torch.mm(x[start:stop], x.T, out=s)
            torch.mm(s, x, out=out[start:stop])

    return run


def compare(n: int, names: list[str], rounds: int) -> dict[str, float]:
    """Print a row for each candidate; the first is ours."""
    z = features(n)
    ours, *others = (step(name, z) for name in names)
    for name, other in zip(names[1:], others, strict=True):
        value = abs(float(ours[0] - other[0])) / abs(float(other[0]))
        gradient = max(float((a - b).norm() / b.norm()) for a, b in zip(ours[1:], other[1:], strict=True))
        print(f"  {names[0]} and {name} differ by {value:.1e} in value, {gradient:.1e} in gradient (relative)")
        assert value < 1e-5 and gradient < 1e-3  # pdist's float32 gradient is itself off by about 1e-4
    del ours, others
    run: dict[str, Callable[[], object]] = {name: (lambda name=name: step(name, z)) for name in names}
    run["three products, whole"] = products(n, n)
    run["three products, blocks"] = products(n, max(MIN_ROWS, BLOCK_ELEMENTS // n))
    seconds = medians(run, rounds)
    floor = min(seconds[name] for name in seconds if name.startswith("three"))
    memory = {name: in_own_process(HERE, "--memory-of", name, "--n", n) for name in names}
    for name, s in seconds.items():
        ratio = f"{s / seconds[names[0]]:.2f}x" if name in names[1:] else ""
        bytes_ = f"{memory[name] / 2**20:,.0f} MiB" if name in memory else ""
        times = f"{memory[name] / memory[names[0]]:.0f}x" if name in names[1:] else ""
        print(f"| {n:,} | {name} | {s:.3f} s | {ratio} | {s / floor:.2f} | {bytes_} | {times} |", flush=True)
    return seconds


def scaling(rounds: int) -> None:
    """Plot time and memory against n, with the slopes over the last decade."""
    import matplotlib.pyplot as plt

    most = {"streaming": 100_352, "lightly": 25_088, "full_matrix": 25_088}
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, largest in most.items():
        sizes = [n for n in (2 * CELLS * 2**k for k in range(4, 11)) if n <= largest]
        seconds, memory = [], []
        for n in sizes:
            z = features(n)
            seconds.append(medians({name: lambda name=name, z=z: step(name, z)}, rounds if n < 10_000 else 1)[name])
            memory.append(in_own_process(HERE, "--memory-of", name, "--n", n))
            print(f"| {name} | {n:,} | {seconds[-1]:.3f} s | {memory[-1] / 2**20:,.0f} MiB |", flush=True)
        for axes, values, unit in ((left, seconds, 1.0), (right, memory, 2**20)):
            slope = math.log(values[-1] / values[-3]) / math.log(sizes[-1] / sizes[-3])
            axes.loglog(sizes, [v / unit for v in values], marker="o", label=f"{name} (slope {slope:.2f})")
    for axes, label in ((left, "forward + backward, s"), (right, "extra memory, MiB")):
        axes.set(xlabel="n (vectors of 128)", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(HERE.with_name("losses.png"), dpi=110)


def main() -> None:
    """Run the benchmark that the arguments choose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--memory-of", choices=LOSSES, help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        z, small = features(options.n), features(196)
        print(extra_memory(lambda: step(options.memory_of, small), lambda: step(options.memory_of, z)))
        return
    print(machine("lightly"), flush=True)
    if options.scaling:
        scaling(options.rounds)
        return
    print("| n | | forward + backward | to ours | to the products | extra memory | to ours |")
    print("|---|---|---|---|---|---|---|")
    compare(8_192, ["streaming", "full_matrix", "lightly"], 2 * options.rounds)
    compare(8_192, ["streaming_uniformity", "pdist"], 2 * options.rounds)
    compare(25_088, ["streaming", "lightly", "full_matrix"], options.rounds)


if __name__ == "__main__":
    main()
