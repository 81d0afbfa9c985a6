"""Clients of teachers (servers, local models, recorded replies), and the store that keeps every reply."""
