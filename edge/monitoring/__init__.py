"""Alarms, figures, the service manager."""
