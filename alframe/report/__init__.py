"""From run folders to the report. `cli` is the command; imports between the rooms point one way:

`write` (files) -> `chapters` (what is said) -> `read` (run folders, as `Section`s) -> `statistics` (numbers only).
"""
