"""The choice of the instruction set, and life without compiled kernels."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from int_cases import COMPILED, ISAS

from minquant import codebook, intops, kernels


def test_the_best_instruction_set_of_this_machine_is_used_unless_another_is_asked_for(monkeypatch):
    monkeypatch.delenv("MINQUANT_ISA", raising=False)
    assert kernels.isa() == ISAS[0]
    for isa in ISAS:
        monkeypatch.setenv("MINQUANT_ISA", isa)
        assert kernels.isa() == isa
        assert kernels.info()["isa"]["active"] == isa


def test_an_impossible_instruction_set_is_an_error_that_names_the_possible_ones(monkeypatch):
    monkeypatch.setenv("MINQUANT_ISA", "vax")
    with pytest.raises(ValueError, match=rf"MINQUANT_ISA='vax'.*{ISAS[-1]}"):
        kernels.pack_weights(np.zeros((1, 1), np.uint8), [0], 1)
    monkeypatch.delenv("MINQUANT_ISA")
    with pytest.raises(ValueError, match="vax"):
        kernels.pack_weights(np.zeros((1, 1), np.uint8), [0], 1, isa="vax")


def test_available_instruction_sets_are_built_ones_and_end_with_the_one_of_any_machine():
    facts = kernels.info()["isa"]
    if COMPILED:
        assert set(facts["available"]) <= set(facts["built"]) and facts["available"][-1] == "generic"
    else:
        assert facts == {"active": "numpy", "available": [], "built": []}


def test_the_table_names_for_every_operation_and_instruction_set_the_code_that_computes_it(capsys):
    table = kernels.info()["operations"]
    built = kernels.info()["isa"]["built"]
    assert bool(table) == bool(COMPILED)
    for operation, by_isa in table.items():
        assert callable(getattr(kernels, operation.split()[0]))
        assert list(by_isa) == built and set(by_isa.values()) <= {*built, "-"}
        assert by_isa["generic"] == ("-" if operation == "matvec_lookup" else "generic")
    for isa in built:
        assert table["matmul"][isa] == table["conv2d"][isa] == isa
    kernels.main([])
    lines = capsys.readouterr().out.splitlines()
    for operation in table:
        assert sum(line.startswith(operation + "  ") for line in lines) == 1
    assert sum(f"{kernels.isa()}*" in line for line in lines) == bool(table)


PROGRAM = """
import numpy as np
from minquant import kernels
x = np.random.default_rng(0).integers(0, 256, (1, 6, 6, 4)).astype(np.uint8)
c = np.random.default_rng(1).integers(0, 4, (3, 3, 4, 5)).astype(np.uint8)
w, q = kernels.pack_weights(c, [-2, -1, 0, 1], 2), kernels.requantization([0.01] * 5, [3] * 5, 4)
stream = kernels.pack_bits(c, 2)
assert (kernels.unpack_bits(stream, 2, c.shape) == c).all()
codes = kernels.conv2d(x, w, 1, 1, 0, q)
pooled = kernels.average_pool2d(kernels.add(codes, codes, 0.5, 0.5, 0, 4), 2, requantization=q)
print(kernels.isa(), pooled.tobytes().hex(), kernels.max_pool2d(codes, 2).tobytes().hex())
"""


def result(**environment):
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False,
                          env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_one_program_gives_the_same_codes_on_every_instruction_set_and_without_compiled_kernels():
    expected = result(MINQUANT_NO_EXTENSIONS="1", MINQUANT_ISA="")
    assert expected[0] == "numpy"
    for isa in ISAS:
        assert result(MINQUANT_ISA=isa, MINQUANT_NO_EXTENSIONS="0" if COMPILED else "1")[1:] == expected[1:]


FORK = """
import os
import numpy as np
from minquant import kernels
kernels.SMALL_PRODUCT = 0
w = kernels.pack_weights(np.ones((600, 64), np.uint8), [0, 3], 1)
a = np.ones((300, 600), np.uint8)
expected = kernels.matmul(a, w, num_threads=3)
child = os.fork()
if not child:
    os._exit(0 if (kernels.matmul(a, w) == expected).all() else 1)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_child_computes_after_its_parent_used_threads():
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=60)


BESIDE = """
import importlib.util, os, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
order = sys.argv[1]
if order == "torch first" and importlib.util.find_spec("torch"):
    import torch
from minquant import kernels
if order == "torch last" and importlib.util.find_spec("torch"):
    import torch
kernels.SMALL_PRODUCT = 0
rng = np.random.default_rng(0)
a = rng.integers(0, 256, (300, 600)).astype(np.uint8)
w = kernels.pack_weights(rng.integers(0, 256, (600, 64)).astype(np.uint8), np.arange(256) - 128, 8)
expected = kernels.matmul(a, w, num_threads=1)
floats = a.astype(np.float32)
def work(i):
    product = floats @ floats.T if "torch" not in sys.modules else torch.from_numpy(floats) @ torch.from_numpy(floats.T)
    return (kernels.matmul(a, w, num_threads=2) == expected).all() and product.shape == (300, 300)
with ThreadPoolExecutor(4) as pool:
    assert all(pool.map(work, range(40)))
threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
assert threads < 64, threads
"""


@pytest.mark.parametrize("order", ["torch first", "torch last", "alone"])
def test_products_stay_right_beside_blas_and_torch_and_in_several_python_threads_at_once(order):
    """Each caller has a team of its own, of the size it asked for; teams do not multiply."""
    subprocess.run([sys.executable, "-c", BESIDE, order], check=True, timeout=120)


NESTED = """
#define _GNU_SOURCE
#include "int.h"
#include <dlfcn.h>
#include <omp.h>
#include <pthread.h>
#include <string.h>
static int started;
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    __atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
    return real(thread, attributes, run, argument);
}
int main(void)
{
    static uint8_t codes[256 * 64], a[300 * 256];
    static int32_t wanted[300 * 64], out[4][300 * 64];
    int8_t levels[2] = {-3, 5};
    int_options o = {.threads = 4};
    int bad = 0;
    for (int i = 0; i < 256 * 64; i++) codes[i] = i % 7 % 2;
    for (int i = 0; i < 300 * 256; i++) a[i] = (uint8_t)(i * 31);
    int_weights *w = int_weights_new(int_isa_at(0), codes, 1, 256, 64, 1, levels, 255);
    int_gemm(w, 300, a, 256, wanted, 64, &o);
    if (started != 3) /* the caller is the fourth */
        return 2;
    #pragma omp parallel num_threads(4)
    {
        int_gemm(w, 300, a, 256, out[omp_get_thread_num()], 64, &o);
        #pragma omp critical
        bad |= memcmp(out[omp_get_thread_num()], wanted, sizeof wanted) != 0;
    }
    return bad || started != 3;
}
"""


def test_products_inside_a_parallel_region_start_no_further_threads(tmp_path):
    program = tmp_path / "nested.c"
    program.write_text(NESTED.replace("i % 7 % 2;", "(uint8_t)(i % 7 % 2);"))
    build = Path(__file__).resolve().parent.parent / "tools/arm/build.sh"
    subprocess.run([build, program, tmp_path / "nested", "-O1", "-fopenmp", "-rdynamic", "-ldl"], check=True,
                   env={**os.environ, "CC": "cc"})
    subprocess.run([tmp_path / "nested"], check=True, timeout=60,
                   env={**os.environ, "OMP_NESTED": "true", "OMP_MAX_ACTIVE_LEVELS": "4"})


def test_the_oracle_and_the_kernels_have_the_same_operations_with_the_same_arguments():
    for name in ("pack_bits", "unpack_bits", "pack_weights", "requantization", "matmul", "conv2d",
                 "max_pool2d", "average_pool2d", "add", "quantize", "pack_codebook", "matmul_codebook",
                 "conv2d_codebook"):
        ours = inspect.signature(getattr(kernels, name)).parameters
        oracle = codebook if "codebook" in name else intops
        theirs = inspect.signature(getattr(oracle, name)).parameters
        shared = [key for key in ours if key not in ("num_threads", "isa")]
        assert len(shared) == len(theirs)
