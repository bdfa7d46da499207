"""One self-contained HTML page a study: `python -m analysis.report results/STUDY`.

frames → `data.report_data` → plain dict → `page.page` → text. No number is computed in the page's scripts.
"""
