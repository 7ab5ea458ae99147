"""The choice of the instruction set, and life without compiled kernels."""

import inspect
import os
import subprocess
import sys

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


def test_the_oracle_and_the_kernels_have_the_same_operations_with_the_same_arguments():
    for name in ("pack_bits", "unpack_bits", "pack_weights", "requantization", "matmul", "conv2d",
                 "max_pool2d", "average_pool2d", "add", "quantize", "pack_codebook", "matmul_codebook"):
        ours = inspect.signature(getattr(kernels, name)).parameters
        oracle = codebook if "codebook" in name else intops
        theirs = inspect.signature(getattr(oracle, name)).parameters
        shared = [key for key in ours if key not in ("num_threads", "isa")]
        assert len(shared) == len(theirs)
