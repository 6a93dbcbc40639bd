"""The lab server: receive, store, look back."""
