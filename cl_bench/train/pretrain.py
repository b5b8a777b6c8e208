"""Pre-training of one encoder, or of several in lock-step on the same views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

import torch

from cl_bench.data import Dataset
from cl_bench.encoders import to_channels_last
from cl_bench.errors import Diverged, MethodError
from cl_bench.losses.distributed import ALONE, Alone
from cl_bench.methods.method import Method
from cl_bench.spec import PretrainSpec, RandomInit
from cl_bench.train.checkpoint import Checkpoint
from cl_bench.train.training import Pretrained, Training, untrained
from cl_bench.train.view_batches import pairs_of_views

OnStep = Callable[[int, int], None]


def pretrain(
    spec: PretrainSpec,
    method: Method | None,
    data: Dataset,
    device: torch.device,
    on_step: OnStep | None = None,
    checkpoint: Checkpoint | None = None,
    over: Alone = ALONE,
) -> Pretrained:
    """Pre-train an encoder; on a CPU the same spec gives the same weights bit for bit, interrupted or not.

    Args:
        spec: Specification of the encoder and its training.
        method: Method of the spec; None only for the objective ``random_init``, which trains nothing.
        data: Images to train on.
        device: Device to train on.
        on_step: Function that is called after each step with (steps done, steps in all).
        checkpoint: Checkpoint to continue from and to keep the state in. A method with learnt parameters of its own
            must keep them in its head's state.
        over: Processes that train the encoder together, each of which calls this; the first keeps the checkpoint. The
            result is that of one process up to rounding, unless a network or a method draws random numbers.

    Raises:
        Diverged: If a feature, a loss or a weight is not finite; a feature and a loss with the step. On a GPU features
            and matches are checked at logged steps, for all steps since the last one.
        MethodError: If the plugin fails.
        ValueError: If there are fewer images than a batch.
    """
    if isinstance(spec.objective, RandomInit) or method is None:
        return Pretrained(to_channels_last(untrained(spec), device).eval(), (), 0.0)
    training = Training(spec, method, data, device, checkpoint, over)
    (outcome,) = in_lock_step([training], data, device, on_step, over)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def in_lock_step(
    trainings: Sequence[Training],
    data: Dataset,
    device: torch.device,
    on_step: OnStep | None = None,
    over: Alone = ALONE,
) -> list[Pretrained | Diverged | MethodError]:
    """Train encoders whose views are the same, each step of all of them on the views of one batch, made once.

    Each becomes what it becomes alone, bit for bit on a CPU. Those that continue from a checkpoint take part from their
    own next step on; one that fails drops out.

    Args:
        trainings: Trainings whose specs have one ``stream``.
        data: Images to train on.
        device: Device to train on.
        on_step: Function that is called after each step with (steps done, steps in all).
        over: Processes that train together, where there is one training.

    Returns:
        The encoder of each training, or why it has none.
    """
    first = min(trainings, key=lambda training: training.place["step"])
    assert len({training.spec.stream for training in trainings}) == 1
    outcomes: dict[Training, Pretrained | Diverged | MethodError] = {}
    begun = first.place if first.place["step"] else None
    with closing(pairs_of_views(first.spec, data, device, begun, over)) as batches:
        for step, pair, place in batches:
            for training in trainings:
                if training not in outcomes and training.place["step"] <= step:
                    try:
                        training.step(step, pair, place)
                    except (Diverged, MethodError) as error:
                        outcomes[training] = error
            if len(outcomes) == len(trainings):
                break
            if on_step:
                on_step(step + 1, first.steps)
    for training in trainings:
        if training not in outcomes:
            try:
                outcomes[training] = training.finished()
            except (Diverged, MethodError) as error:
                outcomes[training] = error
    return [outcomes.pop(training) for training in trainings]  # an error that stayed would keep all of this in memory
