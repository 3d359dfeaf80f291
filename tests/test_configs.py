"""The committed configurations are configurations, and the page of scenarios knows those that it is about."""

from pathlib import Path

import pytest

from seqrec_jax.config import ExperimentConfig
from seqrec_jax.settings import parse_config

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = ("advertising", "news_sessions", "quickstart", "simulated_search", "two_domains")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_configuration_is_valid_and_named_like_its_file(path):
    assert parse_config(ExperimentConfig, path=path).name == path.stem


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_says_its_command_and_figures_and_is_on_the_page(name):
    header = (ROOT / "configs" / f"{name}.yaml").read_text("utf-8").partition("\nname:")[0]
    assert header.startswith("# python ") and " 0." in header
    assert f"configs/{name}.yaml" in (ROOT / "docs/scenarios.md").read_text("utf-8")
