# %% [markdown]
# # 15. Lookup tables instead of multiplications
#
# With few bits there are few products. 4-bit activations times 2-bit weights: 16 x 4 = 64 results. Instead of
# multiplying, look them up. And one can go further: look up *sums* of several products at once. That is how low bits
# become fast on processors without an 8-bit dot product.

# %%
import numpy as np
from lesson import picture

from minquant import intops, kernels, plot

rng = np.random.default_rng(0)
m, k, n = 3, 64, 10
a = rng.integers(0, 16, (m, k)).astype(np.uint8)            # 4-bit activation codes 0..15
codes = rng.integers(0, 4, (k, n)).astype(np.uint8)         # 2-bit weight codes
uniform = np.array([-2, -1, 0, 1], np.int8)
codebook = np.array([-90, -13, 0, 41], np.int8)             # levels as DGMS learns them: no grid


def reference(levels):
    return intops.matmul(a, intops.pack_weights(codes, levels, 2))


# %% [markdown]
# ## 1. A table of products
#
# `table[a, c] = a * level[c]`. A sum of products becomes a sum of look-ups. Any codebook will do, at the same cost.

# %%
for levels in (uniform, codebook):
    products = np.arange(16)[:, None] * levels.astype(np.int32)              # (16, 4)
    y = products[a[:, :, None], codes].sum(1)                                # y[i, j] = sum_p table[a[i, p], c[p, j]]
    assert np.array_equal(y, reference(levels))

# %% [markdown]
# ## 2. A table of levels
#
# A kernel with a fast multiplication turns the 2-bit code into an 8-bit level first. One instruction (`pshufb` on
# x86, `tbl` on ARM) looks up 16 bytes in a table of 16 bytes. minquant's kernels do that: a codebook costs what a
# uniform grid costs.

# %%
def pshufb(table, index):
    """Byte i of the result is table[index[i]]: 16 look-ups in one instruction."""
    return table[index & 15]


table = np.zeros(16, np.int8)
table[:4] = codebook
assert np.array_equal(pshufb(table, codes[:16, 0]), codebook[codes[:16, 0]])
assert np.array_equal(kernels.matmul(a, kernels.pack_weights(codes, codebook, 2)), reference(codebook))

# %% [markdown]
# ## 3. A table of sums
#
# Now without any multiplication. Write a uniform weight by its bits: `w = c - 2` and `c = c_0 + 2 c_1`. Then
#
#     sum_p a_p w_p = sum_p a_p c_0p + 2 sum_p a_p c_1p - 2 sum_p a_p
#
# Each of the first two sums picks some activations: those whose bit is set. Take g = 4 activations. There are 2^4 =
# 16 possible picks. Compute all 16 sums once; after that, four weight bits are one index, and one look-up adds four
# products. The table serves all n columns.

# %%
g = 4
picks = np.arange(2 ** g)[:, None] >> np.arange(g) & 1                       # (16, 4): the bits of each index
groups = a.reshape(m, k // g, g).astype(np.int32)
sums = groups @ picks.T                                                      # (m, k/g, 16): all picks of every group

y = np.zeros((m, n), np.int32)
for bit in range(2):
    plane = codes >> bit & 1                                                 # bit plane: (k, n) of 0 and 1
    index = (plane.reshape(k // g, g, n) << np.arange(g)[:, None]).sum(1)    # four bits of a column -> 0..15
    looked_up = sums[:, np.arange(k // g)[:, None], index]                   # (m, k/g, n)
    y += looked_up.sum(1) << bit                                             # the plane's weight 2^bit: a shift
y -= 2 * a.sum(1, dtype=np.int32)[:, None]                                   # the offset of the grid, once per row
assert np.array_equal(y, reference(uniform))

# %% [markdown]
# ## What does it cost?
#
# Per row of a: the tables take `2^g k / g` additions, once. Every column takes `bits k / g` look-ups with as many
# additions. The plain way takes k multiplications and k additions per column. So look-ups win with few bits and many
# columns. A larger g means fewer look-ups, until the tables cost more than they save. Real kernels take g = 4: a
# table of 16 entries is what one vector register holds.


# %%
def operations(bits, g, columns, k=1024):
    """Table additions and look-ups per output, as a share of the k multiply-accumulates of the plain way."""
    return (2 ** g * k / g / columns + bits * k / g) / k


costs = {bits: [operations(bits, g, 256) for g in range(1, 9)] for bits in (1, 2, 3, 4, 8)}
for bits, row in costs.items():
    print(f"{bits} bits: least cost {min(row):.2f} at g = {1 + int(np.argmin(row))}, at g = 4: {row[3]:.2f}")
assert costs[1][3] < costs[2][3] < 0.6 and costs[4][3] > 1   # 2 bits win, 4 bits do not

# %%
figure, (left, right) = plot.subplots(1, 2, (10, 3.6))
left.bar(range(16), sums[0, 0], color=plot.BLUE)
left.set_xticks(range(16), [f"{i:04b}" for i in range(16)], rotation=90, fontsize=8)
left.set_xlabel("four weight bits, the index")
left.set_ylabel("sum of the picked activations")
left.set_title(f"one table: activations {', '.join(map(str, a[0, :4]))}", fontsize=10)
for (bits, row), colour, marker in zip(costs.items(), plot.CYCLE, plot.MARKERS):
    right.plot(range(1, 9), row, color=colour, marker=marker, label=f"{bits}-bit weights")
right.axhline(1, color=plot.GREY, linestyle="--", label="plain multiply-accumulates")
right.set_yscale("log", base=2)
right.set_yticks([0.25, 0.5, 1, 2, 4, 8], ["1/4", "1/2", "1", "2", "4", "8"])
right.set_xlabel("activations per table g")
right.set_ylabel("operations, share of the plain way")
right.legend(fontsize=8)
picture(figure, "15_lookup_tables")

# %% [markdown]
# ## Exercise
#
# Binary weights, -1 and +1: write `sum_p a_p w_p` with one bit plane. For 1-bit activations too: show that the whole
# sum is `k - 2 popcount(a xor w)` when the bits stand for -1 and +1. (`solutions/15_lookup_tables.py`)
#
# ## What you can now read
#
# - `minquant/intops.py`: `pack_weights` takes any codebook of 8-bit levels
# - `minquant/_kernels/gemm_weights.c`: how codes lie in memory for each instruction set
# - `minquant/_kernels/gemm_neon.c`: a processor without a dot product
