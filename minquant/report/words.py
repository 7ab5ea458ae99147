"""The rows and words that the page and the text share, so that they cannot differ."""


def percent(value, digits=2):
    """'95.28%', or '' for what is not known."""
    return "" if value is None else f"{100 * value:.{digits}f}%"


def kilobytes(value):
    """'13.9 kB'; a kB is 1024 bytes."""
    return f"{value / 1024:.1f} kB"


def times(value):
    """'6.2x', with thousands separated: bit-operations shrink by more."""
    return f"{value:,.1f}x"


def count(value):
    """A count with a unit prefix: '416.5 k', '2.1 M'."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return str(value)


def decibels(row):
    """SQNR of a row: '18.2', 'float', or 'exact'."""
    if row.get("sqnr_db") is not None:
        return f"{row['sqnr_db']:.1f}"
    return "float" if row["bits"] >= 32 else "exact"


def bits(value):
    """Bits, or 'float' for 32."""
    return value if value < 32 else "float"


def headline(details):
    """[(what, value, remark)]: the result in a few lines."""
    accuracy, test = details["accuracy"], details["test"]
    lines, metric = [], details["metric"]
    if accuracy["float_accuracy"] is not None:
        lines.append((f"float {metric}", percent(accuracy["float_accuracy"]), "test set, before quantization"))
    name = metric if details["method"]["name"] == "float" else f"quantized {metric}"
    whole = accuracy["accuracy"] is not None and details["checkpoint"] in ("", "best.npz")
    if test and (test["images"] == test["of"] or not whole):
        name = metric if details["checkpoint"] == "float.npz" else name
        lines.append((name, percent(test["accuracy"]), f"{test_images(test)} test images, {details['checkpoint']}, "
                                                       f"epoch {details['epoch']}"))
    elif whole:
        lines.append((name, percent(accuracy["accuracy"]), "test set, from report.json"))
    return lines + cost_lines(details["totals"])


def cost_lines(totals):
    """The lines of `headline` about size and work; against float32 and int8 only where something is quantized."""
    if "bytes" not in totals:
        return []
    if totals["mean_bits"] >= 32:
        return [("model size", kilobytes(totals["bytes"]), "float32"),
                ("work per image", f"{count(totals['macs'])} MAC", "multiply-accumulates")]
    lines = [("model size", kilobytes(totals["bytes"]),
              f"{times(totals['compression'])} smaller than float32 ({kilobytes(totals['float32_bytes'])}); "
              f"{totals['mean_bits']:.2g} bits per weight")]
    if "int8_bytes" in totals:
        lines.append(("against int8", times(totals["compression_int8"]),
                      f"smaller than with 8-bit weights ({kilobytes(totals['int8_bytes'])})"))
        lines.append(("work per image", f"{count(totals['macs'])} MAC",
                      f"{count(totals['bit_operations'])} bit-operations, "
                      f"{times(1024 * totals['macs'] / totals['bit_operations'])} fewer than float32, "
                      f"{times(64 * totals['macs'] / totals['bit_operations'])} fewer than int8"))
    return lines


def test_images(test):
    """'360', or 'the first 2,400 of 10,000'."""
    return f"{test['images']:,}" if test["images"] == test["of"] else f"the first {test['images']:,} of {test['of']:,}"


COST = ("layer", "shape", "bits", "input bits", "levels", "zeros", "kB", "MACs", "bit-ops")


def cost_rows(details):
    """Rows under COST; a report.json alone has no bit-operations, so they are computed here."""
    return [(row["name"], "x".join(map(str, row["shape"])), bits(row["bits"]), bits(row["act_bits"]),
             _levels(row),
             percent(row["zeros"], 0), f"{row['bytes'] / 1024:.2f}", count(row["macs"]),
             count(row["macs"] * row["bits"] * row["act_bits"])) for row in details["layers"]]


def _levels(row):
    if row["bits"] >= 32:
        return ""
    return f"{row['levels']} of {row['possible_levels']}" if "possible_levels" in row else row["levels"]


ERROR = ("layer", "weights SQNR (dB)", "input", "SQNR (dB)", "levels", "seen", "range", "clipped")


def error_rows(details):
    """Rows under ERROR: the error of a layer's weights, and the quantizer of its input."""
    found = {row["name"]: row for row in details["activations"]}
    rows = []
    for row in details["layers"]:
        before = found.get(row.get("input"))
        rows.append((row["name"], decibels(row), *(("float",) + ("",) * 5 if before is None else (
            before["name"], decibels(before), f"{before['levels']} of {before['possible_levels']}",
            f"{before['smallest']:.3g} to {before['largest']:.3g}", f"{before['low']:.3g} to {before['high']:.3g}",
            percent(before["clipped"], 2)))))
    return rows


SENSITIVITY = ("layer", "only this quantized", "below all float", "only this float", "above all quantized")


def sensitivity_rows(details):
    """Rows under SENSITIVITY; differences in points of accuracy."""
    found = details["sensitivity"]
    return [(name, percent(row["only_quantized"]), f"{100 * (found['all_float'] - row['only_quantized']):.2f}",
             percent(row["only_float"]), f"{100 * (row['only_float'] - found['all_quantized']):.2f}")
            for name, row in found["layers"].items()]


def confused_rows(details, most=10):
    """[(label, taken for, times)]: the most frequent confusions."""
    matrix, names = details["test"]["confusion"], details["classes"]
    pairs = [(-matrix[i][j], names[i], names[j]) for i in range(len(matrix)) for j in range(len(matrix))
             if i != j and matrix[i][j]]
    return [(label, other, -number) for number, label, other in sorted(pairs)[:most]]


PRECISION = ("class", "AP at IoU 0.5")


def precision_rows(details):
    """[(class or mean, average precision)] of a detector; the means are all-point, 11-point, and over IoU .5 : .95."""
    found = details["test"]["detection"]
    means = (("mean", "map50"), ("mean, 11 points", "map50_11"), ("mean over IoU .5 : .95", "map"))
    return ([(name, "no objects" if ap is None else percent(ap)) for name, ap in found["ap50"].items()]
            + [(name, percent(found[key])) for name, key in means])
