"""From replies to records: labels voted on, rationales selected, provenance."""
