"""The run report: one self-contained HTML page on how a model did, from what the judge measured.

Belongs here: turning the plain values of a judgement into a page, and its key figures for the orchestrator. Does not
belong here: measuring anything (`ml.evaluation`), or what the data looked like (`orchestration.data_report`).

What a judgement does not hold is left out and named at the end: pages of runs judged by earlier code stay readable. The
page names no user: a judgement holds means, shares and counts.
"""

from orchestration.run_report.page import render_run_report, write_run_report
from orchestration.run_report.summary import key_figures, markdown_summary

__all__ = ["key_figures", "markdown_summary", "render_run_report", "write_run_report"]
