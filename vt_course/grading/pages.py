"""The page that a student gets: the sentences of the checks. Everything in it that others wrote is escaped."""

import html

SIGNS = {"passed": "✓", "failed": "✗", "not attempted": "○", "missing": "✗", "by hand": "○"}
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 48rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: #f4f4f2; padding: .6rem .8rem; margin: .4rem 0; }}
h2 {{ font-size: 1.05rem; margin: 1.4rem 0 0; }}
.passed {{ color: #17663a; }} .failed, .missing {{ color: #a02c1c; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def page(row: dict) -> str:
    """The HTML page of one row of `grade`."""
    said = html.escape
    body = [f"<p>{said(row['submission'])}</p>"]
    if row["state"] == "graded":
        body.append(
            f"<p><strong>{row['passed']} of {row['exercises']} exercises passed.</strong> Each function ran by itself, "
            "on arguments of other sizes and other numbers than those of your notebook.</p>"
        )
    body += [f"<p>{said(sentence)}.</p>" for sentence in row["notes"]]
    for number, verdict in row["verdicts"].items():
        state = verdict["state"]
        body.append(f'<h2 class="{said(state.split()[0])}">{SIGNS[state]} {said(number)} {said(verdict["title"])}</h2>')
        if state != "passed":
            body.append(f"<pre>{said(verdict['text'])}</pre>")
    return PAGE.format(title=said(row["notebook"] or "not graded"), body="\n".join(body))
