"""An extraction from rows to records: requests, progress, cost, end of the job."""
