"""Tries what ``docs/reliability.md`` promises: kills, damages, fills up, disturbs and attacks real runs."""
