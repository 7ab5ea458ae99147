"""The report as plain text."""

from ..summary import table
from . import words


def text_page(details):
    """Return the report of `describe` as text, without a picture."""
    method, configuration = details["method"], details["configuration"]
    title = f": {method['title']}" if method["title"] else ""
    parts = [f"run     {details['run']}\nmethod  {method['name']}{title}"]
    if details["missing"]:
        parts.append("missing\n" + "\n".join(f"  - {line}" for line in details["missing"]))
    lines = words.headline(details)
    if lines:
        widths = [max(len(line[i]) for line in lines) for i in range(2)]
        parts.append("\n".join(f"{a.ljust(widths[0])}  {b.ljust(widths[1])}  {c}" for a, b, c in lines))
    if details["layers"]:
        parts.append("size and work\n\n" + table(words.COST, words.cost_rows(details)))
    if details["activations"]:
        parts.append(f"error of weights and activations ({details['activation_images']} validation images)\n\n"
                     + table(words.ERROR, words.error_rows(details)))
    if details["sensitivity"]:
        found = details["sensitivity"]
        parts.append(f"sensitivity ({found['images']} validation images): all quantized "
                     f"{words.percent(found['all_quantized'])}, all float {words.percent(found['all_float'])}\n\n"
                     + table(words.SENSITIVITY, words.sensitivity_rows(details)))
    if details["test"] and "confusion" in details["test"]:
        confused = words.confused_rows(details)
        if confused:
            parts.append(f"most frequent confusions ({words.test_images(details['test'])} test images)\n\n"
                         + table(("label", "taken for", "images"), confused))
    if details["test"] and "detection" in details["test"]:
        parts.append(f"average precision ({words.test_images(details['test'])} test images)\n\n"
                     + table(words.PRECISION, words.precision_rows(details)))
    if configuration:
        width = max(map(len, configuration))
        parts.append("configuration\n\n" + "\n".join(f"{key.ljust(width)}  {value}"
                                                     for key, value in configuration.items()))
    return "\n\n".join(parts) + "\n"
