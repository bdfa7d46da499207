"""One self-contained HTML page per study: `python -m analysis.report results/STUDY`.

frames → `data.report_data` → plain dict → `page.page` → HTML text. The page's scripts compute no number.
"""
