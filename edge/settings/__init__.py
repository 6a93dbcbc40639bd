"""Settings of the programs: strict TOML, no unknown keys, one class per table."""
