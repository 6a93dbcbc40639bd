"""The lab server: receive and store rows, back them up, report on runs."""
