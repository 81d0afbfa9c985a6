"""An extraction from rows to records: what is asked, progress, cost, the end."""
