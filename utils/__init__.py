"""What every layer may need: the sensor table, the registry, configuration, errors, files, tables and pictures."""
