"""Two processes train as one does."""

from __future__ import annotations

import pytest
import torch

from mmbert.errors import ConfigError
from mmbert.training.distributed import Mesh, connect


def test_one_process_needs_no_others() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    with connect("auto" if not torch.cuda.is_available() else "cpu") as mesh:
        assert mesh == Mesh(0, 1, torch.device("cpu"))
        assert mesh.main
        mesh.sum_gradients([parameter])
        assert parameter.grad is None
        assert mesh.all_reduce_sum(torch.tensor(3.0)).item() == 3.0
        mesh.barrier()
    assert not torch.distributed.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"runtime\.device is cuda"), connect("cuda"):
        pass
