"""The studies of a results folder in the browser, as they go on: `python -m analysis.serve results`.

folder → `studies.Studies`, which finds studies and keeps their pages → `server.new_server`, HTTP on the loopback address.
"""
