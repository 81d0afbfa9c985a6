"""The T5 family in Flax: configuration, network, parameters, decoding."""
