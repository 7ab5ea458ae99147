"""PyTorch's int8 matrix product on the cases of `bench kernels`: int8 times int8 to int32, no requantization."""

import numpy as np
import torch


def contestants(case, threads):
    """{name: contestant}; torch has one number of threads for the process."""
    if case["what"] != "matmul":
        return {}
    torch.set_num_threads(threads)
    rng = np.random.default_rng(3)
    a = torch.from_numpy(rng.integers(-128, 128, case["x"].shape).astype(np.int8))
    w = torch.from_numpy(rng.integers(-128, 128, case["w_shape"]).astype(np.int8))
    floats, weights = a.float(), w.float()
    return {"torch _int_mm": {"run": lambda: torch._int_mm(a, w), "bytes": w.nbytes},
            "torch float32": {"run": lambda: floats @ weights, "bytes": weights.nbytes}}
