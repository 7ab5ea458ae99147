# %% [markdown]
# # 13. Packing 3 bits into bytes
#
# A code of 3 bits does not fill a byte. Stored one per byte, 5 of 8 bits are wasted, and the 3-bit network is as
# large as an 8-bit one. So codes are packed into one stream of bits, across the borders of bytes.

# %%
import numpy as np
from lesson import SHORT, picture

from minquant import intops, kernels, plot
from minquant.bench.timing import interleaved, summary
from minquant.deploy.pack import pack, packed_bytes, unpack

rng = np.random.default_rng(0)

# %% [markdown]
# ## The rule
#
# Bit i of code e is bit `e * b + i` of the stream. Bit j of the stream is bit `j % 8` of byte `j // 8`, lowest first.
# Eight codes of 3 bits fill exactly three bytes:
#
#     byte          0                          1                          2
#     bit           7  6  5  4  3  2  1  0     7  6  5  4  3  2  1  0     7  6  5  4  3  2  1  0
#     code          2  2  1  1  1  0  0  0     5  4  4  4  3  3  3  2     7  7  7  6  6  6  5  5
#     bit of code   1  0  2  1  0  2  1  0     0  2  1  0  2  1  0  2     2  1  0  2  1  0  2  1


# %%
def pack_by_hand(codes, bits):
    """One bit after the other."""
    stream = [0] * packed_bytes(len(codes), bits)                   # ceil(bits * count / 8)
    for e, code in enumerate(codes):
        for i in range(bits):
            j = e * bits + i
            stream[j // 8] |= (int(code) >> i & 1) << (j % 8)
    return np.array(stream, np.uint8)


codes = np.array([1, 2, 3, 4, 5, 6, 7, 0], np.uint8)
stream = pack_by_hand(codes, 3)
print("codes ", " ".join(f"{code:03b}" for code in codes))
print("stream", " ".join(f"{byte:08b}" for byte in stream), "=", stream.tolist())
assert np.array_equal(stream, pack(codes, 3))
assert stream.tolist() == [0b11010001, 0b01011000, 0b00011111]

# %% [markdown]
# ## A word at a time
#
# One bit at a time is slow. Collect codes in a large integer and write out a byte whenever eight bits are there.
# Python's integers are as large as we like; C uses 64 bits.


# %%
def pack_by_words(codes, bits):
    """A buffer of bits: codes enter at the top, bytes leave at the bottom."""
    buffer, filled, stream = 0, 0, bytearray()
    for code in codes.tolist():
        buffer |= code << filled
        filled += bits
        while filled >= 8:
            stream.append(buffer & 255)
            buffer >>= 8
            filled -= 8
    if filled:
        stream.append(buffer)                                       # the last byte, unused bits 0
    return np.frombuffer(bytes(stream), np.uint8)


# %% [markdown]
# ## All widths, all lengths, there and back

# %%
for bits in range(1, 9):
    for count in (0, 1, 7, 8, 9, 1000):
        codes = rng.integers(0, 2 ** bits, count).astype(np.uint8)
        stream = pack(codes, bits)
        assert len(stream) == packed_bytes(count, bits) == -(-bits * count // 8)
        assert np.array_equal(stream, pack_by_words(codes, bits)) and np.array_equal(unpack(stream, bits, count), codes)
        assert np.array_equal(stream, kernels.pack_bits(codes, bits))    # the compiled one, if there is a compiler

# %% [markdown]
# A code that does not fit is an error, not a silent cut.

# %%
try:
    pack(np.array([8], np.uint8), 3)
    raise AssertionError("8 needs 4 bits")
except ValueError as error:
    print("refused:", error)

# %% [markdown]
# ## What it saves, and what it costs
#
# A stream of b bits needs b/8 of the bytes. A kernel that reads it has to take the codes apart again. It does so once
# per weight and uses the weight many times, or it reads the stream with shifts and table look-ups inside the product.

# %%
codes = rng.integers(0, 8, 3_000 if SHORT else 30_000).astype(np.uint8)
contestants = {"bit by bit": lambda: pack_by_hand(codes, 3), "word by word": lambda: pack_by_words(codes, 3),
               "NumPy": lambda: intops.pack_bits(codes, 3), "compiled": lambda: kernels.pack_bits(codes, 3)}
times = {name: value["median"] for name, value in summary(interleaved(contestants, 1 if SHORT else 3)).items()}
for name, milliseconds in times.items():
    print(f"{name:12s} {1e6 * milliseconds / len(codes):8.1f} ns per code")
assert times["bit by bit"] > times["NumPy"]

# %%
figure, (left, right) = plot.subplots(1, 2, (10, 3.2), width_ratios=(1.5, 1))
for j in range(24):
    left.text(j + 0.5, 0.5, str(j // 3), ha="center", va="center", fontsize=10)
    left.axvspan(j, j + 1, 0.25, 0.75, color=plot.CYCLE[j // 3], alpha=0.45)
for byte in range(4):
    left.axvline(8 * byte, color="black", linewidth=2)
left.set_xlim(0, 24)
left.set_ylim(0, 1)
left.set_yticks([])
left.set_xticks(range(0, 25, 4))
left.set_xlabel("bit of the stream (black: borders of bytes; number: code)")
left.set_title("eight codes of 3 bits in three bytes", fontsize=10)
right.barh(list(times), [1e6 * value / len(codes) for value in times.values()], color=plot.BLUE)
right.set_xscale("log")
right.set_xlabel("time (ns per code)")
picture(figure, "13_packing_bits")

# %% [markdown]
# ## Exercise
#
# Read code number e alone, without unpacking the others: which bytes do you need, and which shifts? Does a 3-bit code
# ever lie in three bytes? A 7-bit code? (`solutions/13_packing_bits.py`)
#
# ## What you can now read
#
# - `minquant/deploy/pack.py`, `minquant/intops.py`: `pack_bits`
# - `minquant/_kernels/pack_bits.c`: the same in C, 64 bits at a time
# - `minquant/deploy/file.py`: the file that holds the streams
