"""Alarms, metrics, and what is reported to the service manager."""
