"""The largest product times the number of terms must stay below 2^31 (2^15)."""

from minquant.intchecks import MAX_K

worst = 255 * 128
terms = (2 ** 31 - 1) // worst
assert terms == MAX_K == 65793 and terms * worst < 2 ** 31 <= (terms + 1) * worst

worst = 15 * 2                       # 4-bit activations 0 .. 15, 2-bit weights -2 .. 1
terms = (2 ** 15 - 1) // worst
assert terms == 1092 and terms * worst < 2 ** 15
print(f"int32: {MAX_K} terms of 8 x 8 bits; int16: {terms} terms of 4 x 2 bits")
