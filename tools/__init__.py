"""Commands a person runs around training."""
