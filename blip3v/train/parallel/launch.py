"""What torchrun tells each process that it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from blip3v.errors import UserError


@dataclass(frozen=True)
class Launch:
    """This process among those that torchrun started: rank 0 .. world_size - 1; the same within its node."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int

    VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Launch | None:
        """None where torchrun started nothing: neither RANK nor WORLD_SIZE is set.

        Raises:
            UserError: some of torchrun's variables are set and some are not, or are no numbers.
        """
        if not ({"RANK", "WORLD_SIZE"} & set(environment)):
            return None
        missing = [name for name in cls.VARIABLES if not environment.get(name)]
        if missing:
            raise UserError(
                f"RANK or WORLD_SIZE is set, but not {', '.join(missing)}: start the processes with "
                "torchrun, which sets them all, or unset RANK and WORLD_SIZE to train in one process"
            )
        try:
            rank, world, local_rank, local_world = (int(environment[name]) for name in cls.VARIABLES[:4])
        except ValueError as error:
            raise UserError(f"a variable of torchrun is no number ({error}): start with torchrun") from error
        return cls(rank, world, local_rank, local_world)

    def require_equal_nodes(self) -> None:
        """Raises UserError where nodes cannot all have as many processes as this one."""
        if self.world_size % self.local_world_size:
            raise UserError(
                f"parallel hybrid keeps a copy of the model per node, and {self.world_size} processes are "
                f"no multiple of the {self.local_world_size} of this one: start as many on every node, or "
                "use fsdp"
            )
