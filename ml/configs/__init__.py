"""Named model configurations, one TOML file each; what every key means stands in `ml.config`."""
