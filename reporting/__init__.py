"""Presentation of results: tables, pictures, pages. Imports metrics and utils only."""
