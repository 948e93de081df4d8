"""A streaming cross-margin liquidation engine for crypto-derivatives exchanges."""

__version__ = "0.1.0"
