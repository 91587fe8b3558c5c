"""What ranks do that train together, without a network: they meet, and one of them is killed at first."""

import os
import signal
from typing import Any


def meet(context: Any, arguments: Any) -> Any:
    import torch
    from torch import distributed

    killed = context.checkpoints / "killed"
    if context.rank == 1 and not killed.exists():
        killed.write_text("once")
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.init_process_group("gloo")
    value = torch.tensor([float(context.rank + 1)])
    distributed.all_reduce(value)
    distributed.destroy_process_group()
    return {"sum": float(value[0]), "world": context.world}
