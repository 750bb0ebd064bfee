"""Run folders, read: one run, the runs that may be compared, each comparison as a `Section` of numbers."""
