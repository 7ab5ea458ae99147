"""The report as one HTML page: no network (its own policy forbids it), no script, pictures inside."""

from html import escape

from ..tasks import CLASSIFY, TASKS
from . import pictures, words

STYLE = """
:root { --ink: #1b1b1b; --soft: #5c5c5c; --line: #d9d9d9; --accent: #0072b2; --warn: #d55e00 }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--ink); background: #fff;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif }
h1 { font-size: 1.5rem; margin: 0.5rem 0; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.2rem 0 0.6rem; padding-top: 0.4rem; border-top: 1px solid var(--line) }
p, figcaption, li { max-width: 46rem }
a { color: var(--accent) }
nav ul { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 0.2rem 1rem }
.soft, figcaption { color: var(--soft); font-size: 0.9rem }
.missing { border-left: 4px solid var(--warn); padding: 0.3rem 1rem; margin: 1rem 0; overflow-wrap: anywhere }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(12.5rem, 1fr)); gap: 0.8rem; margin: 1rem 0 }
.cards > div { border: 1px solid var(--line); border-radius: 6px; padding: 0.6rem 0.8rem }
.cards dt { color: var(--soft); font-size: 0.9rem }
.cards dd { margin: 0; font-size: 1.5rem; font-variant-numeric: tabular-nums }
.cards dd.soft { font-size: 0.85rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums }
th, td { padding: 0.25rem 0.6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; white-space: normal }
tbody th { font-weight: 600 }
.confusion td { text-align: center; padding: 0.25rem 0.45rem }
.confusion thead th { text-align: center }
figure { margin: 0 0 1rem }
figure img { max-width: 100%; max-height: 36rem; height: auto; display: block }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 0.8rem }
.pair { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 0.8rem }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: 0.8rem }
.images img { width: 100%; image-rendering: pixelated; border: 1px solid var(--line) }
.configuration th, .configuration td { text-align: left; white-space: normal; overflow-wrap: anywhere }
@media (max-width: 30rem) {
  body { padding: 0.7rem }
  table { font-size: 0.8rem }
  th, td, .confusion td { padding: 0.2rem 0.28rem }
}
@media print {
  @page { margin: 14mm }
  body { max-width: none; padding: 0; font-size: 9.5pt }
  nav { display: none }
  .wide { overflow: visible }
  table { font-size: 7.5pt }
  th, td { padding: 0.1rem 0.35rem }
  h2 { break-after: avoid }
  tr, figure, .cards > div, .wide { break-inside: avoid }
  figure img { max-height: 8cm; width: auto }
  .pair { grid-template-columns: 1fr 1fr }
  .grid { grid-template-columns: repeat(3, 1fr) }
  .images { grid-template-columns: repeat(6, 1fr) }
  .confusion td { print-color-adjust: exact }
}
"""


def html_page(details, found):
    """Return the page of `describe`'s dict; `found` gives the images and the network to draw."""
    sections = [section for section in (_cost(details), _error(details), _sensitivity(details),
                                        _curves(found), _histograms(details, found), _confusion(details),
                                        _mistakes(details, found), _precision(details, found),
                                        _configuration(details)) if section]
    title = f"{details['run']}: {details['method']['name'] or 'unknown method'}"
    links = "".join(f'<li><a href="#{key}">{escape(heading)}</a></li>' for key, heading, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{escape(heading)}</h2>\n{content}</section>\n'
                   for key, heading, content in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{escape(details['run'])}</h1>
{_method(details)}{_missing(details)}{_cards(details)}<nav><ul>{links}</ul></nav></header>
<main>
{body}</main>
<footer class="soft"><p>minquant {escape(details['version'])}, python -m minquant.report. The same as data:
details.json; as text: report.txt. A kB is 1024 bytes.</p></footer>
</body>
</html>
"""


def _method(details):
    method = details["method"]
    if not method["name"]:
        return ""
    about = f": {method['title']} ({method['paper']}). Learned: {method['learns']}." if method["title"] else ""
    return f"<p><b>{escape(method['name'])}</b>{escape(about)}</p>\n"


def _missing(details):
    if not details["missing"]:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in details["missing"])
    return f'<div class="missing"><b>Missing or doubtful</b><ul>{items}</ul></div>\n'


def _cards(details):
    cards = "".join(f'<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd><dd class="soft">{escape(remark)}</dd></div>'
                    for what, value, remark in words.headline(details))
    return f'<dl class="cards">{cards}</dl>\n' if cards else ""


def _note(text):
    return f'<p class="soft">{escape(text)}</p>\n'


def _table(header, rows, kind=""):
    """Header and rows as a table that scrolls sideways on a narrow screen; the first column names the row."""
    head = "".join(f'<th scope="col">{escape(str(cell))}</th>' for cell in header)
    body = "".join(f'<tr><th scope="row">{escape(str(row[0]))}</th>'
                   + "".join(f"<td>{escape(str(cell))}</td>" for cell in row[1:]) + "</tr>\n" for row in rows)
    kind = f' class="{kind}"' if kind else ""
    return (f'<div class="wide"><table{kind}><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n')


def _figures(figures, kind=""):
    """[(caption, data URI)] as figures; several stand in a grid, their captions only in the alternative text."""
    parts = []
    for caption, uri in figures:
        text = "" if kind else f"<figcaption>{escape(caption)}</figcaption>"
        parts.append(f'<figure><img alt="{escape(caption)}" src="{uri}">{text}</figure>\n')
    return f'<div class="{kind}">{"".join(parts)}</div>\n' if kind else "".join(parts)


def _cost(details):
    if not details["layers"]:
        return None
    note = _note("Bits of the weights and of the layer's input; levels that occur among the weights; kB as stored: "
                 "packed codes, tables, scales and biases. Bit-operations: multiply-accumulates x bits x input bits, a "
                 "float counting 32.")
    return "cost", "Size and work, layer by layer", note + _table(words.COST, words.cost_rows(details))


def _error(details):
    if not details["activations"] and not any(row.get("grid") for row in details["layers"]):
        return None
    images = details.get("activation_images")
    seen = f" Activations of {images} validation images." if images else ""
    note = _note("SQNR: power of the signal over power of the rounding error, in decibels; 6 dB are one bit."
                 f"{seen} Seen: smallest and largest value; range: lowest and highest level; clipped: share of the "
                 "values beyond.")
    return "error", "What rounding does", note + _table(words.ERROR, words.error_rows(details))


def _sensitivity(details):
    found = details["sensitivity"]
    if not found:
        return None
    note = _note(f"On {found['images']} validation images (one is {100 / found['images']:.2f} points) all quantized "
                 f"reaches {words.percent(found['all_quantized'])} and all float {words.percent(found['all_float'])}. "
                 "A layer is its weights and its input. Float means with the quantizers taken out: the latent weights, "
                 "which a network trained with quantizers did not learn to be used with. Differences in points of "
                 "accuracy.")
    return ("sensitivity", "Which layer costs the accuracy",
            note + _figures(pictures.sensitivity(details))
            + _table(words.SENSITIVITY, words.sensitivity_rows(details)))


def _curves(found):
    if not found.history:
        return None
    task = TASKS[found.config.task] if found.config else CLASSIFY
    return "curves", "Training", _figures(pictures.curves(found.history, task), "pair")


def _histograms(details, found):
    weights, activations = pictures.weight_histograms(details), pictures.activation_histograms(details)
    if not weights and not activations:
        return None
    content = ""
    if weights:
        content += _note("Latent weights; lines: the levels they are rounded to.") + _figures(weights, "grid")
    if activations:
        content += _note("What reaches the activation quantizers (counts on a logarithmic scale); lines: the levels, "
                         "of more than 32 the lowest and the highest.") + _figures(activations, "grid")
    return "histograms", "Values and levels", content + _figures(pictures.bits(found.model))


def _confusion(details):
    if not details["test"] or "confusion" not in details["test"] or len(details["classes"]) > 30:
        return None
    matrix, names = details["test"]["confusion"], details["classes"]
    rows = []
    for i, (name, counts) in enumerate(zip(names, matrix)):
        total = max(sum(counts), 1)
        cells = "".join(f'<td style="background: rgba({"0,114,178" if i == j else "213,94,0"},{_shade(n / total)})">'
                        f"{n or ''}</td>" for j, n in enumerate(counts))
        rows.append(f'<tr><th scope="row">{escape(_label(i, name))}</th>{cells}<td>{counts[i] / total:.1%}</td></tr>\n')
    head = "".join(f'<th scope="col">{escape(str(name) if str(name) == str(i) else str(i))}</th>'
                   for i, name in enumerate(names))
    note = _note(f"Rows: the label; columns: what the network says; {words.test_images(details['test'])} test "
                 "images.")
    return ("confusion", "What is taken for what",
            note + '<div class="wide"><table class="confusion"><thead><tr><th scope="col">label</th>'
            f'{head}<th scope="col">right</th></tr></thead>\n<tbody>{"".join(rows)}</tbody></table></div>\n')


def _shade(share):
    return f"{min(1.0, 0.75 * share ** 0.5):.2f}"


def _label(i, name):
    return str(name) if str(name) == str(i) else f"{i} {name}"


def _mistakes(details, found):
    if not details["test"] or not details["test"].get("mistakes"):
        return None
    names, images = details["classes"], found.dataset.test.images
    figures = "".join(
        f'<figure><img alt="test image {m["image"]}" src="{pictures.image_uri(images[m["image"]])}">'
        f'<figcaption><b>{escape(names[m["predicted"]])}</b> {m["probability"]:.0%}, is {escape(names[m["label"]])}'
        f'<br>image {m["image"]}, loss {m["loss"]:.1f}</figcaption></figure>\n' for m in details["test"]["mistakes"])
    note = _note("The test images with the largest loss (cross-entropy, nats) among those misjudged. Bold: what the "
                 "network says.")
    return "mistakes", "The worst mistakes", note + f'<div class="images">{figures}</div>\n'


def _precision(details, found):
    if not details["test"] or "detection" not in details["test"]:
        return None
    note = _note(f"Average precision of every class on {words.test_images(details['test'])} test images: all points, a "
                 "box counts as right from an intersection over union of 0.5 on.")
    return ("precision", "What is found", note + _figures(pictures.found_boxes(found, details["test"]["images"]))
            + _table(words.PRECISION, words.precision_rows(details)))


def _configuration(details):
    if not details["configuration"]:
        return None
    rows = [(key, "" if value is None else value) for key, value in details["configuration"].items()]
    return "configuration", "Configuration", _table(("setting", "value"), rows, "configuration")
