# %% [markdown]
# # 14. An integer matrix product in five versions
#
# Nearly all time of a network goes into products of matrices (a convolution is one, see tutorial 2). Here the same
# product of 8-bit activations and 4-bit weights is computed in five ways, from Python loops to vector instructions.
# All give the same integers. The times differ by a factor of some thousands.

# %%
import numpy as np
from lesson import SHORT, picture

from minquant import intops, kernels, plot
from minquant.bench.timing import interleaved, summary
from minquant.summary import table

rng = np.random.default_rng(0)
m, k, n = (4, 64, 16) if SHORT else (16, 256, 64)
a = rng.integers(0, 256, (m, k)).astype(np.uint8)          # activation codes
codes = rng.integers(0, 16, (k, n)).astype(np.uint8)       # weight codes, 4 bits
levels = np.arange(-8, 8, dtype=np.int8)                   # what a weight code stands for
w = levels[codes]


# %% [markdown]
# ## 1. Loops
#
# `y[i, j] = sum over p of a[i, p] w[p, j]`. This is the meaning. Everything below must equal it.

# %%
def loops(a, w):
    rows, inner, columns = len(a), len(w), len(w[0])
    y = [[0] * columns for _ in range(rows)]
    for i in range(rows):
        for j in range(columns):
            for p in range(inner):
                y[i][j] += a[i][p] * w[p][j]
    return y


lists = a.tolist(), w.tolist()
expected = np.array(loops(*lists), np.int32)

# %% [markdown]
# ## 2. NumPy integers
#
# The loops run in compiled code, but for integers NumPy has no fast product. It walks through memory number by
# number.

# %%
assert np.array_equal(a.astype(np.int32) @ w.astype(np.int32), expected)

# %% [markdown]
# ## 3. NumPy floats, through a BLAS
#
# Sums of products of small integers are integers below 2^53: a float64 holds them exactly. So the fast float product
# of a BLAS may be used. `minquant.intops`, the reference of all integer kernels, does that.

# %%
assert np.array_equal((a.astype(np.float64) @ w.astype(np.float64)).astype(np.int32), expected)
assert np.array_equal(intops.matmul(a, intops.pack_weights(codes, levels, 4)), expected)

# %% [markdown]
# ## 4. Plain C
#
# `minquant/_kernels/gemm_generic.c`. The weights stay packed; the compiler may use whatever vectors it finds. It is
# one of the *instruction sets* you can name: in `MINQUANT_ISA`, or when the weights are packed.

# %%
available = kernels.info()["isa"]["available"]
print("instruction sets here:", ", ".join(available) or "none: nothing is compiled (see README, Set up)")
packed = {isa: kernels.pack_weights(codes, levels, 4, isa=isa) for isa in available}
for weights in packed.values():
    assert np.array_equal(kernels.matmul(a, weights), expected)

# %% [markdown]
# ## 5. Vector instructions
#
# One instruction of AVX-512 VNNI takes 64 bytes of activations and 64 of weights, multiplies them pairwise, adds each
# four neighbours and adds that to 16 sums of 32 bits: 64 multiply-accumulates at once. Here is the instruction in
# NumPy. The weights must lie so that four neighbours of k are together: that is why kernels *repack* them.

# %%
def vpdpbusd(acc, u8, s8):
    """acc[i] += sum over q of u8[4 i + q] * s8[4 i + q], for 16 sums at once."""
    return acc + (u8.reshape(16, 4).astype(np.int32) * s8.reshape(16, 4)).sum(1, dtype=np.int32)


tile = np.zeros(16, np.int32)                               # row 0, columns 0..15
for p in range(0, k, 4):
    four = np.tile(a[0, p:p + 4], 16)                       # four activations, repeated for every column
    repacked = w[p:p + 4, :16].T.reshape(-1)                # column by column, four rows each
    tile = vpdpbusd(tile, four, repacked)
assert np.array_equal(tile, expected[0, :16])
print(f"{m * k * n:,} multiply-accumulates, of which one instruction does 64")

# %% [markdown]
# ## How fast?
#
# The contestants take turns, so that a slow moment of the machine hits all. Look at the ratios.

# %%
integer, double, single = (a.astype(t) for t in (np.int32, np.float64, np.float32))
contestants = {"1 Python loops": lambda: loops(*lists),
               "2 NumPy int32": lambda w=w.astype(np.int32): integer @ w,
               "3 NumPy float64": lambda w=w.astype(np.float64): double @ w,
               "  NumPy float32": lambda w=w.astype(np.float32): single @ w}
contestants.update({f"{4 if isa == 'generic' else 5} C, {isa}": lambda weights=weights: kernels.matmul(a, weights)
                    for isa, weights in packed.items()})
times = {name: value["fastest"] for name, value in summary(interleaved(contestants, 1 if SHORT else 3)).items()}
order = sorted(times, key=times.get, reverse=True)
print(table(("version", "us", "GMAC/s"), [(name, f"{1e3 * times[name]:.1f}", f"{m * k * n / times[name] / 1e6:.3f}")
                                          for name in order]))
assert times["1 Python loops"] > 10 * times["2 NumPy int32"]

# %%
figure, axis = plot.subplots(size=(8, 3.6))
axis.barh(order, [m * k * n / times[name] / 1e6 for name in order],
          color=[plot.ORANGE if "NumPy float32" in name else plot.BLUE for name in order])
axis.set_xscale("log")
axis.set_xlabel(f"billion multiply-accumulates per second, {m} x {k} x {n} (log scale)")
axis.grid(alpha=0.3, axis="x")
picture(figure, "14_integer_gemm")

# %% [markdown]
# ## Exercise
#
# Before VNNI there was `maddubs` (AVX2): it multiplies bytes pairwise and adds *two* neighbours into 16 bits, and
# cuts off what does not fit. Write it in NumPy. For which weights can it go wrong with 8-bit activations? With how
# many bits is it safe? (`solutions/14_integer_gemm.py`)
#
# ## What you can now read
#
# - `minquant/_kernels/gemm_generic.c`, `minquant/_kernels/gemm_avx512vnni.c`, `minquant/_kernels/gemm_neon_dotprod.c`
# - `minquant/_kernels/dispatch.c`: the choice, once, at run time
# - `minquant/bench/kernels.py`: `python -m minquant.bench kernels` measures real layers
