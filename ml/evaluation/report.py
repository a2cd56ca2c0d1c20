"""The run report: one self-contained HTML page from a judgement, no script, no outside resource.

Belongs here: turning plain values into a page. Does not belong here: measuring anything.
"""

from html import escape
from typing import Any

MODEL = "two-tower"
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left}.ours{font-weight:600;background:#f2f7ff}
.passed{color:#0a6b2d}.failed{color:#a3180f}svg{width:100%;height:auto}code{background:#f4f4f4;padding:0 .2rem}
"""
WIDTH, ROW, LEFT = 640, 28, 170


def render_report(provenance: dict[str, Any], data_report: str | None = None) -> str:
    """Return the page of one run.

    Args:
        provenance: Plain values with keys `run_id`, `config_name`, `data_hash`, `git_sha` and `metrics`, the last one
            a `Judgement.as_dict()`.
        data_report: Where the page about its data lies, seen from this page.
    """
    judged = provenance["metrics"]
    best_first = sorted(judged["rows"].items(), key=lambda row: -row[1]["metrics"]["ndcg@10"]["mean"])
    rows = dict(best_first)
    verdict = "passed" if judged["gate_passed"] else "failed"
    facts = {
        "configuration": provenance["config_name"],
        "protocol": judged["protocol_id"],
        "split": judged["split_hash"][:12],
        "data": provenance["data_hash"][:12],
        "code": provenance["git_sha"],
        "epochs": judged["epochs"],
    }
    parts = [
        f"<h1>Run {escape(provenance['run_id'])}</h1>",
        f"<p>Gate: <strong class='{verdict}'>{verdict}</strong>. {escape(judged['gate_reason'])}</p>",
        "<h2>NDCG@10 on held-out time, 95 % interval</h2>",
        _intervals(rows),
        _metrics(rows),
        "<h2>Learning curve</h2>",
        _curve(judged["curve"]),
        "<h2>Detectors</h2>",
        _findings(judged["findings"]),
        "<h2>Data</h2>",
        f"<p><a href='{escape(data_report, quote=True)}'>What the gates saw of it</a></p>" if data_report else "",
        _pairs({**judged["counts"], **{name: f"{value:.4f}" for name, value in judged["context"].items()}}),
        "<h2>Provenance</h2>",
        _pairs(facts),
    ]
    title = escape(provenance["run_id"])
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Run {title}</title>"
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _intervals(rows: dict[str, Any]) -> str:
    values = {name: row["metrics"]["ndcg@10"] for name, row in rows.items()}
    top = max((value["high"] for value in values.values()), default=0.0) or 1.0
    scale = (WIDTH - LEFT - 70) / top
    marks = []
    for number, (name, value) in enumerate(values.items()):
        y = 20 + number * ROW
        low, mean, high = (LEFT + value[key] * scale for key in ("low", "mean", "high"))
        colour = "#1f5fbf" if name == MODEL else "#777"
        marks.append(
            f"<text x='0' y='{y + 4}' font-size='13'>{escape(name)}</text>"
            f"<line x1='{low:.1f}' x2='{high:.1f}' y1='{y}' y2='{y}' stroke='{colour}' stroke-width='3'/>"
            f"<circle cx='{mean:.1f}' cy='{y}' r='5' fill='{colour}'/>"
            f"<text x='{high + 8:.1f}' y='{y + 4}' font-size='12'>{value['mean']:.4f}</text>"
        )
    return f"<svg viewBox='0 0 {WIDTH} {20 + len(values) * ROW}' role='img'>{''.join(marks)}</svg>"


def _metrics(rows: dict[str, Any]) -> str:
    columns = ("ndcg@10", "recall@20", "hr@10", "mrr")
    lists = ("coverage@10", "novelty@10", "gini@10", "top3_maker_share")
    head = "".join(f"<th>{escape(name)}</th>" for name in ("who", *columns, *lists))
    body = []
    for name, row in rows.items():
        cells = [f"{row['metrics'][key]['mean']:.4f}" for key in columns] + [
            f"{row['lists'][key]:.3f}" for key in lists
        ]
        mark = " class='ours'" if name == MODEL else ""
        body.append(f"<tr{mark}><td>{escape(name)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def _curve(curve: list[dict[str, float]]) -> str:
    points = [(entry["epoch"], entry["validation"]) for entry in curve if "validation" in entry]
    if not points:
        return "<p>No validation window, so no curve.</p>"
    top, last = max(score for _, score in points) or 1.0, max(epoch for epoch, _ in points)
    place = [(40 + (WIDTH - 60) * epoch / last, 150 - 130 * score / top) for epoch, score in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in place)
    dots = "".join(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='#1f5fbf'/>" for x, y in place)
    return (
        f"<svg viewBox='0 0 {WIDTH} 170' role='img'><polyline points='{path}' fill='none' stroke='#1f5fbf'/>{dots}"
        f"<text x='0' y='20' font-size='12'>{top:.3f}</text><text x='0' y='152' font-size='12'>0</text>"
        f"<text x='{WIDTH - 130}' y='168' font-size='12'>epoch {last:.0f}, validation</text></svg>"
    )


def _findings(findings: list[dict[str, Any]]) -> str:
    if not findings:
        return "<p>None tripped.</p>"
    return _pairs({f"{one['level']}: {one['detector']}": one["message"] for one in findings})


def _pairs(values: dict[str, Any]) -> str:
    rows = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in values.items())
    return f"<table>{rows}</table>"
