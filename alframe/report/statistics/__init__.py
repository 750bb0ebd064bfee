"""Numbers in, numbers out: curves over seeds, tests, power, pairs, ranks, labels needed. Knows no files and no words."""
