"""What so many seeds can show, in words."""

from alframe.report.chapters.verdicts import statement
from alframe.report.statistics.power import Power


def test_the_statement_in_words():
    power = Power("end", 3, 4, 0.01, 0.012, (0.008, 0.031), 0.009, None, 0.008, 10)
    assert statement(power, "test/accuracy") == (
        "With 3 seeds and 4 tests, differences at the end under 1.2 points of accuracy can stay hidden (80 % power). "
        "The spread is itself estimated from these seeds, so the bound lies between 0.8 and 3.1. Showing 0.8 would need 7 more "
        "seeds. The largest difference that is not significant, 0.9 points, would need more than 1,000 seeds, if it is real."
    )
