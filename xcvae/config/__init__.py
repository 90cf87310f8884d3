"""Configuration of a run: schema, YAML reader, and the data that it names."""

from xcvae.config.data import Parts, open_parts, open_samples
from xcvae.config.load import load, parse
from xcvae.config.schema import Config

__all__ = ["Config", "Parts", "load", "open_parts", "open_samples", "parse"]
