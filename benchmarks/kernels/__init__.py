"""One file per operator: its shapes, its inputs, its float64 oracle, and everybody who computes it.

`case.py` says what these are; `measure.py` checks and times them, `table.py` holds the columns of the CSV files.
"""
