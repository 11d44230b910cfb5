"""Leaf packages: sensors, registry, errors, config, `.mat` files, progress."""
