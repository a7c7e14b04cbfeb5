"""One training on several processes, and one process alone in a folder of states."""

import contextlib
import fcntl
import os
from pathlib import Path

import torch
import torch.distributed as dist


@contextlib.contextmanager
def only_writer(state: Path, rank: int):
    """Hold a lock on the state folder: an orphan of a killed run may still be writing there."""
    if rank:
        yield
        return
    with open(state / "lock", "w") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is training in {state}; stop it first") from None
        yield


def join_processes(device: torch.device) -> tuple[int, int]:
    """(rank, number of processes) from torchrun's environment; (0, 1) without it."""
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    if ranks > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return int(os.environ.get("RANK", 0)), ranks


def any_of(stopping: bool, ranks: int, device: torch.device) -> bool:
    """Whether any process was asked to stop: all must leave the loop at the same step."""
    if ranks == 1:
        return stopping
    flag = torch.tensor(float(stopping), device=device)
    dist.all_reduce(flag)
    return bool(flag > 0)


def leave_processes(ranks: int) -> None:
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


def share_gradients(trainer) -> None:
    """Equal start in all processes, and gradients averaged before every optimizer step."""
    for network in trainer.networks.values():
        for tensor in [*network.parameters(), *network.buffers()]:
            dist.broadcast(tensor.data, 0)

    def average_gradients(optimizer, _args, _kwargs):
        gradients = [
            parameter.grad
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        if not gradients:
            return
        # one message: hundreds of small ones cost more than the arithmetic of a narrow net
        whole = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(whole)
        whole /= dist.get_world_size()
        for gradient, mean in zip(gradients, whole.split([g.numel() for g in gradients])):
            gradient.copy_(mean.view_as(gradient))

    for optimizer in trainer.optimizers.values():
        optimizer.register_step_pre_hook(average_gradients)
