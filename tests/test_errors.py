import pytest

from alframe.errors import AlframeError, ConfigError, PoolError, did_you_mean, expect


def test_did_you_mean_names_the_closest_word():
    assert did_you_mean("entrpy", ["margin", "entropy"]) == "; did you mean 'entropy'?"


def test_did_you_mean_finds_a_word_of_another_case_and_spells_it_as_it_is():
    assert did_you_mean("mt_fre", ["MT_Free", "MT_Fray"]) == "; did you mean 'MT_Free'?"


def test_did_you_mean_says_the_other_thing_when_nothing_is_close():
    assert did_you_mean("xyz", ["margin"], otherwise="; see --help") == "; see --help"


def test_expect_raises_the_named_error_only_when_the_condition_fails():
    expect(True, "fine")
    with pytest.raises(ConfigError, match="Expected"):
        expect(False, "Expected")
    with pytest.raises(PoolError):
        expect(False, "Expected", PoolError)
    assert issubclass(PoolError, AlframeError)
